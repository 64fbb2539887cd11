"""Brain, white and grey matter of scans without labels, found in the predicted T1.

Predictions have the intensities of a standard T1, white matter near 110, so thresholds do not
depend on the scan. The regions are for averages over large parts of the brain; they are no
segmentation.

Masks on the host are NumPy's work, in the thread that asks: PyTorch would start all its threads for
each of many small steps, and wait for them, long where others compute as well.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from synthsr_net.inference.slabs import Box
from synthsr_transforms.support.devices import is_on_host, on_host

TISSUE_ABOVE = 50.0
"""Intensity above which a predicted T1 shows brain tissue, and not fluid or bone."""
WHITE_ABOVE = 98.0
GREY_BETWEEN = (62.0, 90.0)
HEAD_ABOVE = 20.0
_OPENING_MM, _REGROWTH_MM, _CLOSING_MM = 3.0, 4.0, 5.0
_HEAD_CLOSING_MM = 10.0
_LARGE = 0.1  # share of the white matter of the largest part: hemispheres may come apart

Function = TypeVar("Function", bound=Callable[..., Any])


def _by_numpy_on_the_host(function: Function) -> Function:
    """Let a function of masks have arrays where tensors are on the host, and give such a tensor."""

    @wraps(function)
    def call(*args: Any) -> Any:
        seen = [_array_on_the_host(each) for each in args]
        made = function(*seen)
        return made if seen[0] is args[0] else torch.from_numpy(made)

    return cast("Function", call)


def _array_on_the_host(each: Any) -> Any:
    return each.numpy() if isinstance(each, Tensor) and is_on_host(each) else each


class Regions(NamedTuple):
    """Parts of a head, `(X, Y, Z)` bool.

    Attributes:
        brain: Brain with its ventricles.
        white: White matter.
        grey: Grey matter, cortex and nuclei.
        head: Everything but the background.
    """

    brain: Tensor
    white: Tensor
    grey: Tensor
    head: Tensor


def find_regions(t1: Tensor, spacing_mm: float) -> Regions:
    """Find the regions of a predicted T1.

    What is brighter than 50 is eroded by 3 mm, which cuts the brain off from the scalp; the part
    with most white matter, and others with a tenth as much, are grown back by 4 mm within what is
    brighter than 50, and gaps are closed and filled.

    Args:
        t1: `(X, Y, Z)` float32.
        spacing_mm: Voxel spacing.
    """
    brain = find_brain(t1, spacing_mm)
    low, high = GREY_BETWEEN
    grey = brain & (t1 > low) & (t1 < high)
    head = filled(closed(t1 > HEAD_ABOVE, _HEAD_CLOSING_MM / spacing_mm))
    return Regions(brain, brain & (t1 > WHITE_ABOVE), grey, head)


@_by_numpy_on_the_host
def find_brain(t1: Any, spacing_mm: float) -> Any:
    """The brain alone, see `find_regions`, of a tensor or an array, as the same."""
    tissue = t1 > TISSUE_ABOVE
    core = eroded(tissue, _OPENING_MM / spacing_mm)
    core = large_parts(core, t1 > WHITE_ABOVE, _LARGE)
    brain = dilated(core, _REGROWTH_MM / spacing_mm) & tissue
    return filled(closed(brain, _CLOSING_MM / spacing_mm))


def brain_box(t1: Tensor, spacing_mm: float, margin_mm: float) -> Box | None:
    """Box of the brain of a predicted T1, found at half its resolution.

    Args:
        t1: `(X, Y, Z)` float32.
        spacing_mm: Voxel spacing.
        margin_mm: What is added on all sides, as far as the volume goes.

    Returns:
        The box; None if there is no brain.
    """
    brain = find_brain(t1[::2, ::2, ::2], 2 * spacing_mm)
    if not bool(brain.any()):
        return None
    margin = round(margin_mm / spacing_mm)
    parts = []
    for axis, size in enumerate(t1.shape):
        shown = brain.any(dim=[other for other in range(3) if other != axis]).nonzero()
        first, last = 2 * int(shown[0]), 2 * int(shown[-1]) + 1
        parts.append(slice(max(0, first - margin), min(size, last + 1 + margin)))
    return parts[0], parts[1], parts[2]


@_by_numpy_on_the_host
def dilated(mask: Any, radius: float) -> Any:
    """A mask grown by a cube, `(X, Y, Z)` bool; the radius is in voxels, rounded.

    Examples:
        >>> int(dilated(torch.eye(3).bool().view(1, 3, 3), 0.4).sum())
        3
    """
    for axis in range(3):
        mask = _grown(mask, axis, round(radius))
    return mask


def _grown(mask: Any, axis: int, size: int) -> Any:
    """A mask grown along an axis, by shifts that double what they cover."""
    number, window, covered = mask.shape[axis], 2 * size + 1, 1
    shape = list(mask.shape)
    shape[axis] = number + 2 * size
    grown = np.zeros(shape, bool) if isinstance(mask, np.ndarray) else mask.new_zeros(shape)

    def part(first: int, length: int) -> Any:
        return grown[(slice(None),) * axis + (slice(first, first + length),)]

    part(0, number)[...] = mask
    while covered < window:
        shift = min(covered, window - covered)
        length = shape[axis] - shift
        part(shift, length)[...] = part(shift, length) | part(0, length)
        covered += shift
    return part(size, number)


@_by_numpy_on_the_host
def eroded(mask: Any, radius: float) -> Any:
    """A mask shrunk by a cube; beyond the border of the volume it is taken to go on."""
    return ~dilated(~mask, radius)


@_by_numpy_on_the_host
def closed(mask: Any, radius: float) -> Any:
    """A mask without its narrow gaps."""
    return eroded(dilated(mask, radius), radius)


@_by_numpy_on_the_host
def large_parts(mask: Any, counted: Any, share: float = 1.0) -> Any:
    """The largest connected part (over faces) of a mask, and those that are nearly as large.

    Args:
        mask: `(X, Y, Z)` bool; an empty one stays empty.
        counted: Voxels whose number in a part is its size, likewise.
        share: Size of the smallest part to keep, as a share of the largest.
    """
    from scipy.ndimage import label

    if isinstance(mask, Tensor):
        made = large_parts(on_host(mask), on_host(counted), share)
        return torch.from_numpy(made).to(mask.device)
    numbers, count = label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(numbers[counted], minlength=count + 1)
    sizes[0] = 0
    return (sizes >= max(1, share * sizes.max()))[numbers]


@_by_numpy_on_the_host
def filled(mask: Any) -> Any:
    """A mask without holes that nothing leads to."""
    if isinstance(mask, Tensor):
        outside = F.pad(~mask, [1] * 6, value=True)
        begin = F.pad(torch.zeros_like(mask), [1] * 6, value=True)
        reached = flooded(outside, begin)
        part, whole = on_host(torch.stack([reached.sum(), outside.sum()])).tolist()
        if 2 * part > whole:  # no hole is larger
            return ~reached[1:-1, 1:-1, 1:-1]
        return ~large_parts(outside, outside)[1:-1, 1:-1, 1:-1]
    around = np.pad(~mask, 1, constant_values=True)
    return ~large_parts(around, around)[1:-1, 1:-1, 1:-1]


def flooded(mask: Tensor, begin: Tensor) -> Tensor:
    """What is connected (over faces) to some voxels of a mask.

    Along each axis, there and back, what was reached spreads to the next voxel outside of the mask,
    again and again until no neighbour is left: few rounds on a GPU, whose host sees no voxels.

    Args:
        mask: `(X, Y, Z)` bool.
        begin: The voxels to start from, which are in it.
    """
    reached = begin
    sweeps = [_Sweep(mask, axis, backward) for axis in range(3) for backward in (False, True)]
    while True:
        for sweep in sweeps:
            reached = sweep.spread(reached)
        if not int(on_host(_num_next_to(reached, mask))):
            return reached


class _Sweep:
    """Spreads what was reached in a mask along an axis, to the next voxel outside of the mask.

    Args:
        mask: `(X, Y, Z)` bool.
        axis: The axis.
        backward: Whether to go from its end to its beginning.
    """

    def __init__(self, mask: Tensor, axis: int, backward: bool) -> None:
        shape = [-1 if other == axis else 1 for other in range(3)]
        number = torch.arange(mask.shape[axis], dtype=torch.int16, device=mask.device)
        self._axis, self._backward = axis, backward
        self._mask = mask.flip(axis) if backward else mask
        self._even = 2 * number.view(shape)
        self._stops = torch.where(self._mask, 0, self._even)

    def spread(self, reached: Tensor) -> Tensor:
        """What is reached then: where the last voxel that was is in no other part of a line."""
        reached = reached.flip(self._axis) if self._backward else reached
        last = torch.where(reached, self._even + 1, self._stops).cummax(self._axis).values
        made = self._mask & (last % 2 == 1)
        return made.flip(self._axis) if self._backward else made


def _num_next_to(reached: Tensor, mask: Tensor) -> Tensor:
    """Number of voxels of a mask that were not reached, but a neighbour of theirs was."""
    left, number = mask & ~reached, torch.zeros((), dtype=torch.int64, device=mask.device)
    for axis in range(3):
        size = mask.shape[axis] - 1
        for here, there in ((0, 1), (1, 0)):
            number = (
                number + (left.narrow(axis, here, size) & reached.narrow(axis, there, size)).sum()
            )
    return number
