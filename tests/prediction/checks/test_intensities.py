"""Promises of intensities: normalisation, sharpening, and what does not look like CT."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from synthsr_net.prediction.checks.ct import decide_ct, is_ct
from synthsr_net.prediction.intensities import (
    Rescaling,
    normalise_,
    replace_nonfinite,
    sharpened,
)
from synthsr_transforms.io.grids import Volume


def head(air: float, soft: tuple[float, float], bone: float, offset: float = 0.0) -> np.ndarray:
    """Air around a skull of bone around soft tissue, whose values are uniform."""
    radius = np.sqrt((np.indices((40, 40, 40)).T - 19.5) ** 2).max(-1)
    inside = np.random.default_rng(0).uniform(*soft, radius.shape)
    return np.where(radius > 17, air, np.where(radius > 15, bone, inside)) + offset


CT = head(-1000, (5, 50), 900)
MRI = head(3, (100, 1500), 50)
SCALED_MRI = head(0, (0.1, 0.9), 0.2)
BYTES_MRI = head(0, (60, 220), 20)
STRIPPED_CT = head(0, (5, 50), 0)


def round_ct(noise: float = 8.0) -> np.ndarray:
    """Brain, skull and fat in air, in Hounsfield units with partial volumes."""
    radius = np.linalg.norm(
        (np.indices((48, 56, 48)).T - (23.5, 27.5, 23.5)) / (1, 1.2, 1), axis=-1
    )
    shells = [radius < 5, radius < 17, radius < 19.5, radius < 21]
    tissue = np.select(shells, [8.0, 35.0, 1000.0, -90.0], -1000.0)
    blurred = ndimage.gaussian_filter(tissue, 0.5)
    return (blurred + noise * np.random.default_rng(1).normal(size=radius.shape)).clip(-1024)


def surrounded(data: np.ndarray, value: float) -> np.ndarray:
    return np.pad(data, 4, constant_values=value)


ROUND = round_ct()
RANDOM = np.random.default_rng(2).uniform(size=(48, 48, 48))
FIELD = np.abs(20 * np.random.default_rng(3).normal(size=(50, 58, 50)))
FIELD[1:-1, 1:-1, 1:-1] += np.where(ROUND.T > -500, np.abs(ROUND.T) % 977 + 300, 0)
"""MRI with noise in air, as bright as soft tissue is in Hounsfield units."""
Z_SCORED = (FIELD - FIELD.mean()) / FIELD.std()
HOUNSFIELD = {
    "blocks": CT,
    "round": ROUND,
    "noiseless": round_ct(0),
    "noisy": round_ct(25),
    **{f"padded {value}": surrounded(ROUND, value) for value in (-1024, -2000, -3024)},
    "air of one value": np.where(ROUND < -900, -1024, ROUND),
    "thick slices": ROUND[:, :, ::3],
    "metal": np.where(ROUND > 1020, 3071, ROUND),
    "lower half": ROUND[:, :, :24],
    "whole numbers": np.rint(ROUND),
}
NOT_HOUNSFIELD = {
    "noise in air": FIELD,
    **{f"padded {value}": surrounded(FIELD, value) for value in (-1, -1000, -1024, -2000)},
    "padded, of a wide range": surrounded(4 * FIELD, -1000),
    "z-scored": Z_SCORED,
    "z-scored, by 1000": 1000 * Z_SCORED,
    "-1 to 1": FIELD / FIELD.max() * 2 - 1,
    "-1000 to 1000": FIELD / FIELD.max() * 2000 - 1000,
    "phase": 8191 * RANDOM - 4096,
    "phase in the brain": np.where(RANDOM > 0.5, 8191 * RANDOM - 4096, 0),
    "bytes": 255 * FIELD / FIELD.max(),
}
OTHER_UNITS = {
    **{f"stored with {w}": ((ROUND + w).clip(0), "rescale intercept") for w in (1000, 1024)},
    "0 to 563": (563 * (ROUND - ROUND.min()) / np.ptp(ROUND), "rescaled"),
    "0 to 1": ((ROUND - ROUND.min()) / np.ptp(ROUND), "rescaled"),
    "bytes": (np.rint(255 * (ROUND - ROUND.min()) / np.ptp(ROUND)), "rescaled"),
    "without air": (ROUND.clip(0), "air was cut off"),
    "without skull": (np.where((ROUND < -20) | (ROUND > 90), -1000, ROUND), "without a skull"),
}


def volume(data: np.ndarray) -> Volume:
    return Volume(data.astype(np.float32), np.diag([4.0, 4.0, 4.0, 1.0]))


def doubts(data: np.ndarray, ct: bool | None = None) -> tuple[bool, list[str]]:
    return decide_ct(volume(data), ct)


class TestRescale:
    @given(st.floats(-1000, 1000), st.floats(1, 1e4), st.sampled_from([1.0, 2.0, 3.0]))
    def test_goes_from_0_to_the_maximum_and_can_be_undone(
        self, low: float, span: float, maximum: float
    ):
        before = (low + span * np.random.default_rng(0).random((5, 6, 7))).astype(np.float32)
        data = before.copy()
        rescaling = normalise_(torch.from_numpy(data), maximum)
        assert data.min() == 0
        assert data.max() == pytest.approx(maximum, rel=1e-6)
        undone = rescaling.lowest + rescaling.unit * data
        np.testing.assert_allclose(undone, before, atol=1e-6 * (abs(low) + span))

    def test_percentiles_clip(self):
        data = np.linspace(0, 100, 1001, dtype=np.float32)
        rescaling = normalise_(torch.from_numpy(data), percentiles=(1, 90))
        assert (rescaling.lowest, rescaling.unit) == pytest.approx((1, 89))
        assert (data.min(), data.max()) == (0, 1)
        assert (data == 1).sum() == 101

    def test_constant_becomes_0_and_is_told_by_a_unit_of_0(self):
        data = torch.full((3, 3), 7.0)
        assert normalise_(data) == Rescaling(7.0, 0.0)
        assert (data == 0).all()

    def test_minimum_can_be_kept_as_in_the_script_of_freesurfer(self):
        data = torch.tensor([10.0, 40.0])
        assert normalise_(data, 3.0, keep_zero=True) == Rescaling(10.0, 10.0)
        assert data.tolist() == [1.0, 4.0]


class TestSharpening:
    def test_adds_the_difference_to_the_blurred_image(self):
        image = torch.rand(9, 12, 7)
        blurred = ndimage.gaussian_filter(image.double().numpy(), 1.5)
        before = image.clone()
        np.testing.assert_allclose(
            sharpened(image).numpy(), 2 * before.numpy() - blurred, atol=1e-5
        )
        assert torch.equal(image, before)

    def test_leaves_a_constant(self):
        assert torch.allclose(sharpened(torch.full((5, 5, 5), 40.0)), torch.tensor(40.0))

    def test_numbers_that_are_not_finite_are_replaced_and_counted(self):
        image = torch.tensor([1.0, float("nan"), float("inf"), -2.0])
        replaced, count = replace_nonfinite(image, 0.0)
        assert replaced.tolist() == [1.0, 0.0, 0.0, -2.0]
        assert count == 2


class TestCT:
    @pytest.mark.parametrize("data", [CT, STRIPPED_CT, CT.clip(-100, 100), CT - 24])
    def test_in_hounsfield_units_raises_no_doubt(self, data: np.ndarray):
        if data.min() >= -500:
            data = data.clip(0)
        assert doubts(data, ct=True) == (True, [])

    @pytest.mark.parametrize("data", [MRI, SCALED_MRI, BYTES_MRI])
    def test_mri_said_to_be_ct_is_told(self, data: np.ndarray):
        (text,) = doubts(data, ct=True)[1]
        assert "leave out --ct" in text

    @pytest.mark.parametrize("data", [MRI, SCALED_MRI, BYTES_MRI, STRIPPED_CT])
    def test_without_air_near_minus_1000_nothing_is_said_to_be_ct(self, data: np.ndarray):
        assert doubts(data) == (False, [])

    def test_ct_is_clipped_and_said_to_be_unless_the_user_says_otherwise(self):
        found, (text,) = doubts(CT)
        assert found
        assert text.startswith("values are Hounsfield units: clipped to 0 to 80 as CT. Add --no-ct")
        assert doubts(CT, ct=False) == (False, [])
        assert doubts(CT, ct=True) == (True, [])

    @pytest.mark.parametrize("name", HOUNSFIELD)
    def test_hounsfield_units_are_recognised(self, name: str):
        assert is_ct(volume(HOUNSFIELD[name]))

    @pytest.mark.parametrize("name", NOT_HOUNSFIELD)
    def test_mri_is_never_recognised_as_ct(self, name: str):
        assert doubts(NOT_HOUNSFIELD[name]) == (False, [])

    @pytest.mark.parametrize("name", OTHER_UNITS)
    def test_ct_in_other_units_is_named_and_predicted_as_mri(self, name: str):
        data, word = OTHER_UNITS[name]
        found, (text,) = doubts(data)
        assert not found
        assert word in text
        assert "predicted as MRI" in text

    @pytest.mark.parametrize("offset", [1000.0, 1024.0])
    def test_missing_rescale_intercept_is_told(self, offset: float):
        (text,) = doubts(CT + offset, ct=True)[1]
        assert "rescale intercept" in text

    def test_offset_below_the_brain_is_told(self):
        (text,) = doubts(CT - 1024, ct=True)[1]
        assert "correct its offset" in text
