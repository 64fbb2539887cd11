"""From scans to the input of a network: resampled, turned to RAS axes, normalised and padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from synthsr_net.models.checkpoint import InputConfig, ModelConfig, ScanConfig
from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.grids import MIN_SHEAR_DEGREES, Volume, ras_axes, reorient, shear_degrees
from synthsr_transforms.io.scans import Scan

from .intensities import CT_WINDOW_HU, Rescaling, ct_warnings, rescale_
from .reliability import reliability
from .resampling import Grid, antialiased, orthogonal_grid, resample, reslice
from .space import ScanSpace, inside, padding, settings_of

MIN_OVERLAP = 0.9
"""Share of the first scan that the others must cover without a warning."""


@dataclass(frozen=True)
class _Recipe:
    settings: ScanConfig
    ct: bool
    legacy: str | None

    @property
    def clips_first(self) -> bool:
        """Whether CT is clipped before it is resampled."""
        return self.ct and not self.settings.normalise_after_padding


def to_network_space(
    scans: Sequence[Scan], config: ModelConfig, *, ct: bool = False, legacy: str | None = None
) -> tuple[Tensor, ScanSpace]:
    """Make the input of a network.

    The first scan is resampled along its axes, or, if these are sheared by
    `grids.MIN_SHEAR_DEGREES` or more (CT with gantry tilt), to a grid at right angles. Other
    scans are read on this grid by linear interpolation, with 0 outside. Grids cover the scan.

    Args:
        scans: One for each of `config.inputs`, in their order.
        config: Of the model.
        ct: Whether the scans are CT in Hounsfield units, to be clipped to [0, 80].
        legacy: `"v1"` (the original repository) or `"v2"` (FreeSurfer's script): follow it exactly,
            with rounding errors in sizes and sheared grids.

    Returns:
        Input `(C, X, Y, Z)` float32 on the CPU, with axes to the right, front and top, and what
        leads back.

    Raises:
        VolumeError: If the number of scans is not that of the inputs, scans do not overlap, or CT
            shows nothing within 0 and 80 HU.
    """
    recipe = _Recipe(settings_of(config, legacy), ct, legacy)
    _check_number(scans, config)
    sheared = shear_degrees(scans[0].affine) >= MIN_SHEAR_DEGREES and legacy is None
    native = _on_own_grid(scans[0], recipe, sheared)
    own_grid, aligned = _grid(native), reorient(native)
    grid = _grid(aligned)
    begin, shape = padding(grid[0], recipe.settings.divisor)
    x, where = np.zeros((config.num_channels, *shape), np.float32), inside(begin, grid[0])
    x[0][where] = aligned.data
    del native, aligned
    starts = np.cumsum([0] + [1 + image.reliability_map for image in config.inputs]).tolist()
    rescalings, doubts = [], []
    for index, (scan, image) in enumerate(zip(scans, config.inputs, strict=True)):
        warnings = [*scan.warnings, *ct_warnings(scan.data, ct)]
        channels = x[starts[index] : starts[index + 1]]
        if index:
            channels[0][where], more = _on_first_grid(scan, grid, scans[0], recipe)
            warnings += more
        after_padding = recipe.settings.normalise_after_padding
        target = channels[0] if after_padding else channels[0][where]
        rescaling = _normalise_(target, image, recipe, index == recipe.settings.residual_input)
        warnings += _doubts_of_contrast(rescaling, scan, ct)
        if image.reliability_map:
            channels[1][where] = reliability(scan.volume, grid, recipe.settings.spacing_mm)
        rescalings.append(rescaling)
        doubts += [f"{image.name}: {text}" if len(scans) > 1 else text for text in warnings]
    residual = recipe.settings.residual_input
    space = ScanSpace(
        input_grid=_grid(scans[0].volume),
        grid=own_grid,
        aligned_grid=grid,
        begin=begin,
        parallel=not sheared,
        legacy=legacy,
        rescalings=tuple(rescalings),
        residual=None if residual is None else torch.from_numpy(x[starts[residual]]),
        warnings=tuple(dict.fromkeys(doubts)),
    )
    return torch.from_numpy(x), space


def _grid(volume: Volume) -> Grid:
    x, y, z = volume.data.shape
    return (x, y, z), volume.affine


def _check_number(scans: Sequence[Scan], config: ModelConfig) -> None:
    if len(scans) != len(config.inputs):
        names = ", ".join(image.name for image in config.inputs)
        raise VolumeError(
            f"model {config.name!r} needs {len(config.inputs)} scan(s) ({names}), got"
            f" {len(scans)}. Give that many, or choose another model."
        )


def _clipped(scan: Scan, recipe: _Recipe) -> Volume:
    data = np.clip(scan.data, *CT_WINDOW_HU) if recipe.clips_first else scan.data
    return Volume(data, scan.affine)


def _on_own_grid(scan: Scan, recipe: _Recipe, sheared: bool) -> Volume:
    """The scan with the network's spacing, along its own axes as far as they are orthogonal.

    Grids begin at the left, back and bottom border whatever the axes of the scan, so that scans
    that differ in orientation only are the same to the network; those of legacy begin at the first
    voxel.
    """
    volume, spacing = _clipped(scan, recipe), recipe.settings.spacing_mm
    if recipe.legacy:
        return resample(volume, spacing, exact=True)
    if not sheared:
        return resample(volume, spacing, from_last=_reversed_axes(scan.affine))
    grid = orthogonal_grid(reorient(volume), spacing)
    lowest = float(volume.data.min())
    data, _ = reslice(antialiased(volume, spacing), grid, outside=lowest)
    return reorient(Volume(data, grid[1]), scan.affine)


def _reversed_axes(affine: npt.NDArray[np.float64]) -> list[bool]:
    """Whether each voxel axis runs to the left, back or bottom."""
    world = np.argsort(ras_axes(affine))
    return [bool(affine[w, axis] < 0) for axis, w in enumerate(world)]


def _on_first_grid(
    scan: Scan, grid: Grid, first: Scan, recipe: _Recipe
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Another scan on the grid of the first, with 0 outside, and doubts about their overlap."""
    margin = 0.5 if recipe.legacy is None else 0.0
    data, share = reslice(_clipped(scan, recipe), grid, outside=0.0, margin=margin)
    if share == 0:
        raise VolumeError(
            f"{scan.name} must overlap with {first.name} in world space, but lies elsewhere. Check"
            " their headers: scans must be of one session, or registered."
        )
    if share < MIN_OVERLAP:
        return data, [
            f"{scan.name} covers {share:.0%} of {first.name}: the rest is taken as 0 there."
        ]
    return data, []


def _normalise_(
    data: npt.NDArray[Any], image: InputConfig, recipe: _Recipe, is_residual: bool
) -> Rescaling:
    settings = recipe.settings
    if recipe.ct and not recipe.clips_first:
        np.clip(data, *CT_WINDOW_HU, out=data)
    return rescale_(
        data,
        image.maximum,
        percentiles=settings.percentiles if settings.normalisation == "percentile" else None,
        keep_zero=recipe.legacy == "v2" and is_residual,
    )


def _doubts_of_contrast(rescaling: Rescaling, scan: Scan, ct: bool) -> list[str]:
    if rescaling.unit > 0:
        return []
    if ct:
        low, high = CT_WINDOW_HU
        raise VolumeError(
            f"{scan.name} must show something within {low:g} and {high:g} HU, but is constant"
            " there. Correct its offset, or leave out --ct if it is not CT."
        )
    return ["constant on the network's grid: the prediction shows nothing of it."]
