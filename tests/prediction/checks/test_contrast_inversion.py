"""Promises of inverse contrast: which scans are inverted, how, and in which pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from synthsr_net.models.checkpoint import InputConfig, Model, ModelConfig, ScanConfig
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_net.prediction.intensities import correlation
from synthsr_net.prediction.predictor import Predictor
from synthsr_net.prediction.refinement.brain_mask import find_regions
from synthsr_net.prediction.refinement.contrast_inversion import (
    brain_proximity,
    inverted,
    second_input,
    with_t1_contrast,
)
from synthsr_transforms.io.scans import Scan
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.phantom import head_phantom

SPACING = 3.0
T1 = {"white_matter": 110.0, "grey_matter": 78.0, "deep_grey": 90.0, "csf": 30.0}
T2 = {"white_matter": 60.0, "grey_matter": 90.0, "deep_grey": 80.0, "csf": 190.0}
FLAIR = {"white_matter": 75.0, "grey_matter": 100.0, "deep_grey": 95.0, "csf": 30.0}


def of_contrast(means: dict[str, float], outside: float) -> Tensor:
    """A head `(X, Y, Z)` with a mean for each tissue; others, but the background, are as given."""
    labels = head_phantom(spacing_mm=SPACING, seed=2).data[0]
    table = LabelTable.ready("synthseg")
    image = torch.where(labels > 0, outside, 0.0)
    for tissue, mean in means.items():
        image[torch.isin(labels, torch.tensor(table.values_of(tissue)))] = mean
    return image


@pytest.fixture(scope="module")
def t1() -> Tensor:
    return of_contrast(T1, 45.0)


@pytest.fixture(scope="module")
def t2() -> Tensor:
    return of_contrast(T2, 50.0)


def model(scan: ScanConfig, **fields: object) -> Model:
    network = UNetConfig(num_levels=2, num_features=2, in_channels=len(fields.get("inputs", [0])))
    torch.manual_seed(0)
    config = ModelConfig(network=network, scan=scan, **fields)
    return Model(config, UNet3d(network).eval().requires_grad_(False))


class TestExams:
    def test_scans_of_inverse_contrast_alone_are_inverted_where_they_reach(self, t1, t2):
        middle = t1.shape[2] // 2
        half = t2.clone()
        half[..., :middle] = 0
        scans = torch.stack([t1 / t1.max(), half / half.max()])[:, None]
        again, share = second_input(scans, t1[None] / 255, ScanConfig(spacing_mm=SPACING))
        assert torch.equal(again[0], scans[0])
        assert not again[1, 0, ..., :middle].any()
        inverted = with_t1_contrast(scans[1, 0], t1, SPACING, reached=scans[1, 0] > 0)
        assert torch.equal(again[1, 0], inverted)
        assert correlation(again[1, 0], t1, half > 0) > 0
        assert share is not None

    def test_exams_without_such_scans_stay(self, t1):
        scans = torch.stack([t1, 2 * t1])[:, None]
        again, share = second_input(scans, t1[None] / 255, ScanConfig(spacing_mm=SPACING))
        assert again is scans
        assert share is None


class TestDecision:
    def test_a_t2_is_inverted(self, t1: Tensor, t2: Tensor):
        found = with_t1_contrast(t2, t1, SPACING)
        inside = t1 > 60
        pair = torch.stack([found[inside], t1[inside]])
        assert torch.corrcoef(pair)[0, 1] > 0.8
        outside = ~find_regions(t1, SPACING).head
        assert torch.equal(found[outside], t2[outside])
        assert outside.sum() > 0.1 * outside.numel()

    @pytest.mark.parametrize("means", [T1, FLAIR])
    def test_other_contrasts_are_not(self, t1: Tensor, means: dict[str, float]):
        scan = of_contrast(means, 60.0)
        assert with_t1_contrast(scan, t1, SPACING) is scan

    def test_what_was_inverted_is_not_inverted_again(self, t1: Tensor, t2: Tensor):
        found = with_t1_contrast(t2, t1, SPACING)
        assert with_t1_contrast(found, t1, SPACING) is found

    @pytest.mark.parametrize("scale", [0.005, 40.0])
    def test_the_unit_of_the_scan_does_not_matter(self, t1: Tensor, t2: Tensor, scale: float):
        found = with_t1_contrast(t2 * scale, t1, SPACING)
        torch.testing.assert_close(found, scale * with_t1_contrast(t2, t1, SPACING))

    def test_thin_voxels_are_read_coarsely_with_the_same_result(self, t1: Tensor, t2: Tensor):
        fine = [
            each.repeat_interleave(3, 0).repeat_interleave(3, 1).repeat_interleave(3, 2)
            for each in (t1, t2)
        ]
        coarse = with_t1_contrast(t2, t1, SPACING)
        found = with_t1_contrast(fine[1], fine[0], SPACING / 3)[1::3, 1::3, 1::3]
        assert (found != coarse).float().mean() < 0.02

    def test_without_a_brain_nothing_is_inverted(self, t2: Tensor):
        assert with_t1_contrast(t2, torch.zeros_like(t2), SPACING) is t2
        assert with_t1_contrast(t2, torch.full_like(t2, torch.nan), SPACING) is t2

    def test_numbers_that_are_none_do_not_decide(self, t1: Tensor, t2: Tensor):
        broken = torch.where(t1 == 110, torch.nan, t2)
        assert with_t1_contrast(broken, t1, SPACING) is broken


class TestInversion:
    def test_it_is_undone_by_a_second_one_up_to_the_brightest(self):
        scan = torch.rand(10, 12, 8, generator=torch.Generator().manual_seed(0))
        head = torch.zeros(scan.shape, dtype=torch.bool)
        head[2:8] = True
        once = inverted(scan, head)
        twice = inverted(once, head)
        kept = head & (once > 0) & (twice > 0)
        offset = (scan - twice)[kept]
        assert kept.sum() > 0.97 * head.sum()
        torch.testing.assert_close(offset, offset.mean().expand_as(offset), rtol=0, atol=1e-5)
        assert torch.equal(once[~head], scan[~head])
        assert once.min() >= 0

    def test_an_empty_head_changes_nothing(self):
        scan = torch.rand(3, 4, 5)
        assert inverted(scan, torch.zeros(3, 4, 5, dtype=torch.bool)) is scan


class TestNearness:
    def test_it_is_one_at_the_brain_and_nothing_in_the_face(self, t1: Tensor):
        found = brain_proximity(t1, SPACING)
        brain = find_regions(t1, SPACING).brain
        assert found.shape == t1.shape
        assert found[brain].min() > 0.9
        away = torch.from_numpy(ndimage.distance_transform_edt(~brain.numpy())) * SPACING
        assert found[away > 25].max() == 0
        assert 0 <= found.min() <= found.max() <= 1

    @pytest.mark.parametrize("shape", [(80, 84, 76), (81, 82, 78), (83, 79, 85)])
    def test_it_lies_where_the_brain_lies_whatever_the_size(self, shape: tuple[int, int, int]):
        axes = [torch.arange(n) - n / 2 for n in shape]
        x, y, z = torch.meshgrid(*axes, indexing="ij")
        ball = (x**2 + y**2 + z**2).sqrt()
        found = brain_proximity(torch.where(ball < 20, 110.0, 0.0), 1.0)
        assert found.shape == ball.shape
        assert found[ball < 20].min() > 0.9
        reach = 8 + 2 * 4  # mm, a coarse voxel to fade and one to round
        for away in (x.abs(), y.abs(), z.abs()):
            assert found[away > 20 + reach].max() == 0
        fading = ball[(found > 0.1) & (found < 0.9)]
        assert fading.numel() > 0
        assert 20 < fading.min() < fading.max() < 20 + reach * 3**0.5


class TestPredictor:
    SCAN = ScanConfig(spacing_mm=SPACING, divisor=2, inverse_contrast=True)

    @pytest.fixture
    def passes(self, t1: Tensor, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
        """What each pass of the network is given; its output is the T1, or its mirror image."""
        seen: list[Tensor] = []

        def forward(_: object, x: Tensor, *, mirror: bool, **_more: object) -> Tensor:
            seen.append(x[0].flip(0) if mirror else x[0].clone())
            inside = tuple(slice(0, n) for n in t1.shape)
            output = torch.zeros_like(x[0])
            output[inside] = t1 / 255
            return (output if len(seen) % 2 else output.flip(0))[None]

        monkeypatch.setattr("synthsr_net.inference.streamed_unet.StreamedUNet.__call__", forward)
        return seen

    @pytest.mark.parametrize("clip_each_pass", [False, True])
    def test_the_mirrored_pass_sees_a_t2_inverted(
        self, t1: Tensor, t2: Tensor, passes: list[Tensor], clip_each_pass: bool
    ):
        scan = ScanConfig(
            spacing_mm=SPACING, divisor=2, inverse_contrast=True, clip_each_pass=clip_each_pass
        )
        affine = np.diag([SPACING, SPACING, SPACING, 1.0])
        predicted = (
            Predictor(model(scan), force=True).predict([Scan(t2.numpy(), affine)]).image.data
        )
        np.testing.assert_allclose(predicted, t1.numpy().clip(0, 128), atol=1e-3)
        first, second = passes[0], passes[1].flip(0)
        inside = first > 0.05
        assert torch.corrcoef(torch.stack([first[inside], second[inside]]))[0, 1] < -0.9

    def test_away_from_the_brain_the_mirrored_pass_of_a_t2_does_not_count(
        self, t1: Tensor, t2: Tensor, monkeypatch: pytest.MonkeyPatch
    ):
        outputs: list[Tensor] = []

        def forward(_: object, x: Tensor, **_more: object) -> Tensor:
            output = torch.zeros_like(x[0])
            output[tuple(slice(0, n) for n in t1.shape)] = t1 / 255
            outputs.append(output if not outputs else 0.5 * output.flip(0))
            return outputs[-1][None]

        monkeypatch.setattr("synthsr_net.inference.streamed_unet.StreamedUNet.__call__", forward)
        affine = np.diag([SPACING, SPACING, SPACING, 1.0])
        found = (
            Predictor(model(self.SCAN), force=True).predict([Scan(t2.numpy(), affine)]).image.data
        )
        share = 0.5 * brain_proximity(t1, SPACING)
        np.testing.assert_allclose(found, t1 * (1 - 0.5 * share), atol=1e-3)
        assert (share[t1 > 0] == 0).any()

    def test_other_scans_are_only_mirrored(self, t1: Tensor, passes: list[Tensor]):
        affine = np.diag([SPACING, SPACING, SPACING, 1.0])
        Predictor(model(self.SCAN), force=True).predict([Scan(t1.numpy(), affine)])
        assert torch.equal(passes[0], passes[1].flip(0))

    def test_it_can_be_left_out(self, t2: Tensor, passes: list[Tensor]):
        affine = np.diag([SPACING, SPACING, SPACING, 1.0])
        for settings in ({"inverse_contrast": False}, {"legacy": "v1"}):
            Predictor(model(self.SCAN), force=True, **settings).predict([Scan(t2.numpy(), affine)])
        assert torch.equal(passes[0], passes[1].flip(0))
        assert torch.equal(passes[2], passes[3].flip(0))

    @pytest.mark.parametrize("says", [False, True])
    def test_the_model_says_what_is_not_set(self, says: bool):
        made = model(ScanConfig(inverse_contrast=says))
        assert Predictor(made).inverse_contrast is says
        assert Predictor(made).record.used()["inverse_contrast"] is says
        assert Predictor(made, inverse_contrast=not says).inverse_contrast is not says
        assert not Predictor(made, legacy="v2").inverse_contrast

    @pytest.mark.parametrize(
        "fields",
        [
            {"inputs": [InputConfig(name="t1"), InputConfig(name="t2")]},
            {"scan": ScanConfig(residual_input=0)},
        ],
    )
    def test_models_without_a_contrast_to_compare_are_refused(self, fields: dict[str, object]):
        made = model(**{"scan": ScanConfig(), **fields})
        with pytest.raises(ValueError, match="from one scan, got 'unnamed'"):
            Predictor(made, inverse_contrast=True)
        Predictor(made)
