"""Promises of intensities: normalisation, sharpening, and what does not look like CT."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from synthsr_net.prediction.ct import ct_warnings
from synthsr_net.prediction.intensities import Rescaling, normalise_, replace_nonfinite, sharpened


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
        assert ct_warnings(data, ct=True) == []

    @pytest.mark.parametrize("data", [MRI, SCALED_MRI, BYTES_MRI])
    def test_mri_said_to_be_ct_is_told(self, data: np.ndarray):
        (text,) = ct_warnings(data, ct=True)
        assert "leave out --ct" in text

    @pytest.mark.parametrize("data", [MRI, SCALED_MRI, BYTES_MRI, STRIPPED_CT])
    def test_without_air_near_minus_1000_nothing_is_said_to_be_ct(self, data: np.ndarray):
        assert ct_warnings(data, ct=False) == []

    def test_ct_not_said_to_be_ct_is_told(self):
        (text,) = ct_warnings(CT, ct=False)
        assert "use --ct" in text

    @pytest.mark.parametrize("offset", [1000.0, 1024.0])
    def test_missing_rescale_intercept_is_told(self, offset: float):
        (text,) = ct_warnings(CT + offset, ct=True)
        assert "rescale intercept" in text

    def test_offset_below_the_brain_is_told(self):
        (text,) = ct_warnings(CT - 1024, ct=True)
        assert "correct its offset" in text
