"""Functions that tests of several folders share; `from helpers import run, save`."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from click.testing import CliRunner, Result

from synthsr_cli.group import synthsr
from synthsr_net.models.checkpoint import (
    InputConfig,
    Model,
    ModelConfig,
    PopulationStructure,
    QualityConfig,
    QualityGroup,
    QualityWeights,
    ScanConfig,
    StructureConfig,
    save_model,
)
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_transforms.support import atomic

ROOT = Path(__file__).parents[2]
SHARED_DATA = ROOT.parent / "shared" / "data"
"""Real scans and label maps, which not every machine has."""
PROGRESS = re.compile(r"\d+/\d+ ")


def run(*arguments: object, **options: Any) -> Result:
    """Run the command `synthsr` with these arguments, in this process."""
    return CliRunner().invoke(synthsr, [str(argument) for argument in arguments], **options)


def one_error(result: Result, code: int = 2, *, warned: bool = False) -> str:
    """The one line that a command writes when it fails, beside its progress.

    Warnings may come before if `warned`.
    """
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not PROGRESS.match(line)]
    lines = [line for line in lines if not (warned and line.startswith("Warning: "))]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    assert len(lines[0]) <= 500
    return lines[0]


def save(path: Path, data: Any, affine: Any = None) -> Path:
    """Write a volume in the format of its ending, on 1 mm voxels by default; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data, affine = np.asarray(data), np.eye(4) if affine is None else np.asarray(affine)
    if path.suffix == ".npz":
        np.savez(path, vol_data=data)
    elif path.suffix == ".mgz":
        nib.save(nib.MGHImage(data, affine.astype(np.float32)), path)
    else:
        nib.save(nib.Nifti1Image(data, affine), path)
    return path


# Processes ----------------------------------------------------------------------------------------

SECONDS = 240.0
"""Longest time that a test waits for anything."""
PROGRAM = "from synthsr_cli.main import main; main()"
"""The command `synthsr`, for `python`."""


def python(code: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a piece of Python in a process of its own, to its end."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, **options)


def until(holds: Callable[[], object], process: Any = None) -> None:
    """Wait for something, which a process with `poll` brings about if one is given."""
    end = time.monotonic() + SECONDS
    while not holds():
        assert process is None or process.poll() is None, "the process has ended before"
        assert time.monotonic() < end, f"it did not come in {SECONDS:g} s"
        time.sleep(0.002)


# A network for scans ------------------------------------------------------------------------------

SCAN_SHAPE, SCAN_MM = (14, 12, 11), 8.0
TINY_SCAN = ScanConfig(spacing_mm=SCAN_MM, divisor=4)


def tiny_model(num_inputs: int = 1, **fields: Any) -> Model:
    """A network that works at 8 mm: scans as large as heads are quick. Fields are of the config."""
    network = UNetConfig(
        in_channels=num_inputs,
        out_channels=2 if fields.get("spread") else 1,
        num_levels=3,
        num_features=4,
    )
    torch.manual_seed(0)
    unet = UNet3d(network).eval().requires_grad_(False)
    unet.head.bias.fill_(0.2)
    inputs = [InputConfig(name=f"T{i + 1}") for i in range(num_inputs)]
    defaults = {"name": "tiny", "inputs": inputs, "scan": TINY_SCAN}
    return Model(ModelConfig(network=network, **{**defaults, **fields}), unet)


def save_tiny_model(path: Path, num_inputs: int = 1, **fields: Any) -> Path:
    """Write a tiny model, named as its file."""
    model = tiny_model(num_inputs, name=path.stem, **fields)
    save_model(path, model.config, model.network.state_dict())
    return path


def abandoned(path: Path, machine: str | None = None) -> Path:
    """The temporary file that a process leaves which is killed while it writes to `path`."""
    atomic._tidy_once.cache_clear()  # as in the next process
    name = f".{machine or atomic._machine()}{2**31 - 1:08x}{'5e' * 8}-{path.name}"
    path.with_name(name).write_text("half")
    return path.with_name(name)


# A segmentation network ---------------------------------------------------------------------------

COARSE_MM = 6.0
STRUCTURES = {
    0: "background",
    258: "rest of the head",
    2: "left cerebral white matter",
    41: "right cerebral white matter",
    16: "brain stem",
    24: "fluid",
}


def segmentation_model(quality: QualityConfig | None = None) -> Model:
    """A small network for voxels of 6 mm whose structures differ clearly."""
    torch.manual_seed(3)
    config = UNetConfig(num_levels=2, num_features=4, out_channels=len(STRUCTURES), softmax=True)
    network = UNet3d(config).eval().requires_grad_(False)
    network.head.weight.mul_(8)
    scan = ScanConfig(spacing_mm=COARSE_MM, divisor=4, output_scale=1.0, output_range=None)
    return Model(
        ModelConfig(
            name="tiny-seg",
            network=config,
            output="segmentation",
            structures=[StructureConfig(value=v, name=name) for v, name in STRUCTURES.items()],
            quality=quality,
            scan=scan,
        ),
        network,
    )


def any_quality() -> QualityConfig:
    """A calibration by which everything is doubtful."""
    weights = QualityWeights(
        constant=3.0, doubt=1.0, volume=0.0, place=0.0, size=0.0, turn=0.0, absence=0.0
    )
    population = [
        PopulationStructure(value=v, log_ml=3.0, sd_log_ml=9.0, place=(v, 0, 0), sd_place_mm=99.0)
        for v in STRUCTURES
        if v
    ]
    return QualityConfig(
        overall=QualityGroup(name="all", values=[2, 41, 16], weights=weights),
        groups=[QualityGroup(name="white matter", values=[2, 41], weights=weights)],
        population=population,
        sd_log_size=9.0,
        threshold=0.6,
    )
