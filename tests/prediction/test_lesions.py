"""Promises of kept lesions: nothing else changes, no seam, and intensities of the scan inside."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pytest
from helpers import (
    SHARED_DATA,
)
from scipy import ndimage
from scipy.spatial.transform import Rotation

from synthsr_net.prediction.refinement.lesions import BLEND_MM, keep_lesion
from synthsr_net.prediction.resampling import resample
from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.io.scans import Scan, read_scan
from synthsr_transforms.io.volumes import read_volume

REAL_SCANS = SHARED_DATA / "real"
SHAPE = (48, 52, 44)
CENTRE = np.array([24.0, 28.0, 20.0])
FILLED, LESION = 100.0, 40.0


def affine_of(spacing: Any = (1.0, 1.0, 1.0), degrees: Any = (0, 0, 0)) -> np.ndarray:
    """Affine that puts the centre of a volume of 48 x 52 x 44 mm at the origin."""
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    affine[:3, :3] = turn @ np.diag(spacing)
    affine[:3, 3] = -affine[:3, :3] @ (np.array(SHAPE) / np.asarray(spacing) / 2)
    return affine


GRID = affine_of()


def distance_from(centre: np.ndarray, shape: Any, affine: np.ndarray) -> np.ndarray:
    """Distance in mm of each voxel from a voxel of the grid of the prediction."""
    point = GRID[:3, :3] @ centre + GRID[:3, 3]
    points = np.einsum("ij,j...->i...", affine[:3, :3], np.indices(shape).astype(float))
    return np.sqrt(((points + (affine[:3, 3] - point)[:, None, None, None]) ** 2).sum(0))


def tissue(seed: int = 0) -> np.ndarray:
    """A T1-like prediction of smooth tissue beside air, as if there were no lesion."""
    wave = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 3)
    data = (FILLED + 8 * wave / wave.std()).astype(np.float32)
    data[:3] = 0
    return data


def with_lesions(data: np.ndarray, radius: float, *centres: np.ndarray) -> np.ndarray:
    result = data.copy()
    for centre in centres:
        result[distance_from(centre, SHAPE, GRID) <= radius] -= FILLED - LESION
    return result


def ball(radius: float, *centres: np.ndarray) -> Volume:
    marked = [distance_from(c, SHAPE, GRID) <= radius for c in centres]
    return Volume(np.any(marked, axis=0).astype(np.float32), GRID)


@pytest.mark.parametrize("contrast", [(2.0, 30.0), (0.01, -4.0), (-3.0, 900.0)])
def test_a_scan_of_linear_contrast_gives_the_lesion_back(contrast: tuple[float, float]):
    filled = tissue()
    truth = with_lesions(filled, 6, CENTRE)
    scan = Scan((contrast[0] * truth + contrast[1]).astype(np.float32), GRID)
    mask = ball(7, CENTRE)
    kept, _ = keep_lesion(Volume(filled, GRID), scan, mask)
    inside = mask.data > 0
    np.testing.assert_allclose(kept.data[inside], truth[inside], atol=1.0)
    assert np.abs(filled - truth)[inside].max() > 50


@pytest.mark.parametrize("radius", [0.5, 3.0, 8.0])
def test_nothing_changes_beyond_the_blended_border(radius: float):
    filled = tissue()
    scan = Scan(with_lesions(filled, radius, CENTRE) * 3, GRID)
    kept, _ = keep_lesion(Volume(filled, GRID), scan, ball(radius, CENTRE))
    distance = ndimage.distance_transform_edt(ball(radius, CENTRE).data == 0)
    far = distance >= BLEND_MM
    np.testing.assert_array_equal(kept.data[far], filled[far])
    assert (kept.data[~far] != filled[~far]).any()
    np.testing.assert_array_equal(kept.affine, GRID)


def test_there_is_no_seam():
    filled = tissue()
    scan = Scan((filled * 2 + 30).astype(np.float32), GRID)  # shows the same, so nothing jumps
    kept, _ = keep_lesion(Volume(filled, GRID), scan, ball(7, CENTRE))
    np.testing.assert_allclose(kept.data, filled, atol=0.5)


def test_the_border_fades_with_distance():
    filled = np.full(SHAPE, FILLED, np.float32)
    filled[::2] += 5
    scan = Scan(with_lesions(filled, 20, CENTRE), GRID)
    kept, _ = keep_lesion(Volume(filled, GRID), scan, ball(7, CENTRE))
    change = np.abs(kept.data - filled)
    distance = ndimage.distance_transform_edt(ball(7, CENTRE).data == 0)
    means = [change[distance == d].mean() for d in (0, 1)]
    assert means[0] >= means[1] >= change[distance >= BLEND_MM].mean() == 0


def test_each_lesion_is_matched_to_its_own_surroundings():
    other = np.array([12.0, 12.0, 30.0])
    filled = tissue()
    truth = with_lesions(filled, 4, CENTRE, other)
    drift = 1.5 * np.indices(SHAPE)[0].astype(np.float32)  # a bias field of the scan
    scan = Scan(2 * truth + drift, GRID)
    mask = ball(4, CENTRE, other)
    kept = keep_lesion(Volume(filled, GRID), scan, mask)[0].data
    for centre in (CENTRE, other):
        inside = ball(4, centre).data > 0
        assert kept[inside].mean() == pytest.approx(truth[inside].mean(), abs=4)


@pytest.mark.parametrize("degrees", [(0, 0, 0), (20, -10, 35)])
def test_scan_and_mask_may_lie_on_any_grid(degrees: Any):
    filled = tissue()
    truth = Volume(with_lesions(filled, 7, CENTRE), GRID)
    spacing, shape = (0.8, 0.8, 2.0), (60, 65, 22)
    affine = affine_of(spacing, degrees)
    matrix = np.linalg.inv(GRID) @ affine
    index = np.indices(shape).reshape(3, -1)
    where = matrix[:3, :3] @ index + matrix[:3, 3:]
    values = ndimage.map_coordinates(truth.data, where, order=1, mode="nearest").reshape(shape)
    mask = (distance_from(CENTRE, shape, affine) <= 8).astype(np.uint8)
    kept, _ = keep_lesion(
        Volume(filled, GRID), Scan(5 * values.astype(np.float32), affine), Volume(mask, affine)
    )
    core = distance_from(CENTRE, SHAPE, GRID) <= 5
    assert np.abs(kept.data - truth.data)[core].mean() < 5
    assert np.abs(filled - truth.data)[core].mean() > 50


def test_a_lesion_thinner_than_a_voxel_is_kept():
    affine = affine_of((0.25, 0.25, 0.25))
    mask = np.zeros((192, 208, 176), np.uint8)
    mask[96:98, 100:102, 90:92] = 1
    filled = tissue()
    scan = Scan(with_lesions(filled, 10, CENTRE), GRID)
    kept, _ = keep_lesion(Volume(filled, GRID), scan, Volume(mask, affine))
    assert (kept.data != filled).any()


def test_intensities_stay_finite_and_within_those_of_the_prediction():
    filled = tissue()
    scan = Scan(with_lesions(filled, 6, CENTRE) * 1000, GRID)
    scan.data[tuple(CENTRE.astype(int))] = 1e9
    kept = keep_lesion(Volume(filled, GRID), scan, ball(6, CENTRE))[0].data
    assert np.isfinite(kept).all()
    assert kept.min() >= filled.min()
    assert kept.max() <= filled.max()


def test_a_mask_of_everything_and_scans_without_contrast_do_no_harm():
    filled = tissue()
    everything = Volume(np.ones(SHAPE, np.uint8), GRID)
    flat = Scan(np.full(SHAPE, 5, np.float32), GRID)
    for mask in (everything, ball(6, CENTRE)):
        for scan in (flat, Scan(tissue(1), GRID)):
            kept = keep_lesion(Volume(filled, GRID), scan, mask)[0].data
            assert np.isfinite(kept).all()
    empty = Volume(np.zeros(SHAPE, np.float32), GRID)
    assert (keep_lesion(empty, flat, ball(6, CENTRE))[0].data == 0).all()


def test_arguments_are_left_alone():
    filled, scan, mask = tissue(), Scan(tissue(1), GRID), ball(6, CENTRE)
    before = [a.copy() for a in (filled, scan.data, mask.data)]
    keep_lesion(Volume(filled, GRID), scan, mask)
    for old, new in zip(before, (filled, scan.data, mask.data), strict=True):
        np.testing.assert_array_equal(old, new)


def test_an_empty_mask_changes_nothing_and_is_told():
    filled = tissue()
    mask = Volume(np.full(SHAPE, np.nan, np.float32), GRID)
    kept, (warning,) = keep_lesion(Volume(filled, GRID), Scan(tissue(1), GRID), mask)
    assert "mask is empty" in warning
    np.testing.assert_array_equal(kept.data, filled)


@pytest.mark.parametrize("which", ["prediction", "scan"])
def test_a_mask_elsewhere_is_refused(which: str):
    far = GRID.copy()
    far[0, 3] += 300
    prediction = Volume(tissue(), far if which == "prediction" else GRID)
    scan = Scan(tissue(1), far if which == "scan" else GRID, "t2.nii")
    with pytest.raises(VolumeError, match=f"must overlap with the {which}"):
        keep_lesion(prediction, scan, ball(6, CENTRE))


def test_a_mask_partly_elsewhere_is_told():
    mask = ball(6, CENTRE)
    moved = GRID.copy()
    moved[0, 3] += 24
    _, (warning,) = keep_lesion(
        Volume(tissue(), GRID), Scan(tissue(1), GRID), Volume(mask.data, moved)
    )
    assert re.match(r"only \d+% of the lesion mask", warning)


def test_a_mask_must_be_3d():
    with pytest.raises(VolumeError, match="must be 3-D"):
        keep_lesion(
            Volume(tissue(), GRID), Scan(tissue(), GRID), Volume(np.ones((2, 2, 2, 2)), GRID)
        )


@pytest.mark.skipif(not REAL_SCANS.is_dir(), reason=f"real scans are not in {REAL_SCANS}")
def test_lesions_of_a_patient_come_back():
    scan = read_scan(REAL_SCANS / "ms_patient" / "FLAIR.nii.gz")
    mask = read_volume(REAL_SCANS / "ms_patient" / "gt.nii.gz")
    fine = resample(scan.volume, 1.0)
    truth = np.where(fine.data > 60, 200 - 0.3 * fine.data, 0).astype(np.float32)
    grid = np.linalg.inv(mask.affine) @ fine.affine
    where = grid[:3, :3] @ np.indices(fine.data.shape).reshape(3, -1) + grid[:3, 3:]
    soft = ndimage.map_coordinates(mask.data.astype(float), where, order=1)
    lesions = soft.reshape(fine.data.shape) > 0.5
    assert lesions.sum() > 1000
    near = ndimage.binary_dilation(lesions)
    filled = np.where(near, np.median(truth[near]) + 30, truth).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept, _ = keep_lesion(Volume(filled, fine.affine), scan, mask)
    errors = [np.abs(v - truth)[lesions].mean() for v in (kept.data, filled)]
    assert errors[0] < 0.25 * errors[1]
    shown = lesions & (truth > 0)
    assert np.corrcoef(kept.data[shown], truth[shown])[0, 1] > 0.9
