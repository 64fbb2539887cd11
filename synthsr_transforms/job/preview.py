"""Pictures of samples: sagittal, coronal and axial slices of every volume.

Slices are shown in neurological convention: the left of the head is on the left of the picture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure

from synthsr_transforms.drawing import (
    CAPTION_PIXELS,
    FAINT,
    LETTERS,
    PLANES,
    Panel,
    draw_grid,
    drawing,
    save_figure,
    size_in_words,
    write,
    write_caption,
)
from synthsr_transforms.io.grids import Volume, reorient

Kind = Literal["labels", "reliability", "image"]

_MIN_WIDTH, _NAME = 540, 18  # pixels: all details, name of a sample

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
    with drawing:
        save_figure(preview_figure(volumes, title=title), path)


def save_overview(
    path: str | os.PathLike[str], samples: Mapping[str, Mapping[str, Volume]]
) -> None:
    """Write the picture of several samples, see `overview_figure`, atomically."""
    with drawing:
        save_figure(overview_figure(samples), path)


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
    panels = [[_panel(row, plane, centre) for plane in PLANES] for row in rows]
    figure = draw_grid(panels, title=title, min_width=_MIN_WIDTH)
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
    panels = []
    for rows in per_sample:
        centre = _centre_mm(rows[0].volume)
        panels.append([_panel(row, 2, centre) for row in rows])
    figure = draw_grid(panels, caption=CAPTION_PIXELS + _NAME)
    columns = len(per_sample[0])
    for axes, name in zip(figure.axes[::columns], samples, strict=True):
        write(axes, name, offset=(0, 17), colour=FAINT)
    for position, axes in enumerate(figure.axes):
        write(axes, per_sample[position // columns][position % columns].title)
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


def _panel(row: Row, plane: int, centre_mm: npt.NDArray[np.float64]) -> Panel:
    volume = row.volume
    voxel = np.linalg.inv(volume.affine) @ [*centre_mm, 1.0]
    index = int(np.clip(np.rint(voxel[plane]), 0, volume.data.shape[plane] - 1))
    wide, tall = (volume.data.shape[a] * volume.spacing_mm[a] for a in PLANES if a != plane)
    pixels = np.take(volume.data, index, axis=plane).T
    if row.kind == "labels":
        return Panel(label_colours(pixels), (wide, tall), LETTERS[plane])
    window = intensity_window(volume.data, row.kind)
    colours = "viridis" if row.kind == "reliability" else "gray"
    return Panel(pixels, (wide, tall), LETTERS[plane], window, colours)


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
    details = size_in_words(row.volume)
    if row.kind != "labels":
        low, high = (float(f(row.volume.data)) for f in (np.min, np.max))
        details += f", {low:.3g} to {high:.3g}"
    write_caption(axes, row.title, details)
