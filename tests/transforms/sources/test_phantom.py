"""The procedural head: what holds for every individual, every spacing and every grid."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchio as tio
from helpers import (
    ROOT,
)
from scipy import ndimage

from synthsr_transforms.phantom import PHANTOM_LABELS, head_phantom

Labels = npt.NDArray[np.int16]

SEEDS = (0, 18)
LEFT = (2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 17, 18, 25, 26, 28, 30, 136, 137)
RIGHT = (41, 42, 43, 44, 46, 47, 49, 50, 51, 52, 53, 54, 57, 58, 60, 62, 163, 164)
NEUTRAL = (0, 14, 15, 16, 24, 85, 502, 506, 507, 508, 509, 511, 512, 514, 515, 516, 530)
FLUID, SKIN, CEREBRUM = 24, 511, (2, 3, 41, 42)
BRAIN = (*CEREBRUM, 7, 8, 46, 47, 10, 49, 16)
SKULL_AND_SCALP = (0, 507, 509, 511, 515, 516)

VOLUMES_MM3 = {
    (2, 41): (150_000, 330_000),
    (3, 42): (150_000, 310_000),
    (4, 43): (2_500, 48_000),
    (5, 44): (50, 6_000),
    (7, 46): (9_000, 30_000),
    (8, 47): (39_000, 71_000),
    (10, 49): (5_500, 11_500),
    (11, 50): (2_400, 6_500),
    (12, 51): (3_200, 6_800),
    (13, 52): (800, 2_100),
    (17, 53): (1_400, 5_300),
    (18, 54): (500, 2_200),
    (26, 58): (260, 800),
    (28, 60): (2_700, 5_300),
    (14,): (450, 3_700),
    (15,): (750, 2_700),
    (16,): (15_000, 30_000),
    (24,): (250_000, 560_000),
    (506,): (7_000, 17_000),
    (511,): (230_000, 480_000),
    (515,): (290_000, 550_000),
}
"""Limits of each volume: about those of the 20 training maps of SynthSeg."""


@cache
def head(seed: int) -> Labels:
    labels: Labels = head_phantom(seed=seed).data[0].numpy()
    return labels


def faces(labels: Labels, inside: Sequence[int]) -> dict[int, int]:
    """Number of voxel faces between some labels and each other label."""
    counts = np.zeros(600, dtype=np.int64)
    within = np.isin(labels, inside)
    for axis in range(3):
        low, high = (
            tuple(part if i == axis else slice(None) for i in range(3))
            for part in (slice(None, -1), slice(1, None))
        )
        for here, there in ((low, high), (high, low)):
            counts += np.bincount(labels[there][within[here] & ~within[there]], minlength=600)
    return {int(label): int(counts[label]) for label in np.flatnonzero(counts)}


def share(counts: dict[int, int], labels: Sequence[int]) -> float:
    return sum(counts.get(label, 0) for label in labels) / sum(counts.values())


@pytest.mark.parametrize("seed", SEEDS)
class TestAnatomy:
    """Promises at 1 mm, for every individual."""

    def test_every_label_is_there_and_no_other(self, seed: int) -> None:
        assert tuple(np.unique(head(seed)).tolist()) == PHANTOM_LABELS

    def test_left_is_left_and_right_is_right(self, seed: int) -> None:
        labels = head(seed)
        middle = labels.shape[0] // 2
        assert not np.isin(labels[:middle], RIGHT).any()
        assert not np.isin(labels[middle:], LEFT).any()

    def test_volumes_are_those_of_adults(self, seed: int) -> None:
        counts = np.bincount(head(seed).ravel())
        for labels, (low, high) in VOLUMES_MM3.items():
            for label in labels:
                assert low <= counts[label] <= high, f"label {label}: {counts[label]} mm3"

    def test_skin_encloses_everything_above_the_neck(self, seed: int) -> None:
        labels = head(seed)
        lowest = int(np.flatnonzero(labels.any((0, 1)))[0])
        above = labels[:, :, lowest:]
        air, _ = ndimage.label(above == 0)
        around = np.where(air == air[0, 0, -1], -1, above)
        touched = np.unique(around[ndimage.binary_dilation(around == -1) & (around != -1)])
        assert touched.tolist() == [SKIN]

    def test_the_head_is_inside_the_grid(self, seed: int) -> None:
        labels = head(seed)
        for axis in range(3):
            ends = np.take(labels, [0, -1], axis)
            assert not ends.any()

    def test_fluid_separates_the_brain_from_the_skull(self, seed: int) -> None:
        assert share(faces(head(seed), BRAIN), SKULL_AND_SCALP) == 0

    @pytest.mark.parametrize(("white", "cortex"), [(2, 3), (41, 42)])
    def test_cortex_covers_the_white_matter(self, seed: int, white: int, cortex: int) -> None:
        counts = faces(head(seed), (white,))
        assert share(counts, (cortex,)) > 0.8
        assert share(counts, (FLUID,)) < 0.02

    @pytest.mark.parametrize(("white", "cortex"), [(2, 3), (41, 42)])
    def test_white_matter_and_cortex_are_of_one_piece(
        self, seed: int, white: int, cortex: int
    ) -> None:
        for label in (white, cortex):
            pieces, _ = ndimage.label(head(seed) == label)
            sizes = np.bincount(pieces.ravel())[1:]
            assert sizes.max() > 0.97 * sizes.sum()

    def test_ventricles_lie_within_the_brain(self, seed: int) -> None:
        counts = faces(head(seed), (4, 43, 5, 44, 136, 137, 163, 164))
        assert share(counts, (FLUID, *SKULL_AND_SCALP)) < 0.02

    def test_eyes_lie_in_front_of_the_brain(self, seed: int) -> None:
        eyes, brain = (np.isin(head(seed), values).nonzero()[1] for values in ((506,), CEREBRUM))
        assert eyes.mean() > np.quantile(brain, 0.95)


class TestFolds:
    def test_most_cortex_lies_in_sulci(self) -> None:
        """A smooth ribbon would lie within about 6 mm of the skull."""
        labels = head(0)
        x = np.abs(np.arange(labels.shape[0]) - (labels.shape[0] - 1) / 2)
        cavity = ~np.isin(labels, (0, 507, 509, 511, 515, 516))
        depth_mm = ndimage.distance_transform_edt(cavity)
        away_from_midline = np.broadcast_to(x[:, None, None] > 15, labels.shape)
        cortex = depth_mm[np.isin(labels, (3, 42)) & away_from_midline]
        assert np.mean(cortex > 8) > 0.3
        assert np.quantile(cortex, 0.95) > 14

    def test_the_ribbon_is_two_to_four_millimetres_thick(self) -> None:
        labels = head(0)
        to_fluid_mm = ndimage.distance_transform_edt(np.isin(labels, CEREBRUM))
        cortex, white = np.isin(labels, (3, 42)), np.isin(labels, (2, 41))
        inner_edge = cortex & ndimage.binary_dilation(white)
        assert 2 < np.median(to_fluid_mm[inner_edge]) < 4

    def test_the_sides_are_not_mirror_images(self) -> None:
        cortex = np.isin(head(0), (3, 42))
        both = np.count_nonzero(cortex & cortex[::-1])
        assert both / np.count_nonzero(cortex) < 0.8


class TestIndividuals:
    def test_a_seed_gives_the_same_voxels_again(self, forget_people: Callable[[], None]) -> None:
        first = head_phantom(spacing_mm=5.0, seed=5).data
        forget_people()
        assert torch.equal(first, head_phantom(spacing_mm=5.0, seed=5).data)

    def test_seeds_give_different_people(self) -> None:
        one, other = (np.isin(head(seed), (3, 42)) for seed in SEEDS)
        overlap = 2 * np.count_nonzero(one & other) / (one.sum() + other.sum())
        assert overlap < 0.8
        sizes = [np.count_nonzero(head(seed)) for seed in SEEDS]
        assert len(set(sizes)) == len(SEEDS)

    def test_the_global_generator_is_left_alone(self, forget_people: Callable[[], None]) -> None:
        torch.manual_seed(0)
        expected = torch.rand(3)
        torch.manual_seed(0)
        forget_people()
        head_phantom(spacing_mm=8.0, seed=3)
        assert torch.equal(torch.rand(3), expected)


class TestGrid:
    def test_the_default_grid(self) -> None:
        phantom = head_phantom(spacing_mm=2.0)
        assert isinstance(phantom, tio.LabelMap)
        assert phantom.shape == (1, 92, 120, 104)
        assert phantom.data.dtype == torch.int16

    @pytest.mark.parametrize(
        ("spacing_mm", "shape"), [(2.0, None), ((1.0, 4.0, 2.5), None), (3.0, (20, 31, 12))]
    )
    def test_the_affine_is_ras_and_centred(
        self, spacing_mm: float | tuple[float, ...], shape: tuple[int, ...] | None
    ) -> None:
        phantom = head_phantom(spacing_mm=spacing_mm, shape=shape)
        matrix = np.asarray(phantom.affine.data)
        size = np.array(phantom.shape[1:])
        np.testing.assert_allclose(matrix[:3, :3], np.diag(np.broadcast_to(spacing_mm, 3)))
        np.testing.assert_allclose(matrix @ [*(size - 1) / 2, 1], [0, 0, 0, 1], atol=1e-9)

    @pytest.mark.parametrize("steps", [(2, 2, 2), (1, 3, 5)])
    def test_any_spacing_samples_the_same_head(self, steps: tuple[int, int, int]) -> None:
        """On grids of odd size, coarse voxel centres are fine voxel centres."""
        coarse_shape = tuple(2 * (45 // step) - 1 for step in steps)
        fine_shape = tuple((n - 1) * step + 1 for n, step in zip(coarse_shape, steps, strict=True))
        coarse_mm = tuple(2.0 * step for step in steps)
        fine = head_phantom(spacing_mm=2.0, shape=fine_shape, seed=4).data
        coarse = head_phantom(spacing_mm=coarse_mm, shape=coarse_shape, seed=4).data
        samples = fine[:, :: steps[0], :: steps[1], :: steps[2]]
        assert samples.shape == coarse.shape
        assert (samples != coarse).float().mean() < 1e-4

    def test_any_shape_is_a_window_of_the_same_head(self) -> None:
        large = head_phantom(spacing_mm=4.0, shape=(64, 70, 80)).data
        small = head_phantom(spacing_mm=4.0, shape=(30, 40, 20)).data
        assert torch.equal(large[:, 17:-17, 15:-15, 30:-30], small)
        assert large.count_nonzero() == head_phantom(spacing_mm=4.0).data.count_nonzero()

    def test_voxels_on_the_midline_count_as_right(self) -> None:
        labels = head_phantom(spacing_mm=(1.0, 2.0, 2.0), shape=(1, 120, 104)).data
        assert not np.isin(labels, LEFT).any()

    @pytest.mark.parametrize("spacing_mm", [60.0, 500.0])
    def test_a_voxel_may_be_larger_than_the_head(self, spacing_mm: float) -> None:
        phantom = head_phantom(spacing_mm=spacing_mm, shape=(2, 2, 2))
        assert phantom.shape == (1, 2, 2, 2)

    @pytest.mark.parametrize("spacing_mm", [0, -1.0, float("nan"), float("inf"), (1, 1), (1, 0, 1)])
    def test_a_wrong_spacing_is_refused(self, spacing_mm: float | tuple[float, ...]) -> None:
        with pytest.raises(ValueError, match="spacing_mm must be one or three positive numbers"):
            head_phantom(spacing_mm=spacing_mm)

    @pytest.mark.parametrize("shape", [(1, 1), (0, 4, 4), (4.5, 4, 4)])
    def test_a_wrong_shape_is_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="shape must be three positive whole numbers"):
            head_phantom(shape=shape)


def test_labels_are_those_of_the_synthseg_maps() -> None:
    assert set(PHANTOM_LABELS) == {*NEUTRAL, *LEFT, *RIGHT}


def test_the_example_writes_a_map_and_a_picture(tmp_path: Path) -> None:
    example = runpy.run_path(str(ROOT / "examples" / "make_phantom.py"))
    example["main"]([str(tmp_path), "--seed", "7", "--spacing-mm", "4", "4", "8"])
    saved = tio.LabelMap(tmp_path / "phantom_7_labels.nii.gz")
    expected = head_phantom(spacing_mm=(4, 4, 8), seed=7)
    assert torch.equal(saved.data, expected.data)
    np.testing.assert_allclose(saved.affine.data, expected.affine.data)
    assert (tmp_path / "phantom_7_labels.png").stat().st_size > 0
