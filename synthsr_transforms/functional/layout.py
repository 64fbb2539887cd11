"""Sizes of patches and outputs, and crops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Shape = tuple[int, int, int]


class PatchPlan(NamedTuple):
    """Sizes of a training patch.

    Attributes:
        crop_shape: Voxels to crop from the (padded) label map.
        output_shape: Voxels of the patch on the target grid.
    """

    crop_shape: Shape
    output_shape: Shape


def plan_patch(
    shape: Sequence[int],
    *,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    target_spacing_mm: Sequence[float] | None = None,
    output_shape: Sequence[int] | None = None,
    multiple_of: int | None = None,
    tolerance_mm: float = 1e-3,
) -> PatchPlan:
    """Crop and output sizes for a label map.

    The output is at most as large as the resampled label map and, on request, a multiple of
    what the network divides its input by.

    Args:
        shape: Three sizes of the label map, padded if it will be.
        spacing_mm: Its spacing in mm.
        target_spacing_mm: Spacing of the output in mm; the same if None.
        output_shape: Three sizes wanted on the output grid; as large as possible if None.
        multiple_of: Number that must divide the output sizes.
        tolerance_mm: Spacings closer than this are the same. The original compares exactly (0),
            so that a header of 0.7 mm differs from 0.7.

    Returns:
        The plan.

    Raises:
        ValueError: If no voxel is left.

    Examples:
        >>> plan_patch((181, 217, 181), output_shape=(128, 128, 128)).crop_shape
        (128, 128, 128)
        >>> plan_patch((181, 217, 181), multiple_of=32).output_shape
        (160, 192, 160)
    """
    ratio = _resampling_ratio(spacing_mm, target_spacing_mm, tolerance_mm)
    size = tuple(shape)
    reachable = size if ratio is None else [int(n * r) for n, r in zip(size, ratio, strict=True)]
    wanted = list(reachable)
    if output_shape is not None:
        wanted = [min(o, n) for o, n in zip(output_shape, reachable, strict=True)]
    if multiple_of is not None:
        wanted = [n // multiple_of * multiple_of for n in wanted]
    if min(wanted) < 1:
        raise ValueError(
            f"label maps must hold at least {multiple_of or 1} voxels per axis at the target"
            f" spacing, got {tuple(reachable)}. Use a larger label map or fewer network levels."
        )
    crop = list(wanted)
    if ratio is not None:
        crop = [round(n / r) for n, r in zip(wanted, ratio, strict=True)]
        if output_shape is None and multiple_of is None:
            crop = list(size)
    return PatchPlan(_shape(crop), _shape(wanted))


def _resampling_ratio(
    spacing: Sequence[float], target: Sequence[float] | None, tolerance: float
) -> list[float] | None:
    if target is None or all(abs(a - t) <= tolerance for a, t in zip(spacing, target, strict=True)):
        return None
    return [a / t for a, t in zip(spacing, target, strict=True)]


def _shape(sizes: Sequence[int]) -> Shape:
    x, y, z = (int(n) for n in sizes)
    return x, y, z


def crop(volume: Tensor, start: Tensor, shape: Sequence[int]) -> Tensor:
    """Crop each element at its own place.

    Args:
        volume: `(B, C, X, Y, Z)`, any dtype.
        start: `(B, 3)` first voxel of the crop, on the CPU.
        shape: Three sizes.

    Returns:
        `(B, C, *shape)`.
    """
    elements = []
    for element, first in zip(volume, start.tolist(), strict=True):
        for axis, (begin, size) in enumerate(zip(first, shape, strict=True), start=1):
            element = element.narrow(axis, int(begin), size)
        elements.append(element)
    return torch.stack(elements)


def crop_start(
    uniform: Tensor, shape: Sequence[int], crop_shape: Sequence[int], box: Tensor | None = None
) -> Tensor:
    """First voxel of a random crop; every position, the last one too, is equally likely.

    Args:
        uniform: `(B, 3)` numbers in [0, 1).
        shape: Three sizes of the volume.
        crop_shape: Three sizes of the crop.
        box: `(B, 2, 3)` first voxel, and voxel after the last, of a box that the crop holds or,
            where the box is larger, lies within. None means the whole volume.

    Returns:
        `(B, 3)` whole numbers.
    """
    boxes = [None] * len(uniform) if box is None else box.tolist()
    starts = []  # quicker than tensors of a few numbers
    for units, own in zip(uniform.tolist(), boxes, strict=True):
        low, high = [0, 0, 0], [n - m for n, m in zip(shape, crop_shape, strict=True)]
        if own is not None:
            ends = [(begin, end - m) for begin, end, m in zip(*own, crop_shape, strict=True)]
            high = [min(max(pair), last) for pair, last in zip(ends, high, strict=True)]
            low = [min(max(min(pair), 0), last) for pair, last in zip(ends, high, strict=True)]
        room = zip(units, low, high, strict=True)
        starts.append([min(a + math.floor(u * (b - a + 1)), b) for u, a, b in room])
    return torch.tensor(starts)


def bounding_box(mask: Tensor) -> Tensor:
    """Smallest box around the voxels of a mask; the whole volume where the mask is empty.

    Args:
        mask: `(B, 1, X, Y, Z)` booleans.

    Returns:
        `(B, 2, 3)` first voxel and voxel after the last, on the CPU (waits for a GPU).

    Examples:
        >>> mask = torch.zeros(1, 1, 4, 4, 4, dtype=torch.bool)
        >>> mask[..., 1:3, 2, 3] = True
        >>> bounding_box(mask).tolist()
        [[[1, 2, 3], [3, 3, 4]]]
    """
    boxes = torch.empty(mask.shape[0], 2, 3, dtype=torch.long)
    for axis in range(3):
        for element, row in enumerate(_project(mask, axis)):
            inside = row.nonzero().flatten()
            boxes[element, 0, axis] = inside[0] if len(inside) else 0
            boxes[element, 1, axis] = inside[-1] + 1 if len(inside) else len(row)
    return boxes


def _project(mask: Tensor, axis: int) -> Tensor:
    """Whether a plane across an axis holds any voxel of a mask, `(B, n)` on the CPU."""
    return mask.movedim(axis + 2, 1).flatten(2).any(-1).cpu()


def take_channels(volume: Tensor, channels: Sequence[int]) -> Tensor:
    """Some channels of a volume, in a given order.

    Args:
        volume: `(B, C, X, Y, Z)`, any dtype.
        channels: Indices within 0..C-1.

    Returns:
        `(B, len(channels), X, Y, Z)`.
    """
    index = torch.tensor(list(channels)).to(volume.device, non_blocking=True)
    return volume.index_select(1, index)
