"""Pictures of samples: sagittal, coronal and axial slices of every volume.

Slices are shown in neurological convention: the left of the head is on the left of the picture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from .atomic import replacing
from .volumes import Volume, reorient

Kind = Literal["labels", "reliability", "image"]
Horizontal = Literal["left", "center", "right"]
Vertical = Literal["bottom", "center", "top"]

PLANES = (0, 1, 2)
"""Axes across which slices are cut: sagittal, coronal, axial."""
LETTERS = ("PAIS", "LRIS", "LRPA")
"""What lies at the left, right, bottom and top of each slice."""

_BACKGROUND, _TEXT, _FAINT = "#101114", "#f2f2f2", "#9aa0a6"
_PIXELS_PER_MM, _MAX_WIDTH_PIXELS, _DPI = 2.0, 1600, 100
_MIN_EXTENT, _MIN_COLUMN, _MIN_WIDTH = 192, 88, 540  # pixels: largest slice, title, all details
_GAP, _TITLE, _CAPTION, _NAME = 8, 30, 22, 18  # pixels
_EDGES: tuple[tuple[float, float, Horizontal, Vertical, tuple[float, float]], ...] = (
    (0, 0.5, "left", "center", (3, 0)),
    (1, 0.5, "right", "center", (-3, 0)),
    (0.5, 0, "center", "bottom", (0, 3)),
    (0.5, 1, "center", "top", (0, -3)),
)
"""Place of each letter in its panel, from 0 to 1, how it is aligned, and its offset in points."""
_drawing = Lock()  # matplotlib draws in one thread at a time

_COLOURS: Mapping[int, tuple[int, int, int]] = {
    0: (0, 0, 0),
    2: (245, 245, 245),
    3: (205, 62, 78),
    4: (120, 18, 134),
    5: (196, 58, 250),
    7: (220, 248, 164),
    8: (230, 148, 34),
    10: (0, 118, 14),
    11: (122, 186, 220),
    12: (236, 13, 176),
    13: (12, 48, 255),
    14: (204, 182, 142),
    15: (42, 204, 164),
    16: (119, 159, 176),
    17: (220, 216, 20),
    18: (103, 255, 255),
    24: (60, 60, 120),
    26: (255, 165, 0),
    28: (165, 42, 42),
    30: (160, 32, 240),
    31: (0, 200, 200),
    72: (120, 190, 150),
    77: (200, 70, 255),
    85: (234, 169, 30),
    502: (150, 40, 40),
    506: (110, 140, 175),
    507: (84, 66, 60),
    508: (125, 78, 72),
    509: (135, 98, 100),
    511: (160, 128, 112),
    512: (98, 132, 148),
    514: (58, 76, 130),
    515: (150, 145, 126),
    516: (112, 104, 86),
    530: (165, 158, 96),
}
_LIKE: Mapping[int, int] = {
    **{41: 2, 42: 3, 43: 4, 44: 5, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13},
    **{53: 17, 54: 18, 58: 26, 60: 28, 62: 30, 63: 31, 136: 31, 137: 31, 163: 31, 164: 31},
}


class Row(NamedTuple):
    """One volume of a picture.

    Attributes:
        title: What it is.
        volume: `(X, Y, Z)` array and affine, axes running right, anterior, superior.
        kind: How to colour it.
    """

    title: str
    volume: Volume
    kind: Kind


def save_preview(
    path: str | os.PathLike[str], volumes: Mapping[str, Volume], *, title: str = ""
) -> None:
    """Write the picture of a sample, see `preview_figure`, atomically."""
    with _drawing:
        _save(preview_figure(volumes, title=title), path)


def save_overview(
    path: str | os.PathLike[str], samples: Mapping[str, Mapping[str, Volume]]
) -> None:
    """Write the picture of several samples, see `overview_figure`, atomically."""
    with _drawing:
        _save(overview_figure(samples), path)


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=figure.get_facecolor())


def preview_figure(volumes: Mapping[str, Volume], *, title: str = "") -> Figure:
    """Draw a sample: one row per volume or channel; sagittal, coronal and axial slices.

    Slices pass through the centre of mass of the labelled brain, or of what there is.

    Args:
        volumes: Volumes by kind (`labels`, `image`, `reliability`, `target`), in any orientation,
            `(X, Y, Z)` or `(X, Y, Z, C)`.
        title: Heading.

    Returns:
        A figure that no other code knows of.

    Examples:
        >>> labels = Volume(np.ones((8, 9, 10), np.int16), np.eye(4))
        >>> len(preview_figure({"labels": labels}).axes)
        3
    """
    rows = rows_of(volumes)
    centre = _centre_mm(rows[0].volume)
    cells = [[(row, plane) for plane in PLANES] for row in rows]
    figure = _draw_grid(cells, centre=[centre] * len(rows), title=title, min_width=_MIN_WIDTH)
    for axes, row in zip(figure.axes[:: len(PLANES)], rows, strict=True):
        _caption(axes, row)
    return figure


def overview_figure(samples: Mapping[str, Mapping[str, Volume]]) -> Figure:
    """Draw several samples: one row per sample, axial slices of every volume but reliability.

    Args:
        samples: Volumes of each sample, by its name; see `preview_figure`.
    """
    per_sample = [
        [row for row in rows_of(volumes) if row.kind != "reliability"]
        for volumes in samples.values()
    ]
    cells = [[(row, 2) for row in rows] for rows in per_sample]
    centres = [_centre_mm(rows[0].volume) for rows in per_sample]
    figure = _draw_grid(cells, centre=centres, caption=_CAPTION + _NAME)
    columns = len(per_sample[0])
    for axes, name in zip(figure.axes[::columns], samples, strict=True):
        _write(axes, name, 0, 1, "left", "bottom", offset=(0, 17), colour=_FAINT)
    for position, axes in enumerate(figure.axes):
        title = per_sample[position // columns][position % columns].title
        _write(axes, title, 0, 1, "left", "bottom", offset=(0, 3))
    return figure


def rows_of(volumes: Mapping[str, Volume]) -> list[Row]:
    """Rows of a picture in the order labels, channels of the image, their maps, target.

    Examples:
        >>> image = Volume(np.zeros((4, 4, 4, 2)), np.eye(4))
        >>> [row.title for row in rows_of({"image": image})]
        ['image 1', 'image 2']
    """
    return list(_rows(volumes))


def _rows(volumes: Mapping[str, Volume]) -> Iterator[Row]:
    kinds: Mapping[str, Kind] = {"labels": "labels", "reliability": "reliability"}
    order = ("labels", "image", "reliability", "target")
    for name in [n for n in order if n in volumes] + [n for n in volumes if n not in order]:
        data, affine = reorient(volumes[name])
        channels = [data] if data.ndim == 3 else [data[..., c] for c in range(data.shape[3])]
        for number, channel in enumerate(channels, start=1):
            title = name if len(channels) == 1 else f"{name} {number}"
            yield Row(title, Volume(channel, affine), kinds.get(name, "image"))


def _centre_mm(labels: Volume) -> npt.NDArray[np.float64]:
    """World position of the centre of mass of the brain, of all labels, or of the volume."""
    brain = (labels.data > 0) & ((labels.data < 500) | (labels.data >= 600))
    inside = brain if brain.any() else labels.data > 0
    if not inside.any():
        inside = np.ones_like(inside)
    middle = [
        np.average(np.arange(n), weights=_profile(inside, a)) for a, n in enumerate(inside.shape)
    ]
    return np.asarray(labels.affine[:3, :3] @ middle + labels.affine[:3, 3])


def _profile(inside: npt.NDArray[np.bool_], axis: int) -> npt.NDArray[np.intp]:
    """Number of voxels in each slice across an axis."""
    return np.count_nonzero(inside, axis=tuple({0, 1, 2} - {axis}))


# Drawing -----------------------------------------------------------------------------------------


def _draw_grid(
    cells: Sequence[Sequence[tuple[Row, int]]],
    *,
    centre: Sequence[npt.NDArray[np.float64]],
    title: str = "",
    caption: int = _CAPTION,
    min_width: int = 0,
) -> Figure:
    """Draw slices in rows and columns, all to one scale, with room for a caption above each row."""
    sizes = np.array([[_slice_size_mm(row.volume, plane) for row, plane in line] for line in cells])
    widths, heights = sizes[..., 0].max(axis=0), sizes[..., 1].max(axis=1)
    scale = max(_PIXELS_PER_MM, _MIN_EXTENT / max(widths.max(), heights.max()))
    scale = min(scale, _MAX_WIDTH_PIXELS / widths.sum())
    columns = np.maximum(np.rint(widths * scale), _MIN_COLUMN)
    lefts = _GAP + np.concatenate([[0], np.cumsum(columns + _GAP)])
    bottoms = (_TITLE if title else 0) + np.cumsum(np.rint(heights * scale) + caption)
    width, height = max(int(lefts[-1]), min_width), int(bottoms[-1]) + _GAP
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    if title:
        figure.text(
            _GAP / width, 1 - 7 / height, title, color=_TEXT, fontsize=9, va="top", weight="bold"
        )
    for line, point, bottom, tall in zip(cells, centre, bottoms, heights, strict=True):
        for (row, plane), left, wide in zip(line, lefts, widths, strict=False):
            box = (left, height - bottom, wide * scale, tall * scale)
            axes = figure.add_axes(tuple(np.array(box) / [width, height, width, height]))
            _draw_slice(axes, row, plane, point)
    return figure


def _slice_size_mm(volume: Volume, plane: int) -> list[float]:
    return [volume.data.shape[a] * volume.spacing_mm[a] for a in PLANES if a != plane]


def _draw_slice(axes: Axes, row: Row, plane: int, centre_mm: npt.NDArray[np.float64]) -> None:
    volume = row.volume
    voxel = np.linalg.inv(volume.affine) @ [*centre_mm, 1.0]
    index = int(np.clip(np.rint(voxel[plane]), 0, volume.data.shape[plane] - 1))
    wide, tall = _slice_size_mm(volume, plane)
    shown = np.take(volume.data, index, axis=plane).T
    axes.set_facecolor(_BACKGROUND)
    axes.axis("off")
    axes.set_anchor("NW")
    box = (0.0, wide, 0.0, tall)
    if row.kind == "labels":
        axes.imshow(label_colours(shown), extent=box, origin="lower", interpolation="nearest")
    else:
        low, high = intensity_window(volume.data, row.kind)
        axes.imshow(
            shown,
            cmap="viridis" if row.kind == "reliability" else "gray",
            vmin=low,
            vmax=high,
            extent=box,
            origin="lower",
            interpolation="nearest",
        )
    for letter, (across, up, horizontal, vertical, offset) in zip(
        LETTERS[plane], _EDGES, strict=True
    ):
        _write(axes, letter, across, up, horizontal, vertical, offset=offset)


def intensity_window(data: npt.NDArray[np.generic], kind: Kind) -> tuple[float, float]:
    """Values that are shown black and white: 0 to 1 for reliability, else nearly all values."""
    sparse = np.asarray(data[::2, ::2, ::2], dtype=np.float64)
    low, high = (float(value) for value in np.percentile(sparse, (0.1, 99.9)))
    if kind == "reliability":
        return 0.0, max(1.0, float(data.max()))
    low = min(low, 0.0)
    return low, high if high > low else low + 1.0


def label_colours(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """Colours of labels, each always the same: those of FreeSurfer, both sides alike.

    Labels that FreeSurfer does not know, and parcels of the cortex, have colours of their own.

    Args:
        labels: Whole numbers of any shape.

    Returns:
        Red, green and blue, in an axis after those of `labels`.

    Examples:
        >>> label_colours(np.array([0, 3, 42])).tolist()
        [[0, 0, 0], [205, 62, 78], [205, 62, 78]]
    """
    values, where = np.unique(labels, return_inverse=True)
    table = np.array([_colour(int(value)) for value in values], dtype=np.uint8)
    return table[where.reshape(np.shape(labels))]


def _colour(value: int) -> tuple[int, int, int]:
    value = _LIKE.get(value, value)
    if 2000 <= value < 3000:  # parcels of the right cortex
        value -= 1000
    if value in _COLOURS:
        return _COLOURS[value]
    colour = hsv_to_rgb((value * 0.61803 % 1, 0.55, 0.6 + value * 0.41421 % 0.4))
    red, green, blue = (round(255 * float(channel)) for channel in colour)
    return red, green, blue


def _caption(axes: Axes, row: Row) -> None:
    """Write the name and the size of a volume above its first slice."""
    size = " x ".join(str(n) for n in row.volume.data.shape)
    spacing = " x ".join(f"{mm:g}" for mm in row.volume.spacing_mm)
    details = f"{size} voxels of {spacing} mm"
    if row.kind != "labels":
        low, high = (float(f(row.volume.data)) for f in (np.min, np.max))
        details += f", {low:.3g} to {high:.3g}"
    _write(axes, row.title, 0, 1, "left", "bottom", offset=(0, 3))
    _write(axes, details, 0, 1, "left", "bottom", offset=(80, 3), colour=_FAINT)


def _write(
    axes: Axes,
    text: str,
    across: float,
    up: float,
    horizontal: Horizontal,
    vertical: Vertical,
    *,
    offset: tuple[float, float] = (0, 0),
    colour: str = _TEXT,
) -> None:
    """Write at a place of a panel from 0 to 1, moved by an offset in points."""
    axes.annotate(
        text,
        (across, up),
        xycoords="axes fraction",
        xytext=offset,
        textcoords="offset points",
        ha=horizontal,
        va=vertical,
        color=colour,
        fontsize=8,
        annotation_clip=False,
        path_effects=[withStroke(linewidth=2, foreground=_BACKGROUND)],
    )
