"""Volumes read where a deformation leads, without coordinates of every voxel in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .banded import reach
from .choice import on_device, usable

WHOLE_TYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
REAL_TYPES = (torch.float32, torch.bfloat16, torch.float16)
BLOCK, COMPOSED = 512, 128
"""Voxels of a program that samples, or composes displacements, which are small."""


def can_sample(volume: Tensor, rows: Tensor, lengths: Sequence[int], *, nearest: bool) -> bool:
    """Whether `sample` can read a volume at coordinates that `rows` describe."""
    types = (*WHOLE_TYPES, *REAL_TYPES) if nearest else REAL_TYPES
    if not usable(volume, rows) or volume.dtype not in types or rows.dtype != torch.float32:
        return False
    batch, *sizes = volume.shape[0], *volume.shape[2:]
    nx, ny, nz = lengths
    few = max(batch, nx) < 2**16 and nx * ny * nz < 2**31 and max(sizes) < 2**22
    whole = volume.numel() > 0 and nx * ny * nz > 0 and len(rows) == batch and rows.stride(-1) == 1
    return few and whole and reach(volume) < 2**31


def sample(
    volume: Tensor,
    rows: Sequence[Tensor],
    coarse_y: Tensor,
    field: Tensor | None,
    *,
    nearest: bool,
) -> Tensor:
    """Volume at coordinates that are made on the way.

    Args:
        volume: `(B, C, X, Y, Z)`; see `can_sample`.
        rows: What x, y and z add to the coordinates, three views `(B, 3, n)` of one tensor.
        coarse_y: Where each y lies in the field, `(B, ny)`, another view of it.
        field: Displacement `(B, 3, nx, b, nz)` that is still coarse along y, or None.
        nearest: Read the nearest voxel, not eight of them.

    Returns:
        `(B, C, nx, ny, nz)` of the type of the volume.
    """
    from .warp_program import sample as program

    x, y, z = rows
    nx, ny, nz = (row.shape[-1] for row in rows)
    made = volume.new_empty(*volume.shape[:2], nx, ny, nz)
    displacement = x if field is None else field.contiguous()
    with on_device(volume):
        program[(-(-ny * nz // BLOCK), nx, len(volume))](
            *(volume, made, x, y, z, coarse_y, displacement),
            *(ny, nz, *volume.shape[2:], displacement.shape[-2], volume.shape[1]),
            *volume.stride(),
            *x.stride()[:2],
            displaced=field is not None,
            nearest=nearest,
            block=BLOCK,
        )
    return made


def can_compose(flow: Tensor) -> bool:
    """Whether `compose` takes a displacement."""
    shape = flow.shape
    few = 0 < flow.numel() < 2**31 and len(shape) == 5 and shape[0] < 2**16
    return usable(flow) and few and shape[1] == 3 and flow.dtype == torch.float32


def compose(flow: Tensor, times: int) -> Tensor:
    """Displacement after itself, so many times one after the other, see `fields`.

    Args:
        flow: `(B, 3, X, Y, Z)` in voxels; see `can_compose`. It stays as it is.
        times: How often, at least once.

    Returns:
        Same shape.
    """
    from .warp_program import compose as program

    before, made = flow.contiguous(), torch.empty_like(flow, memory_format=torch.contiguous_format)
    spare = torch.empty_like(made)
    blocks = -(-flow[0, 0].numel() // COMPOSED)
    with on_device(flow):
        for number in range(times):
            program[(blocks, len(flow))](before, made, *flow.shape[2:], block=COMPOSED)
            before, made = made, spare if number == 0 else before
    return before
