"""Promises of a whole evaluation: files, report, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchio as tio
from evaluation.heads import Head
from evaluation.run import EvaluationData
from evaluation.tables import report_text, table
from helpers import (
    ROOT,
)
from PIL import Image

from synthsr_net.models.checkpoint import ModelConfig, ScanConfig, read_model, save_model
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_transforms.phantom import head_phantom

EXAMPLE = ROOT / "examples" / "shipped_model" / "evaluate.py"
SPACING = 4.0
Command = Callable[..., int]


@pytest.fixture(scope="module")
def command() -> Command:
    spec = importlib.util.spec_from_file_location("evaluate", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *words: module.main([str(word) for word in words])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a label map, scans of it, a mask and a CT."""
    folder = tmp_path_factory.mktemp("data")
    network = UNetConfig(num_levels=2, num_features=2)
    scan = ScanConfig(spacing_mm=SPACING, divisor=8)
    torch.manual_seed(0)
    config = ModelConfig(name="tiny", network=network, scan=scan)
    save_model(folder / "tiny.safetensors", config, UNet3d(network).state_dict())
    labels = head_phantom(spacing_mm=SPACING, seed=4)
    labels.save(folder / "head_labels.nii.gz")
    head = Head("head", labels.data[0], np.asarray(labels.affine.data), "cpu")
    for name in ("T1", "T2", "CT"):
        image = tio.ScalarImage(head.image(name, 0)[None].round(), affine=head.affine)
        image.save(folder / f"head_{name}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def out(command: Command, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of all parts."""
    out = tmp_path_factory.mktemp("out") / "new"
    code = command(
        *("--model", data / "tiny.safetensors", "--out", out),
        *("--labels", data / "head_labels.nii.gz"),
        *("--images", data / "head_T1.nii.gz", "--image-labels", data / "head_labels.nii.gz"),
        *("--scans", data / "head_T2.nii.gz"),
        *("--patient", data / "head_T1.nii.gz", data / "head_T2.nii.gz"),
        *("--ct", data / "head_CT.nii.gz", "--device", "cpu", "--precision", "fp32"),
        *("--contrasts", "T2", "CT", "--stripped", "T1", "--spacings", 5, "--axes", 2),
        *("--degraded", 10),
    )
    assert code == 0
    return out


class TestFiles:
    def test_all_parts_are_in_the_results(self, out: Path, data: Path):
        results = json.loads((out / "results.json").read_text())
        assert len(results["held_out"]) == 3
        assert len(results["held_out_lesions"]) == 3 * 2
        assert len(results["real_pairs"]) == 1
        assert [row["change"] for row in results["scans"]] == [
            "10 mm",
            "rotated",
            "flipped",
            "inverted",
        ]
        assert len(results["patient"]) == 1
        assert results["ct"][0]["scan"] == "head_CT"
        assert results["model"]["name"] == "tiny"
        assert results["model"]["file"] == "tiny.safetensors"
        assert len(results["model"]["sha256"]) == 64
        assert results["environment"]["versions"]["synthsr"]
        assert results["settings"]["held_out"]["spacings_mm"] == [5.0]

    def test_every_picture_is_there_and_named_in_the_report(self, out: Path):
        results = json.loads((out / "results.json").read_text())
        files = {path.name for path in (out / "pictures").iterdir()}
        assert files == set(results["pictures"])
        report = (out / "report.md").read_text()
        for name in files:
            assert f"pictures/{name}" in report
            with Image.open(out / "pictures" / name) as picture:
                assert min(picture.size) > 200
        for part in (
            "held_out_T2",
            "held_out_T1_without_skull",
            "held_out_FLAIR_with_lesions",
            "real_",
            "scan_",
            "patient_",
            "ct_",
        ):
            assert any(name.startswith(part) for name in files)

    def test_nothing_else_is_left(self, out: Path):
        assert {path.name for path in out.iterdir()} == {"results.json", "report.md", "pictures"}

    def test_the_report_has_a_table_for_each_part(self, out: Path):
        report = (out / "report.md").read_text()
        for title in (
            "Held-out",
            "lesions in held-out",
            "Real T1",
            "Real scans",
            "one person",
            "Computed",
        ):
            assert (
                sum(line.startswith("## ") and title in line for line in report.splitlines()) == 1
            )
        rows = [line for line in report.splitlines() if line.startswith("| T2 | 5 mm")]
        assert len(rows) == 1

    def test_data_consistency_can_be_left_out(self, command: Command, data: Path, out: Path):
        file = out.parent / "consistent.safetensors"
        model = read_model(data / "tiny.safetensors")
        scan = replace(model.config.scan, data_consistency=True)
        config = replace(model.config, scan=scan)
        save_model(file, config, model.network.state_dict())
        for words, word in (([], "with"), (["--no-data-consistency"], "without")):
            goal = out.parent / word
            options = ["--contrasts", "CT", "--stripped", "--spacings", 5, "--axes", 2, *words]
            labels = data / "head_labels.nii.gz"
            assert not command("--model", file, "--out", goal, "--labels", labels, *options)
            assert f" {word} data consistency" in (goal / "report.md").read_text()
            results = json.loads((goal / "results.json").read_text())
            assert results["model"]["data_consistency"] is (word == "with")

    def test_the_same_seed_gives_the_same_numbers(self, command: Command, data: Path, out: Path):
        again = out.parent / "again"
        options = ["--contrasts", "CT", "--stripped", "--spacings", 5, "--axes", 2]
        code = command(
            *("--model", data / "tiny.safetensors", "--out", again, "--device", "cpu"),
            *("--labels", data / "head_labels.nii.gz", "--precision", "fp32", *options),
        )
        assert code == 0
        one, two = (
            json.loads((folder / "results.json").read_text())["held_out"] for folder in (out, again)
        )
        before = [row for row in one if row["contrast"] == "CT"]
        assert len(two) == len(before) > 0
        for row, other in zip(two, before, strict=True):
            for who in ("network", "raw", "interpolation"):  # sums depend on the number of threads
                assert row.pop(who) == pytest.approx(other.pop(who), rel=1e-3, abs=1e-3)
            assert row == other


class TestRefusals:
    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ([], "must be data to evaluate on"),
            (["--images", "a"], "images and image labels go together"),
            (["--patient", "a"], "at least two scans"),
            (["--lesions", "a", "--labels", "b"], "at least two scans"),
            (["--bright-lesions", "a", "--labels", "b"], "at least two scans"),
            (["--patient", "a", "b", "--bright-lesions", "c"], "one of the patient's, got c"),
            (["--patient", "a", "b", "--bright-lesions", "a", "--lesions", "c"], "got both"),
            (["--patient", "a", "b", "--registrations", "-"], "as many as the patient's scans"),
            (["--labels", "nowhere"], "nowhere must be a file or folder"),
            (["--labels", "x", "--spacings", "0"], "must be above 0 mm"),
        ],
    )
    def test_what_cannot_be_is_told_in_one_line(
        self,
        command: Command,
        data: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        words: list[str],
        told: str,
    ):
        model = data / "tiny.safetensors"
        assert command("--model", model, "--out", tmp_path / "o", "--device", "cpu", *words) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
        assert not (tmp_path / "o" / "results.json").exists()

    def test_one_scan_twice_is_a_patient_but_no_data_are_no_data(self):
        EvaluationData(patient=["a", "a"])
        with pytest.raises(ValueError, match="must be data"):
            EvaluationData()


class TestTables:
    def test_cells_are_aligned_and_rounded(self):
        lines = table(["name", "x"], [["a", 12.345], ["b", None], ["c", float("nan")], ["d", 7]])
        assert lines[1] == "| --- | ---: |"
        assert [line.split("|")[2].strip() for line in lines[2:]] == ["12.3", "", "", "7"]

    def test_means_are_over_all_scans_that_have_a_value(self):
        rows: list[dict[str, Any]] = [
            {"scan": s, "change": "3 mm", "axis": "axial", "network": x, "interpolation": 0.5}
            for s, x in (("a", 0.8), ("a", 1.0), ("b", 0.7))
        ]
        rows.append({"scan": "b", "change": "flipped", "axis": None, "network": 0.25})
        machine = {"device": "cpu", "versions": {"synthsr": "1", "torch": "2"}}
        model = {
            "name": "m",
            "sha256": "0",
            "precision": "fp32",
            "flip": True,
            "inverse_contrast": False,
            "data_consistency": True,
        }
        text = report_text(
            {
                "model": model,
                "environment": machine,
                "seed": 0,
                "protocol": "",
                "pictures": [],
                "scans": rows,
            }
        )
        lines = [line for line in text.splitlines() if line.startswith("|")]
        assert lines[0] == "| scan | 3 mm | interpolated | flipped |"
        assert lines[2:] == [
            "| a | 0.900 | 0.500 |  |",
            "| b | 0.700 | 0.500 | 0.250 |",
            "| mean | 0.800 | 0.500 | 0.250 |",
        ]
