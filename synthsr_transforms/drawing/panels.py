"""Panels in rows and columns on a dark page, all to one scale, and figures on disk."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image

from synthsr_transforms.support.atomic import replacing

Horizontal = Literal["left", "center", "right"]
Vertical = Literal["bottom", "center", "top"]

TEXT, FAINT = "#f2f2f2", "#9aa0a6"
CAPTION_PIXELS = 22
BACKGROUND = "#101114"

_drawing = Lock()  # matplotlib draws in one thread at a time
_NOTHING = "#23252b"
_PIXELS_PER_MM, _MAX_WIDTH_PIXELS, _DPI = 2.0, 1600, 100
_MIN_EXTENT, _MIN_COLUMN = 192, 88  # pixels: largest slice, title
_GAP, _TITLE = 8, 30  # pixels
_EDGES: tuple[tuple[float, float, Horizontal, Vertical, tuple[float, float]], ...] = (
    (0, 0.5, "left", "center", (3, 0)),
    (1, 0.5, "right", "center", (-3, 0)),
    (0.5, 0, "center", "bottom", (0, 3)),
    (0.5, 1, "center", "top", (0, -3)),
)
"""Place of each letter in its panel, from 0 to 1, how it is aligned, and its offset in points."""


class Panel(NamedTuple):
    """One picture among others.

    Attributes:
        pixels: `(H, W)` intensities, masked where there are none, or `(H, W, 3)` colours; the
            first row is shown at the bottom.
        size_mm: Width and height in mm.
        letters: What lies at the left, right, bottom and top, one letter each.
        window: Intensities shown black and white; unused for colours.
        colours: Name of a colour map.
    """

    pixels: npt.NDArray[Any]
    size_mm: tuple[float, float]
    letters: str
    window: tuple[float, float] = (0.0, 1.0)
    colours: str = "gray"


def draw_grid(
    panels: Sequence[Sequence[Panel]],
    *,
    title: str = "",
    caption: int = CAPTION_PIXELS,
    min_width: int = 0,
    pixels_per_mm: float | None = None,
) -> Figure:
    """Draw panels in rows and columns, all to one scale.

    Args:
        panels: Rows of panels, as long as each other or shorter.
        title: Heading.
        caption: Room above each row, in pixels.
        min_width: Least width of the picture, in pixels.
        pixels_per_mm: Scale; by default, one at which the panels can be seen and fit.

    Returns:
        A figure that no other code knows of, whose axes are the panels row by row.
    """
    columns = max(len(line) for line in panels)
    sizes = np.zeros((len(panels), columns, 2))
    for sizes_of_line, line in zip(sizes, panels, strict=True):
        sizes_of_line[: len(line)] = [panel.size_mm for panel in line]
    widths, heights = sizes[..., 0].max(axis=0), sizes[..., 1].max(axis=1)
    scale = pixels_per_mm or _scale(widths, heights)
    lefts = _GAP + np.concatenate(
        [[0], np.cumsum(np.maximum(np.rint(widths * scale), _MIN_COLUMN) + _GAP)]
    )
    bottoms = (_TITLE if title else 0) + np.cumsum(np.rint(heights * scale) + caption)
    width, height = max(int(lefts[-1]), min_width), int(bottoms[-1]) + _GAP
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor=BACKGROUND)
    if title:
        style: dict[str, Any] = {"color": TEXT, "fontsize": 9, "va": "top", "weight": "bold"}
        figure.text(_GAP / width, 1 - 7 / height, title, parse_math=False, **style)
    for line, bottom, tall in zip(panels, bottoms, heights, strict=True):
        for panel, left, wide in zip(line, lefts, widths, strict=False):
            box = (left, height - bottom, wide * scale, tall * scale)
            axes = figure.add_axes(tuple(np.array(box) / [width, height, width, height]))
            _draw_panel(axes, panel)
    return figure


def _scale(widths: npt.NDArray[np.float64], heights: npt.NDArray[np.float64]) -> float:
    scale = max(_PIXELS_PER_MM, _MIN_EXTENT / max(widths.max(), heights.max()))
    return float(min(scale, _MAX_WIDTH_PIXELS / widths.sum()))


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.set_facecolor(BACKGROUND)
    axes.axis("off")
    axes.set_anchor("NW")
    box = (0.0, panel.size_mm[0], 0.0, panel.size_mm[1])
    low, high = panel.window
    colours = matplotlib.colormaps[panel.colours].with_extremes(bad=_NOTHING)
    axes.imshow(
        panel.pixels,
        cmap=colours,
        vmin=low,
        vmax=high,
        extent=box,
        origin="lower",
        interpolation="nearest",
    )
    for letter, (across, up, horizontal, vertical, offset) in zip(
        panel.letters, _EDGES, strict=True
    ):
        write(axes, letter, (across, up), (horizontal, vertical), offset=offset)


def write(
    axes: Axes,
    text: str,
    place: tuple[float, float] = (0, 1),
    align: tuple[Horizontal, Vertical] = ("left", "bottom"),
    *,
    offset: tuple[float, float] = (0, 3),
    colour: str = TEXT,
) -> None:
    """Write at a place of a panel from 0 to 1, moved by an offset in points.

    By default, at the left above the panel.
    """
    axes.annotate(
        text,
        place,
        xycoords="axes fraction",
        xytext=offset,
        textcoords="offset points",
        ha=align[0],
        va=align[1],
        color=colour,
        fontsize=8,
        annotation_clip=False,
        parse_math=False,
        path_effects=[withStroke(linewidth=2, foreground=BACKGROUND)],
    )


def write_caption(axes: Axes, title: str, details: str) -> None:
    """Write a title, and details after it, above a panel."""
    write(axes, title)
    write(axes, details, offset=(max(80, 5 * len(title) + 8), 3), colour=FAINT)


def save_figure(
    path: str | os.PathLike[str], draw: Callable[[], Figure], *, grey: bool = False
) -> None:
    """Draw a figure and write it as PNG, atomically; one thread draws at a time.

    Args:
        path: The file.
        draw: Makes the figure.
        grey: Leave the colours out, which makes the file smaller.
    """
    with _drawing, np.errstate(over="ignore", invalid="ignore"):  # colours of extreme values
        picture = Image.fromarray(figure_array(draw()))
    with replacing(path) as temporary:
        (picture.convert("L") if grey else picture).save(temporary, format="png", compress_level=6)


def figure_array(figure: Figure) -> npt.NDArray[np.uint8]:
    """Pixels of a figure, `(H, W, 3)`, as TensorBoard takes them.

    Examples:
        >>> figure_array(Figure(figsize=(3, 2), dpi=10)).shape
        (20, 30, 3)
    """
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        canvas.draw()
    return np.array(np.asarray(canvas.buffer_rgba())[..., :3])
