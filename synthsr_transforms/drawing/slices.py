"""Slices through the voxels of volumes: left is on the left, unless they are turned round.

`planes` cuts volumes of different grids by common planes instead.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from synthsr_transforms.io.grids import Volume

from .colours import label_colours
from .panels import Panel

Kind = Literal["labels", "reliability", "image"]
Convention = Literal["neurological", "radiological"]
"""Side of a picture on which the left of a head is drawn: the left one, or the right one."""

PLANES = (0, 1, 2)
"""Axes across which slices are cut: sagittal, coronal, axial."""
LETTERS = ("PAIS", "LRIS", "LRPA")
"""Directions at the left, right, bottom and top of each slice."""
_EXTRACEREBRAL = (500, 600)  # label values outside the brain
_OUTLINE_ZOOM = 4  # pixels per voxel, of which the border of a label takes one


class Row(NamedTuple):
    """One volume of a picture.

    Attributes:
        title: Its name.
        volume: `(X, Y, Z)` array and affine, axes running right, anterior, superior.
        kind: How to colour it.
        window: Intensities shown black and white; by default, see `intensity_window`.
        outlined: Label map on the same grid, whose borders are drawn in the colours of labels.
    """

    title: str
    volume: Volume
    kind: Kind = "image"
    window: tuple[float, float] | None = None
    outlined: Volume | None = None


def slice_panel(row: Row, plane: int, centre_mm: npt.NDArray[np.float64]) -> Panel:
    """The slice of a volume across an axis that lies nearest to a point in the world."""
    data, affine = row.volume
    voxel = np.linalg.inv(affine) @ [*centre_mm, 1.0]
    index = int(np.clip(np.rint(voxel[plane]), 0, data.shape[plane] - 1))
    wide, tall = (data.shape[a] * row.volume.spacing_mm[a] for a in PLANES if a != plane)
    pixels = _cut(row.volume, plane, index)
    if row.kind == "labels":
        return Panel(label_colours(pixels), (wide, tall), LETTERS[plane])
    window = row.window or intensity_window(data, row.kind)
    if row.outlined is not None:
        pixels = outlined(pixels, window, _cut(row.outlined, plane, index))
    colours = "viridis" if row.kind == "reliability" else "gray"
    return Panel(pixels, (wide, tall), LETTERS[plane], window, colours)


def _cut(volume: Volume, plane: int, index: int) -> npt.NDArray[Any]:
    return np.take(volume.data, index, axis=plane).T


def in_convention(panel: Panel, convention: Convention) -> Panel:
    """A panel drawn in neurological convention, with its letters, as another convention has it.

    Examples:
        >>> axial = Panel(np.array([[1, 2]]), (2, 1), "LRPA")
        >>> turned = in_convention(axial, "radiological")
        >>> turned.pixels.tolist(), turned.letters
        ([[2, 1]], 'RLPA')
    """
    letters = panel.letters
    if convention == "neurological" or letters[0] != "L":
        return panel
    turned = letters[1] + letters[0] + letters[2:]
    return panel._replace(pixels=panel.pixels[:, ::-1], letters=turned)


def outlined(
    pixels: npt.NDArray[Any],
    window: tuple[float, float],
    labels: npt.NDArray[Any],
    zoom: int = _OUTLINE_ZOOM,
) -> npt.NDArray[np.uint8]:
    """Draw the borders of labels over a slice, inside each label, a pixel of the result wide.

    Args:
        pixels: `(H, W)` intensities; masked where there are none, which is black.
        window: Intensities shown black and white.
        labels: `(H, W)` whole numbers; 0 and what is masked have no border of their own.
        zoom: Pixels of the result per pixel.

    Returns:
        `(zoom H, zoom W, 3)` colours.
    """
    low, high = window
    pixels, labels = np.ma.filled(pixels, low), np.ma.filled(labels, 0).astype(np.int32)
    grey = (np.clip((pixels - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    fine, grey = (a.repeat(zoom, 0).repeat(zoom, 1) for a in (labels, grey))
    return np.where(borders(fine)[..., None], label_colours(fine), grey[..., None])


def borders(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Pixels of a `(H, W)` label map with another label beside, above or below; not those of 0.

    Examples:
        >>> borders(np.array([[0, 7, 7, 7]])).tolist()
        [[False, True, False, False]]
    """
    around = np.pad(labels, 1, mode="edge")
    neighbours = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
    found: npt.NDArray[np.bool_] = np.any([labels != each for each in neighbours], axis=0)
    return found & (labels != 0)


def centre_of_labels(labels: Volume) -> npt.NDArray[np.float64]:
    """World position of the centre of mass of the brain, of all labels, or of the volume."""
    data = labels.data
    brain = (data > 0) & ((data < _EXTRACEREBRAL[0]) | (data >= _EXTRACEREBRAL[1]))
    return centre_of_mass(labels._replace(data=brain if brain.any() else data > 0))


def centre_of_mass(weights: Volume) -> npt.NDArray[np.float64]:
    """World position of the centre of mass of a volume; its middle if that has no mass."""
    middle = []
    for axis, size in enumerate(weights.data.shape):
        profile = weights.data.sum(axis=tuple({*PLANES} - {axis}), dtype=np.float64)
        middle.append(np.average(np.arange(size), weights=profile if profile.any() else None))
    return np.asarray(weights.affine[:3, :3] @ middle + weights.affine[:3, 3])


def intensity_window(data: npt.NDArray[np.generic], kind: Kind = "image") -> tuple[float, float]:
    """Values that are shown black and white: 0 to 1 for reliability, else nearly all values."""
    if kind == "reliability":
        return 0.0, max(1.0, float(data.max()))
    sparse = np.asarray(data[::2, ::2, ::2], dtype=np.float64)
    low, high = (float(value) for value in np.percentile(sparse, (0.1, 99.9)))
    low = min(low, 0.0)
    return low, high if high > low else low + 1.0


def size_in_words(volume: Volume) -> str:
    """Number of voxels of a volume, and their size.

    Examples:
        >>> size_in_words(Volume(np.zeros((2, 3, 4)), np.diag([1, 1, 5, 1.0])))
        '2 x 3 x 4 voxels of 1 x 1 x 5 mm'
    """
    size = " x ".join(str(n) for n in volume.data.shape[:3])
    spacing = " x ".join(f"{mm:g}" for mm in volume.spacing_mm)
    return f"{size} voxels of {spacing} mm"


def range_in_words(data: npt.NDArray[np.generic]) -> str:
    """Least and greatest finite value.

    Examples:
        >>> range_in_words(np.array([0.5, 2, np.nan]))
        '0.5 to 2, not all numbers'
    """
    finite = data[np.isfinite(data)]
    if not finite.size:
        return "no numbers"
    low, high = float(finite.min()), float(finite.max())
    small = 1e-6 * (high - low)  # rounding errors are not worth the space
    words = " to ".join(f"{0.0 if abs(value) < small else value:.4g}" for value in (low, high))
    return words if finite.size == data.size else f"{words}, not all numbers"
