"""Slice acquisition: blur, sampling of slices and interpolation back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .blur import SLICE_PROFILE
from .cache import cached, voxel_indices
from .operators import (
    apply_separable,
    axis_operator,
    bounded,
    full_precision,
    gaussian_radius,
    gaussian_rows,
    interpolation_weights,
    kernel_reach,
    per_axis,
)
from .resample import centred_coordinates

ALIGNMENTS = ("centre", "corner", "corner_open")


class SlicePlan(NamedTuple):
    """Number and places of the slices of an acquisition.

    Attributes:
        low_shape: Number of slices per element, channel and axis, `(B, C, 3)` whole numbers (CPU).
        shape: Three sizes of the grid that the slices are taken from.
        alignment: `"centre"`: both grids cover the same field of view, slices are centred in their
            share of it. `"corner"`: slice k lies at voxel `rint(k n / d)` (the original with a
            fixed resolution). `"corner_open"`: the same, and positions beyond the last slice
            read the last voxel (the original with a random resolution).
    """

    low_shape: Tensor
    shape: tuple[int, int, int]
    alignment: str


def plan_slices(
    shape: Sequence[int],
    spacing_mm: Tensor,
    acquired_mm: Tensor,
    alignment: str = "centre",
) -> SlicePlan:
    """Number of slices for a spacing to simulate.

    Args:
        shape: Three sizes of the grid.
        spacing_mm: Spacing of the grid in mm, broadcastable to `(B, C, 3)`.
        acquired_mm: Spacing to simulate in mm, `(B, C, 3)`.
        alignment: See `SlicePlan`.

    Returns:
        The plan, with at least one slice per axis and, for `"centre"`, at most one per voxel.

    Raises:
        ValueError: If a spacing is not positive.

    Examples:
        >>> one = torch.ones(1, 1, 3)
        >>> plan_slices((8, 8, 8), one, torch.tensor([[[1.0, 1.0, 4.0]]])).low_shape.tolist()
        [[[8, 8, 2]]]
    """
    if bool((acquired_mm <= 0).any()):
        raise ValueError(
            f"acquired spacing must be positive, got {acquired_mm.min().item()} mm."
            " Give the distance between slice centres in mm."
        )
    x, y, z = shape
    size = torch.tensor([x, y, z], dtype=torch.float64)
    extent, acquired_mm = size * spacing_mm.double(), acquired_mm.double()
    if alignment == "centre":
        number = torch.round(extent / acquired_mm).minimum(size)
    elif alignment == "corner":
        same = (acquired_mm == spacing_mm.double()).all(-1, keepdim=True)
        number = torch.where(same, size, torch.trunc(extent / acquired_mm))
    else:
        number = torch.trunc(extent.float() / acquired_mm.float())
    return SlicePlan(number.long().clamp(min=1), (x, y, z), alignment)


def thousandths(millimetres: Tensor) -> Tensor:
    """Round to a thousandth in float64, so that 3.3 mm are 3.3 mm again after float32.

    Examples:
        >>> thousandths(torch.tensor([3.3])).item()
        3.3
    """
    return (millimetres.double() * 1000).round() / 1000


def slice_positions(plan: SlicePlan, counts: Sequence[int]) -> Tensor:
    """Input voxel at which each slice is taken, along all axes.

    Args:
        plan: Where slices are taken.
        counts: Number of slices along each axis. Where an element has fewer, the spare ones repeat
            its last voxel.

    Returns:
        `(B, C, 3, largest count)`.
    """
    number, size = plan.low_shape[..., None].float(), _sizes(tuple(plan.shape), "cpu")
    index = voxel_indices(max(counts), "cpu")
    if plan.alignment == "centre":
        return centred_coordinates(index, size / number).minimum(size - 1)
    return torch.round((index / (number / size)).minimum(size)).minimum(size - 1)


def slice_coordinates(
    plan: SlicePlan, output_shape: Sequence[int], counts: Sequence[int]
) -> Tensor:
    """Coordinate of each output voxel among the slices of all axes, `(B, C, 3, largest size)`."""
    number = plan.low_shape[..., None].float()
    size = _sizes(tuple(output_shape), "cpu")
    index = voxel_indices(max(output_shape), "cpu")
    if plan.alignment == "centre":
        return centred_coordinates(index, number / size).clamp(min=0).minimum(number - 1)
    open_end = _sizes(tuple(counts), "cpu") - 1
    last = number - 1 if plan.alignment == "corner" else open_end
    return (index / (size / number)).minimum(last)


@cached(32)
def _sizes(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Sizes of three axes, `(3, 1)` whole numbers."""
    return torch.tensor(shape, device=device)[:, None]


def acquire_slices(
    volume: Tensor,
    plan: SlicePlan,
    sigma: Tensor,
    output_shape: Sequence[int],
    *,
    window_sigma: Tensor | None = None,
    truncate: float = 1.25,
    boundary: str = "renormalise",
    at_low_resolution: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Blur, take slices and interpolate them linearly back to a fine grid.

    Every axis is two small matrices (`functional.operators`), whatever the resolution.

    Args:
        volume: `(B, C, X, Y, Z)` floating point.
        plan: Where slices are taken, for each element and channel.
        sigma: Width of the blur in voxels, `(B, C, 3)`, see `blur.acquisition_sigma`.
        output_shape: Three sizes of the output.
        window_sigma: Widths that set the size of the kernel window instead of `sigma`.
        truncate: Half width of the window in standard deviations.
        boundary: `"renormalise"` or `"zero"`, see `operators.gaussian_rows`.
        at_low_resolution: Called with the low-resolution slices `(B, C, x, y, z)`, where smaller
            elements are padded at the end; returns what replaces them (noise, for example).

    Returns:
        `(B, C, *output_shape)`.
    """
    rows, sizes = acquisition_rows(
        plan, sigma, output_shape, window_sigma=window_sigma, truncate=truncate, boundary=boundary
    )
    rows = rows.to(volume.device, non_blocking=True)
    return acquire(volume, rows, sizes, at_low_resolution)


class AcquisitionSizes(NamedTuple):
    """What is known of an acquisition without its numbers.

    Attributes:
        counts: Slices along each axis that are computed.
        output_shape: Three sizes of the output.
        boundary: See `acquire_slices`.
        reach: See `operators.kernel_reach`.
    """

    counts: tuple[int, ...]
    output_shape: tuple[int, ...]
    boundary: str
    reach: int


def acquisition_rows(
    plan: SlicePlan,
    sigma: Tensor,
    output_shape: Sequence[int],
    *,
    window_sigma: Tensor | None = None,
    truncate: float = 1.25,
    boundary: str = "renormalise",
    counts: Sequence[int] | None = None,
) -> tuple[Tensor, AcquisitionSizes]:
    """What `acquire_slices` computes on the host: places of slices, and widths of the blur.

    Args:
        plan: See `acquire_slices`.
        sigma: Likewise.
        output_shape: Likewise.
        window_sigma: Likewise.
        truncate: Likewise.
        boundary: Likewise.
        counts: Slices to compute along each axis, at least as many as any element has; None
            computes no more than these.

    Returns:
        `(B, C, 3, any)` float32, and sizes, both for `acquire`.
    """
    radius = gaussian_radius(sigma if window_sigma is None else window_sigma, truncate)
    reach = kernel_reach(radius, boundary)
    if counts is None:
        counts = plan.low_shape.amax(dim=(0, 1)).tolist()
        if plan.alignment == "corner_open":
            counts = [min(m + 1, n) for m, n in zip(counts, plan.shape, strict=True)]
    where, back = slice_positions(plan, counts), slice_coordinates(plan, output_shape, counts)
    ends = _sizes(tuple(counts), "cpu") - 1.0
    sigma, radius = bounded(sigma.float(), radius.float())
    parts = [where, back.clamp(min=0).minimum(ends), sigma[..., None], radius[..., None]]
    rows = [part.float().expand(*where.shape[:-1], -1) for part in parts]
    sizes = AcquisitionSizes(tuple(counts), tuple(output_shape), boundary, reach)
    return torch.cat(rows, -1), sizes


def acquire(
    volume: Tensor,
    rows: Tensor,
    sizes: AcquisitionSizes,
    at_low_resolution: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Blur, take slices and interpolate, see `acquire_slices`.

    Args:
        volume: `(B, C, X, Y, Z)` floating point.
        rows: From `acquisition_rows`, on the device of the volume.
        sizes: Likewise.
        at_low_resolution: See `acquire_slices`.

    Returns:
        `(B, C, *output_shape)`.
    """
    counts, output_shape, boundary, reach = sizes
    where, back, sigma, radius = rows.split([max(counts), max(output_shape), 1, 1], -1)
    shape = volume.shape[2:]
    weights = gaussian_rows(where, shape, sigma[..., 0], radius[..., 0], boundary, reach)
    down = per_axis(weights, counts, shape)
    up = per_axis(interpolation_weights(back, max(counts)), output_shape, counts)
    if at_low_resolution is None:
        with full_precision(volume.device.type):
            there_and_back = [u @ d for u, d in zip(up, down, strict=True)]
        return apply_separable(volume, there_and_back)
    return apply_separable(at_low_resolution(apply_separable(volume, down)), up)


def slice_operator(size: int, centres: Tensor, width: float) -> Tensor:
    """Matrix that takes slices of an axis and interpolates linearly between them.

    Args:
        size: Number N of voxels of the axis.
        centres: Of the slices, in voxels, ascending.
        width: Full width of a slice at half maximum, in voxels.

    Returns:
        `(N, N)` float32.

    Examples:
        >>> slice_operator(4, torch.tensor([0.5, 2.5]), 0).tolist()[1]
        [0.375, 0.375, 0.125, 0.125]
    """
    centres, count = centres.double(), len(centres)
    index = torch.arange(size, dtype=torch.float64)
    below = (torch.searchsorted(centres, index, right=True) - 1).clamp(0, max(count - 2, 0))
    step = centres.diff().reciprocal() if count > 1 else torch.zeros(1, dtype=torch.float64)
    between = step[below] * (index - centres[below]) + below
    between = torch.where(index >= centres[-1], count - 1.0, between.clamp(min=0))
    taken = axis_operator(size, centres, SLICE_PROFILE * width)
    return axis_operator(count, between) @ taken


def random_resolution(
    minimum_mm: Tensor,
    *,
    isotropic_mm: Tensor | None,
    anisotropic_mm: Tensor | None,
    axis: Tensor,
    choose_isotropic: Tensor,
    choose_minimum: Tensor,
) -> Tensor:
    """Resolution of an acquisition from random numbers, as in SynthSR's `SampleResolution`.

    Args:
        minimum_mm: Finest spacing in mm, `(..., 3)`.
        isotropic_mm: A spacing for every axis, `(..., 3)`, or None if that mode is off.
        anisotropic_mm: A spacing for the thick axis, `(..., 3)`, or None if that mode is off.
        axis: Which axis is thick, `(...)` whole numbers.
        choose_isotropic: Where both modes are on, which one holds, `(...)` booleans.
        choose_minimum: Where the minimum is acquired on every axis, `(...)` booleans.

    Returns:
        Spacing in mm, `(..., 3)`.
    """
    result = minimum_mm if isotropic_mm is None else isotropic_mm
    if anisotropic_mm is not None:
        thick = axis[..., None] == torch.arange(3)
        other = torch.where(thick, anisotropic_mm, minimum_mm)
        both = isotropic_mm is not None
        result = torch.where(choose_isotropic[..., None], result, other) if both else other
    return torch.where(choose_minimum[..., None], minimum_mm, result)
