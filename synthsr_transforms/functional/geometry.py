"""Affine matrices between voxel grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .cache import cached


def affine_matrix(
    rotation_degrees: Tensor | None = None,
    shearing: Tensor | None = None,
    scaling: Tensor | None = None,
    translation: Tensor | None = None,
) -> Tensor:
    r"""Pull-back matrices \(M = [\mathrm{diag}(s)\,H\,R_x R_y R_z \mid t]\).

    Args:
        rotation_degrees: `(B, 3)` angles about the three axes.
        shearing: `(B, 6)` off-diagonal shears, row by row.
        scaling: `(B, 3)` factors; as this is a pull-back, 1.1 shrinks the object.
        translation: `(B, 3)` in the unit of the coordinates.

    Returns:
        `(B, 4, 4)` float64. A component that is None is the identity.

    Examples:
        >>> affine_matrix(scaling=torch.tensor([[2.0, 1.0, 1.0]]))[0].diagonal().tolist()
        [2.0, 1.0, 1.0, 1.0]
    """
    given = [p for p in (rotation_degrees, shearing, scaling, translation) if p is not None]
    batch, device = given[0].shape[0], given[0].device
    linear = _identity(device) if rotation_degrees is None else rotation_matrix(rotation_degrees)
    if shearing is not None:
        linear = _shearing_matrix(shearing.double()) @ linear
    if scaling is not None:
        linear = scaling.double()[:, :, None] * linear
    if translation is None:
        translation = given[0].new_zeros(batch, 3)
    top = torch.cat([linear.expand(batch, 3, 3), translation.double()[:, :, None]], 2)
    return torch.cat([top, _last_row(device).expand(batch, 1, 4)], 1)


@cached(4)
def _identity(device: torch.device) -> Tensor:
    """`(1, 3, 3)` float64."""
    return torch.eye(3, dtype=torch.float64, device=device)[None]


@cached(4)
def _last_row(device: torch.device) -> Tensor:
    """The last row of an affine matrix, `(1, 1, 4)` float64."""
    return torch.tensor([[[0.0, 0, 0, 1]]], dtype=torch.float64).to(device)


def rotation_matrix(rotation_degrees: Tensor) -> Tensor:
    r"""Rotations \(R_x R_y R_z\) from `(B, 3)` angles in degrees, as `(B, 3, 3)` float64."""
    angles = torch.deg2rad(rotation_degrees.double())
    cosines, sines = angles.cos(), angles.sin()
    if angles.device.type == "cpu" and not angles.requires_grad:  # quicker on a few numbers
        numbers = zip(cosines.tolist(), sines.tolist(), strict=True)
        matrices = [_rotation_entries(*own) for own in numbers]
        return torch.tensor(matrices, dtype=torch.float64).view(-1, 3, 3)
    entries = _rotation_entries(cosines.unbind(1), sines.unbind(1))
    return torch.stack(entries, dim=1).view(-1, 3, 3)


def _rotation_entries(cosines: Any, sines: Any) -> list[Any]:
    """The nine entries of rotations, row by row, from those of the angles about three axes."""
    (cx, cy, cz), (sx, sy, sz) = cosines, sines
    rows = [
        [cy * cz, -cy * sz, sy],
        [cx * sz + sx * sy * cz, cx * cz - sx * sy * sz, -sx * cy],
        [sx * sz - cx * sy * cz, sx * cz + cx * sy * sz, cx * cy],
    ]
    return [entry for row in rows for entry in row]


def _shearing_matrix(shearing: Tensor) -> Tensor:
    entries = torch.cat([torch.ones_like(shearing[:, :1]), shearing], 1)
    return entries.index_select(1, _shears(shearing.device)).view(-1, 3, 3)


@cached(4)
def _shears(device: torch.device) -> Tensor:
    """Which of 1 and the six shears each entry of the matrix is, `(9,)`."""
    return torch.tensor([0, 1, 2, 3, 0, 4, 5, 6, 0]).to(device)


def millimetres_to_voxels(matrix_mm: Tensor, spacing_mm: Tensor) -> Tensor:
    r"""Express a transform of millimetres along the image axes in voxels, \(S^{-1} M S\).

    Args:
        matrix_mm: `(B, 4, 4)`.
        spacing_mm: `(B, 3)`.

    Returns:
        `(B, 4, 4)` float64.
    """
    scale = functional.pad(spacing_mm.double(), (0, 1), value=1.0)
    return matrix_mm.double() * (scale[:, None, :] / scale[:, :, None])


def about_centre(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """Move a pull-back to the centre `(n - 1) / 2` of a grid.

    Args:
        matrix: `(B, 4, 4)` in voxels.
        shape: Three sizes of the grid.

    Returns:
        `(B, 4, 4)` float64, from output voxel to input voxel.
    """
    result = matrix.double().clone()
    centre = _centre(tuple(shape), matrix.device)
    result[:, :3, 3] += centre - result[:, :3, :3] @ centre
    return result


@cached(32)
def _centre(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Centre of a grid in voxels, `(3,)` float64."""
    return torch.tensor([(n - 1) / 2 for n in shape], dtype=torch.float64).to(device)
