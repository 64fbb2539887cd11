"""Random fields that a recorded seed brings back, on the grid of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from synthsr_transforms.functional.fields import (
    coarse_shape,
    coarse_steps,
    padded_normal_fields,
    smooth_normal_fields,
)
from synthsr_transforms.seeds import Seeds, normal_field, normal_numbers
from synthsr_transforms.support import devices

from ..base import Grid, Params
from ..prepared import Prepared


def field_from_params(
    params: Params, name: str, shape: Sequence[int], device: torch.device | str
) -> Tensor:
    """A recorded field: explicit numbers if `params` has them under `name`, else from its seed."""
    return as_field(prepared_field(params, name), shape, device)


def prepared_field(params: Params, name: str) -> Tensor | Seeds:
    """A recorded field before it is drawn: explicit numbers, or its seeds."""
    return params[name].float() if name in params else Seeds(params[f"{name}_seed"])


def as_field(prepared: Tensor | Seeds, shape: Sequence[int], device: torch.device | str) -> Tensor:
    """The numbers of a prepared field, on a device."""
    if isinstance(prepared, Seeds):
        return normal_field(prepared, shape, device)
    return prepared.to(device, torch.float32, non_blocking=True)


def coarse_velocity(
    params: Params, grid: Grid, shape_factor: float, *, always: bool = False
) -> Tensor | None:
    """Recorded velocity of an elastic deformation, in mm.

    It is sampled on the CPU, so that geometry is the same on every device.

    Args:
        params: With `velocity`, or with `velocity_std_mm` and `velocity_seed`.
        grid: Grid of the deformation.
        shape_factor: Ratio of the size of the coarse grid and of the grid.
        always: Whether a velocity of 0 everywhere is returned as well.

    Returns:
        `(B, 3, x, y, z)` on the coarse grid; None where it is 0 everywhere.
    """
    shape = (3, *coarse_shape(grid.shape, shape_factor))
    if "velocity" in params:
        return field_from_params(params, "velocity", shape, "cpu")
    std_mm = params["velocity_std_mm"]
    if not always and not bool(std_mm.any()):
        return None
    field = field_from_params(params, "velocity", shape, "cpu")
    field.numpy()[...] *= per_element(std_mm).numpy()  # which wakes no threads
    return field


class SmoothFields(NamedTuple):
    """Smooth fields to be: standard normal at every voxel.

    Attributes:
        seeds: `(B,)` seeds of the coarse grids.
        size_mm: `(B,)` distance between coarse grid points in mm.
        smallest_mm: The smallest that this distance can be.
    """

    seeds: Tensor
    size_mm: Tensor
    smallest_mm: float

    def prepare(self, grid: Grid, device: torch.device, *, coarse_on_cpu: bool) -> Prepared:
        """What the fields are computed from.

        Args:
            grid: Grid of the fields.
            device: Where to compute them.
            coarse_on_cpu: Whether the coarse numbers are sampled on the CPU: they depend on the
                type of the device.
        """
        shapes = _coarse_shapes(grid, self.size_mm.tolist())
        if not devices.computes_all(device):
            counts = [math.prod(shape) for shape in shapes]
            together = normal_numbers(self.seeds, counts).split(counts)
            coarse = [one.view(shape) for one, shape in zip(together, shapes, strict=True)]
            return {"coarse": coarse, "shape": grid.shape}
        most = _coarse_shapes(grid, [self.smallest_mm] * len(shapes))
        room = [max(sizes) for sizes in zip(*most, strict=True)]
        prepared = {"steps": coarse_steps(shapes, grid.shape), "shape": grid.shape}
        if coarse_on_cpu:
            counts = [math.prod(shape) for shape in shapes]
            numbers = normal_numbers(self.seeds, counts).split(counts)
            return {**prepared, "coarse": _in_room_on_host(numbers, shapes, room)}
        return {**prepared, "coarse": Seeds(self.seeds), "most": tuple(most), "room": tuple(room)}


def smooth_fields(prepared: Prepared) -> Tensor:
    """The fields, `(B, 1, X, Y, Z)` float32, see `SmoothFields`."""
    coarse, shape = prepared["coarse"], prepared["shape"]
    if isinstance(coarse, list):
        return smooth_normal_fields(coarse, shape)
    steps = prepared["steps"]
    if isinstance(coarse, Seeds):
        counts = [math.prod(own) for own in prepared["most"]]
        numbers = normal_numbers(coarse, counts, steps.device)
        coarse = (
            numbers.view(-1, *prepared["room"])
            if len(set(prepared["most"])) == 1
            else _in_room(numbers.split(counts), prepared["most"], prepared["room"])
        )
    return padded_normal_fields(coarse, steps, shape)


def _coarse_shapes(grid: Grid, sizes_mm: Sequence[float]) -> list[tuple[int, ...]]:
    """Shapes of coarse grids with so many mm between their points."""
    return [
        tuple(
            max(2, math.ceil(n * mm / size_mm) + 1)
            for n, mm in zip(grid.shape, spacing, strict=True)
        )
        for size_mm, spacing in zip(sizes_mm, grid.spacing_mm.tolist(), strict=True)
    ]


def _in_room(
    numbers: Sequence[Tensor], shapes: Sequence[Sequence[int]], room: Sequence[int]
) -> Tensor:
    """Coarse grids in the corner of a larger one, `(B, *room)`, with zeros beside them."""
    result = numbers[0].new_zeros(len(numbers), *room)
    for place, own, (x, y, z) in zip(result, numbers, shapes, strict=True):
        place[:x, :y, :z] = own.view(x, y, z)
    return result


def _in_room_on_host(
    numbers: Sequence[Tensor], shapes: Sequence[Sequence[int]], room: Sequence[int]
) -> Tensor:
    """Like `_in_room` on the CPU, where threads of torch would take longer to wake than to copy."""
    result = np.zeros((len(numbers), *room), np.float32)
    for place, own, (x, y, z) in zip(result, numbers, shapes, strict=True):
        place[:x, :y, :z] = own.numpy().reshape(x, y, z)
    return torch.from_numpy(result)


def per_element(values: Tensor) -> Tensor:
    """One value per element, `(B,)`, to broadcast over its voxels, `(B, 1, 1, 1, 1)`."""
    return values[:, None, None, None, None]
