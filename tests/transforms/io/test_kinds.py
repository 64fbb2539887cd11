"""Promises of telling scans from label maps, and of what no reader takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.kinds import looks_like_fractions, looks_like_image, looks_like_labels
from synthsr_transforms.io.scans import read_scan
from synthsr_transforms.io.volumes import read_image, read_labels, read_volume

Save = Callable[..., Path]
RNG = np.random.default_rng(0)


def regions(number: int, shape: tuple[int, ...] = (48, 48, 48)) -> np.ndarray:
    """Whole numbers in the neighbourhoods of random points within a ball, 0 outside."""
    rng = np.random.default_rng(number)
    points = rng.uniform(4, 44, (number, 3)) * np.array(shape) / 48
    seeds = np.full(shape, True)
    seeds[tuple(points.astype(int).T)] = False
    nearest = ndimage.distance_transform_edt(seeds, return_distances=False, return_indices=True)
    names = np.zeros(shape, int)
    names[tuple(points.astype(int).T)] = rng.permutation(3 * number)[:number] + 1
    place = (np.indices(shape).T - np.array(shape) / 2 + 0.5) / np.array(shape)
    return np.where(np.linalg.norm(place, axis=-1).T < 0.48, names[tuple(nearest)], 0)


def scan(noise: float = 6.0) -> np.ndarray:
    """Three tissues with partial volumes, shading and noise, 0 outside."""
    tissue = np.select([regions(90) % 3 == k for k in range(3)], [60.0, 100.0, 140.0])
    blurred = ndimage.gaussian_filter(np.where(regions(90) > 0, tissue, 0), 0.7)
    shade = np.linspace(0.9, 1.1, 48)
    noisy = blurred * shade + noise * RNG.normal(size=blurred.shape)
    return np.where(regions(90) > 0, noisy.clip(1), 0)


def grey_levels(data: np.ndarray, number: int) -> np.ndarray:
    return np.rint(data / data.max() * (number - 1))


BALL = np.linalg.norm(np.indices((48, 48, 48)).T - 23.5, axis=-1) < 20
LABELS = {
    "mask": BALL,
    "mask of 0 and 255": 255 * BALL,
    "three tissues": regions(60) % 4,
    "twenty labels": regions(20),
    "sixty labels": regions(60),
    "150 labels": regions(150),
    "negative": -regions(40),
    "scaled": regions(40) * 0.1,
    "thick slices": regions(100)[:, :, ::4],
    "2 mm": regions(30)[::2, ::2, ::2],
    "boxes": np.kron(RNG.integers(0, 40, (6, 6, 6)), np.ones((8, 8, 8))),
    "one region": np.where(BALL, 17, 0),
}
SCANS = {
    "scan": scan(),
    "without noise": scan(0),
    "bytes": np.rint(scan()),
    "64 grey levels": grey_levels(scan(), 64),
    "16 grey levels": grey_levels(scan(), 16),
    "noisy, 16 grey levels": grey_levels(scan(20), 16),
    "thick slices": np.rint(scan())[:, :, ::4],
    "repeated slices": np.repeat(np.rint(scan())[:, :, ::4], 4, 2),
    "repeated voxels": np.kron(np.rint(scan())[::2, ::2, ::2], np.ones((2, 2, 2))),
    "wide range": np.rint(20 * scan()),
    "noise": RNG.uniform(size=(30, 30, 30)),
    "second background": np.pad(np.rint(scan()), 8, constant_values=-1000),
    "saturated": scan().clip(0, 130),
}


class TestKinds:
    @pytest.mark.parametrize("name", LABELS)
    def test_segmentations_are_told(self, name: str):
        assert looks_like_labels(np.asarray(LABELS[name], np.float32))

    @pytest.mark.parametrize("name", SCANS)
    def test_scans_are_no_segmentations(self, name: str):
        data = np.asarray(SCANS[name], np.float32)
        assert not looks_like_labels(data)
        assert not looks_like_fractions(data)

    @pytest.mark.parametrize("width", [1, 2, 3])
    def test_probability_maps_that_are_mostly_0_and_1_are_told(self, width: int):
        part = ndimage.uniform_filter(BALL.astype(np.float32), width)
        assert looks_like_fractions(part.round(4))

    @pytest.mark.parametrize("name", LABELS)
    def test_label_maps_are_no_images(self, name: str):
        assert not looks_like_image(np.abs(np.rint(LABELS[name])).astype(np.int16))

    @pytest.mark.parametrize("name", ["bytes", "thick slices", "wide range"])
    def test_an_image_of_whole_numbers_is_refused_as_a_label_map(self, save: Save, name: str):
        path = save(SCANS[name].astype(np.int16))
        read_image(path)
        with pytest.raises(VolumeError, match="must be a label map, but its values are many"):
            read_labels(path)


RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
NOT_NUMBERS: dict[str, Any] = {
    "complex": np.ones((8, 8, 8), np.complex64),
    "complex, double": np.ones((8, 8, 8), np.complex128),
    "colour": np.zeros((8, 8, 8), RGB),
    "structured": np.zeros((8, 8, 8), [("a", "f4"), ("b", "i2")]),
    "text": np.full((8, 8, 8), "grey"),
    "bytes": np.full((8, 8, 8), b"grey"),
    "dates": np.full((8, 8, 8), np.datetime64("2026-01-01")),
    "times": np.full((8, 8, 8), np.timedelta64(3, "s")),
    "objects": np.full((8, 8, 8), None),
    "raw": np.zeros((8, 8, 8), "V4"),
}


class TestRefusedByEveryReader:
    @pytest.mark.parametrize("read", [read_scan, read_labels, read_image, read_volume])
    @pytest.mark.parametrize("name", NOT_NUMBERS)
    def test_what_is_not_one_real_number_per_voxel(
        self, save: Save, name: str, read: Callable[[Path], Any]
    ):
        data = NOT_NUMBERS[name]
        in_nifti = data.dtype == RGB or data.dtype.kind == "c"
        path = save(data, "a.nii.gz" if in_nifti else "a.npz")
        with pytest.raises(VolumeError, match="must hold one real number per voxel") as caught:
            read(path)
        assert len(str(caught.value)) <= 500
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("read", [read_scan, read_labels, read_image, read_volume])
    @pytest.mark.parametrize(
        ("shape", "intent", "word"),
        [
            ((163842, 1, 1), 0, "surface"),
            ((1, 1, 40962), 0, "surface"),
            ((12, 4), 0, "2-D"),
            ((12, 12, 1), 0, "single slice"),
            ((8, 8, 8, 1, 3), 0, "displacement field"),
            ((8, 8, 8, 1, 3), 1007, "displacement field"),
            ((8, 8, 8, 3), 2006, "displacement field"),
        ],
    )
    def test_what_is_no_volume(
        self,
        tmp_path: Path,
        shape: tuple[int, ...],
        intent: int,
        word: str,
        read: Callable[[Path], Any],
    ):
        image = nib.Nifti2Image(np.ones(shape, np.float32), np.eye(4))
        image.header["intent_code"] = intent
        nib.save(image, tmp_path / "a.nii")
        with pytest.raises(VolumeError, match=word):
            read(tmp_path / "a.nii")

    @pytest.mark.parametrize("name", ["lh.func.gii", "lh.aparc.annot", "a.dscalar.nii"])
    def test_surfaces_by_name(self, tmp_path: Path, name: str):
        (tmp_path / name).write_text("?")
        with pytest.raises(VolumeError, match="got values on a surface"):
            read_scan(tmp_path / name)
