"""Promises of data consistency: what is kept of a scan, and what is not."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch import Tensor

from synthsr_net.models.checkpoint import Model, ModelConfig, ScanConfig
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_net.prediction.predictor import Predictor
from synthsr_net.prediction.refinement.data_consistency import (
    CORRELATIONS,
    LARGEST,
    Comparison,
    consistent,
    slices_between,
    with_wider_slices,
)
from synthsr_net.prediction.space.postprocess import from_network_space
from synthsr_net.prediction.space.preprocess import to_network_space
from synthsr_transforms.functional.acquisition import slice_operator
from synthsr_transforms.functional.operators import along_axes
from synthsr_transforms.io.grids import reorient
from synthsr_transforms.io.scans import Scan

SHAPE = (44, 48, 40)
AS_IT_IS = [None] * 3


def smooth(sigma: float, seed: int) -> np.ndarray:
    """A random field of mean 0 and standard deviation 1."""
    field = gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), sigma)
    return (field - field.mean()) / field.std()


def tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.asarray(array, dtype=np.float32))


@pytest.fixture(scope="module")
def plain() -> Tensor:
    """White and grey matter and fluid, as a network draws them."""
    field = smooth(3.0, 0)
    tissues = np.select([field > 0.2, field > -0.7], [110.0, 75.0], 25.0)
    return tensor(gaussian_filter(tissues, 0.6))


@pytest.fixture(scope="module")
def detailed(plain: Tensor) -> Tensor:
    """The same with the texture of a person."""
    return plain + 6 * tensor(smooth(1.5, 1))


def rms(volume: Tensor) -> float:
    return float(volume.square().mean().sqrt())


class TestConsistent:
    def test_a_prediction_that_agrees_stays(self, plain: Tensor):
        kept = consistent(plain, 0.004 * plain + 0.1, AS_IT_IS)
        assert rms(kept - plain) < 0.1

    def test_detail_of_the_scan_comes_back(self, plain: Tensor, detailed: Tensor):
        kept = consistent(plain, detailed / 255, AS_IT_IS)
        assert rms(kept - detailed) < 0.5 * rms(plain - detailed)

    def test_scale_and_offset_of_the_scan_do_not_matter(self, plain: Tensor, detailed: Tensor):
        one, other = (consistent(plain, a * detailed + b, AS_IT_IS) for a, b in ((1, 0), (0.01, 3)))
        torch.testing.assert_close(one, other, rtol=0, atol=0.05)

    def test_a_bias_field_does_not_come_with_it(self, plain: Tensor):
        field = torch.linspace(0.7, 1.3, SHAPE[1])[:, None]
        kept = consistent(plain, plain * field, AS_IT_IS)
        assert rms(kept - plain) < 0.25 * rms(plain * field - plain)

    def test_another_contrast_changes_nothing(self, plain: Tensor, detailed: Tensor):
        assert torch.equal(consistent(plain, 200 - detailed, AS_IT_IS), plain)

    def test_white_matter_darker_than_grey_changes_nothing(self, plain: Tensor):
        flair = torch.where(plain > 62, 92.5 - 0.2 * (plain - 92.5), plain)
        compared = Comparison(plain, flair, AS_IT_IS)
        assert compared.likeness() > CORRELATIONS[0]  # as fluid is dark in both
        assert compared.tissue_correlation().max() < 0
        assert torch.equal(consistent(plain, flair, AS_IT_IS), plain)

    def test_noise_alone_changes_nothing(self, plain: Tensor):
        assert torch.equal(consistent(plain, tensor(smooth(0.5, 3)), AS_IT_IS), plain)

    @pytest.mark.parametrize("depth", [-60.0, 60.0])
    def test_a_lesion_that_was_filled_in_stays_so(self, plain: Tensor, depth: float):
        x, y, z = np.indices(SHAPE)
        ball = tensor((x - 22) ** 2 + (y - 24) ** 2 + (z - 20) ** 2 <= 4**2)
        kept = consistent(plain, plain + depth * ball, AS_IT_IS)
        within = (kept - plain)[ball > 0]
        assert abs(float(within.mean())) < 0.1 * abs(depth)
        assert float(within.abs().max()) < LARGEST

    def test_a_constant_scan_changes_nothing(self, plain: Tensor):
        assert torch.equal(consistent(plain, torch.ones(SHAPE), AS_IT_IS), plain)

    def test_an_empty_prediction_stays_empty(self, plain: Tensor):
        empty = torch.zeros(SHAPE)
        assert torch.equal(consistent(empty, plain, AS_IT_IS), empty)

    def test_the_background_stays(self, plain: Tensor, detailed: Tensor):
        mask = torch.zeros(SHAPE)
        mask[10:30, 10:30, 10:30] = 1
        kept = consistent(plain * mask, detailed * mask, AS_IT_IS)
        far = torch.ones(SHAPE, dtype=torch.bool)
        far[6:34, 6:34, 6:34] = False
        assert not kept[far].any()

    def test_slices_of_the_result_are_those_of_the_scan(self, plain: Tensor, detailed: Tensor):
        slices = [None, None, slice_operator(40, torch.arange(8) * 5 + 2, 5.0)]
        scan = along_axes(detailed, slices)
        kept = consistent(plain, scan, slices)
        before, after = (rms(along_axes(v, slices) - scan) for v in (plain, kept))
        assert after < 0.6 * before
        assert rms(kept - detailed) < rms(plain - detailed)

    def test_detail_between_slices_is_the_networks(self, plain: Tensor):
        slices = [None, None, slice_operator(40, torch.arange(8) * 5 + 2, 5.0)]
        kept = consistent(plain, along_axes(plain, slices), slices)
        assert rms(kept - plain) < 0.2


class TestSlices:
    @given(st.integers(2, 40), st.integers(1, 12), st.floats(0.5, 8))
    @settings(max_examples=40)
    def test_a_constant_stays(self, size: int, number: int, width: float):
        operator = slice_operator(size, torch.linspace(0, size - 1, number), width)
        torch.testing.assert_close(operator.sum(1), torch.ones(size))

    def test_their_resolution_is_that_of_the_scan(self):
        operator = slice_operator(60, torch.arange(12) * 5 + 2, 5.0)
        step = (torch.arange(60) >= 30).float()
        blurred = operator @ step
        assert int(((blurred > 0.1) & (blurred < 0.9)).sum()) in range(4, 10)
        assert (blurred.diff() >= -1e-6).all()

    @pytest.mark.parametrize("codes", ["RAS", "LPI", "SPR", "AIL"])
    def test_the_orientation_of_the_scan_does_not_matter(self, codes: str):
        ornt = nib.orientations.axcodes2ornt(tuple(codes))
        scan = nib.Nifti1Image(np.zeros((20, 24, 8), np.float32), np.diag([1.0, 1.0, 5.0, 1.0]))
        turned = scan.as_reoriented(
            nib.orientations.ornt_transform(nib.io_orientation(scan.affine), ornt)
        )
        grid = ((20, 24, 40), np.diag([1.0, 1.0, 1.0, 1.0]))
        grid[1][2, 3] = -2.0
        found = slices_between(grid, (turned.shape, turned.affine))
        assert found[:2] == [None, None]
        expected = slice_operator(40, torch.arange(8) * 5 + 2, 5.0)
        assert found[2] is not None
        torch.testing.assert_close(found[2], expected)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_a_scan_that_was_resampled_is_found_to_be_blurred(self, detailed: Tensor, axis: int):
        slices = [None] * 3
        slices[axis] = slice_operator(SHAPE[axis], torch.arange(2, SHAPE[axis], 5), 5.0)
        scan = along_axes(detailed, slices)
        found = with_wider_slices(Comparison(detailed, scan, AS_IT_IS)).slices
        assert [each is not None for each in found] == [a == axis for a in range(3)]

    def test_a_sharp_scan_is_taken_at_its_word(self, plain: Tensor, detailed: Tensor):
        assert with_wider_slices(Comparison(plain, detailed, AS_IT_IS)).slices == AS_IT_IS

    def test_known_slices_stay(self, detailed: Tensor):
        slices = [None, slice_operator(48, torch.arange(2, 48, 4), 4.0), None]
        scan = along_axes(detailed, slices)
        found = with_wider_slices(Comparison(detailed, scan, slices)).slices
        assert found[1] is slices[1]


class TestWays:
    """Through scans, predictors and models."""

    CONFIG = ModelConfig(scan=ScanConfig(divisor=8, output_range=(0.0, 255.0)))

    def through(self, scan: Scan, kept: bool) -> np.ndarray:
        """Of a network that draws a blurred head, from the scan's own grid."""
        x, space = to_network_space([scan], self.CONFIG)
        drawn = tensor(gaussian_filter(x[0].numpy(), 1.0))[None] * (110 / 255)
        result = from_network_space(drawn, space, self.CONFIG, scan=x[0] if kept else None)
        return reorient(result.image).data

    @pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 4.0)])
    def test_a_scan_keeps_its_detail(self, detailed: Tensor, spacing: tuple[float, ...]):
        data = detailed.numpy()[..., :: int(spacing[2])]
        scan = Scan(data, np.diag([*spacing, 1.0]))
        plain, kept = (self.through(scan, kept) for kept in (False, True))
        truth = 110 * to_network_space([scan], self.CONFIG)[0][0, 2:-2, :, :].numpy()
        with_it, without = (np.corrcoef(v.ravel(), truth.ravel())[0, 1] for v in (kept, plain))
        assert with_it > without

    @given(
        st.tuples(*[st.integers(1, 24)] * 3).filter(lambda shape: max(shape) > 1),
        st.tuples(*[st.floats(0.4, 8)] * 3),
        st.booleans(),
    )
    @settings(max_examples=30)
    def test_any_scan_stays_finite_and_in_range(
        self, shape: tuple[int, ...], spacing: tuple[float, ...], sheared: bool
    ):
        affine = np.diag([*spacing, 1.0])
        affine[0, 2] = 0.3 * spacing[2] * sheared
        data = np.random.default_rng(0).uniform(10, 200, shape).astype(np.float32)
        image = self.through(Scan(data, affine), True)
        assert np.isfinite(image).all()
        assert 0 <= image.min() <= image.max() <= 255

    def test_a_voxel_that_is_not_a_number_stays_alone(self, detailed: Tensor):
        scan = Scan(detailed.numpy(), np.eye(4))
        x, space = to_network_space([scan], self.CONFIG)
        drawn = x * (110 / 255)
        sound = from_network_space(drawn, space, self.CONFIG, scan=x[0]).image.data
        drawn[0, 24, 24, 20] = torch.nan
        found = from_network_space(drawn, space, self.CONFIG, scan=x[0])
        assert any("1 voxels" in text for text in found.warnings)
        far = np.ones(SHAPE, bool)
        far[17:28, 19:30, 15:26] = False
        np.testing.assert_allclose(found.image.data[far], sound[far], atol=1.0)

    @pytest.mark.parametrize("says", [False, True])
    def test_the_model_says_what_is_not_set(self, says: bool):
        network = UNetConfig(num_levels=2, num_features=2)
        config = ModelConfig(network=network, scan=ScanConfig(divisor=4, data_consistency=says))
        torch.manual_seed(0)
        model = Model(config, UNet3d(network).eval())
        assert Predictor(model).data_consistency is says
        assert Predictor(model).record.used()["data_consistency"] is says
        assert Predictor(model, data_consistency=not says).data_consistency is not says
        assert not Predictor(model, legacy="v1").data_consistency

    def test_it_is_part_of_predictions(
        self, plain: Tensor, detailed: Tensor, monkeypatch: pytest.MonkeyPatch
    ):
        network = UNetConfig(num_levels=2, num_features=2)
        config = ModelConfig(network=network, scan=ScanConfig(divisor=4))
        model = Model(config, UNet3d(network).eval())
        monkeypatch.setattr(Predictor, "infer", lambda *_: plain[None] / 255)
        scan = Scan(detailed.numpy(), np.eye(4))
        without, kept = (
            tensor(Predictor(model, data_consistency=choice, force=True).predict([scan]).image.data)
            for choice in (False, True)
        )
        torch.testing.assert_close(without, plain, rtol=0, atol=1e-3)
        assert rms(kept - detailed) < 0.6 * rms(without - detailed)
