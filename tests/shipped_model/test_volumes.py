"""Promises of the comparison of volumes with label maps, at toy size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import measure_volumes
import numpy as np
import pytest
import torch
from evaluation.shares import Share
from helpers import save
from measure_volumes import COMPARED, LABELS, PREDICTION, SCAN, Key, Subject, compare, read_rows
from train_segmentation import CENTRAL, NETWORK, SIDED, STRUCTURES

from synthsr_net.models.checkpoint import ModelConfig, ScanConfig, StructureConfig, save_model
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_net.prediction.space.postprocess import Segmentation
from synthsr_transforms.io.grids import Volume

NAMES = [name for parts in COMPARED.values() for name in parts]


def _labels() -> np.ndarray:
    """FreeSurfer values of a brain in a head: left structures on the left."""
    labels = np.zeros((24, 32, 24), np.int16)
    labels[1:-1, 1:-1, 1:-1] = 507
    labels[3:-3, 3:-3, 3:-3] = 24
    places = [(y, z) for y in range(4, 28, 4) for z in range(4, 19, 5)]
    for (y, z), (left, right) in zip(places, SIDED.values(), strict=False):
        labels[5:9, y : y + 4, z : z + 5] = left
        labels[15:19, y : y + 4, z : z + 5] = right
    for z, value in zip((4, 9, 14), CENTRAL.values(), strict=False):
        labels[9:15, 8:24, z : z + 5] = value
    return labels


class Counting:
    """Stands for a model: finds volumes that are too large by a tenth, and says when asked."""

    def __init__(self, truth: dict[str, float]) -> None:
        self.found = {name: 1.1 * volume for name, volume in truth.items()}
        self.asked: list[tuple[int, ...]] = []

    def predict(self, scans: list[Any]) -> Segmentation:
        self.asked.append(scans[0].data.shape)
        return Segmentation(Volume(scans[0].data, scans[0].affine), self.found)


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    labels = _labels()
    save(tmp_path / "one_aparc+aseg.mgz", labels.astype(np.int32))
    noise = np.random.default_rng(0).random(labels.shape, np.float32)
    path = save(tmp_path / "one_T1.mgz", 10 + labels % 60 + noise)
    return measure_volumes.real_subject(path)


def test_volumes_of_a_label_map_are_counts_of_its_voxels(subject: Subject) -> None:
    labels, volumes = _labels(), subject.volumes_ml
    for value, name in STRUCTURES.items():
        if value not in (0, 258):
            assert volumes[name] == (labels == value).sum() / 1000


def test_images_are_the_scan_its_prediction_and_those_of_slices() -> None:
    todo = list(measure_volumes.images([1, 5], [2, 0]))
    assert todo == [(SCAN, 1, 0), (PREDICTION, 1, 0), (PREDICTION, 5, 2), (PREDICTION, 5, 0)]


def test_a_broken_off_run_goes_on(subject: Subject, tmp_path: Path) -> None:
    segmenter, predictor = Counting(subject.volumes_ml), Counting(subject.volumes_ml)
    todo, path = list(measure_volumes.images([1, 4], [0, 2])), tmp_path / "volumes.csv"
    for part in (todo[:2], todo, todo):
        measure_volumes.measure([subject], predictor, segmenter, part, path)  # type: ignore[arg-type]
    assert len(segmenter.asked) == 1
    whole = segmenter.asked[0]
    assert predictor.asked == [whole, (whole[0] // 4, *whole[1:]), (*whole[:2], whole[2] // 4)]
    rows = read_rows(path)
    assert [key.of for key in rows] == [LABELS, SCAN, *[PREDICTION] * 3]
    for key, row in rows.items():
        gain = 1 if key.of == LABELS else 1.1
        assert row == pytest.approx({name: gain * subject.volumes_ml[name] for name in NAMES})


def test_shares_measure_what_one_run_measures(subject: Subject, tmp_path: Path) -> None:
    todo = list(measure_volumes.images([1, 4], [0, 2]))
    for number in (1, 2, None):
        segmenter, predictor = Counting(subject.volumes_ml), Counting(subject.volumes_ml)
        share = Share(number, 2) if number else None
        given = ([subject], predictor, segmenter, todo, tmp_path / "volumes.csv", share)
        rows = measure_volumes.measure(*given)  # type: ignore[arg-type]
        assert len(segmenter.asked + predictor.asked) == (2 if number else 0)
    assert [key.of for key in rows] == [LABELS, SCAN, *[PREDICTION] * 3]


def test_errors_are_in_percent_of_the_truth() -> None:
    truth = [1.0, 2.0, 4.0]
    assert compare(truth, truth) == (0, 0, 1)
    assert compare([1.1, 2.2, 4.4], truth) == (10, 10, 1)
    assert compare([0.9, 2.2, 4.0], truth)[:2] == (0, 6.67)
    assert compare([3.0, 1.0, 2.0], [0.0, 1.0, 2.0])[:2] == (0, 0)
    assert np.isnan(compare([1.0], [0.0])).all()


def test_the_table_keeps_sources_and_spacings_apart() -> None:
    truth = dict.fromkeys(NAMES, 2.0)
    rows = {
        Key("a", "real", LABELS): truth,
        Key("a", "real", PREDICTION, 5.0, "axial"): dict.fromkeys(NAMES, 2.2),
        Key("a", "real", PREDICTION, 5.0, "coronal"): dict.fromkeys(NAMES, 1.8),
        Key("a", "real", SCAN): dict.fromkeys(NAMES, 2.1),
        Key("b", "simulated", LABELS): truth,
        Key("b", "simulated", PREDICTION, 1.0): truth,
    }
    real, against_scans, simulated = measure_volumes.table_text(rows).split("###")[1:]
    assert real.startswith(" Real scans, heads: 1; reference: the label map")
    assert "| label map (ml) | scan (n=1) | prediction of 5 mm (n=2) |" in real
    assert "| thalamus | 2.000 | +5.0, 5.0 | +0.0, 10.0 |" in real
    assert "| scan (ml) | prediction of 5 mm (n=2) |" in against_scans
    assert "| thalamus | 2.100 | -4.8, 9.5 |" in against_scans
    assert "| label map (ml) | prediction of 1 mm (n=1) |" in simulated
    assert "| brain stem | 2.000 | +0.0, 0.0 |" in simulated


def _save_models(folder: Path) -> tuple[Path, Path]:
    """Small networks for voxels of 1 mm: one that predicts, one that segments."""
    segmenting = replace(NETWORK, num_levels=2, num_features=2, out_channels=len(STRUCTURES))
    structures = [StructureConfig(value=v, name=name) for v, name in STRUCTURES.items()]
    configs = (
        ModelConfig(network=UNetConfig(num_levels=2, num_features=2)),
        ModelConfig(
            network=segmenting,
            output="segmentation",
            structures=structures,
            scan=ScanConfig(output_scale=1.0, output_range=None),
        ),
    )
    paths = folder / "predict.safetensors", folder / "segment.safetensors"
    for path, config in zip(paths, configs, strict=True):
        save_model(path, config, UNet3d(config.network).state_dict())
    return paths


def test_the_script_compares_real_and_simulated_scans(subject: Subject, tmp_path: Path) -> None:
    model, segmentation = _save_models(tmp_path)
    label_map = save(tmp_path / "maps" / "two.nii.gz", _labels())
    arguments = [tmp_path / "out", "--real", tmp_path / "one_T1.mgz", "--maps", label_map]
    arguments += ["--model", model, "--segmentation", segmentation, "--device", "cpu"]
    arguments += ["--spacings", "4", "--axes", "1"]
    assert measure_volumes.main(list(map(str, arguments))) == 0
    rows = read_rows(tmp_path / "out" / "volumes.csv")
    assert len(rows) == 2 * 3
    assert {key.orientation for key in rows if key.slice_mm == 4} == {"coronal"}
    assert torch.isfinite(torch.tensor([list(row.values()) for row in rows.values()])).all()
    text = (tmp_path / "out" / "table.md").read_text()
    assert all(f"| {name} |" in text for name in COMPARED)
