"""The central part of a volume, which a loss reads."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def central_crop(volume: Tensor, size: int | Sequence[int] | None) -> Tensor:
    """Central box of a volume; where it cannot be exactly central, it lies half a voxel lower.

    Args:
        volume: `(..., X, Y, Z)`.
        size: Size of the box in voxels, one number or three; None or 0 keeps the whole axis.

    Returns:
        `(..., *size)`, a view.

    Raises:
        ValueError: If the size is not of these kinds, or the box larger than the volume.

    Examples:
        >>> import torch
        >>> central_crop(torch.arange(7).reshape(7, 1, 1), (4, 0, 0)).flatten().tolist()
        [1, 2, 3, 4]
    """
    sizes = crop_sizes(size)
    given = tuple(volume.shape[-3:])
    box = tuple(crop or n for crop, n in zip(sizes, given, strict=True))
    if any(crop > n for crop, n in zip(box, given, strict=True)):
        raise ValueError(
            f"loss crop must fit into the volume, got {box} for {given} voxels. Make it smaller,"
            " or the patches larger."
        )
    for axis, (crop, n) in enumerate(zip(box, given, strict=True)):
        volume = volume.narrow(axis - 3, (n - crop) // 2, crop)
    return volume


def crop_sizes(size: int | Sequence[int] | None) -> tuple[int, int, int]:
    """Size of a box along each axis; 0 means the whole axis.

    Args:
        size: One number for all axes, three numbers, or None for the whole volume.

    Raises:
        ValueError: If it is something else.

    Examples:
        >>> crop_sizes(96), crop_sizes(None)
        ((96, 96, 96), (0, 0, 0))
    """
    sizes = tuple(size) if isinstance(size, Sequence) else (size or 0,) * 3
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in sizes)
    if len(sizes) != 3 or not whole:
        raise ValueError(
            f"loss crop must be one or three whole numbers of voxels, at least 0, got {size!r}."
        )
    return sizes[0], sizes[1], sizes[2]
