"""Functions that tests of several folders share; `from helpers import run, save`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from click.testing import CliRunner, Result

from synthsr_cli.main import synthsr
from synthsr_net.models.checkpoint import InputConfig, Model, ModelConfig, ScanConfig, save_model
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_transforms.support import atomic


def run(*arguments: object, **options: Any) -> Result:
    """Run the command `synthsr` with these arguments, in this process."""
    return CliRunner().invoke(synthsr, [str(argument) for argument in arguments], **options)


def one_error(result: Result, code: int = 2, *, warned: bool = False) -> str:
    """The one line that a command writes when it fails, beside its progress.

    Warnings may come before if `warned`.
    """
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.endswith(" left")]
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
    atomic._tidied.discard(path.parent)  # as in the next process
    name = f".{machine or atomic._machine()}{2**31 - 1:08x}{'5e' * 8}-{path.name}"
    path.with_name(name).write_text("half")
    return path.with_name(name)
