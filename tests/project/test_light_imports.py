"""Prediction, and help on the command line, load no more than they need."""

from __future__ import annotations

import os

import pytest
from helpers import python

from synthsr_cli.group import COMMANDS

GENERATOR = {
    *("torchio", "pytorch_lightning", "SimpleITK", "synthsr_transforms.transforms"),
    *("synthsr_transforms.generator", "synthsr_transforms.subjects", "synthsr_transforms.job"),
}
LIBRARIES = {
    *("torch", "numpy", "nibabel", "scipy", "matplotlib", "omegaconf", "pooch", "rich"),
    *("onnx", "onnxruntime"),
}

PREDICTION = """
import nibabel, numpy, synthsr_net
from synthsr_net.models.checkpoint import ModelConfig, ScanConfig, save_model
config = synthsr_net.UNetConfig(num_levels=2, num_features=2)
scan = ScanConfig(spacing_mm=8.0, data_consistency=True, inverse_contrast=True, sharpen=True)
network = synthsr_net.UNet3d(config)
save_model("tiny.safetensors", ModelConfig(network=config, scan=scan), network.state_dict())
voxels = numpy.random.default_rng(0).random((12, 12, 12), numpy.float32)
nibabel.save(nibabel.Nifti1Image(voxels, numpy.diag([8, 8, 8, 1])), "scan.nii.gz")
synthsr_net.Predictor.from_file("tiny.safetensors", device="cpu")("scan.nii.gz", "t1.nii.gz")
"""
COMMAND = """
import sys
from synthsr_cli.group import synthsr
for words in {commands}:
    sys.argv = ["synthsr", *words.split()]
    try:
        synthsr()
    except SystemExit as end:
        assert not end.code, end.code
"""


def loaded_by(code: str, folder: object) -> set[str]:
    """Modules that a fresh interpreter has loaded after running some code."""
    code += "\nimport sys\nprint('\\n' + ' '.join(sys.modules))"
    run = python(code, check=True, cwd=folder, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    return set(run.stdout.splitlines()[-1].split())


def test_predicting_loads_neither_torchio_nor_the_generator(tmp_path) -> None:
    """In Python, and with the command."""
    loaded = loaded_by(PREDICTION, tmp_path)
    assert (tmp_path / "t1.nii.gz").exists()
    assert "synthsr_net.prediction.predictor" in loaded
    assert not loaded & GENERATOR
    command = "predict scan.nii.gz quiet.nii.gz --model tiny.safetensors"
    assert "matplotlib" not in loaded_by(COMMAND.format(commands=[command]), tmp_path)
    command = "predict scan.nii.gz again.nii.gz --report report --model tiny.safetensors"
    loaded = loaded_by(COMMAND.format(commands=[command]), tmp_path)
    assert (tmp_path / "again.nii.gz").exists()
    assert not loaded & GENERATOR


@pytest.mark.parametrize("package", ["synthsr_net", "synthsr_transforms", "synthsr_cli.main"])
def test_importing_a_package_loads_no_library(tmp_path, package) -> None:
    assert not loaded_by(f"import {package}", tmp_path) & LIBRARIES


def test_help_loads_no_library(tmp_path) -> None:
    commands = ["--help", *(f"{command} --help" for command in COMMANDS)]
    loaded = loaded_by(COMMAND.format(commands=commands), tmp_path)
    assert not loaded & {*LIBRARIES, *GENERATOR, "importlib.metadata"}
    assert not loaded_by(COMMAND.format(commands=["--version"]), tmp_path) & LIBRARIES
