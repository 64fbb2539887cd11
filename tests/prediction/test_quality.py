"""Promises of the quality score: what raises and lowers it, and what does not change it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from synthsr_net.models.checkpoint import (
    ModelConfig,
    PopulationStructure,
    QualityConfig,
    QualityGroup,
    QualityWeights,
    StructureConfig,
    config_of_header,
    header_text,
)
from synthsr_net.networks.unet import UNetConfig
from synthsr_net.prediction.segmentation.posteriors import summary_of
from synthsr_net.prediction.segmentation.quality import (
    USUAL_SUPPORT,
    QualityScore,
    align,
    evidence_of,
    quality_score,
    support_of,
)
from synthsr_transforms.support.messages import SynthSRError

SHAPE = (40, 44, 36)
CENTRES = np.array(
    [[12, 12, 10], [28, 12, 10], [12, 32, 12], [28, 31, 10], [20, 22, 26], [19, 14, 28]]
)
RADII = np.array([5, 5, 6, 6, 4, 4])
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
VALUES = [0, *range(2, 8)]
WEIGHTS = QualityWeights(doubt=1.0, volume=0.2, place=0.2, size=0.2, turn=1.0, absence=3.0)


def _labels(scale: float = 1.0, centres: np.ndarray = CENTRES, margin: int = 0) -> Tensor:
    """Indices of structures, balls, in a volume with a margin all around."""
    shape = [math.ceil(n * scale) + 2 * margin for n in SHAPE]
    where = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) - margin
    labels = np.zeros(shape, dtype=np.int64)
    for number, (centre, radius) in enumerate(zip(centres, RADII, strict=True), 1):
        labels[((where - scale * centre) ** 2).sum(-1) <= (scale * radius) ** 2] = number
    return torch.from_numpy(labels)


def _sure(labels: Tensor, certainty: float = 1.0) -> Tensor:
    """Posteriors of labels; what is missing to certainty goes to all structures alike."""
    hot = torch.nn.functional.one_hot(labels, len(VALUES)).movedim(-1, 0).float()
    return certainty * hot + (1 - certainty) / len(VALUES)


def _config(**weights: float) -> ModelConfig:
    evidence = evidence_of(_sure(_labels()), AFFINE)
    population = [
        PopulationStructure(
            value=value,
            log_ml=math.log(evidence.volume_ml[number]),
            sd_log_ml=0.1,
            place=tuple(evidence.centre[number].tolist()),
            sd_place_mm=2.0,
        )
        for number, value in enumerate(VALUES)
        if value
    ]
    chosen = replace(WEIGHTS, **weights)
    quality = QualityConfig(
        overall=QualityGroup(name="all", values=VALUES[1:], weights=chosen),
        groups=[
            QualityGroup(name="low", values=VALUES[1:5], weights=chosen),
            QualityGroup(name="high", values=VALUES[5:], weights=chosen),
        ],
        population=population,
        sd_log_size=0.06,
        threshold=0.7,
    )
    return ModelConfig(
        network=UNetConfig(out_channels=len(VALUES), num_levels=2, num_features=2),
        output="segmentation",
        structures=[StructureConfig(value=value, name=f"part {value}") for value in VALUES],
        quality=quality,
    )


CONFIG = _config()


def _score(posteriors: Tensor, affine: np.ndarray = AFFINE) -> QualityScore:
    found = quality_score(posteriors, affine, CONFIG)
    assert found is not None
    return found


def test_perfect_posteriors_score_1() -> None:
    found = _score(_sure(_labels()))
    assert found.overall == pytest.approx(1, abs=1e-3)
    assert found.groups == pytest.approx({"low": 1, "high": 1}, abs=1e-3)
    assert not found.doubtful


def test_posteriors_without_any_preference_score_0() -> None:
    found = _score(torch.full((len(VALUES), *SHAPE), 1 / len(VALUES)))
    assert found.overall < 0.01
    assert found.doubtful


def test_the_score_falls_with_certainty() -> None:
    scores = [_score(_sure(_labels(), c)).overall for c in (1.0, 0.99, 0.95, 0.8, 0.5)]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)


def test_doubts_about_one_group_lower_its_score_alone() -> None:
    labels = _labels()
    posteriors = _sure(labels)
    low = (labels > 0) & (labels < 5)
    posteriors[:, low] *= 0.6
    posteriors[0, low] += 0.4
    found = _score(posteriors)
    assert found.groups["high"] == pytest.approx(1, abs=1e-3)
    assert found.groups["low"] < found.overall < 1


def test_without_other_weights_the_score_is_the_dice_that_posteriors_expect() -> None:
    config = _config(volume=0, place=0, size=0, turn=0, absence=0)
    posteriors = _sure(_labels(), 0.9)
    expected = evidence_of(posteriors, AFFINE).soft_dice[1:].mean()
    found = quality_score(posteriors, AFFINE, config)
    assert found is not None
    assert found.overall == pytest.approx(expected)


def test_soft_dice_of_one_structure_is_that_of_its_definition() -> None:
    posteriors = torch.softmax(
        torch.randn(3, 5, 6, 7, generator=torch.Generator().manual_seed(0)), 0
    )
    mask = posteriors.argmax(0) == 1
    expected = 2 * posteriors[1][mask].sum() / (posteriors[1].sum() + mask.sum())
    assert evidence_of(posteriors, AFFINE).soft_dice[1] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("reverse", [(), (0,), (1, 2)])
def test_storage_orientation_does_not_matter(axes: Any, reverse: Any) -> None:
    posteriors = _sure(_labels(), 0.9)
    stored = posteriors.permute(0, *(a + 1 for a in axes)).flip([a + 1 for a in reverse])
    affine = AFFINE.copy()
    affine[:3, :3] = AFFINE[:3, list(axes)]
    for axis in reverse:
        affine[:3, 3] += affine[:3, axis] * (stored.shape[axis + 1] - 1)
        affine[:3, axis] *= -1
    _assert_same(_score(stored, affine), _score(posteriors))


def test_a_shift_or_more_background_does_not_matter() -> None:
    moved = AFFINE.copy()
    moved[:3, 3] = [-50, 20, 300]
    _assert_same(_score(_sure(_labels()), moved), _score(_sure(_labels())))
    _assert_same(_score(_sure(_labels(margin=6))), _score(_sure(_labels())))


def _assert_same(found: QualityScore, expected: QualityScore) -> None:
    assert found.overall == pytest.approx(expected.overall, abs=1e-6)
    assert found.groups == pytest.approx(expected.groups, abs=1e-6)


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.5, 2.0])
def test_certain_structures_of_the_wrong_size_score_low(factor: float) -> None:
    affine = AFFINE.copy()
    affine[:3, :3] *= factor
    assert _score(_sure(_labels()), affine).overall < 0.3


def test_certain_structures_at_wrong_places_score_low() -> None:
    assert _score(_sure(_labels(centres=CENTRES[[4, 3, 5, 1, 0, 2]]))).overall < 0.3


def test_a_head_upside_down_scores_low_and_a_tilted_one_does_not() -> None:
    assert _score(_sure(_labels()), np.diag([1, -1, -1, 1]) @ AFFINE).overall < 0.5
    angle = math.radians(25)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    assert _score(_sure(_labels()), turn @ AFFINE).overall > 0.99


def test_missing_structures_lower_the_score_but_not_those_outside_the_scan() -> None:
    labels = _labels()
    missing = labels.clone()
    missing[missing > 4] = 0
    assert _score(_sure(missing)).overall < 0.5
    part = _score(_sure(labels[:, :, :20]))  # the last two structures lie higher
    assert part.overall == pytest.approx(1, abs=0.01)
    assert list(part.groups) == ["low"]


def test_an_empty_segmentation_scores_0() -> None:
    found = _score(_sure(torch.zeros(SHAPE, dtype=torch.long)))
    assert found.overall < 0.001
    assert found.doubtful


def test_the_threshold_decides_which_scan_is_doubtful() -> None:
    posteriors = _sure(_labels(), 0.9)
    overall = _score(posteriors).overall
    for threshold, doubtful in ((overall - 0.01, False), (overall + 0.01, True)):
        assert CONFIG.quality is not None
        config = replace(CONFIG, quality=replace(CONFIG.quality, threshold=threshold))
        found = quality_score(posteriors, AFFINE, config)
        assert found is not None
        assert found.doubtful == doubtful


def test_a_model_that_is_not_calibrated_gives_no_score() -> None:
    assert quality_score(_sure(_labels()), AFFINE, replace(CONFIG, quality=None)) is None


def test_posteriors_of_another_number_of_structures_are_refused() -> None:
    with pytest.raises(SynthSRError, match=r"must be \(7, X, Y, Z\), got \(6, "):
        quality_score(_sure(_labels())[1:], AFFINE, CONFIG)


def test_half_precision_gives_nearly_the_same() -> None:
    posteriors = _sure(_labels(), 0.9)
    expected = _score(posteriors).overall
    assert _score(posteriors.bfloat16()).overall == pytest.approx(expected, abs=0.02)


def test_alignment_does_not_mirror() -> None:
    places = np.random.default_rng(0).normal(size=(9, 3))
    aligned = align(places * [-1, 1, 1], places)
    assert np.linalg.det(aligned.matrix) > 0
    assert not np.allclose(aligned.on_head(places), places * [-1, 1, 1])


def test_the_calibration_survives_the_header_of_a_model_file() -> None:
    assert config_of_header(header_text(CONFIG), "model") == CONFIG


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"population": []}, "must be some of the population"),
        ({"sd_log_size": 0.0}, "deviations must be above 0"),
    ],
)
def test_a_calibration_that_cannot_be_used_is_refused(change: dict[str, Any], message: str) -> None:
    assert CONFIG.quality is not None
    with pytest.raises(ValueError, match=message):
        replace(CONFIG.quality, **change)


def test_weights_below_0_and_structures_of_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match="weights must be at least 0"):
        QualityWeights(doubt=-1.0)
    others = [StructureConfig(value=100 + value, name=str(value)) for value in VALUES]
    with pytest.raises(ValueError, match="no structures of the values"):
        replace(CONFIG, structures=others)


def test_a_summary_of_a_box_is_that_of_a_volume_with_background_around() -> None:
    scores = torch.randn(5, 9, 10, 11, generator=torch.Generator().manual_seed(0))
    posteriors = scores.softmax(0)
    box = (slice(2, 11), slice(0, 10), slice(1, 12))
    large = torch.zeros(5, 12, 13, 14)
    large[2] = 1
    large[(slice(None), *box)] = posteriors
    found, expected = summary_of(posteriors).placed((12, 13, 14), box, 2), summary_of(large)
    assert torch.equal(found.best, expected.best)
    assert torch.equal(expected.best.long(), large.argmax(0))
    torch.testing.assert_close(found.certain, expected.certain, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.total, expected.total, rtol=1e-6, atol=0)
    torch.testing.assert_close(expected.total, large.double().sum((1, 2, 3)), rtol=1e-6, atol=0)


def _cells() -> Tensor:
    """Structures side by side in a ball, as those of a brain: the cells around random points."""
    random = np.random.default_rng(0)
    where = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    points = random.uniform(0, SHAPE, (60, 3))
    nearest = cKDTree(points).query(where)[1] % (len(VALUES) - 1) + 1
    ball = ((where - np.array(SHAPE) / 2) ** 2).sum(-1) < 17**2
    return torch.from_numpy(np.where(ball, nearest, 0))


class TestSupport:
    """Whether the scan itself shows the structures."""

    labels = _cells()
    brain = range(1, len(VALUES))

    def shown(self, *means: float, noise: float = 0.0) -> Tensor:
        """A scan with a mean in each structure."""
        random = torch.Generator().manual_seed(1)
        clean = torch.tensor(means)[self.labels]
        return clean + noise * torch.randn(self.labels.shape, generator=random)

    def support(self, scan: Tensor) -> float:
        return support_of(self.labels, scan, self.brain, np.eye(4))

    @pytest.mark.parametrize("means", [(0, 5, 4, 1, 2, 3, 6), (9, 1, 2, 5, 4, 3, 0)])
    def test_structures_that_are_there_explain_the_scan_whatever_its_contrast(self, means):
        scan = self.shown(*means, noise=0.5)
        assert self.support(scan) > 2
        assert self.support(300 - 7 * scan) == pytest.approx(self.support(scan), rel=1e-3)
        ramp = torch.linspace(0.5, 2, SHAPE[0])[:, None, None]  # as of a bias field
        assert self.support(ramp * (scan + 5)) > 2

    def test_those_that_are_not_do_not(self):
        random = torch.Generator().manual_seed(2)
        noise = torch.randn(SHAPE, generator=random)
        smooth = torch.nn.functional.avg_pool3d(noise[None], 5, 1, 2)[0]
        elsewhere = self.shown(0, 5, 4, 1, 2, 3, 6, noise=0.5).flip(0, 2)
        for scan in (noise, smooth, elsewhere, torch.zeros(SHAPE), torch.full(SHAPE, 7.0)):
            assert self.support(scan) < 1.5

    def test_the_border_of_what_was_emptied_does_not(self):
        middle = torch.tensor(SHAPE)[:, None, None, None] / 2
        radius = (torch.from_numpy(np.indices(SHAPE)) - middle).square().sum(0).sqrt()
        rim = torch.where((radius >= 14) & (radius < 17), 1, self.labels)  # as of a cortex
        labels = torch.where(self.labels == 1, 2, self.labels).where(radius < 14, rim)
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
        emptied = torch.where(radius < 15.5, 50 + noise, 150 + noise)
        assert support_of(labels, emptied, self.brain, np.eye(4)) < 1.5

    def test_voxels_that_are_much_too_bright_do_not_hide_it(self):
        scan = self.shown(0, 5, 4, 1, 2, 3, 6)
        hot = scan.clone()
        hot.view(-1)[::401] = 1000
        assert self.support(hot) > 0.7 * self.support(scan)

    def test_nothing_is_said_without_structures(self):
        labels, scan = torch.zeros(SHAPE, dtype=torch.uint8), torch.rand(SHAPE)
        assert support_of(labels, scan, self.brain, AFFINE) == 1
        assert support_of(labels, scan, [], AFFINE) == 1

    def test_a_scan_that_shows_nothing_lowers_the_score_and_one_of_an_exam_that_does_is_enough(
        self,
    ):
        config = _config(volume=0, place=0, size=0, turn=0, absence=0, unsupported=1.0)
        sure = _sure(self.labels)
        scan, nothing = self.shown(0, 5, 4, 1, 2, 3, 6), torch.zeros(SHAPE)

        def overall(*scans: Tensor) -> float:
            found = quality_score(sure, AFFINE, config, torch.stack(scans) if scans else None)
            assert found is not None
            return found.overall

        assert overall(nothing) == pytest.approx(overall() / USUAL_SUPPORT, rel=1e-3)
        assert overall(scan) > 2 * overall(nothing)
        assert overall(nothing, scan) == overall(scan)

    def test_files_without_its_weight_score_as_before(self):
        found = quality_score(_sure(self.labels), AFFINE, CONFIG, torch.zeros(1, *SHAPE))
        assert found is not None
        before = quality_score(_sure(self.labels), AFFINE, CONFIG)
        assert found._replace(support=None) == before

    @pytest.mark.parametrize("shows", [True, False])
    def test_the_doubt_says_so(self, shows):
        scan = self.shown(0, 5, 4, 1, 2, 3, 6) if shows else torch.zeros(SHAPE)
        found = quality_score(_sure(self.labels, 0.3), np.eye(4), CONFIG, scan[None])
        assert found is not None
        assert found.doubt is not None
        assert "quality score" in found.doubt
        assert ("may be made up" in found.doubt) != shows
