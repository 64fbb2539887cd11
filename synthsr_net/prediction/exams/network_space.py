"""From the scans of an exam to inputs of a network, and how much each prediction counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from synthsr_net.models.checkpoint import ModelConfig, ScanConfig
from synthsr_net.prediction.checks.ct import decide_ct
from synthsr_net.prediction.intensities import Rescaling, normalise_, padded, padding
from synthsr_net.prediction.resampling import (
    SIZE_TOLERANCE,
    Grid,
    antialiased,
    as_tensor,
    reslice,
)
from synthsr_net.prediction.space.preprocess import (
    ScanSpace,
    clipped,
    doubts_of_contrast,
    to_network_space,
)
from synthsr_net.prediction.space.reliability import reliability
from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.grids import Volume, reorient
from synthsr_transforms.io.scans import Scan

FADE_MM = 10.0
"""Distance from the border of its field of view at which a scan counts fully."""


def exam_to_network_space(
    scans: Sequence[Scan], config: ModelConfig, *, cts: Sequence[bool | None]
) -> tuple[Tensor, ScanSpace]:
    """Make the inputs of a network, one of each scan, on a common grid.

    The grid is that of the first scan, see `to_network_space`, with as many more voxels on each
    side that it covers the fields of view of all scans. The first scan is resampled along its axes;
    the others are read on this grid by linear interpolation. Each is normalised by itself, and 0
    where it does not reach.

    Args:
        scans: At least two, aligned in the world, the first one leading.
        config: Of the model.
        cts: Whether each scan is CT; None: decide by its values.

    Returns:
        Input `(N, C, X, Y, Z)` float32 on the CPU, with axes to the right, front and top, and the
        way back to the space of the first scan.

    Raises:
        VolumeError: See `to_network_space`.
    """
    settings, (first, *others) = config.scan, scans
    tensor, space = to_network_space([first], config, ct=cts[0])
    doubts = [f"{in_words(0, first)}: {text}" for text in space.warnings]
    for index, scan in enumerate(others, 1):
        _check_overlap(space.aligned_grid, scan, in_words(index, scan))
    grid, box = covering(space.aligned_grid, [(scan.data.shape, scan.affine) for scan in others])
    first_data = torch.zeros(grid[0])
    first_data[box] = tensor[0][space.inside]
    inputs, rescalings, all_cts = [first_data], list(space.rescalings), list(space.cts)
    for index, (scan, ct) in enumerate(zip(others, cts[1:], strict=True), 1):
        is_ct, warnings = decide_ct(scan.volume, ct)
        data, rescaling = _on_grid(scan, grid, settings, config.inputs[0].maximum, ct=is_ct)
        warnings = [*scan.warnings, *warnings, *doubts_of_contrast(rescaling, scan, is_ct)]
        doubts += [f"{in_words(index, scan)}: {text}" for text in warnings]
        inputs.append(data)
        rescalings.append(rescaling)
        all_cts.append(is_ct)
    channels = [padded(data, settings.divisor)[None] for data in inputs]
    if config.inputs[0].reliability_map:
        maps = (as_tensor(reliability(s.volume, grid, settings.spacing_mm)) for s in scans)
        channels = [
            torch.cat([data, padded(each, settings.divisor)[None]])
            for data, each in zip(channels, maps, strict=True)
        ]
    space = replace(
        space,
        grid=_turned(grid, space.grid),
        aligned_grid=grid,
        begin=padding(grid[0], settings.divisor)[0],
        first=box,
        rescalings=tuple(rescalings),
        cts=tuple(all_cts),
        warnings=tuple(dict.fromkeys(doubts)),
    )
    return torch.stack(channels), space


def shares_of_scans(scans: Sequence[Scan], space: ScanSpace, shape: Sequence[int]) -> Tensor:
    """What the predictions from scans count in their mean.

    All scans that show a voxel count the same, but less and less within `FADE_MM` of the borders of
    their fields of view, so that no seam is seen. Where no scan reaches, all count the same.

    Args:
        scans: Aligned in the world.
        space: Of the input that was made of them.
        shape: `(X, Y, Z)` of the input.

    Returns:
        `(N, X, Y, Z)` float32, whose sum over the scans is 1.
    """
    x, y, z = (torch.arange(n, dtype=torch.float32) for n in shape)
    begin = np.eye(4)
    begin[:3, 3] = [-n for n in space.begin]
    weights = []
    for scan in scans:
        to_scan = np.linalg.inv(scan.affine) @ space.aligned_grid[1] @ begin
        weight = torch.ones(tuple(shape))
        volume = scan.volume
        for row, size, mm in zip(to_scan, volume.data.shape, volume.spacing_mm, strict=False):
            i, j, k, start = row.tolist()
            place = i * x[:, None, None] + j * y[:, None] + k * z + start
            from_border = torch.minimum(place + 0.5, size - 0.5 - place) * (mm / FADE_MM)
            torch.minimum(weight, from_border.clamp_(0, 1), out=weight)
        weights.append(weight)
    shares = torch.stack(weights)
    total = shares.sum(0)
    return torch.where(total > 0, shares / total, 1 / len(scans))


def covering(grid: Grid, others: Iterable[Grid]) -> tuple[Grid, tuple[slice, slice, slice]]:
    """A grid with as many more voxels on each side that it covers others as well.

    Args:
        grid: The grid, whose voxels stay where they are.
        others: Fields of view, of any spacing and orientation.

    Returns:
        The larger grid, and the place of the old one in it.

    Examples:
        >>> beside = np.diag([2.0, 2.0, 2.0, 1.0])
        >>> beside[:3, 3] = 2.5, 0.5, 0.5
        >>> larger, box = covering(((4, 4, 4), np.eye(4)), [((2, 2, 2), beside)])
        >>> larger[0], box[0]
        ((6, 4, 4), slice(0, 4, None))
    """
    shape, affine = grid
    low, high = np.full(3, -0.5), np.array(shape) - 0.5
    for size, matrix in others:
        corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in size])).reshape(3, -1)
        between = np.linalg.inv(affine) @ matrix
        places = between[:3, :3] @ corners + between[:3, 3:]
        low, high = np.minimum(low, places.min(1)), np.maximum(high, places.max(1))
    before = np.ceil(-0.5 - low - SIZE_TOLERANCE).astype(int).clip(min=0)
    after = np.ceil(high - np.array(shape) + 0.5 - SIZE_TOLERANCE).astype(int).clip(min=0)
    larger = affine.copy()
    larger[:3, 3] -= affine[:3, :3] @ before
    x, y, z = (int(n) for n in np.array(shape) + before + after)
    a, b, c = (slice(int(i), int(i) + n) for i, n in zip(before, shape, strict=True))
    return ((x, y, z), larger), (a, b, c)


def in_words(index: int, scan: Scan) -> str:
    """A scan of an exam in messages, by its number and the name of its file."""
    return f"scan {index + 1} ({Path(scan.name).name})"


def _check_overlap(grid: Grid, scan: Scan, name: str) -> None:
    """Refuse a scan that shows nothing of the first one's field of view."""
    shape, affine = grid
    sparse = affine @ np.diag([4.0, 4.0, 4.0, 1.0])
    x, y, z = (-(-n // 4) for n in shape)
    if not reslice(scan.volume, ((x, y, z), sparse), outside=None)[1]:
        raise VolumeError(
            f"{name} must overlap with the first scan in world space, but lies elsewhere. Check"
            " their headers: scans must be of one person, in one session or registered."
        )


def _on_grid(
    scan: Scan, grid: Grid, settings: ScanConfig, maximum: float, *, ct: bool
) -> tuple[Tensor, Rescaling]:
    """A scan on a grid, normalised by what it shows there, 0 where it does not reach."""
    volume = antialiased(clipped(scan, ct), settings.spacing_mm)
    read, _ = reslice(volume, grid, outside=np.nan)
    data = as_tensor(read)
    inside = ~data.isnan()
    values = data[inside]
    percentiles = settings.percentiles if settings.normalisation == "percentile" else None
    rescaling = normalise_(values, maximum, percentiles=percentiles)
    data.zero_()
    data[inside] = values
    return data, rescaling


def _turned(grid: Grid, reference: Grid) -> Grid:
    """A grid with its axes in the order and directions of another."""
    nothing = np.broadcast_to(np.float32(0), grid[0])
    turned = reorient(Volume(nothing, grid[1]), reference[1])
    x, y, z = turned.data.shape
    return (x, y, z), turned.affine
