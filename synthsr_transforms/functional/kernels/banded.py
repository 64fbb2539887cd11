"""Axis operators applied by their bands.

A row of a matrix that blurs or interpolates is 0 but for a few columns in a row. One kernel finds
these bands on the GPU, which no host needs to know, and one per axis multiplies what is in them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .choice import on_device, usable

TYPES = (torch.float32, torch.bfloat16, torch.float16)
TILE_ROWS = 32
"""Rows of a matrix that a program multiplies."""
TILE_LINES = 128
"""Lines of a volume that a program multiplies them by."""
DEPTH = 16
"""Columns that are multiplied at once."""
WARPS, STAGES = 4, 3
PRECISION = "tf32x3"
"""Tensor cores make a product of float32 from three of TF32, to about the last bit but one."""


def has_bands(volume: Tensor, operators: Sequence[Tensor | None]) -> bool:
    """Whether `along_bands` can apply operators to a volume; they need no bands to be right."""
    matrices = [matrix for matrix in operators if matrix is not None]
    if not matrices or not usable(volume, *matrices) or volume.dtype not in TYPES:
        return False
    batch, channels, *shape = volume.shape
    for matrix, size in zip(operators, shape, strict=True):
        if matrix is not None and not (
            matrix.ndim == 4
            and matrix.dtype == volume.dtype
            and matrix.shape[0] in (1, batch)
            and matrix.shape[1] in (1, channels)
            and matrix.shape[3] == size
        ):
            return False
    most = [n if m is None else max(n, m.shape[2]) for m, n in zip(operators, shape, strict=True)]
    small = most[0] * most[1] * most[2] < 2**31 and reach(volume) < 2**31
    return small and volume.numel() > 0 and batch * channels < 2**16


def reach(volume: Tensor) -> int:
    """Places in memory from the first to the last voxel of a channel."""
    sizes, strides = volume.shape[2:], volume.stride()[2:]
    return sum((n - 1) * abs(step) for n, step in zip(sizes, strides, strict=True))


def along_bands(volume: Tensor, operators: Sequence[Tensor | None]) -> Tensor:
    """Apply one operator per axis, see `operators.apply_separable`.

    Args:
        volume: `(B, C, X, Y, Z)`; see `has_bands`.
        operators: Three matrices `(B or 1, C or 1, M, N)` of its type, or None.

    Returns:
        `(B, C, Mx, My, Mz)`.
    """
    with on_device(volume):
        bands = find_bands(operators)
        for axis in (2, 0, 1):
            matrix = operators[axis]
            if matrix is not None:
                volume = _along(volume, matrix, bands[axis], axis)
    return volume


def find_bands(operators: Sequence[Tensor | None]) -> Tensor:
    """Where the rows of operators are not 0, for tiles of `TILE_ROWS` rows.

    Weights below a billionth of the largest of a row count as 0.

    Args:
        operators: Three matrices `(B or 1, C or 1, M, N)`, or None; not all of them.

    Returns:
        `(3, B or 1, C or 1, tiles, 2)` int32: first column, rounded down to a multiple of four, and
        the one after the last.
    """
    from .banded_program import find_bands as program

    some = next(matrix for matrix in operators if matrix is not None)
    matrices = [some[..., :0, :] if matrix is None else matrix for matrix in operators]
    batch, channels, rows = (max(m.shape[i] for m in matrices) for i in range(3))
    tiles = max(1, -(-rows // TILE_ROWS))
    bands = torch.empty(3, batch, channels, tiles, 2, dtype=torch.int32, device=some.device)
    numbers: list[int] = []
    for matrix in matrices:
        numbers += [*matrix.shape[2:], *_shared_strides(matrix)]
    longest = max(matrix.shape[3] for matrix in matrices)
    program[(tiles, batch * channels, 3)](
        *matrices,
        *(bands, channels, tiles),
        *numbers,
        tile_rows=TILE_ROWS,
        block=64 if longest <= 64 else 256,
        num_warps=8,
    )
    return bands


def _shared_strides(tensor: Tensor) -> list[int]:
    """Strides, 0 along the axes of elements and channels if all share one."""
    strides = list(tensor.stride())
    return [step * (tensor.shape[i] > 1) for i, step in enumerate(strides[:2])] + strides[2:4]


def _along(volume: Tensor, matrix: Tensor, bands: Tensor, axis: int) -> Tensor:
    from .banded_program import apply_bands as program

    batch, channels, *shape = volume.shape
    rows, size = matrix.shape[2:]
    outer, inner = (a for a in range(3) if a != axis)
    lines = shape[outer] * shape[inner]
    shape[axis] = rows
    made = volume.new_empty(batch, channels, *shape)
    order = [2 + a for a in (axis, outer, inner)]
    programs = -(-lines // TILE_LINES) * -(-rows // TILE_ROWS)
    program[(programs, batch * channels)](
        volume,
        matrix,
        bands,
        made,
        *(channels, lines, shape[inner], rows, size),
        *volume.stride()[:2],
        *(volume.stride(a) for a in order),
        *_shared_strides(matrix),
        *_shared_strides(bands)[:2],
        made.stride(1),
        *(made.stride(a) for a in order),
        tile_rows=TILE_ROWS,
        tile_lines=TILE_LINES,
        depth=DEPTH,
        precision=PRECISION,
        num_warps=WARPS,
        num_stages=STAGES,
    )
    return made
