"""Planes through a head that cut volumes of different grids at the same places.

Slices are cut along the axes of one volume, so that its voxels are shown as they are. Each pixel
shows the voxel that it lies in: thick slices look thick.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from synthsr_transforms.io.grids import Volume, directions_of, reorient

from .panels import Panel
from .slices import LETTERS, PLANES

Floats = npt.NDArray[np.float64]

IN_PLANE = ((1, 2), (0, 2), (0, 1))
"""Axes that run across and up in sagittal, coronal and axial planes."""

_AIR_HU, _BRAIN_HU = -300.0, (0.0, 80.0)
_PERCENTILES = (1.0, 99.5)
_SAMPLES_PER_AXIS = 96
_MARGIN_MM = 8.0
_TIE = 1e-6  # voxels; between two voxels, rounding errors do not decide
_WITHIN = (0.18, 0.85)  # first and last of several planes, as parts of the head
_HEAD_MM = 170.0  # from the top of the head to below the cerebellum


class View(NamedTuple):
    """Planes through a head.

    Attributes:
        axes: `(3, 3)` rotation; its columns point right, anterior and superior, or nearly so.
            Points in mm of the world become coordinates along them by `points @ axes`.
        lower: `(3,)` lower corner of what is shown, in mm along `axes`.
        upper: `(3,)` upper corner.
        centre: `(3,)` point that all planes pass through, in mm along `axes`.
    """

    axes: Floats
    lower: Floats
    upper: Floats
    centre: Floats


def view_of(scans: Sequence[Volume], prediction: Volume) -> View:
    """Planes along the axes of a prediction, through the centre of the head in the first scan.

    Everything brighter than the background is shown, in the scans or in the prediction.
    """
    axes = frame_of(prediction)
    heads = [_foreground(volume) @ axes for volume in (*scans, prediction)]
    lower = np.min([np.percentile(points, 0.1, axis=0) for points in heads], axis=0)
    upper = np.max([np.percentile(points, 99.9, axis=0) for points in heads], axis=0)
    corners = (lower - _MARGIN_MM, upper + _MARGIN_MM)
    return View(axes, *(place.round(3) for place in (*corners, _head_centre(heads[0]))))


def places_across(view: View, axis: int, number: int) -> Floats:
    """Places of planes across an axis of a view, evenly through the head, in mm."""
    lower, upper = view.lower[axis], view.upper[axis]
    if axis == 2:
        lower = max(lower, upper - _HEAD_MM - _MARGIN_MM)
    places: Floats = lower + (upper - lower) * np.linspace(*_WITHIN, number)
    return places


def panels_through(
    volume: Volume,
    view: View,
    pixels_per_mm: float,
    window: tuple[float, float] | None = None,
    planes: Sequence[int] = PLANES,
) -> list[Panel]:
    """Slices of a volume, see `slice_through`.

    Args:
        volume: `(X, Y, Z)` and affine, axes running right, anterior, superior.
        view: Where to cut.
        pixels_per_mm: Scale.
        window: Intensities shown black and white; by default, see `scan_window`.
        planes: Axes of the view that the planes are perpendicular to.
    """
    window = window or scan_window(volume.data)
    panels = []
    for plane in planes:
        pixels = slice_through(volume, view, plane, 1 / pixels_per_mm)
        height, width = (n / pixels_per_mm for n in pixels.shape)
        panels.append(Panel(pixels, (width, height), LETTERS[plane], window))
    return panels


def scan_window(data: npt.NDArray[np.generic]) -> tuple[float, float]:
    """Intensities of a scan shown black and white: percentiles 1 and 99.5, or 0 to 80 HU of CT.

    A scan counts as CT where air is far below 0.
    """
    low, high = percentile_window(data)
    return _BRAIN_HU if low < _AIR_HU else (low, high)


def percentile_window(data: npt.NDArray[np.generic]) -> tuple[float, float]:
    """Percentiles 1 and 99.5 of finite values, which differ."""
    values = thinned(data)[0]
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values, _PERCENTILES))
    return low, high if high > low else low + 1.0


def slice_through(
    volume: Volume, view: View, plane: int, pixel_mm: float
) -> npt.NDArray[np.floating]:
    """Cut a volume by a plane; each pixel has the value of the voxel that it lies in.

    Args:
        volume: `(X, Y, Z)` and affine.
        view: Where to cut.
        plane: Axis of the view that the plane is perpendicular to.
        pixel_mm: Size of a pixel in mm.

    Returns:
        `(H, W)` masked array, without values where there is no volume; the first row is the
        lowest.
    """
    across, up = IN_PLANE[plane]
    numbers = np.maximum(np.rint((view.upper - view.lower) / pixel_mm), 1).astype(int)
    points = np.empty((numbers[up], numbers[across], 3))
    points[:] = view.centre
    points[..., across] = view.lower[across] + (np.arange(numbers[across]) + 0.5) * pixel_mm
    points[..., up] = (view.lower[up] + (np.arange(numbers[up]) + 0.5) * pixel_mm)[:, None]
    inverse = np.linalg.inv(volume.affine)
    voxels = points @ (inverse[:3, :3] @ view.axes).T + inverse[:3, 3]
    index = np.floor(voxels + (0.5 + _TIE)).astype(np.int64)
    inside = np.all((index >= 0) & (index < volume.data.shape), axis=-1)
    i, j, k = np.moveaxis(np.where(inside[..., None], index, 0), -1, 0)
    return np.ma.masked_array(np.asarray(volume.data[i, j, k], np.float32), ~inside)


def frame_of(volume: Volume) -> Floats:
    """Directions that slices are cut along: those of a volume, made orthogonal.

    Args:
        volume: The volume.

    Returns:
        `(3, 3)` rotation; its columns point right, anterior and superior, as nearly as the axes
        of the volume do. Points in mm become coordinates along them by `points @ rotation`.

    Examples:
        >>> frame_of(Volume(np.zeros((2, 2, 2)), np.diag([-1.0, 1, 5, 1]))).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    return directions_of(reorient(volume).affine) + 0.0


def thinned(data: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.float32], list[int]]:
    """Some of the voxels, evenly, and every how many were taken along each axis."""
    steps = [-(-n // _SAMPLES_PER_AXIS) for n in data.shape]
    return np.asarray(data[:: steps[0], :: steps[1], :: steps[2]], dtype=np.float32), steps


def _foreground(volume: Volume) -> Floats:
    """World positions `(N, 3)` in mm of voxels that are brighter than the background."""
    values, steps = thinned(volume.data)
    finite = np.nan_to_num(values, posinf=0.0, neginf=0.0)
    found = finite > _threshold(finite)
    if not found.any():
        found = np.ones_like(found)
    voxels = np.argwhere(found) * steps
    return np.asarray(voxels @ volume.affine[:3, :3].T + volume.affine[:3, 3])


def _threshold(values: npt.NDArray[np.float32]) -> float:
    """Intensity that separates two classes best (Otsu 1979, doi:10.1109/TSMC.1979.4310076)."""
    low, high = np.percentile(values, (0.0, 99.5))
    if not high > low:
        return float(low)
    counts, edges = np.histogram(np.clip(values, low, high), bins=128)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
        between = np.nan_to_num(below * above * apart**2)
    return float(edges[1:-1][between.argmax()])


def _head_centre(points: Floats) -> Floats:
    """Centre of the head, leaving out the neck."""
    top = np.percentile(points[:, 2], 99.5)
    head = points[points[:, 2] >= top - _HEAD_MM]
    return np.asarray(head.mean(axis=0) if len(head) else points.mean(axis=0))
