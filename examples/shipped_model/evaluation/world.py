"""Volumes of one head on one grid: registration matrices and reading by world coordinates."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from synthsr_net.prediction.resampling import Grid
from synthsr_transforms.functional.warp import affine_grid, sample_grid

from .network import EvaluationError

Affine = npt.NDArray[np.float64]

_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_NUM_PARAMETERS = 12


def read_registration(path: str | os.PathLike[str]) -> Affine:
    """Read an affine registration that ITK (ANTs, elastix, 3D Slicer) wrote as text.

    Its parameters are a matrix A (rows first), a translation t and, fixed, a centre c, in
    coordinates to the left, back and top: x becomes `A (x - c) + c + t`.

    Args:
        path: The file.

    Returns:
        `(4, 4)` matrix between points in mm to the right, front and top: from the space of the
        fixed scan to that of the moving one, as ITK keeps it.

    Raises:
        EvaluationError: If the file holds no such matrix.
    """
    try:
        lines = Path(path).read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines if ":" in line and line[0] != "#")
        numbers = np.array(fields["Parameters"].split(), dtype=np.float64)
        centre = np.array(fields["FixedParameters"].split(), dtype=np.float64)
    except (OSError, KeyError, ValueError, UnicodeDecodeError) as error:
        raise EvaluationError(
            f"{path} must be a text file of an ITK transform ({error})."
        ) from None
    if numbers.size != _NUM_PARAMETERS or centre.size != 3:
        raise EvaluationError(
            f"{path} must hold an affine transform with 12 parameters and a centre, got"
            f" {numbers.size} and {centre.size}. Save it as an affine transform."
        )
    matrix = np.eye(4)
    matrix[:3, :3] = numbers[:9].reshape(3, 3)
    matrix[:3, 3] = numbers[9:] + centre - matrix[:3, :3] @ centre
    return np.asarray(_TO_LPS @ matrix @ _TO_LPS)


def read_on(
    volume: Tensor, affine: Affine, grid: Grid, registration: Affine | None = None
) -> tuple[Tensor, Tensor]:
    """Read a volume on another grid by linear interpolation.

    Args:
        volume: `(X, Y, Z)` floating point.
        affine: Its `(4, 4)` voxel-to-world matrix.
        grid: Where to read.
        registration: `(4, 4)`, from points in the world of the grid to that of the volume; None if
            they are one world.

    Returns:
        `(x, y, z)`, border voxels repeated outside, and a mask of what lies in the volume.
    """
    shape, goal = grid
    matrix = np.linalg.inv(affine) @ (np.eye(4) if registration is None else registration) @ goal
    where = affine_grid(torch.from_numpy(matrix)[None], shape, volume.shape, volume.device)
    inside = (where.abs() <= 1 + 1e-4).all(-1)[0]
    return sample_grid(volume[None, None].float(), where)[0, 0], inside
