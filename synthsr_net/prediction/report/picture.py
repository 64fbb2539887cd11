"""Quality pictures: the same three planes of a scan and of its prediction.

All slices pass through the centre of the head. They are cut along the axes of the prediction, so
that its voxels are shown as they are. Each pixel shows the voxel that it lies in: the thick slices
of a scan look thick, and a scan that is oblique to the prediction is cut obliquely.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from synthsr_transforms.drawing.panels import draw_grid, save_figure, write, write_caption
from synthsr_transforms.drawing.planes import (
    IN_PLANE,
    View,
    panels_through,
    percentile_window,
    scan_window,
    view_of,
)
from synthsr_transforms.drawing.slices import (
    Convention,
    in_convention,
    outlined,
    range_in_words,
    size_in_words,
)
from synthsr_transforms.io.grids import Volume, reorient

_WIDTH, _MIN_WIDTH = 1000, 660  # pixels: usual width, all details
_PLACE, _LETTER = 240, 8.5  # pixels: place of the slices, letter of the title


def write_picture(
    path: str | os.PathLike[str],
    scan: Volume | Mapping[str, Volume],
    prediction: Volume | None,
    segmentation: Volume | None = None,
    *,
    uncertainty: Volume | None = None,
    title: str = "",
    windows: Mapping[str, tuple[float, float]] | None = None,
    convention: Convention = "neurological",
) -> None:
    """Write the picture of `drawer` as PNG, atomically.

    Args:
        path: The picture.
        scan: See `drawer`.
        prediction: Likewise.
        segmentation: Likewise.
        uncertainty: Likewise.
        title: Likewise.
        windows: Likewise.
        convention: Likewise.
    """
    draw = drawer(
        scan,
        prediction,
        segmentation,
        uncertainty=uncertainty,
        title=title,
        windows=windows,
        convention=convention,
    )
    save_figure(path, draw, grey=segmentation is None)


def drawer(
    scan: Volume | Mapping[str, Volume],
    prediction: Volume | None,
    segmentation: Volume | None = None,
    *,
    uncertainty: Volume | None = None,
    title: str = "",
    windows: Mapping[str, tuple[float, float]] | None = None,
    convention: Convention = "neurological",
) -> Callable[[], Figure]:
    """Cut a scan, and what was made of it, and return what draws it, about 1000 pixels wide.

    Args:
        scan: `(X, Y, Z)` and affine, in any orientation and resolution; several by their names.
        prediction: The same for the prediction, if there is one.
        segmentation: The same for a label map, whose outlines are drawn over the prediction, or
            over the first scan, in a row of its own.
        uncertainty: The same for the scale of the error, if it is known.
        title: Heading, such as the name of the scan.
        windows: Intensities of scans, by their names, that are shown black and white; for others,
            percentiles 1 and 99.5. None: see `scan_window`.
        convention: Where the left of the head is drawn.
    """
    scans = {"input": scan} if isinstance(scan, Volume) else dict(scan)
    usual = scan_window if windows is None else percentile_window
    shown = {name: (windows or {}).get(name) or usual(each.data) for name, each in scans.items()}
    volumes = {**scans}
    if prediction is not None:
        volumes["prediction"], shown["prediction"] = prediction, percentile_window(prediction.data)
    if uncertainty is not None:
        volumes["uncertainty"] = uncertainty
        shown["uncertainty"] = 0.0, percentile_window(uncertainty.data)[1]
    turned = {name: reorient(volume) for name, volume in volumes.items()}
    heads = [turned[name] for name in scans]
    view = view_of(heads, [*turned.values()][-1])
    scale = _pixels_per_mm(view)
    rows = [panels_through(turned[name], view, scale, shown[name]) for name in volumes]
    if segmentation is not None:
        over = "prediction" if prediction is not None else next(iter(scans))
        volumes["segmentation"], shown["segmentation"] = segmentation, shown[over]
        labels = panels_through(reorient(segmentation), view, scale)
        rows.append(
            [
                panel._replace(pixels=outlined(panel.pixels, shown[over], each.pixels, zoom=1))
                for panel, each in zip(rows[list(turned).index(over)], labels, strict=True)
            ]
        )
    rows = [[in_convention(panel, convention) for panel in row] for row in rows]
    x, y, z = (view.axes @ view.centre).round() + 0.0  # no -0
    width = scale * sum(panel.size_mm[0] for panel in rows[0])
    heading = _heading(title, f"through x {x:.0f}, y {y:.0f}, z {z:.0f} mm", max(width, _MIN_WIDTH))

    def draw() -> Figure:
        figure = draw_grid(rows, title=heading, min_width=_MIN_WIDTH, pixels_per_mm=scale)
        for axes, (name, volume) in zip(figure.axes[::3], volumes.items(), strict=True):
            labels = name == "segmentation"
            details = size_in_words(volume) if labels else _details(volume, shown[name])
            write_caption(axes, name, details)
        return figure

    return draw


def write_planes(
    path: str | os.PathLike[str],
    rows: Mapping[str, Volume],
    *,
    title: str = "",
    centre_mm: npt.ArrayLike | None = None,
    windows: Mapping[str, tuple[float, float]] | None = None,
    pixels_per_mm: float = 2.0,
) -> None:
    """Write a picture of volumes, a row of sagittal, coronal and axial slices for each: PNG.

    Args:
        path: The picture, written atomically.
        rows: Volumes by their captions, on any grid; planes follow the axes of the last.
        title: Heading.
        centre_mm: `(3,)` point in the world where planes meet; by default, the centre of the head
            in the first volume.
        windows: Intensities of rows that are shown black and white; by default, see `scan_window`.
        pixels_per_mm: Scale.
    """
    turned = {name: reorient(volume) for name, volume in rows.items()}
    volumes = list(turned.values())
    view = view_of(volumes[:1], volumes[-1])
    if centre_mm is not None:
        view = view._replace(centre=np.asarray(centre_mm, dtype=np.float64) @ view.axes)
    panels = [
        panels_through(volume, view, pixels_per_mm, (windows or {}).get(name))
        for name, volume in turned.items()
    ]

    def draw() -> Figure:
        figure = draw_grid(panels, title=title, pixels_per_mm=pixels_per_mm)
        for axes, name in zip(figure.axes[::3], rows, strict=True):
            write(axes, name)
        return figure

    save_figure(path, draw, grey=True)


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
    shown = " to ".join(f"{value:.4g}" for value in window)
    return f"{size_in_words(volume)}, {range_in_words(volume.data)}, shown {shown}"
