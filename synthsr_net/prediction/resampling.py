"""Resampling of volumes from one grid to another.

Between grids with parallel axes, anti-aliasing and linear interpolation are one small matrix per
axis, applied as matrix products. Other grids are read voxel by voxel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from synthsr_transforms.functional.cache import cached
from synthsr_transforms.functional.operators import (
    along_axes,
    axis_operator,
)
from synthsr_transforms.io.grids import Affine, Volume, directions_of, turn_between
from synthsr_transforms.support.devices import on_device, on_host

SIZE_TOLERANCE = 1e-3
"""A grid need not reach the last thousandth of a voxel: spacings in headers are rounded."""
FACTOR_TOLERANCE = 1e-5
"""Relative difference of spacings that count as equal."""
ALIASING_SIGMA = 0.25
"""Width of the anti-aliasing Gaussian, in voxels of the new grid."""

Array = npt.NDArray[Any]
Grid = tuple[tuple[int, int, int], npt.NDArray[np.float64]]
"""Shape, and `(4, 4)` voxel-to-world matrix."""


class Image(NamedTuple):
    """A volume where it is computed.

    Attributes:
        data: `(X, Y, Z)` float32, on any device.
        affine: `(4, 4)` voxel-to-world matrix in mm, float64.
    """

    data: Tensor
    affine: Affine

    @property
    def grid(self) -> Grid:
        """Shape and affine."""
        x, y, z = self.data.shape
        return (x, y, z), self.affine

    def turned(self, reference: Affine | None = None, *, legacy: bool = False) -> Image:
        """With other axes, see `reorient`."""
        turn, affine = turn_between(self.affine, self.data.shape, reference, legacy=legacy)
        axes = [axis for axis, (_, sign) in enumerate(turn.tolist()) if sign < 0]
        data = self.data.flip(axes) if axes else self.data
        return Image(data.permute(np.argsort(turn[:, 0]).tolist()), affine)

    def on_host(self) -> Volume:
        """The volume in the memory of the host."""
        return Volume(on_host(self.data), self.affine)


def resample(
    volume: Volume,
    spacing_mm: float | Sequence[float],
    *,
    from_last: Sequence[bool] = (False, False, False),
    exact: bool = False,
    blur: bool = True,
) -> Volume:
    """Resample to another voxel spacing along the same axes; the new grid covers the old one.

    A Gaussian of 0.25 new voxels prevents aliasing on axes that do not get finer; then follows
    linear interpolation, with the border voxels repeated.

    Args:
        volume: `(X, Y, Z)` float32 and its affine.
        spacing_mm: New spacing in mm, one or three numbers.
        from_last: Axes along which the old and the new grid have their last border in common, and
            not the first.
        exact: Whether sizes follow the rounding errors of the original, which sometimes makes a
            slice more.
        blur: Whether to apply the Gaussian.

    Returns:
        The volume on the new grid, float32.

    Examples:
        >>> step = Volume(np.repeat([0.0, 4.0], 2)[:, None, None].astype(np.float32), np.eye(4))
        >>> finer = resample(step, (0.5, 1.0, 1.0), blur=False)
        >>> finer.data.ravel().tolist(), finer.affine[0].tolist()
        ([0.0, 0.0, 0.0, 1.0, 3.0, 4.0, 4.0, 4.0], [0.5, 0.0, 0.0, -0.25])
    """
    image = Image(as_tensor(volume.data), volume.affine)
    return resampled(image, spacing_mm, from_last=from_last, exact=exact, blur=blur).on_host()


def resampled(
    image: Image,
    spacing_mm: float | Sequence[float],
    *,
    from_last: Sequence[bool] = (False, False, False),
    exact: bool = False,
    blur: bool = True,
) -> Image:
    """`resample` on any device."""
    old = np.linalg.norm(image.affine[:3, :3], axis=0)
    factors = old / np.asarray(spacing_mm, dtype=np.float64)
    operators: list[Tensor | None] = []
    shift = np.zeros(3)
    for axis, (size, factor) in enumerate(zip(image.data.shape, factors.tolist(), strict=True)):
        number = len(new_coordinates(size, factor, exact=exact))
        if from_last[axis]:
            shift[axis] = size - number / factor
        device = image.data.device
        operators.append(_operator(size, factor, float(shift[axis]), exact, blur, device))
    affine = image.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ shift
    affine[:3, :3] /= factors
    affine[:3, 3] -= affine[:3, :3] @ (0.5 * (factors - 1))
    return Image(along_axes(image.data, operators), affine)


@cached(64)
def _operator(
    size: int, factor: float, shift: float, exact: bool, blur: bool, device: torch.device
) -> Tensor:
    """Axis operator to another spacing, the same for all scans of a protocol."""
    where = new_coordinates(size, factor, exact=exact) + shift
    sigma = aliasing_sigma(factor, exact=exact) if blur else 0.0
    return on_device(axis_operator(size, torch.from_numpy(where), sigma), device)


def new_coordinates(size: int, factor: float, *, exact: bool = False) -> npt.NDArray[np.float64]:
    """Centres of the new voxels of an axis, in old voxels, if both begin at the same border.

    Args:
        size: Number of old voxels.
        factor: Old spacing over new spacing.
        exact: See `resample`.

    Examples:
        >>> new_coordinates(4, 0.5).tolist()
        [0.5, 2.5]
        >>> rounded = float(np.float32(1.1))
        >>> len(new_coordinates(20, rounded)), len(new_coordinates(20, rounded, exact=True))
        (22, 23)
    """
    start, step = -(factor - 1) / (2 * factor), 1 / factor
    if exact:
        where = np.arange(start, start + step * math.ceil(size * factor), step)
    else:
        where = start + step * np.arange(max(1, math.ceil(size * factor - SIZE_TOLERANCE)))
    return np.asarray(where, dtype=np.float64)


def aliasing_sigma(factor: float, *, exact: bool = False) -> float:
    """Width of the anti-aliasing Gaussian in old voxels, 0 where an axis gets finer."""
    finer = factor > 1 + (0 if exact else FACTOR_TOLERANCE)
    return 0.0 if finer else ALIASING_SIGMA / factor


def as_tensor(data: Array) -> Tensor:
    """`(X, Y, Z)` array as float32 tensor, without a copy where it can be had."""
    data = np.asarray(data, dtype=np.float32)
    if not data.flags.writeable or min(data.strides) < 0:
        data = np.array(data)
    return torch.from_numpy(data)


def antialiased(volume: Volume, spacing_mm: float) -> Volume:
    """Blur the axes that are finer than a spacing, as `resample` does before it interpolates."""
    from scipy.ndimage import gaussian_filter

    factors = np.linalg.norm(volume.affine[:3, :3], axis=0) / spacing_mm
    sigma = [aliasing_sigma(factor) for factor in factors.tolist()]
    data = np.asarray(volume.data, dtype=np.float32)
    return Volume(gaussian_filter(data, sigma) if any(sigma) else data, volume.affine)


def orthogonal_grid(grid: Grid, spacing_mm: float | npt.NDArray[np.float64]) -> Grid:
    """Grid at right angles that covers a sheared one, as parallel to its axes as can be.

    Args:
        grid: The sheared one.
        spacing_mm: One spacing in mm, or one per axis.
    """
    shape, sheared = grid
    turn = directions_of(sheared)
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in shape]))
    points = turn.T @ (sheared[:3, :3] @ corners.reshape(3, -1) + sheared[:3, 3:])
    low, high = points.min(axis=1), points.max(axis=1)
    x, y, z = (max(1, math.ceil(n - SIZE_TOLERANCE)) for n in (high - low) / spacing_mm)
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing_mm
    affine[:3, 3] = turn @ (low + 0.5 * spacing_mm)
    return (x, y, z), affine


def reslice(
    volume: Volume, grid: Grid, *, outside: float | None, margin: float = 0.5
) -> tuple[npt.NDArray[np.float32], float]:
    """Read a volume on another grid by linear interpolation in the world.

    Args:
        volume: `(X, Y, Z)` and its affine.
        grid: Where to read.
        outside: Value outside the volume; None repeats its border voxels.
        margin: How far the volume reaches beyond the centres of its border voxels, in voxels.

    Returns:
        float32 array of the grid's shape, and the share of the grid that lies in the volume.
    """
    from scipy.ndimage import map_coordinates

    shape, affine = grid
    matrix = np.linalg.inv(volume.affine) @ affine
    last = np.array(volume.data.shape) - 1
    y, z = np.arange(shape[1])[:, None], np.arange(shape[2])
    result, count = np.empty(shape, np.float32), 0
    for x in range(shape[0]):  # not as a matrix product, whose threads cost more than they bring
        where = np.stack([(row[0] * x + row[1] * y) + row[2] * z + row[3] for row in matrix[:3]])
        values = map_coordinates(volume.data, where, order=1, mode="nearest", prefilter=False)
        inside = np.ones(shape[1:], bool)
        for along, end in zip(where, last.tolist(), strict=True):
            inside &= (along >= -margin) & (along <= end + margin)
        count += int(np.count_nonzero(inside))
        if outside is not None:
            values[~inside] = outside
        result[x] = values
    return result, count / result.size
