"""Promises of the calibration of the quality score, at toy size."""

from __future__ import annotations

import json
from argparse import ArgumentTypeError
from dataclasses import asdict, replace
from pathlib import Path

import calibrate_quality
import nibabel as nib
import numpy as np
import pytest
import torch
from calibrate_quality import (
    SEGMENTED,
    Heads,
    collect,
    labels_on,
    one_hot,
    true_dice,
    write_calibrated,
)
from evaluation.calibration import (
    GROUPS,
    OVERALL,
    USUAL_WEIGHTS,
    Sample,
    Table,
    fitted_weights,
    population_of,
    read_samples,
    threshold_of,
    uncalibrated,
)
from evaluation.degradations import ACQUISITION, CYCLE, NOTHING, WRONG, Case, degrade, mirrored
from evaluation.shares import Share
from safetensors.torch import load_file
from train_segmentation import HEAD, NETWORK, VALUES

from synthsr_net.models.checkpoint import ModelConfig, StructureConfig, read_config, save_model
from synthsr_net.networks.unet import UNet3d
from synthsr_net.prediction.segmentation.quality import Evidence, evidence_of, score

SHAPE = (26, 30, 24)


def _labels() -> np.ndarray:
    """Channels of a block for each structure, those of the brain in the middle."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:-2, 2:-2, 2:-2] = 1
    rng = np.random.default_rng(0)
    places = np.stack(np.meshgrid(range(3, 21, 4), range(4, 24, 4), range(3, 18, 5)), -1)
    places = rng.permutation(places.reshape(-1, 3))
    for channel, (x, y, z) in zip(range(2, len(VALUES)), places, strict=False):
        labels[x : x + 3, y : y + 3, z : z + 4] = channel
    return labels


def _case() -> Case:
    labels = _labels()
    data = 5.0 * labels + np.random.default_rng(1).random(SHAPE)
    return Case("toy", data, labels, labels > 1)


def _evidence() -> Evidence:
    return evidence_of(one_hot(torch.from_numpy(_labels())), np.eye(4))


def _sample(number: int, soft: float, dice: float) -> Sample:
    numbers = calibrate_quality.in_numbers(_evidence())
    numbers["soft_dice"] = [soft] * len(VALUES)
    return Sample(
        number=number,
        head="ab"[number % 2],
        what="nothing",
        of="prediction",
        model="fast",
        dice=[dice] * len(VALUES),
        **numbers,
    )


POPULATION = population_of([(_evidence().volume_ml, _evidence().centre)] * 2, VALUES)


@pytest.mark.parametrize(
    "degradation", sorted({*ACQUISITION, *WRONG, *NOTHING}, key=lambda f: f.__name__)
)
def test_a_degradation_keeps_scans_usable_and_says_what_it_did(degradation: object) -> None:
    for seed in range(4):
        case = _case()
        degradation(case, np.random.default_rng(seed))  # type: ignore[operator]
        assert case.data.dtype == np.float32
        assert np.isfinite(case.data).all()
        assert case.data.ndim == 3
        assert len(case.words) == 1
        assert case.empty == (degradation in NOTHING)


def test_a_case_is_the_same_every_time() -> None:
    for number in range(12):
        first, second = _case(), _case()
        for case in (first, second):
            degrade(case, number, np.random.default_rng(number))
        assert np.array_equal(first.data, second.data)
        assert first.words == second.words


def test_voxels_keep_their_labels_whatever_is_wrong_in_the_header() -> None:
    for degradation in {*WRONG} - {mirrored}:
        case = _case()
        degradation(case, np.random.default_rng(3))
        found = case.labels.astype(np.int64)
        dice = true_dice(found, case, (SHAPE, case.affine))
        assert dice == [1.0] * len(VALUES)


def test_sides_of_a_mirrored_head_are_those_of_the_header() -> None:
    case = _case()
    mirrored(case, np.random.default_rng(0))
    right = case.labels.astype(np.int64)
    swapped = calibrate_quality._other_sides()[right].astype(np.int64)
    assert true_dice(swapped, case, (SHAPE, case.affine)) == [1.0] * len(VALUES)
    assert true_dice(right, case, (SHAPE, case.affine))[2] == 0.0


def test_the_truth_outside_the_scan_does_not_count() -> None:
    case = _case()
    assert np.array_equal(labels_on(case, (SHAPE, np.eye(4))), case.labels)
    half = labels_on(case, ((13, 30, 24), np.eye(4)))
    assert np.array_equal(half, case.labels[:13])
    dice = true_dice(half.astype(np.int64), case, ((13, 30, 24), np.eye(4)))
    assert set(dice) == {1.0, None}


def test_without_a_brain_all_is_wrong() -> None:
    case = replace_empty()
    assert true_dice(np.zeros(SHAPE, np.int64), case, (SHAPE, np.eye(4))) == [0.0] * len(VALUES)


def replace_empty() -> Case:
    """A case without a brain."""
    case = _case()
    NOTHING[0](case, np.random.default_rng(0))
    return case


def test_weights_explain_coefficients_and_stay_usual_without_them() -> None:
    features = np.abs(np.random.default_rng(0).normal(size=(300, 8))) * 0.2
    weights = np.array([0.03, 1.4, 0.08, 0.05, 0.03, 0.5, 1.0, 0.8])
    dice = np.exp(-features @ weights)
    found = np.array(list(asdict(fitted_weights(features, dice)).values()))
    assert np.exp(-features @ found) == pytest.approx(dice, abs=0.05)
    assert fitted_weights(features[:0], dice[:0]) == USUAL_WEIGHTS


def test_the_population_of_one_head_scores_1_and_another_size_does_not() -> None:
    quality = uncalibrated(POPULATION)
    assert score(_evidence(), VALUES, quality).overall == pytest.approx(1, abs=0.01)
    evidence = _evidence()._replace(soft_dice=np.full(len(VALUES), 0.7))
    assert score(evidence, VALUES, quality).overall == pytest.approx(0.7, abs=1e-6)


def test_scores_follow_samples_of_other_heads() -> None:
    soft = np.linspace(0.5, 0.95, 40)
    samples = [_sample(n, s, s**1.5) for n, s in enumerate(soft)]
    table = Table(samples, VALUES, uncalibrated(POPULATION))
    scores = table.cross_validated()
    assert list(scores) == list(GROUPS)
    assert scores[OVERALL] == pytest.approx(soft**1.5, abs=0.03)


def test_the_threshold_lies_between_good_and_bad() -> None:
    truth = np.array([0.1, 0.5, 0.55, 0.7, 0.85, 0.9])
    assert 0.5 < threshold_of(truth, truth) < 0.85


def test_every_head_meets_every_kind_of_degradation_and_of_segmentation(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / f"{name}_T1.mgz").touch()
    maps = [tmp_path / "e.nii.gz", tmp_path / "f.nii.gz"]
    for path in maps:
        path.touch()
    heads = Heads([str(path) for path in maps], tmp_path)
    turns = [heads.turn(number)[1] for number in range(480)]
    assert sorted(set(turns)) == [*range(8)]  # each of the two maps twice
    for others in (CYCLE, SEGMENTED):
        met = {(turn, others[n % len(others)]) for n, turn in enumerate(turns)}
        assert len(met) == 8 * len(set(others))


def test_a_broken_off_run_goes_on(tmp_path: Path) -> None:
    asked: list[int] = []

    def sampler(number: int) -> Sample:
        asked.append(number)
        return _sample(number, 0.8, 0.7)

    path = tmp_path / "samples.jsonl"
    collect(sampler, path, 2)
    assert collect(sampler, path, 3) == read_samples(path)
    assert asked == [0, 1, 2]


def test_each_kind_of_case_and_of_head_meets_everything_that_is_segmented() -> None:
    for kinds in (len(CYCLE), 2):  # label maps and real scans
        met = {(n % kinds, SEGMENTED[n % len(SEGMENTED)]) for n in range(240)}
        assert len(met) == kinds * len(set(SEGMENTED))


def test_shares_make_the_samples_that_one_run_makes(tmp_path: Path) -> None:
    asked = []

    def sampler(number: int) -> Sample:
        asked.append(number)
        return _sample(number, 0.8, 0.7)

    path = tmp_path / "samples.jsonl"
    for number in (2, 3):
        collect(sampler, path, 7, Share(number, 3))
    samples = collect(sampler, path, 7)
    assert [sample.number for sample in samples] == list(range(7))
    assert asked == [2, 3, 4, 5, 6, 0, 1]


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b"])
def test_a_share_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="share"):
        Share.parse(text)


def test_weights_of_the_network_stay_as_they_are(tmp_path: Path) -> None:
    config = _model(tmp_path / "model.safetensors")
    quality = uncalibrated(POPULATION)
    write_calibrated(tmp_path / "model.safetensors", quality, tmp_path / "new.safetensors")
    assert read_config(tmp_path / "new.safetensors") == replace(config, quality=quality)
    before, after = (load_file(tmp_path / f"{name}.safetensors") for name in ("model", "new"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def _model(path: Path) -> ModelConfig:
    network = replace(NETWORK, num_levels=2, num_features=2, out_channels=len(VALUES))
    config = ModelConfig(
        network=network,
        output="segmentation",
        structures=[StructureConfig(value=v, name=str(v)) for v in VALUES],
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = UNet3d(network).half().state_dict()
    save_model(path, config, state)
    return config


def test_the_script_calibrates_a_network(tmp_path: Path) -> None:
    model, out = tmp_path / "model.safetensors", tmp_path / "out"
    _model(model)
    values = np.array(VALUES)[_labels()].astype(np.int16)
    values[values == HEAD] = 507
    (tmp_path / "maps").mkdir()
    for name in ("one", "two"):
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "maps" / f"{name}.nii.gz")
    written = tmp_path / "calibrated.safetensors"
    folder = str(tmp_path / "maps")
    arguments = [str(model), str(out), "--maps", folder, "--population", folder]
    arguments += ["--scans", "3", "--device", "cpu", "--write", str(written)]
    assert calibrate_quality.main(arguments) == 0
    assert len(read_samples(out / "samples.jsonl")) == 3
    assert json.loads((out / "quality.json").read_text())["overall"]["name"] == OVERALL
    assert "Dice below 0.6" in (out / "table.md").read_text()
    assert (out / "figure.png").stat().st_size > 1000
    assert read_config(written).quality is not None
