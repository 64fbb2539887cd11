"""Functions that tests of several folders share; `from helpers import run, save`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from click.testing import CliRunner, Result

from synthsr_cli.group import synthsr
from synthsr_transforms.support import atomic


def run(*arguments: object, **options: Any) -> Result:
    """Run the command `synthsr` with these arguments, in this process."""
    return CliRunner().invoke(synthsr, [str(argument) for argument in arguments], **options)


def one_error(result: Result, code: int = 2, *, warned: bool = False) -> str:
    """The one line that a command writes when it fails; warnings may come before if `warned`."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = [x for x in result.stderr.splitlines() if not (warned and x.startswith("Warning: "))]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
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


def abandoned(path: Path, machine: str | None = None) -> Path:
    """The temporary file that a process leaves which is killed while it writes to `path`."""
    atomic._tidied.discard(path.parent)  # as in the next process
    name = f".{machine or atomic._machine()}{2**31 - 1:08x}{'5e' * 8}-{path.name}"
    path.with_name(name).write_text("half")
    return path.with_name(name)
