"""From scans to the input of a network: resampled, turned to RAS axes, normalised and padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from nibabel.orientations import io_orientation
from torch import Tensor

from synthsr_net.models.checkpoint import ModelConfig, ScanConfig
from synthsr_net.prediction.refinement.data_consistency import slices_between
from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.grids import (
    MIN_SHEAR_DEGREES,
    NEGLIGIBLE_SHEAR_DEGREES,
    Volume,
    shear_degrees,
)
from synthsr_transforms.io.scans import Scan
from synthsr_transforms.support.messages import SynthSRError, check_choice

from ..checks.ct import decide_ct
from ..checks.voxels import Voxels
from ..intensities import CT_WINDOW_HU, Rescaling, network_input_, padded, padding
from ..resampling import Grid, Image, antialiased, as_tensor, orthogonal_grid, resampled, reslice
from .reliability import reliability

LEGACY = ("v1", "v2")
"""Programs that can be followed exactly: the original repository, and FreeSurfer's script."""
LEGACY_DIVISOR = 32
"""Both pad to multiples of this, whatever the depth of the network."""
MIN_OVERLAP = 0.9
"""Share of the first scan that the others must cover without a warning."""


@dataclass(frozen=True, eq=False)
class ScanSpace:
    """Place of a scan, or of the first of an exam, in the input of a network, for the way back."""

    input_grid: Grid
    """Grid of the (first) scan."""
    grid: Grid
    """Grid with the network's spacing, along the axes of the scan."""
    aligned_grid: Grid
    """The same voxels with axes to the right, front and top."""
    begin: tuple[int, int, int]
    """First voxel of the aligned grid in the padded input of the network."""
    parallel: bool
    """Whether the axes of the scan are those of `grid` (no shear)."""
    legacy: str | None
    """The program that is followed, of `LEGACY`."""
    rescalings: tuple[Rescaling, ...]
    """Of each input image."""
    cts: tuple[bool, ...]
    """Whether each scan was clipped as CT."""
    residual: Tensor | None
    """Input that the output is added to, `(X, Y, Z)`, padded."""
    warnings: tuple[str, ...]
    """Of the scans and their conversion, one line each."""
    first: tuple[slice, ...] = (slice(None),) * 3
    """Place of the first scan on the aligned grid, which covers all scans of an exam."""

    @property
    def inside(self) -> tuple[slice, ...]:
        """Place of the scan in the padded volume, three slices."""
        return tuple(slice(b, b + n) for b, n in zip(self.begin, self.aligned_grid[0], strict=True))

    def slices(self) -> list[Tensor | None]:
        """Operators of the (first) scan's slices at its place on the aligned grid.

        See `slices_between`. A scan with axes clearly sheared was read on a grid at right angles,
        and counts as made there.
        """
        if not self.parallel and shear_degrees(self.input_grid[1]) >= MIN_SHEAR_DEGREES:
            return [None] * 3
        shape, affine = self.aligned_grid
        ends = [place.indices(n) for place, n in zip(self.first, shape, strict=True)]
        own = affine.copy()
        own[:3, 3] += affine[:3, :3] @ [begin for begin, _, _ in ends]
        x, y, z = (end - begin for begin, end, _ in ends)
        return slices_between(((x, y, z), own), self.input_grid)


def scan_config(config: ModelConfig, legacy: str | None = None) -> ScanConfig:
    """Treatment of scans: that of the model, or that of an original program.

    Args:
        config: Of the model.
        legacy: `"v1"`, `"v2"` or None.

    Raises:
        ValueError: If `legacy` is another word.

    Examples:
        >>> scan_config(ModelConfig(), "v2").sharpen
        True
    """
    if legacy is None:
        return config.scan
    check_choice("legacy", legacy, LEGACY)
    one_image = config.scan.residual_input is None
    v2 = legacy == "v2" and one_image
    return replace(
        config.scan,
        divisor=LEGACY_DIVISOR,
        normalisation="min_max",
        normalise_after_padding=v2,
        clip_each_pass=v2,
        sharpen=v2,
        data_consistency=False,
        inverse_contrast=False,
        flip=one_image,
    )


def to_network_space(
    scans: Sequence[Scan],
    config: ModelConfig,
    *,
    ct: bool | None = None,
    cts: Sequence[bool | None] | None = None,
    legacy: str | None = None,
    voxels: Sequence[Voxels] | None = None,
) -> tuple[Tensor, ScanSpace]:
    """Make the input of a network.

    The first scan is resampled along its axes, or, if these are sheared by more than rounding
    explains (CT with gantry tilt), to the nearest grid at right angles. Other scans are read on
    this grid by linear interpolation, with 0 outside. Grids cover the scan.

    Args:
        scans: One for each of `config.inputs`, in their order.
        config: Of the model.
        ct: Whether the scans are CT in Hounsfield units, to be clipped to [0, 80]; None: decide for
            each scan, but for `legacy`, which clips only what it is told to.
        cts: The same for each scan, instead of `ct`.
        legacy: `"v1"` (the original repository) or `"v2"` (FreeSurfer's script): follow it exactly,
            with rounding errors in sizes and sheared grids.
        voxels: Of each scan, on the device that computes; None: on the CPU.

    Returns:
        Input `(C, X, Y, Z)` float32 on the device of the voxels, with axes to the right, front and
        top, and the way back.

    Raises:
        VolumeError: If the number of scans is not that of the inputs, scans do not overlap, or CT
            shows nothing within 0 and 80 HU.
    """
    settings = scan_config(config, legacy)
    check_number(config, len(scans), exams=False)
    first, after = scans[0], settings.normalise_after_padding
    told = [ct] * len(scans) if cts is None else cts
    voxels = [Voxels(scan.data) for scan in scans] if voxels is None else voxels
    choices = [
        decide_ct(scan.volume, each, automatic=legacy is None, voxels=own)
        for scan, each, own in zip(scans, told, voxels, strict=True)
    ]
    are_ct = [is_ct for is_ct, _ in choices]
    sheared = legacy is None and shear_degrees(first.affine) >= NEGLIGIBLE_SHEAR_DEGREES
    data = voxels[0].data
    data = data.clamp(*CT_WINDOW_HU) if are_ct[0] and not after else data
    own = Image(data, first.affine)
    native = on_own_grid(own, settings.spacing_mm, legacy=legacy, sheared=sheared)
    aligned = native.turned(legacy=legacy is not None)
    own_grid, grid = native.grid, aligned.grid
    channels, rescalings, residual, doubts = [], [], None, []
    for index, (scan, image) in enumerate(zip(scans, config.inputs, strict=True)):
        data, warnings = aligned.data, [*scan.warnings, *choices[index][1]]
        if index:
            volume = clipped(scan, are_ct[index] and not after)
            read, share = reslice(volume, grid, outside=0.0, margin=0.0 if legacy else 0.5)
            data = as_tensor(read).to(aligned.data.device)
            warnings += _doubts_of_overlap(share, scan, first)
        is_residual = index == settings.residual_input
        x, rescaling = network_input_(
            data,
            settings,
            image.maximum,
            ct=are_ct[index] and after,
            keep_zero=legacy == "v2" and is_residual,
        )
        warnings += doubts_of_contrast(rescaling, scan, are_ct[index])
        residual = x if is_residual else residual
        channels.append(x)
        if image.reliability_map:
            reliable = as_tensor(reliability(scan.volume, grid, settings.spacing_mm))
            channels.append(padded(reliable.to(x.device), settings.divisor))
        rescalings.append(rescaling)
        doubts += [f"{image.name}: {text}" if len(scans) > 1 else text for text in warnings]
    space = ScanSpace(
        input_grid=own.grid,
        grid=own_grid,
        aligned_grid=grid,
        begin=padding(grid[0], settings.divisor)[0],
        parallel=not sheared,
        legacy=legacy,
        rescalings=tuple(rescalings),
        cts=tuple(are_ct),
        residual=residual,
        warnings=tuple(dict.fromkeys(doubts)),
    )
    return channels[0][None] if len(channels) == 1 else torch.stack(channels), space


def check_number(config: ModelConfig, number: int, *, exams: bool = True) -> None:
    """Refuse another number of scans than a model has inputs, if it does not take any number.

    Raises:
        SynthSRError: If so; the message names the inputs.
    """
    names = [image.name for image in config.inputs]
    if number == len(names) or (exams and number and config.takes_exams):
        return
    if len(names) == 1 and number:
        raise SynthSRError(
            f"model {config.name} takes 1 scan ({names[0]}), got {number}. With --model, choose one"
            " that takes any number, as `synthsr models show NAME` says, or give one scan."
        )
    advice = "Choose another model with --model, or give as many scans"
    if len(names) > 1:
        advice += f", such as --with {names[-1]}=FILE, or use synthsr predict-hyperfine"
    plural = "s" if len(names) > 1 else ""
    raise SynthSRError(
        f"model {config.name} takes {len(names)} scan{plural} ({', '.join(names)}), got {number}."
        f" {advice}."
    )


def clipped(scan: Scan, clips: bool) -> Volume:
    """The voxels of a scan, those of CT clipped to `CT_WINDOW_HU`."""
    return Volume(np.clip(scan.data, *CT_WINDOW_HU), scan.affine) if clips else scan.volume


def on_own_grid(
    image: Image, spacing_mm: float, *, legacy: str | None = None, sheared: bool = False
) -> Image:
    """The scan with the network's spacing, along its own axes as far as they are orthogonal.

    Grids begin at the left, back and bottom border whatever the axes of the scan, so that scans
    that differ in orientation only are the same to the network; those of legacy begin at the first
    voxel.
    """
    if legacy:
        return resampled(image, spacing_mm, exact=True)
    if not sheared:
        return resampled(image, spacing_mm, from_last=_reversed_axes(image.affine))
    volume = image.on_host()
    grid = orthogonal_grid(image.turned().grid, spacing_mm)
    lowest = float(volume.data.min())
    data, _ = reslice(antialiased(volume, spacing_mm), grid, outside=lowest)
    read = as_tensor(data).to(image.data.device)
    return Image(read, grid[1]).turned(volume.affine)


def _reversed_axes(affine: npt.NDArray[np.float64]) -> list[bool]:
    """Whether each voxel axis runs to the left, back or bottom."""
    return [bool(sign < 0) for sign in io_orientation(affine)[:, 1]]


def _doubts_of_overlap(share: float, scan: Scan, first: Scan) -> list[str]:
    if share == 0:
        raise VolumeError(
            f"{scan.name} must overlap with {first.name} in world space, but lies elsewhere. Check"
            " their headers: scans must be of one session, or registered."
        )
    if share < MIN_OVERLAP:
        return [f"{scan.name} covers {share:.0%} of {first.name}: the rest is taken as 0 there."]
    return []


def doubts_of_contrast(rescaling: Rescaling, scan: Scan, ct: bool) -> list[str]:
    """Warn of a scan that shows nothing on the grid of the network.

    Raises:
        VolumeError: If it is CT.
    """
    if rescaling.unit > 0:
        return []
    if ct:
        low, high = CT_WINDOW_HU
        raise VolumeError(
            f"{scan.name} must show something within {low:g} and {high:g} HU, but is constant"
            " there. Correct its offset, or leave out --ct if it is not CT."
        )
    return ["constant on the network's grid: the prediction shows nothing of it."]
