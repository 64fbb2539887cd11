"""Predictions on disk: every file appears whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from synthsr_transforms.io.volumes import Volume, has_known_extension, write_volume
from synthsr_transforms.support.atomic import replacing

DESCRIPTION_BYTES = 79
"""Room for text in a NIfTI header."""


def nifti_of(volume: Volume, *, legacy: bool = False, description: str = "") -> nib.Nifti1Image:
    """A NIfTI image of a prediction.

    Args:
        volume: `(X, Y, Z)` voxels, written as float32, and their affine.
        legacy: Whether the header is that of the original: an sform with code 2, no qform and no
            unit. Else both forms have code 1 (scanner) and the unit is mm; a sheared affine, which
            a qform cannot hold, goes into the sform alone.
        description: Text for the header; cut at 79 bytes.
    """
    image = nib.Nifti1Image(np.asarray(volume.data, dtype=np.float32), volume.affine)
    header: Any = image.header
    header["descrip"] = description.encode("ascii", "replace")[:DESCRIPTION_BYTES]
    if legacy:
        return image
    image.set_sform(volume.affine, code="scanner")
    image.set_qform(volume.affine, code="scanner")
    if not np.allclose(image.get_qform(), volume.affine, atol=1e-3):
        image.set_qform(None, code=0)
    header.set_xyzt_units("mm")
    return image


def write_prediction(
    path: str | os.PathLike[str], volume: Volume, *, legacy: bool = False, description: str = ""
) -> None:
    """Write a prediction atomically as float32; folders that are missing are made.

    `.nii.gz` files are compressed at level 1, as nibabel does by default: higher levels take
    several times as long and save a few percent. `.npz` files hold an array `vol_data` and no
    affine, as those of the original.

    Args:
        path: File ending in `.nii`, `.nii.gz`, `.mgz` or `.npz`.
        volume: Voxels and affine.
        legacy: See `nifti_of`.
        description: See `nifti_of`.

    Raises:
        ValueError: If the ending is another.
        OSError: If the file cannot be written; nothing is left of it then.
    """
    path = Path(path)
    name = path.name.lower()
    if not has_known_extension(path):
        raise ValueError(
            f"{path} must end in .nii, .nii.gz, .mgz or .npz. Choose one of these for the output."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.asarray(volume.data, dtype=np.float32)
    if name.endswith(".mgz"):
        write_volume(path, volume._replace(data=data))
        return
    with replacing(path) as temporary:
        if name.endswith(".npz"):
            np.savez_compressed(temporary, vol_data=data)
        else:
            nib.save(nifti_of(volume, legacy=legacy, description=description), temporary)


def read_description(path: str | os.PathLike[str]) -> str:
    """Text in the header of a NIfTI file; empty if there is none or it is another kind of file."""
    try:
        header: Any = nib.load(path).header
        return bytes(header["descrip"].item()).rstrip(b"\0").decode("ascii", "replace")
    except Exception:
        return ""


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically; folders that are missing are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8", newline="\n")
