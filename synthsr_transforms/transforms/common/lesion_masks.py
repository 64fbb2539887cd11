"""Masks of lesions that patients had: their shapes, ready to be placed elsewhere."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.grids import reorient
from synthsr_transforms.io.volumes import read_volume

FINEST_MM = 1.0
"""Finer masks are brought to this spacing, in which they take less memory."""
_CACHED = 512


class LesionMask(NamedTuple):
    """Lesions of one person.

    Attributes:
        data: Share of lesion in each voxel, `(X, Y, Z)` uint8 up to 255, axes to the right, front
            and top; the outermost voxels are 0.
        voxels: Those that a lesion fills to the half, or most, `(N, 3)`.
        spacing_mm: Of the voxels, `(3,)` float64.
    """

    data: Tensor
    voxels: Tensor
    spacing_mm: Tensor


@lru_cache(_CACHED)
def read_lesion_mask(path: str | os.PathLike[str]) -> LesionMask:
    """Read a mask, whose lesions are above 0.5, and keep it for the next time.

    Args:
        path: A volume of any orientation and spacing.

    Raises:
        VolumeError: If it cannot be read, or marks no lesion.
    """
    volume = reorient(read_volume(path, max_axes=3))
    inside = np.asarray(volume.data > 0.5)
    if not inside.any():
        raise VolumeError(
            f"{Path(path)} must mark lesions with values above 0.5, but marks none. Leave it out."
        )
    found = np.argwhere(inside)
    box = tuple(slice(a, b + 1) for a, b in zip(found.min(0), found.max(0), strict=True))
    share = torch.from_numpy(inside[box].astype(np.float32))[None, None]
    spacing = torch.tensor(volume.spacing_mm, dtype=torch.float64)
    before = torch.tensor(share.shape[2:])
    after = torch.where(spacing < FINEST_MM, (before * spacing / FINEST_MM).round(), before).long()
    after = after.clamp(min=1)
    share = functional.interpolate(share, after.tolist(), mode="area")
    data = functional.pad((255 * share[0, 0]).round().to(torch.uint8), (1,) * 6)
    most = min(128, int(data.max()))
    return LesionMask(data, torch.nonzero(data >= most), spacing * before / after)
