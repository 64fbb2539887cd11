"""Sampling volumes at real coordinates, with the edge repeated outside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .cache import cached
from .geometry import about_centre
from .kernels import warp as kernels
from .operators import (
    apply_separable,
    check_volume,
    full_precision,
    interpolation_weights,
    per_axis,
)
from .resample import zoom


def sample_linear(volume: Tensor, coordinates: Tensor) -> Tensor:
    """Trilinear interpolation at voxel coordinates.

    Args:
        volume: `(B, C, X, Y, Z)` floating point.
        coordinates: `(B, 3, Xo, Yo, Zo)` in voxels of `volume`.

    Returns:
        `(B, C, Xo, Yo, Zo)`.

    Examples:
        >>> line = torch.arange(3.0).reshape(1, 1, 3, 1, 1)
        >>> where = torch.tensor([0.5, 0.0, 0.0]).reshape(1, 3, 1, 1, 1)
        >>> sample_linear(line, where).item()
        0.5
    """
    return sample_grid(volume, _normalised_grid(coordinates, volume.shape[2:]))


def sample_grid(volume: Tensor, grid: Tensor) -> Tensor:
    """Trilinear interpolation on a grid of `torch.nn.functional.grid_sample`, edges repeated.

    Args:
        volume: `(B, C, X, Y, Z)` floating point.
        grid: `(B, Xo, Yo, Zo, 3)` with -1 and 1 at the centres of the first and last voxels, last
            axis first.

    Returns:
        `(B, C, Xo, Yo, Zo)`.
    """
    check_volume(volume)
    dtype = volume.dtype
    if dtype in (torch.float16, torch.bfloat16):
        volume = volume.float()
    grid = grid.to(volume.dtype)
    slabs = _slabs(volume, grid)
    if slabs > 1:
        volume = volume.expand(slabs, *volume.shape[1:])
        grid = grid.reshape(slabs, -1, *grid.shape[2:])
    with full_precision(volume.device.type):
        sampled = functional.grid_sample(
            volume, grid, mode="bilinear", padding_mode="border", align_corners=True
        )
    if slabs > 1:
        sampled = sampled.transpose(0, 1).flatten(1, 2)[None]
    return sampled.to(dtype)


def _slabs(volume: Tensor, grid: Tensor) -> int:
    """In how many slabs to sample: on a CPU, torch gives each element of a batch one thread."""
    threads = torch.get_num_threads() if volume.device.type == "cpu" else 1
    whole = volume.shape[0] > 1 or grid.shape[1] % threads != 0
    return 1 if whole else threads


def _normalised_grid(coordinates: Tensor, shape: Sequence[int]) -> Tensor:
    """`(B, X, Y, Z, 3)` grid of `torch.nn.functional.grid_sample`, last axis first."""
    scale = [2.0 / max(n - 1, 1) for n in shape]
    axes = [coordinates[:, i] * scale[i] - 1 for i in (2, 1, 0)]
    return torch.stack(axes, dim=-1)


def sample_nearest(volume: Tensor, coordinates: Tensor) -> Tensor:
    """Nearest neighbour at voxel coordinates, for labels of any dtype.

    Args:
        volume: `(B, C, X, Y, Z)`.
        coordinates: `(B, 3, Xo, Yo, Zo)` in voxels of `volume`; ties go to the even index.

    Returns:
        `(B, C, Xo, Yo, Zo)`, same dtype.

    Examples:
        >>> line = torch.tensor([7, 8, 9]).reshape(1, 1, 3, 1, 1)
        >>> where = torch.tensor([1.6, 0.0, 0.0]).reshape(1, 3, 1, 1, 1)
        >>> sample_nearest(line, where).item()
        9
    """
    batch, channels, *shape = volume.shape
    first_voxel, last_voxel = _corners(tuple(shape), coordinates.device)
    index, y, z = coordinates.round().clamp_(first_voxel, last_voxel).int().unbind(1)
    index.mul_(shape[1]).add_(y).mul_(shape[2]).add_(z)
    voxels = volume[0, 0].numel()
    if batch > 1:
        wide = torch.int32 if batch * voxels < 2**31 else torch.int64
        first = torch.arange(0, batch * voxels, voxels, dtype=wide, device=volume.device)
        index = index + first[:, None, None, None]
    flat, rows = volume.transpose(0, 1).reshape(channels, -1), index.flatten()
    picked = [channel.index_select(0, rows).view_as(index)[:, None] for channel in flat.unbind()]
    return picked[0] if channels == 1 else torch.cat(picked, dim=1)


@cached(16)
def _corners(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """First and last voxel of a grid, `(2, 3, 1, 1, 1)` float32."""
    both = torch.tensor([[0.0] * len(shape), [n - 1.0 for n in shape]])
    return both.to(device, non_blocking=True)[..., None, None, None]


def patch_coordinates(
    matrix: Tensor,
    shape: Sequence[int],
    indices: Sequence[Tensor],
    displacement: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Input coordinates `M (x + u(x))` of the voxels of a patch only.

    Args:
        matrix: `(B, 4, 4)` pull-back in voxels, about the origin (see `geometry.about_centre`).
        shape: Three sizes of the whole output grid.
        indices: Three tensors `(B, n)`: the voxels of that grid that the patch holds, per axis.
            A crop is a range, a flip is a range backwards.
        displacement: `(B, 3, h, w, d)` in voxels of the whole grid, on a coarser grid that covers
            it (convention of `resample.resize`).
        device: Device of the result, where the displacement is; None means that of the indices,
            which may as well be on the CPU.

    Returns:
        `(B, 3, nx, ny, nz)` coordinates in voxels.
    """
    sizes = None if displacement is None else displacement.shape[2:]
    rows = patch_rows(matrix, shape, indices, sizes)
    rows = rows if device is None else rows.to(device, non_blocking=True)
    return coordinates_of(rows, [index.shape[-1] for index in indices], displacement)


def patch_rows(
    matrix: Tensor,
    shape: Sequence[int],
    indices: Sequence[Tensor],
    coarse_shape: Sequence[int] | None = None,
) -> Tensor:
    """What `patch_coordinates` needs beside the displacement, computed where the indices are.

    Args:
        matrix: See `patch_coordinates`.
        shape: Likewise.
        indices: Likewise.
        coarse_shape: Three sizes of the displacement, if there is one.

    Returns:
        `(B, 3, any)` float32, for `coordinates_of`.
    """
    matrix = matrix[:, :3].to(indices[0].device, torch.float32, non_blocking=True)
    along = [matrix[..., axis, None] * i[:, None, :].float() for axis, i in enumerate(indices)]
    along[1] = along[1] + matrix[..., 3, None]
    parts = [*along, matrix]
    if coarse_shape is not None:
        parts.append(_coarse_rows(indices, shape, coarse_shape))
    return torch.cat(parts, -1)


def coordinates_of(rows: Tensor, lengths: Sequence[int], displacement: Tensor | None) -> Tensor:
    """Coordinates of a patch, see `patch_coordinates`.

    Args:
        rows: From `patch_rows`, on the device of the result.
        lengths: Three sizes of the patch.
        displacement: `(B, 3, h, w, d)` on that device, or None.

    Returns:
        `(B, 3, nx, ny, nz)`.
    """
    x, y, z, matrix, *coarse = _split_rows(rows, lengths, displacement)
    in_plane = x[..., None] + y[:, :, None, :]
    if displacement is None:
        return in_plane[..., None] + z[:, :, None, None, :]
    along = _upsampling(coarse[0], lengths, displacement)
    coordinates: Tensor = apply_separable(_turned(displacement, matrix), along)
    return coordinates.add_(in_plane[..., None]).add_(z[:, :, None, None, :])


def _split_rows(
    rows: Tensor, lengths: Sequence[int], displacement: Tensor | None
) -> Sequence[Tensor]:
    """Rows of x, y and z, the matrix, and rows on the coarse grid if there is a displacement."""
    coarse = [] if displacement is None else [max(lengths)]
    split: Sequence[Tensor] = rows.split([*lengths, 4, *coarse], -1)
    return split


def _turned(displacement: Tensor, matrix: Tensor) -> Tensor:
    """Displacement times the linear part of the pull-back."""
    with full_precision(displacement.device.type):
        return (matrix[..., :3] @ displacement.flatten(2)).view_as(displacement)


def _upsampling(coarse: Tensor, lengths: Sequence[int], displacement: Tensor) -> list[Tensor]:
    """Operators that interpolate a displacement at the rows of a patch."""
    sizes = displacement.shape[2:]
    return per_axis(interpolation_weights(coarse[:, None], max(sizes)), lengths, sizes)


def sample_patch(
    volumes: Sequence[Tensor],
    nearest: Sequence[bool],
    rows: Tensor,
    lengths: Sequence[int],
    displacement: Tensor | None = None,
) -> list[Tensor]:
    """Volumes at the coordinates of a patch, see `coordinates_of`.

    Args:
        volumes: `(B, C, X, Y, Z)` each, all on one grid.
        nearest: Whether to read the nearest voxel of each, as of label maps; otherwise it is
            floating point and interpolated.
        rows: From `patch_rows`, on the device of the volumes.
        lengths: Three sizes of the patch.
        displacement: `(B, 3, h, w, d)` on that device, or None.

    Returns:
        `(B, C, nx, ny, nz)` each.
    """
    kinds = list(zip(volumes, nearest, strict=True))
    if all(kernels.can_sample(v, rows, lengths, nearest=kind) for v, kind in kinds):
        *along, matrix = _split_rows(rows, lengths, displacement)[:4]
        field, coarse_y = None, along[1][:, 1]
        if displacement is not None:
            coarse = rows[..., -max(lengths) :]
            x, _, z = _upsampling(coarse, lengths, displacement)
            field = apply_separable(_turned(displacement, matrix), [x, None, z])
            coarse_y = coarse[:, 1]
        return [kernels.sample(v, along, coarse_y, field, nearest=kind) for v, kind in kinds]
    coordinates = coordinates_of(rows, lengths, displacement)
    return [(sample_nearest if kind else sample_linear)(v, coordinates) for v, kind in kinds]


def _coarse_rows(indices: Sequence[Tensor], shape: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Coordinates of the voxels of each axis on a coarser grid, `(B, 3, longest)`."""
    longest = max(index.shape[-1] for index in indices)
    if all(index.shape[-1] == longest for index in indices):
        zooms, last = _coarse_numbers(tuple(shape), tuple(sizes), indices[0].device)
        return (torch.stack(list(indices), -2) / zooms).clamp(min=0).minimum(last)
    rows = []
    for index, n, m in zip(indices, shape, sizes, strict=True):
        row = (index / zoom(m, n)).clamp(min=0, max=m - 1)
        missing = longest - row.shape[-1]
        rows.append(functional.pad(row, (0, missing)) if missing else row)
    return torch.stack(rows, dim=-2)


@cached(16)
def _coarse_numbers(
    shape: tuple[int, ...], sizes: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Voxels per voxel of a coarser grid, and the last voxels of that, `(3, 1)` float32."""
    zooms = [zoom(m, n) for n, m in zip(shape, sizes, strict=True)]
    both = torch.tensor([zooms, [m - 1.0 for m in sizes]]).to(device)
    return both[0, :, None], both[1, :, None]


def warp_affine(volume: Tensor, matrix: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """Warp an image linearly by pull-back matrices that act about the centre of the grid.

    Args:
        volume: `(B, C, X, Y, Z)` floating point.
        matrix: `(B, 4, 4)` in voxels.
        shape: Output sizes; those of `volume` if None.

    Returns:
        `(B, C, *shape)`.
    """
    shape = tuple(volume.shape[2:]) if shape is None else tuple(shape)
    grid = affine_grid(about_centre(matrix, shape), shape, volume.shape[2:], volume.device)
    return sample_grid(volume, grid)


def affine_grid(
    matrix: Tensor,
    shape: Sequence[int],
    input_shape: Sequence[int],
    device: torch.device | str = "cpu",
) -> Tensor:
    """Sampling grid of a pull-back in the form that `sample_grid` takes.

    Args:
        matrix: `(B, 4, 4)` in voxels, about the origin.
        shape: Three sizes of the output.
        input_shape: Three sizes of the volume to be sampled.
        device: Device of the result.

    Returns:
        `(B, X, Y, Z, 3)` normalised coordinates, last axis first.
    """
    return grid_of_rows(grid_rows(matrix, input_shape).to(device, non_blocking=True), shape)


def grid_rows(matrix: Tensor, input_shape: Sequence[int]) -> Tensor:
    """Pull-backs in the units of `sample_grid`, `(B, 3, 4)` on the CPU, see `affine_grid`."""
    scale = torch.tensor([2.0 / max(n - 1, 1) for n in input_shape], dtype=torch.float64)
    rows = matrix[:, :3].cpu().double() * scale[:, None]
    rows[:, :, 3] -= 1
    return rows.flip(1).float()


def grid_of_rows(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """Sampling grid from `grid_rows`, on their device, see `affine_grid`."""
    x, y, z = (torch.arange(n, device=rows.device, dtype=torch.float32) for n in shape)
    in_plane = rows[:, None, :, 0] * x[:, None] + rows[:, None, :, 3]
    in_plane = in_plane[:, :, None] + (rows[:, None, :, 1] * y[:, None])[:, None]
    return in_plane[:, :, :, None] + (rows[:, None, :, 2] * z[:, None])[:, None, None]


@cached(16)
def whole_grid(
    shape: tuple[int, ...], batch_size: int, device: torch.device | str
) -> tuple[Tensor, ...]:
    """Indices of all voxels of a grid, in the form that `patch_coordinates` takes."""
    return tuple(torch.arange(n, device=device).expand(batch_size, n) for n in shape)
