"""Resizing, and where the voxels of one grid lie on another.

`"corner"` is the convention of the original: output index i reads input i n / m. `"centre"` aligns
the fields of view.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from .cache import cached
from .operators import apply_separable, interpolation_operator


def resize_coordinates(
    size_in: int,
    size_out: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    centred: bool = False,
) -> Tensor:
    """Input coordinates `i / (m / n)` of the m output samples of an axis of size n.

    Index 0 maps to 0 on both grids; centres of voxels are not aligned (neither `align_corners`
    nor half-pixel). The quotient is rounded to float32 as in the original.

    Args:
        size_in: Number n of input samples.
        size_out: Number m of output samples.
        device: Device of the result.
        dtype: Type of the result.
        centred: Align the fields of view instead: output i reads `(i + 1/2) n / m - 1/2`.

    Returns:
        `(m,)` coordinates in input voxels, not clamped.

    Examples:
        >>> resize_coordinates(6, 3).tolist()
        [0.0, 2.0, 4.0]
    """
    index = torch.arange(size_out, device=device, dtype=dtype)
    if centred:
        return centred_coordinates(index, size_in / size_out)
    return index / zoom(size_in, size_out)


def centred_coordinates(index: Tensor, step: float | Tensor) -> Tensor:
    """Centres of the voxels of a grid, in voxels of another that covers the same field of view.

    Everywhere in this library, voxel i reaches from i - 1/2 to i + 1/2.

    Args:
        index: Voxels of the one grid.
        step: Its spacing in voxels of the other.

    Examples:
        >>> centred_coordinates(torch.arange(2), 2.0).tolist()
        [0.5, 2.5]
    """
    return (index + 0.5) * step - 0.5


@lru_cache(1024)
def zoom(size_in: int, size_out: int) -> float:
    """The quotient `m / n` rounded to float32, which the convention divides by."""
    return torch.tensor(size_out / size_in, dtype=torch.float32).item()


def resize(
    volume: Tensor, shape: Sequence[int], mode: str = "linear", *, centred: bool = False
) -> Tensor:
    """Resize to a shape in voxels, repeating the edges.

    Args:
        volume: `(B, C, X, Y, Z)`; any dtype with `mode="nearest"`.
        shape: Three output sizes.
        mode: `"linear"` or `"nearest"` (ties go to the even index).
        centred: Align the fields of view instead of the first voxels.

    Returns:
        `(B, C, *shape)`, same dtype.

    Examples:
        >>> resize(torch.arange(4.0).reshape(1, 1, 1, 1, 4), (1, 1, 2)).flatten().tolist()
        [0.0, 2.0]
    """
    if mode == "linear":
        sizes = tuple(volume.shape[2:]), tuple(int(n) for n in shape)
        operators = _resize_operators(*sizes, centred, volume.device)
        return apply_separable(volume.float(), operators).to(volume.dtype)
    coordinates = [
        None if n == m else resize_coordinates(n, m, volume.device, centred=centred)
        for n, m in zip(volume.shape[2:], shape, strict=True)
    ]
    for axis, p in enumerate(coordinates, start=2):
        if p is not None:
            index = torch.round(p).long().clamp(0, volume.shape[axis] - 1)
            volume = volume.index_select(axis, index)
    return volume


@cached(16)
def _resize_operators(
    before: tuple[int, ...], after: tuple[int, ...], centred: bool, device: torch.device
) -> list[Tensor | None]:
    """Matrices of a linear resize, None along axes that stay."""
    operators: list[Tensor | None] = []
    for n, m in zip(before, after, strict=True):
        where = resize_coordinates(n, m, device, centred=centred)
        operators.append(None if n == m else interpolation_operator(where, n)[None, None])
    return operators
