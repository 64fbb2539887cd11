"""Slice acquisition: blur, sampling of slices and interpolation back, and what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .checks import check_volume
from .operators import (
    apply_separable,
    bounded,
    full_precision,
    gaussian_radius,
    gaussian_rows,
    interpolation_weights,
    kernel_reach,
    per_axis,
)

ALIGNMENTS = ("centre", "corner", "corner_open")


class SlicePlan(NamedTuple):
    """How many slices an acquisition takes, and where they lie.

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
        ValueError: If `alignment` is another word or a spacing is not positive.

    Examples:
        >>> one = torch.ones(1, 1, 3)
        >>> plan_slices((8, 8, 8), one, torch.tensor([[[1.0, 1.0, 4.0]]])).low_shape.tolist()
        [[[8, 8, 2]]]
    """
    if alignment not in ALIGNMENTS:
        raise ValueError(f"alignment must be one of {ALIGNMENTS}, got {alignment!r}.")
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


def slice_positions(plan: SlicePlan, counts: Sequence[int]) -> list[Tensor]:
    """Input voxel at which each slice is taken, one tensor `(B, C, count)` per axis.

    Where an element has fewer slices than `count`, the spare ones repeat its last voxel.
    """
    where = _positions(plan, counts)
    return [where[..., axis, :n] for axis, n in enumerate(counts)]


def _positions(plan: SlicePlan, counts: Sequence[int]) -> Tensor:
    """`slice_positions` of all axes, `(B, C, 3, largest count)`."""
    number, size = plan.low_shape[..., None].float(), torch.tensor(plan.shape)[:, None]
    index = torch.arange(max(counts), dtype=torch.float32)
    if plan.alignment == "centre":
        return ((index + 0.5) * (size / number) - 0.5).minimum(size - 1)
    return torch.round((index / (number / size)).minimum(size)).minimum(size - 1)


def slice_coordinates(
    plan: SlicePlan, output_shape: Sequence[int], counts: Sequence[int]
) -> list[Tensor]:
    """Coordinate of each output voxel among the slices, one tensor `(B, C, size)` per axis."""
    where = _coordinates(plan, output_shape, counts)
    return [where[..., axis, :n] for axis, n in enumerate(output_shape)]


def _coordinates(plan: SlicePlan, output_shape: Sequence[int], counts: Sequence[int]) -> Tensor:
    """`slice_coordinates` of all axes, `(B, C, 3, largest size)`."""
    number = plan.low_shape[..., None].float()
    size = torch.tensor(list(output_shape))[:, None]
    index = torch.arange(max(output_shape), dtype=torch.float32)
    if plan.alignment == "centre":
        return ((index + 0.5) * (number / size) - 0.5).clamp(min=0).minimum(number - 1)
    open_end = torch.tensor(list(counts))[:, None] - 1
    last = number - 1 if plan.alignment == "corner" else open_end
    return (index / (size / number)).minimum(last)


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
        boundary: `"renormalise"` or `"zero"`, see `operators.gaussian_operator`.
        at_low_resolution: Called with the low-resolution slices `(B, C, x, y, z)`, where smaller
            elements are padded at the end; returns what replaces them (noise, for example).

    Returns:
        `(B, C, *output_shape)`.
    """
    check_volume(volume)
    device = volume.device
    radius = gaussian_radius(sigma if window_sigma is None else window_sigma, truncate)
    if tuple(volume.shape[2:]) != tuple(plan.shape):
        raise ValueError(
            f"plan must be for a volume of shape {tuple(volume.shape[2:])}, got {plan.shape}."
        )
    reach = kernel_reach(radius, boundary)
    counts = plan.low_shape.amax(dim=(0, 1)).tolist()
    if plan.alignment == "corner_open":
        counts = [min(m + 1, n) for m, n in zip(counts, plan.shape, strict=True)]
    where, back = _positions(plan, counts), _coordinates(plan, output_shape, counts)
    ends = torch.tensor([[n - 1.0] for n in counts])
    sigma, radius = bounded(sigma.float(), radius.float())
    parts = [where, back.clamp(min=0).minimum(ends), sigma[..., None], radius[..., None]]
    where, back, *widths = _sent(parts, device)
    sigma, radius = (width[..., 0] for width in widths)
    rows = gaussian_rows(where, plan.shape, sigma, radius, boundary, reach)
    down = per_axis(rows, counts, plan.shape)
    up = per_axis(interpolation_weights(back, max(counts)), output_shape, counts)
    if at_low_resolution is None:
        with full_precision(device.type):
            there_and_back = [u @ d for u, d in zip(up, down, strict=True)]
        return apply_separable(volume, there_and_back)
    return apply_separable(at_low_resolution(apply_separable(volume, down)), up)


def _sent(parts: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Tensors `(B, C, 3, any)` on another device in float32, by one copy."""
    lead = parts[0].shape[:-1]
    rows = [part.to(parts[0].device, torch.float32).expand(*lead, -1) for part in parts]
    together = torch.cat(rows, -1).to(device, non_blocking=True)
    return list(together.split([row.shape[-1] for row in rows], -1))


def reliability_map(
    plan: SlicePlan, output_shape: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """How much each voxel was acquired rather than interpolated: 1 on a slice, 0 between slices.

    A slice between two voxels shares its weight among them; axes multiply. Plans that follow the
    original (not `"centre"`) give 1 everywhere if every voxel is a slice, whatever the output; else
    only the last slice within a voxel counts, where slices are finer than the output.

    Args:
        plan: Where slices were taken.
        output_shape: Three sizes of the output grid.
        device: Device of the result.

    Returns:
        `(B, C, *output_shape)` float32.

    Examples:
        >>> plan = SlicePlan(torch.tensor([[[1, 1, 2]]]), (1, 1, 4), "corner")
        >>> reliability_map(plan, (1, 1, 4)).flatten().tolist()
        [1.0, 0.0, 1.0, 0.0]
    """
    profiles = []
    for axis, size in enumerate(output_shape):
        number = plan.low_shape[..., axis]
        rows = [_reliability_profile(int(d), size, plan.alignment) for d in number.flatten()]
        profile = torch.stack(rows).view(*number.shape, size)
        if plan.alignment != "centre":
            whole = (plan.low_shape == torch.tensor(plan.shape)).all(-1, keepdim=True)
            profile = torch.where(whole, 1.0, profile)
        profiles.append(profile)
    x, y, z = (p.to(device, non_blocking=True) for p in profiles)
    return x[..., :, None, None] * y[..., None, :, None] * z[..., None, None, :]


def _reliability_profile(number: int, size: int, alignment: str) -> Tensor:
    """Profile along one axis: slices first assign their share, then add the rest next to it."""
    if alignment == "centre" and number >= size:
        return torch.ones(size)
    index = torch.arange(number, dtype=torch.float64)
    factor = size / number
    positions = (index + 0.5) * factor - 0.5 if alignment == "centre" else index * factor
    positions = positions.clamp(min=0)
    low = positions.floor().long()
    after, rest = (low + 1).clamp(max=size - 1), positions - low
    profile = torch.zeros(size, dtype=torch.float64)
    last = _last_of_each(low)
    profile[low[last]] = 1 - rest[last]
    last = _last_of_each(after)
    profile[after[last]] += rest[last]
    return profile.float()


def _last_of_each(ordered: Tensor) -> Tensor:
    """Which entries of an increasing list are not followed by their equal."""
    return torch.cat([ordered[1:] != ordered[:-1], torch.ones(1, dtype=torch.bool)])


def distance_map(
    plan: SlicePlan,
    output_shape: Sequence[int],
    acquired_mm: Tensor,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Distance in mm from each voxel to the nearest acquired sample, 0 on a sample.

    Args:
        plan: Where slices were taken.
        output_shape: Three sizes of the output grid.
        acquired_mm: Distance between slices in mm, `(B, C, 3)`.
        device: Device of the result.

    Returns:
        `(B, C, *output_shape)` float32.

    Examples:
        >>> plan = SlicePlan(torch.tensor([[[1, 1, 2]]]), (1, 1, 4), "corner")
        >>> spacing = torch.tensor([[[1.0, 1.0, 2.0]]])
        >>> distance_map(plan, (1, 1, 4), spacing).flatten().tolist()
        [0.0, 1.0, 0.0, 1.0]
    """
    squares = []
    for axis, size in enumerate(output_shape):
        number = plan.low_shape[..., axis, None].float()
        index = torch.arange(size, dtype=torch.float32)
        where = index / (size / number)
        if plan.alignment == "centre":
            where = (index + 0.5) * (number / size) - 0.5
        away = (where - torch.round(where)).abs() * acquired_mm[..., axis, None].float()
        squares.append((away**2).to(device, non_blocking=True))
    x, y, z = squares
    return (x[..., :, None, None] + y[..., None, :, None] + z[..., None, None, :]).sqrt()


def random_resolution(
    minimum_mm: Tensor,
    *,
    isotropic_mm: Tensor | None = None,
    anisotropic_mm: Tensor | None = None,
    axis: Tensor | None = None,
    choose_isotropic: Tensor | None = None,
    choose_minimum: Tensor | None = None,
) -> Tensor:
    """Resolution of an acquisition, from the draws of SynthSR's `SampleResolution` law.

    Args:
        minimum_mm: Finest spacing in mm, broadcastable to `(..., 3)`.
        isotropic_mm: A draw for every axis, `(..., 3)`, or None if that mode is off.
        anisotropic_mm: A draw for the thick axis, `(..., 3)`, or None if that mode is off.
        axis: Which axis is thick, `(...)` whole numbers; needed with `anisotropic_mm`.
        choose_isotropic: Where both modes are on, which one holds, `(...)` booleans.
        choose_minimum: Where the minimum is acquired on every axis, `(...)` booleans.

    Returns:
        Spacing in mm, `(..., 3)`.

    Raises:
        ValueError: If neither mode is on, or a draw that is needed is missing.
    """
    if anisotropic_mm is None:
        if isotropic_mm is None:
            raise ValueError("isotropic_mm or anisotropic_mm must be given, got neither.")
        result = isotropic_mm
    else:
        if axis is None:
            raise ValueError("axis must be given with anisotropic_mm, got None.")
        thick = axis[..., None] == torch.arange(3)
        result = torch.where(thick, anisotropic_mm, minimum_mm.expand_as(anisotropic_mm))
        if isotropic_mm is not None:
            if choose_isotropic is None:
                raise ValueError("choose_isotropic must be given when both modes are on, got None.")
            result = torch.where(choose_isotropic[..., None], isotropic_mm, result)
    if choose_minimum is None:
        return result
    return torch.where(choose_minimum[..., None], minimum_mm.expand_as(result), result)
