"""Quality pictures: the same three planes of a scan and of its prediction.

All slices pass through the centre of the head. They are cut along the axes of the prediction, so
that its voxels are shown as they are. Each pixel shows the voxel that it lies in: the thick slices
of a scan look thick, and a scan that is oblique to the prediction is cut obliquely.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from synthsr_transforms.io.grids import Volume, reorient

from .head_view import IN_PLANE, View, slice_through, thinned, view_of

if TYPE_CHECKING:
    from synthsr_transforms.drawing import Panel

_PERCENTILES = (1.0, 99.5)
_AIR_HU, _BRAIN_HU = -300.0, (0.0, 80.0)
_WIDTH, _MIN_WIDTH = 1000, 660  # pixels: usual width, all details
_PLACE, _LETTER = 240, 8.5  # pixels: place of the slices, letter of the title


def write_picture(
    path: str | os.PathLike[str],
    scan: Volume | Mapping[str, Volume],
    prediction: Volume,
    *,
    title: str = "",
    window: tuple[float, float] | None = None,
) -> None:
    """Write a picture of a scan (top) and its prediction (bottom): PNG, about 1000 pixels wide.

    Args:
        path: The picture, written atomically.
        scan: `(X, Y, Z)` and affine, in any orientation and resolution; several by their names.
        prediction: The same for the prediction.
        title: Heading, such as the name of the scan.
        window: Intensities of the scan that are shown black and white. By default, percentiles 1
            and 99.5; or 0 to 80 HU if the scan seems to be a CT, with air far below 0.
    """
    from synthsr_transforms.drawing import draw_grid, drawing, save_figure, write_caption

    scans = {"input": scan} if isinstance(scan, Volume) else dict(scan)
    volumes = (*scans.values(), prediction)
    *turned, turned_prediction = (reorient(volume) for volume in volumes)
    view = view_of(turned, turned_prediction)
    scale = _pixels_per_mm(view)
    windows = [intensity_window(volume.data) for volume in volumes]
    if window is not None:
        windows[:-1] = [window] * len(scans)
    rows = [
        _panels(volume, view, shown, scale)
        for volume, shown in zip((*turned, turned_prediction), windows, strict=True)
    ]
    details = [_details(volume, shown) for volume, shown in zip(volumes, windows, strict=True)]
    x, y, z = (view.axes @ view.centre).round() + 0.0  # no -0
    width = scale * sum(panel.size_mm[0] for panel in rows[0])
    heading = _heading(title, f"through x {x:.0f}, y {y:.0f}, z {z:.0f} mm", max(width, _MIN_WIDTH))
    with drawing:
        figure = draw_grid(rows, title=heading, min_width=_MIN_WIDTH, pixels_per_mm=scale)
        for axes, name, text in zip(figure.axes[::3], [*scans, "prediction"], details, strict=True):
            write_caption(axes, name, text)
        save_figure(figure, path, grey=True)


def _panels(
    volume: Volume, view: View, window: tuple[float, float], pixels_per_mm: float
) -> list[Panel]:
    from synthsr_transforms.drawing import LETTERS, Panel

    panels = []
    for plane, letters in enumerate(LETTERS):
        pixels = slice_through(volume, view, plane, 1 / pixels_per_mm)
        height, width = (n / pixels_per_mm for n in pixels.shape)
        panels.append(Panel(pixels, (width, height), letters, window))
    return panels


def _pixels_per_mm(view: View) -> float:
    """Scale at which the picture is about 1000 pixels wide; a whole number if it is above 2."""
    size_mm = view.upper - view.lower
    scale = _WIDTH / sum(float(size_mm[across]) for across, _ in IN_PLANE)
    return scale if scale < 2 else float(int(scale))


def _heading(title: str, where: str, width: float) -> str:
    """Title and place in one line of a width in pixels."""
    title = " ".join(title.encode("utf-8", "replace").decode().split())
    most = int((width - _PLACE) / _LETTER)
    if len(title) > most:
        title = f"{title[: most // 2 - 1]}…{title[-most // 2 :]}"
    return f"{title}   {where}" if title else where


def _details(volume: Volume, window: tuple[float, float]) -> str:
    from synthsr_transforms.drawing import size_in_words

    shown = " to ".join(f"{value:.4g}" for value in window)
    return f"{size_in_words(volume)}, {_range(volume.data)}, shown {shown}"


def _range(data: npt.NDArray[np.generic]) -> str:
    """Least and greatest intensity, in words."""
    finite = data[np.isfinite(data)]
    if not finite.size:
        return "no numbers"
    low, high = float(finite.min()), float(finite.max())
    small = 1e-6 * (high - low)  # rounding errors are not worth the space
    return " to ".join(f"{0.0 if abs(value) < small else value:.4g}" for value in (low, high))


def intensity_window(data: npt.NDArray[np.generic]) -> tuple[float, float]:
    """Intensities that are shown black and white, see `write_picture`."""
    values = thinned(data)[0]
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values, _PERCENTILES))
    if low < _AIR_HU:
        return _BRAIN_HU
    return low, high if high > low else low + 1.0
