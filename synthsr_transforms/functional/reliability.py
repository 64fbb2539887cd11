"""Maps of an acquisition: reliability of each voxel, and distance to the nearest slice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .acquisition import SlicePlan
from .resample import centred_coordinates


def reliability_map(
    plan: SlicePlan, output_shape: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """Reliability of each voxel: 1 on a slice, 0 between slices.

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
    centred = alignment == "centre"
    positions = centred_coordinates(index, factor) if centred else index * factor
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
    """Mask of the last entry of each run of equal ones in an increasing list."""
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
            where = centred_coordinates(index, number / size)
        away = (where - torch.round(where)).abs() * acquired_mm[..., axis, None].float()
        squares.append((away**2).to(device, non_blocking=True))
    x, y, z = squares
    return (x[..., :, None, None] + y[..., None, :, None] + z[..., None, None, :]).sqrt()


def slice_nearness(where: Tensor, size: int, voxels: float) -> Tensor:
    """1 on the centre of a slice, falling linearly to 0 at a distance of one voxel.

    Neighbouring slices add up, to at most 1.

    Args:
        where: Coordinates of voxels among the slices of an axis, any shape.
        size: Number of slices.
        voxels: Distance between slices in voxels.

    Returns:
        Same shape.

    Examples:
        >>> slice_nearness(torch.tensor([0.0, 0.25, 1.0]), 2, 2.0).tolist()
        [1.0, 0.5, 1.0]
    """
    below = where.floor()
    total = torch.zeros_like(where)
    for index in (below, below + 1):
        hat = (1 - (where - index).abs() * voxels).clamp(min=0)
        total += torch.where((index >= 0) & (index < size), hat, 0)
    return total.clamp(max=1)
