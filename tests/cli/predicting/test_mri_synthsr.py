"""Promises of ``mri-synthsr``: the options of FreeSurfer's command do what they do there."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import SCAN_MM, SCAN_SHAPE, one_error, run, save, save_tiny_model

from synthsr_cli import main as entry
from synthsr_net.models.zoo.registry import PUBLISHED_MODELS

MODEL = ("--model", "tiny.safetensors")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with a model and a scan, without downloaded models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYNTHSR_DATA", str(tmp_path / "cache"))
    save_tiny_model(tmp_path / "tiny.safetensors")
    data = 90 * np.random.default_rng(0).random(SCAN_SHAPE, np.float32)
    save(tmp_path / "scan.nii.gz", data, np.diag([SCAN_MM] * 3 + [1]))
    return tmp_path


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ((), ()),
        (("--ct",), ("--ct",)),
        (("--disable_sharpening",), ("--no-sharpen",)),
        (("--disable_flipping", "--cpu", "--threads", "1"), ("--no-flip",)),
    ],
)
def test_it_is_predict_as_freesurfer_does_it(theirs, ours):
    result = run("mri-synthsr", "--i", "scan.nii.gz", "--o", "a.nii", *theirs, *MODEL)
    assert result.exit_code == 0, result.stderr
    run("predict", "scan.nii.gz", "b.nii", "--legacy", "v2", *ours, *MODEL)
    assert Path("a.nii").read_bytes() == Path("b.nii").read_bytes()


def test_output_that_exists_is_replaced():
    Path("a.nii").write_bytes(b"old")
    assert run("mri-synthsr", "--i", "scan.nii.gz", "--o", "a.nii", *MODEL).exit_code == 0
    assert Path("a.nii").read_bytes() != b"old"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ((), "synthsr-v2"),
        (("--lowfield",), "synthsr-lowfield-v2"),
        (("--v1",), "synthsr-v1"),
        (("--v1", "--lowfield"), "synthsr-v1"),
    ],
)
def test_models_are_those_of_freesurfer(options, name, tmp_path, monkeypatch):
    said = one_error(run("mri-synthsr", "--i", "scan.nii.gz", "--o", "a.nii", *options))
    assert f"synthsr models download {name}" in said
    installed = tmp_path / "freesurfer" / "models" / PUBLISHED_MODELS[name].file
    installed.parent.mkdir(parents=True)
    shutil.copy("tiny.safetensors", installed)
    monkeypatch.setenv("FREESURFER_HOME", str(tmp_path / "freesurfer"))
    result = run("mri-synthsr", "--i", "scan.nii.gz", "--o", "a.nii", *options)
    assert result.exit_code == 0, result.stderr


def test_the_program_is_the_command(monkeypatch):
    seen = []
    monkeypatch.setattr(entry, "main", lambda: seen.extend(sys.argv))
    monkeypatch.setattr(sys, "argv", ["mri-synthsr", "--i", "a"])
    entry.mri_synthsr()
    assert seen == ["synthsr", "mri-synthsr", "--i", "a"]
