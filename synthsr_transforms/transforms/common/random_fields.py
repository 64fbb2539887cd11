"""Random fields that a recorded seed brings back, on the grid of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from synthsr_transforms.functional.fields import coarse_shape, smooth_normal_fields
from synthsr_transforms.seeds import normal_field, normal_numbers

from ..base import Grid, Params


def field_from_params(
    params: Params, name: str, shape: Sequence[int], device: torch.device | str
) -> Tensor:
    """A recorded field: explicit numbers if `params` has them under `name`, else from its seed."""
    if name in params:
        return params[name].to(device, torch.float32, non_blocking=True)
    return normal_field(params[f"{name}_seed"], shape, device)


def coarse_velocity(params: Params, grid: Grid, shape_factor: float) -> Tensor | None:
    """Recorded velocity of an elastic deformation, in mm.

    It is sampled on the CPU, so that geometry is the same on every device.

    Args:
        params: With `velocity`, or with `velocity_std_mm` and `velocity_seed`.
        grid: Grid of the deformation.
        shape_factor: Ratio of the size of the coarse grid and of the grid.

    Returns:
        `(B, 3, x, y, z)` on the coarse grid; None where it is 0 everywhere.
    """
    shape = (3, *coarse_shape(grid.shape, shape_factor))
    if "velocity" in params:
        return field_from_params(params, "velocity", shape, "cpu")
    std_mm = params["velocity_std_mm"]
    if not bool(std_mm.any()):
        return None
    return field_from_params(params, "velocity", shape, "cpu") * std_mm[:, None, None, None, None]


def smooth_fields(
    seeds: Tensor, size_mm: Tensor, grid: Grid, device: torch.device, *, coarse_on: torch.device
) -> Tensor:
    """Smooth fields, standard normal at every voxel.

    Args:
        seeds: `(B,)` seeds of the coarse grids.
        size_mm: `(B,)` distance between coarse grid points in mm.
        grid: Grid of the fields.
        device: Where to compute.
        coarse_on: Device on which the coarse numbers are sampled: they depend on its type.

    Returns:
        `(B, 1, X, Y, Z)` float32.
    """
    shapes = [
        [max(2, math.ceil(n * mm / step) + 1) for n, mm in zip(grid.shape, spacing, strict=True)]
        for step, spacing in zip(size_mm.tolist(), grid.spacing_mm.tolist(), strict=True)
    ]
    numbers = normal_numbers(seeds, [math.prod(shape) for shape in shapes], coarse_on)
    together = numbers.to(device, non_blocking=True).split([math.prod(shape) for shape in shapes])
    coarse = [one.view(shape) for one, shape in zip(together, shapes, strict=True)]
    return smooth_normal_fields(coarse, grid.shape)


def per_element(values: Tensor, device: torch.device) -> Tensor:
    """One value per element, `(B,)`, to broadcast over its voxels, `(B, 1, 1, 1, 1)`."""
    return values.to(device, non_blocking=True)[:, None, None, None, None]


def each_per_element(values: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Like `per_element`, for several values `(B,)` of each element, by one copy."""
    together = torch.stack(list(values)).to(device, non_blocking=True)
    return list(together[..., None, None, None, None].unbind())
