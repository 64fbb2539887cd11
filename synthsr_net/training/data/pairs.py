"""Pairs of real scans, read to one grid with the intensities that the generator works on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from synthsr_net.metrics.comparison import DICE_TISSUES, tissue_map
from synthsr_net.models.checkpoint import ScanConfig
from synthsr_net.prediction.checks.ct import decide_ct
from synthsr_net.prediction.intensities import normalise_
from synthsr_net.prediction.resampling import Grid, Image, antialiased, as_tensor, reslice
from synthsr_net.prediction.space.preprocess import clipped, on_own_grid
from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.grids import (
    MIN_SHEAR_DEGREES,
    Volume,
    format_spacing,
    reorient,
    same_grid,
    shear_degrees,
    spacing_of,
)
from synthsr_transforms.io.headers import scan_affine
from synthsr_transforms.io.scans import Scan, read_scan
from synthsr_transforms.io.volumes import read_header, read_labels
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.subjects.files import HIGH
from synthsr_transforms.subjects.pairs import ScanPair
from synthsr_transforms.support.messages import SynthSRError, listed

from .bank import Entry, packed_labels, read_each

WHITE_MATTER = 110.0
"""Intensity of white matter in targets, as in those that the presets make."""
WHITE_MATTER_PERCENTILE = 78.0
"""Percentile of T1-weighted brains, and of whole heads without background, where white matter is:
75 to 79 and 71 to 82 in seven scans."""
INPUT_MAXIMUM = 255.0
"""Highest intensity of inputs, as of images that the presets make."""
MIN_COVERAGE = 0.5
"""Share of the head of a target that its input must cover."""
FEW_IN_COMMON = 0.5
"""Share of the smaller of two heads that lies in the other, below which they seem displaced."""
_SAME_SPACING = 0.05  # relative, as for label maps
Mask = npt.NDArray[np.bool_]


class PairSettings(NamedTuple):
    """What pairs are read as.

    Attributes:
        spacing_mm: Voxel spacing.
        scan: How inputs are normalised.
        table: Label table, or None for label maps with the values of FreeSurfer.
        stand_in: Label of the head where there are no label maps, and of the brain in masks.
    """

    spacing_mm: float
    scan: ScanConfig
    table: LabelTable | None
    stand_in: int


def settings_of_pairs(
    pairs: Sequence[ScanPair], spacing_mm: float | None, *, scan: ScanConfig, label_table: str
) -> PairSettings:
    """Decide what pairs are read as; reads headers alone.

    Args:
        pairs: The pairs.
        spacing_mm: Voxel spacing; None means that of the targets.
        scan: See `PairSettings`.
        label_table: Name or path of a label table, or `auto`.

    Raises:
        SynthSRError: If the targets have several spacings and none is given.
    """
    if spacing_mm is None:
        every = [spacing_of(scan_affine(read_header(pair.target))[0]) for pair in pairs]
        low = float(min(spacing.min() for spacing in every))
        odd = [
            f"{pair.name} ({format_spacing(spacing)})"
            for pair, spacing in zip(pairs, every, strict=True)
            if spacing.max() > (1 + _SAME_SPACING) * low
        ]
        if odd:
            raise SynthSRError(
                f"targets must have one isotropic voxel spacing, got {low:g} mm and"
                f" {listed(odd, 3)}. Add --set pairs.spacing_mm=1, to which they are resampled."
            )
        spacing_mm = round(low, 3)
    table = None if label_table == "auto" else LabelTable.resolve(label_table)
    return PairSettings(spacing_mm, scan, table, _stand_in(table))


def _stand_in(table: LabelTable | None) -> int:
    if table is None:
        return 2
    background = table.values_of("background")
    white = table.values_of("white_matter")
    return int(next(iter(white), next(v for v in table.values if v not in background)))


def read_pairs(
    pairs: Sequence[ScanPair],
    settings: PairSettings,
    on_pair: Callable[[ScanPair], object] | None = None,
) -> tuple[list[Entry], list[str]]:
    """Read and check all pairs.

    Args:
        pairs: Files to read.
        settings: From `settings_of_pairs`.
        on_pair: Called with each pair after it was read.

    Returns:
        Entries, and what should be said about them.

    Raises:
        VolumeError: If a file is not what it should be, or two do not go together; the message
            names it.
    """
    read = read_each(pairs, partial(read_pair, settings=settings), on_pair)
    return [entry for entry, _ in read], [text for _, doubts in read for text in doubts]


def read_pair(pair: ScanPair, settings: PairSettings) -> tuple[Entry, list[str]]:
    """Read one pair, see `read_pairs`.

    The target is resampled only if its spacing is another; the input is read on its grid, and the
    label map by nearest neighbour. What the input does not cover is 0 in the target as well.
    """
    target, scan = read_scan(pair.target), read_scan(pair.input)
    _check_headers(target, scan)
    doubts = [f"{each.name}: {text}" for each in (target, scan) for text in each.warnings]
    volume = reorient(_on_spacing(target, settings.spacing_mm))
    x, y, z = volume.data.shape
    grid: Grid = ((x, y, z), volume.affine)
    head = foreground(volume.data)
    is_ct, texts = decide_ct(scan.volume)
    doubts += [f"{scan.name}: {text}" for text in texts]
    data, covered = _on_grid(clipped(scan, is_ct), grid)
    _check_coverage(target, scan, head, covered)
    labels = None if pair.labels is None else _labels_on_grid(pair, volume)
    region = head if labels is None else labels != 0
    white = None if labels is None else _white_matter(labels, settings.table)
    image = _scaled_target(pair, volume.data, region, white)
    image[~covered] = 0
    if not (region & covered).any():
        raise VolumeError(f"{pair.labels or target.name} must show a brain where {scan.name} is.")
    own = _label_map(region, labels, settings) * covered
    x_input = _normalised(data, settings.scan)
    doubts += _doubts_of_places(pair, head, foreground(data) & covered)
    entry = Entry(
        pair,
        *packed_labels(own[None], _values(own)),
        torch.from_numpy(image)[None].half(),
        torch.from_numpy(volume.affine.copy()),
        scan=x_input[None].half(),
    )
    return entry, doubts


# Grids -------------------------------------------------------------------------------------------


def _on_spacing(target: Scan, spacing_mm: float) -> Volume:
    """A target with the voxel spacing of the run and axes at right angles."""
    sheared = shear_degrees(target.affine) >= MIN_SHEAR_DEGREES
    apart = np.abs(spacing_of(target.affine) / spacing_mm - 1).max()
    if apart <= _SAME_SPACING and not sheared:
        return target.volume
    image = Image(as_tensor(target.data), target.affine)
    return on_own_grid(image, spacing_mm, sheared=sheared).on_host()


def _on_grid(volume: Volume, grid: Grid) -> tuple[npt.NDArray[np.float32], Mask]:
    """A scan on the grid of its target, and where it covers it; elsewhere it has its minimum."""
    turned = reorient(volume, grid[1])
    if same_grid(turned, Volume(np.empty(grid[0], np.bool_), grid[1])):
        return np.ascontiguousarray(turned.data, np.float32), np.ones(grid[0], bool)
    spacing = float(spacing_of(grid[1]).min())
    lowest = float(volume.data.min())
    data, share = reslice(antialiased(volume, spacing), grid, outside=lowest)
    if share == 1:
        return data, np.ones(grid[0], bool)
    ones = Volume(np.ones(volume.data.shape, np.float32), volume.affine)
    return data, reslice(ones, grid, outside=0.0)[0] > 0


def _labels_on_grid(pair: ScanPair, target: Volume) -> npt.NDArray[np.integer]:
    """Labels, or the mask of a brain, on the grid of the target."""
    assert pair.labels is not None
    own = reorient(read_labels(pair.labels), target.affine)
    labels = own.data
    if not same_grid(own, target):
        matrix = np.linalg.inv(own.affine) @ target.affine
        places = [np.arange(n) for n in target.data.shape]
        where = np.stack(
            [
                row[0] * places[0][:, None, None]
                + row[1] * places[1][:, None]
                + row[2] * places[2]
                + row[3]
                for row in matrix[:3]
            ]
        )
        labels = map_coordinates(own.data, where, order=0, mode="constant", cval=0)
    if not labels.any():
        raise VolumeError(
            f"{pair.labels} must label the brain of {pair.target}, but is background alone there."
            " Check that both lie in one space."
        )
    return np.asarray(labels)


def _label_map(
    region: Mask, labels: npt.NDArray[np.integer] | None, settings: PairSettings
) -> npt.NDArray[np.integer]:
    """Label map of a pair; without labels, or with a mask, the region has the stand-in."""
    if labels is None or labels.max() == 1:
        return region * np.int16(settings.stand_in)
    return labels


def _values(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Labels that occur, sorted."""
    if labels.max() > HIGH:
        return np.unique(labels).astype(np.int64)
    return np.flatnonzero(np.bincount(labels.ravel())).astype(np.int64)


# Intensities -------------------------------------------------------------------------------------


def _normalised(data: npt.NDArray[np.float32], settings: ScanConfig) -> Tensor:
    """An input scaled as in prediction, to the range of images that the presets make."""
    percentiles = settings.percentiles if settings.normalisation == "percentile" else None
    image = as_tensor(data)
    normalise_(image, INPUT_MAXIMUM, percentiles=percentiles)
    return image


def _scaled_target(
    pair: ScanPair,
    data: npt.NDArray[np.float32],
    region: Mask,
    white: Mask | None,
) -> npt.NDArray[np.float32]:
    """A target with background 0 and white matter `WHITE_MATTER`.

    Where white matter is known, its median counts. Else it is at `WHITE_MATTER_PERCENTILE` of the
    region, a brain or a head.
    """
    low = float(np.percentile(data, 1))
    if white is not None and white.any():
        level = float(np.median(data[white]))
    else:
        level = float(np.percentile(data[region], WHITE_MATTER_PERCENTILE))
    if not level > low:
        raise VolumeError(
            f"{pair.target} must be T1-weighted, with white matter brighter than background, got"
            f" {level:g} and {low:g}. Check the scan, and its label map if there is one."
        )
    scaled = (data - np.float32(low)) * np.float32(WHITE_MATTER / (level - low))
    return np.asarray(scaled.clip(0, None), np.float32)


def _white_matter(labels: npt.NDArray[np.integer], table: LabelTable | None) -> Mask:
    if table is not None:
        return np.isin(labels, list(table.values_of("white_matter")))
    values = _values(labels)
    number = 2 + list(DICE_TISSUES.values()).index("white_matter")
    white = values[tissue_map(torch.from_numpy(values)).numpy() == number]
    return np.isin(labels, white)


def foreground(data: npt.NDArray[np.float32]) -> Mask:
    """What is brighter than the background, by the threshold of Otsu (1979)."""
    top = np.percentile(data, 99.9)
    counts, edges = np.histogram(data.clip(None, top), 256)
    middles = (edges[1:] + edges[:-1]) / 2
    below, mass = np.cumsum(counts), np.cumsum(counts * middles)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mass[-1] * below / below[-1] - mass) ** 2 / (below * above)
    return np.asarray(data > middles[np.nanargmax(between[:-1])])


# Checks ------------------------------------------------------------------------------------------


def _check_headers(target: Scan, scan: Scan) -> None:
    """Refuse two scans whose headers do not say where they lie, unless their grids are one."""
    both = (target, scan)
    spacings = [spacing_of(each.affine) for each in both]
    own, other = (np.array(each.data.shape) * mm for each, mm in zip(both, spacings, strict=True))
    bare = all(
        np.allclose(each.affine, np.diag([*mm, 1.0]))
        for each, mm in zip(both, spacings, strict=True)
    )
    if bare and np.abs(own - other).max() > np.max(spacings):
        raise VolumeError(
            f"{scan.name} and {target.name} must lie in one space, but their headers hold no"
            f" places, and their sizes differ: {_size(scan)}, and {_size(target)}. Register the"
            " input to the target."
        )


def _check_coverage(target: Scan, scan: Scan, head: Mask, covered: Mask) -> None:
    """Refuse an input that shows little of the head of its target."""
    share = np.count_nonzero(head & covered) / head.sum()
    if share < MIN_COVERAGE:
        got = f"covers {share:.0%} of it" if share else "lies elsewhere"
        raise VolumeError(
            f"{scan.name} must show the head of {target.name}, but {got}: {_size(scan)}, and"
            f" {_size(target)}. Register the input to the target, or correct its header."
        )


def _size(scan: Scan) -> str:
    sizes = "x".join(str(n) for n in scan.data.shape)
    return f"{sizes} voxels of {format_spacing(spacing_of(scan.affine))}"


def _doubts_of_places(pair: ScanPair, head: Mask, other: Mask) -> list[str]:
    share = np.count_nonzero(head & other) / max(min(head.sum(), other.sum()), 1.0)
    if share >= FEW_IN_COMMON:
        return []
    return [
        f"{pair.input} and {pair.target} have {share:.0%} of their heads in common: check that they"
        " are registered"
    ]
