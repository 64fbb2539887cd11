"""Reliability maps of scans: which voxels were acquired, and which lie between slices."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from synthsr_transforms.functional.reliability import slice_nearness
from synthsr_transforms.io.grids import Volume

from ..resampling import FACTOR_TOLERANCE, Grid


def reliability(scan: Volume, grid: Grid, spacing_mm: float) -> npt.NDArray[np.float32]:
    """Share of each voxel of a grid that was acquired rather than interpolated.

    Along each axis of the scan whose slices are further apart than the voxels of the grid, the map
    is 1 on the centre of a slice and falls linearly to 0 at a distance of one voxel of the grid;
    neighbouring slices add up. Axes multiply. It is 0 where the scan does not reach.

    Args:
        scan: Of which only shape and affine are read.
        grid: Shape and affine of the map.
        spacing_mm: Spacing of the grid.

    Returns:
        float32 array of the grid's shape, within 0 and 1.

    Examples:
        >>> slices = Volume(np.zeros((1, 1, 2)), np.diag([1.0, 1.0, 4.0, 1.0]))
        >>> reliability(slices, ((1, 1, 6), np.eye(4)), 1.0).ravel().tolist()
        [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    """
    shape, affine = grid
    matrix = np.linalg.inv(scan.affine) @ affine
    index = np.ogrid[: shape[0], : shape[1], : shape[2]]
    result = np.ones(shape, np.float32)
    for row, size, spacing in zip(
        matrix[:3], scan.data.shape, np.linalg.norm(scan.affine[:3, :3], axis=0), strict=True
    ):
        used = [(step, i) for step, i in zip(row[:3], index, strict=True) if abs(step) > 1e-9]
        where = sum((step * i for step, i in used), np.full((1, 1, 1), row[3]))
        margin = 0.5 + 0.5 * spacing_mm / spacing - 1e-6  # voxels that the scan reaches into
        result *= (where > -margin) & (where < size - 1 + margin)
        if spacing > spacing_mm * (1 + FACTOR_TOLERANCE):
            near = slice_nearness(torch.from_numpy(where), size, spacing / spacing_mm)
            result *= near.numpy().astype(np.float32)
    return result
