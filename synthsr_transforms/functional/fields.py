"""Smooth random fields from coarse grids of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .cache import cached, voxel_indices
from .kernels import warp as kernels
from .operators import apply_separable, full_precision, per_axis
from .resample import resize
from .warp import affine_grid, sample_grid


def coarse_shape(shape: Sequence[int], factor: float) -> tuple[int, int, int]:
    """Sizes `ceil(n * factor)` of a coarse grid.

    Examples:
        >>> coarse_shape((160, 192, 160), 0.03125)
        (5, 6, 5)
    """
    x, y, z = (max(1, math.ceil(n * factor)) for n in shape)
    return x, y, z


def integrate_velocity(velocity: Tensor, squarings: int = 7) -> Tensor:
    """Displacement after unit time of a stationary velocity field, by scaling and squaring.

    Arsigny et al., "A log-Euclidean framework for statistics on diffeomorphisms", MICCAI 2006.

    Args:
        velocity: `(B, 3, X, Y, Z)` in voxels.
        squarings: Number s of compositions; the field is divided by 2^s first.

    Returns:
        `(B, 3, X, Y, Z)` displacement in voxels.

    Examples:
        >>> constant = torch.full((1, 3, 4, 4, 4), 0.5)
        >>> bool(torch.allclose(integrate_velocity(constant), constant))
        True
    """
    if kernels.can_compose(velocity):
        return kernels.compose(velocity / 2**squarings, squarings)
    grid, scale = _identity_grid(tuple(velocity.shape[2:]), velocity.device)
    flow: Tensor = velocity.flip(1) / 2**squarings
    for _ in range(squarings):
        flow = flow + sample_grid(flow, torch.addcmul(grid, flow.movedim(1, -1), scale))
    return flow.flip(1)


@cached(4)
def _identity_grid(shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Sampling grid of a volume itself, `(1, X, Y, Z, 3)`, and its units per voxel, `(3,)`."""
    grid = affine_grid(torch.eye(4)[None], shape, shape, device)
    scale = torch.tensor([2.0 / max(n - 1, 1) for n in reversed(shape)])
    return grid, scale.to(device, non_blocking=True)


@cached(16)
def _ratio(shape: tuple[int, ...], sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """Voxels of a grid per voxel of a coarser one, `(3, 1, 1, 1)`."""
    ratio = torch.tensor([n / m for n, m in zip(shape, sizes, strict=True)])
    return ratio.to(device, non_blocking=True)[:, None, None, None]


def elastic_displacement(
    coarse_velocity: Tensor, shape: Sequence[int], *, half_grid_units: bool = False
) -> Tensor:
    """Diffeomorphic displacement on a coarser grid.

    The coarse velocity is resized to `max(floor(n / 4), coarse size)`, then integrated there; the
    original integrates at half the resolution.

    Args:
        coarse_velocity: `(B, 3, a, b, c)` in voxels of the full grid.
        shape: Three sizes of the full grid.
        half_grid_units: Integrate on the half grid as if the numbers were its voxels, and read
            the result as voxels of the full grid, as the original does. False keeps units honest.

    Returns:
        `(B, 3, h, w, d)` displacement in voxels of the full grid, for `warp.patch_coordinates`.
    """
    sizes = displacement_shape(coarse_velocity.shape[2:], shape, half_grid_units=half_grid_units)
    velocity = resize(coarse_velocity, sizes)
    if half_grid_units:
        return integrate_velocity(velocity)
    ratio = _ratio(tuple(shape), tuple(sizes), velocity.device)
    return integrate_velocity(velocity / ratio) * ratio


def displacement_shape(
    coarse: Sequence[int], shape: Sequence[int], *, half_grid_units: bool = False
) -> tuple[int, int, int]:
    """Sizes of the displacement of `elastic_displacement` for a coarse and a full grid."""
    divisor = 2 if half_grid_units else 4
    x, y, z = (max(n // divisor, m) for n, m in zip(shape, coarse, strict=True))
    return x, y, z


def bias_field(coarse_log: Tensor, shape: Sequence[int]) -> Tensor:
    """Multiplicative field `exp(resize(coarse))`, strictly positive.

    Args:
        coarse_log: `(B, C, a, b, c)` logarithms on a coarse grid.
        shape: Three output sizes.

    Returns:
        `(B, C, *shape)`.
    """
    return torch.exp(resize(coarse_log, shape))


def smooth_normal_field(coarse: Tensor, shape: Sequence[int], width: float = 0.7) -> Tensor:
    """Smooth field that is standard normal at every voxel, from a coarse grid that is.

    Each voxel is a Gaussian-weighted sum of the coarse points, with weights of unit Euclidean
    norm, so that the variance is 1 everywhere and the coarse grid leaves no trace.

    Args:
        coarse: `(B, C, a, b, c)` independent standard normal numbers.
        shape: Three output sizes.
        width: Standard deviation of the weights, in steps of the coarse grid.

    Returns:
        `(B, C, *shape)`.
    """
    sizes = tuple(coarse.shape[2:])
    weights = _unit_weights(_smooth_weights([sizes], shape, width, coarse.device)[0], sizes)
    return apply_separable(coarse, per_axis(weights[None, None], shape, sizes))


def smooth_normal_fields(
    coarse: Sequence[Tensor], shape: Sequence[int], width: float = 0.7
) -> Tensor:
    """Like `smooth_normal_field`, for elements whose coarse grids have sizes of their own.

    Args:
        coarse: One `(a, b, c)` for each element.
        shape: Three output sizes.
        width: Standard deviation of the weights, in steps of the coarse grid.

    Returns:
        `(B, 1, *shape)`.
    """
    sizes = [tuple(numbers.shape) for numbers in coarse]
    device = coarse[0].device
    result = torch.empty(len(coarse), 1, *shape, device=device)
    weights = _smooth_weights(sizes, shape, width, device)
    with full_precision(device.type):
        for field, numbers, own, size in zip(
            result.unbind(), coarse, weights.unbind(), sizes, strict=True
        ):
            x, y, z = per_axis(_unit_weights(own, size), shape, size)
            in_z = (numbers.flatten(0, 1) @ z.T).view(size[0], -1)
            in_x = (x @ in_z).view(shape[0], size[1], shape[2])
            torch.bmm(y.expand(shape[0], -1, -1), in_x, out=field[0])
    return result


def padded_normal_fields(
    coarse: Tensor, steps: Tensor, shape: Sequence[int], width: float = 0.7
) -> Tensor:
    """Like `smooth_normal_fields`, for coarse grids in the corners of grids of one size.

    Args:
        coarse: `(B, a, b, c)`, whose other numbers do not count.
        steps: See `coarse_steps`, on the device of `coarse`.
        shape: Three output sizes.
        width: Standard deviation of the weights, in steps of the coarse grid.

    Returns:
        `(B, 1, *shape)`.
    """
    sizes = coarse.shape[1:]
    weights = _gaussian_weights(steps, max(sizes), shape, width, cut=True)
    weights = weights / weights.norm(dim=-1, keepdim=True)
    return apply_separable(coarse[:, None], per_axis(weights[:, None], shape, sizes))


def coarse_steps(sizes: Sequence[Sequence[int]], shape: Sequence[int]) -> Tensor:
    """Steps of coarse grids per voxel, and their sizes, `(2, B, 3)`."""
    steps = [[(m - 1) / max(n - 1, 1) for n, m in zip(shape, own, strict=True)] for own in sizes]
    return torch.tensor([steps, [list(map(float, own)) for own in sizes]])


def _smooth_weights(
    sizes: Sequence[Sequence[int]], shape: Sequence[int], width: float, device: torch.device
) -> Tensor:
    """Gaussian weights of the coarse points of each axis, `(B, 3, longest axis, most points)`."""
    steps = coarse_steps(sizes, shape).to(device, non_blocking=True)
    cut = any(len(set(own)) > 1 for own in sizes)
    return _gaussian_weights(steps, max(max(own) for own in sizes), shape, width, cut=cut)


def _gaussian_weights(
    steps: Tensor, most: int, shape: Sequence[int], width: float, *, cut: bool
) -> Tensor:
    """Weights of so many coarse points, 0 from the size of each grid on if they are cut."""
    both = steps[..., None]
    points = voxel_indices(most, steps.device)
    where = voxel_indices(max(shape), steps.device) * both[0]
    weights = torch.exp(((where[..., None] - points) / width).square_().mul_(-0.5))
    if cut:
        weights = weights * (points < both[1])[..., None, :]
    return weights


def _unit_weights(weights: Tensor, sizes: Sequence[int]) -> Tensor:
    """Weights `(3, N, M)` of one element, cut to its points and of unit norm."""
    own = weights[..., : max(sizes)]
    norm: Tensor = own.norm(dim=-1, keepdim=True)
    return own / norm
