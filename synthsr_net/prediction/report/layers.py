"""Many slices of a scan and its prediction, as layers that lie over each other in the page.

All layers have the same pixels: the page shows one of the scan and the prediction, or each in
turn, and borders of structures and edges of the scan above.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from synthsr_transforms.drawing.colours import label_colours
from synthsr_transforms.drawing.edges import edges
from synthsr_transforms.drawing.panels import Panel
from synthsr_transforms.drawing.planes import (
    IN_PLANE,
    View,
    panels_through,
    percentile_window,
    places_across,
    scan_window,
    view_of,
)
from synthsr_transforms.drawing.slices import PLANES, Convention, borders, in_convention
from synthsr_transforms.io.grids import Volume, reorient
from synthsr_transforms.support.atomic import replacing

COLUMNS = 6
"""Slices of the widest plane in a row; of others, as many as fit."""
_WIDTH, _GAP = 1320, 4  # pixels: usual width, between slices
_MOST = 9  # slices in a row
_EDGE_COLOUR = (255, 214, 10)
_EDGE_SIGMA_MM = 1.5
_QUALITY = 75  # of pictures, of 100
_BACK, _INK, _NOTHING = (16, 17, 20), (242, 242, 242), 36


class Tile(NamedTuple):
    """A slice, and its place in all layers, in pixels; rows are counted from the top.

    Attributes:
        left: First column.
        top: First row.
        panel: The slice, its first row at the bottom.
        place: Where it cuts: the axis that it is perpendicular to, and mm along it.
    """

    left: int
    top: int
    panel: Panel
    place: str


def write_layers(
    stem: Path,
    scan: Volume,
    prediction: Volume | None,
    segmentation: Volume | None = None,
    *,
    window: tuple[float, float] | None = None,
    convention: Convention = "neurological",
) -> dict[str, Path]:
    """Write layers of sagittal, coronal and axial slices through a head.

    Args:
        stem: Path of the layers, to which `-scan.webp` and so on are added.
        scan: `(X, Y, Z)` and affine, in any orientation and resolution.
        prediction: The same for the prediction, if there is one.
        segmentation: The same for a label map, whose borders are a layer.
        window: Intensities of the scan that are shown black and white; by default, see
            `scan_window`.
        convention: Where the left of the head is drawn.

    Returns:
        Paths by names of `entries.LAYERS`, of those that there are.
    """
    window = window or scan_window(scan.data)
    last = next(volume for volume in (prediction, segmentation, scan) if volume is not None)
    view = view_of([reorient(scan)], reorient(last))
    tiles = tiles_of(scan, view, window, convention)
    layers = {"scan": _greys(tiles)}
    if prediction is not None:
        shown = percentile_window(prediction.data)
        layers["prediction"] = _greys(tiles_of(prediction, view, shown, convention))
    if segmentation is not None:
        layers["outlines"] = _lines(tiles_of(segmentation, view, (0, 1), convention), _outlines)
    if prediction is not None:
        pixels_per_mm = tiles[0].panel.pixels.shape[1] / tiles[0].panel.size_mm[0]
        sigma = _EDGE_SIGMA_MM * pixels_per_mm
        layers["edges"] = _lines(tiles, lambda panel: _edges(panel, sigma))
    paths = {}
    for name, picture in layers.items():
        paths[name] = stem.with_name(f"{stem.name}-{name}.webp")
        lines = picture.mode == "RGBA"
        with replacing(paths[name]) as temporary:
            picture.save(temporary, format="webp", lossless=lines, quality=_QUALITY, method=4)
    return paths


def tiles_of(
    volume: Volume, view: View, window: tuple[float, float], convention: Convention
) -> list[Tile]:
    """Slices of a volume, a row for each plane; see `panels_through`."""
    turned, tiles, top = reorient(volume), [], _GAP
    widths = [float((view.upper - view.lower)[across]) for across, _ in IN_PLANE]
    widest = max(widths)
    scale = _WIDTH / COLUMNS / widest
    for plane in PLANES:
        left = _GAP
        for place in places_across(view, plane, min(int(COLUMNS * widest / widths[plane]), _MOST)):
            centre = view.centre.copy()
            centre[plane] = place
            through = view._replace(centre=centre)
            (panel,) = panels_through(turned, through, scale, window, planes=[plane])
            words = f"{'xyz'[plane]} {(view.axes @ centre)[plane]:.0f}"
            tiles.append(Tile(left, top, in_convention(panel, convention), words))
            left += panel.pixels.shape[1] + _GAP
        top += tiles[-1].panel.pixels.shape[0] + _GAP
    return tiles


def _page(tiles: Sequence[Tile], channels: int) -> npt.NDArray[np.uint8]:
    """An empty layer, `(H, W, channels)`."""
    width = max(tile.left + tile.panel.pixels.shape[1] for tile in tiles) + _GAP
    height = max(tile.top + tile.panel.pixels.shape[0] for tile in tiles) + _GAP
    return np.zeros((height, width, channels), np.uint8)


def _within(page: npt.NDArray[np.uint8], tile: Tile) -> npt.NDArray[np.uint8]:
    """The part of a layer that belongs to a slice, its first row at the bottom."""
    height, width = tile.panel.pixels.shape[:2]
    part = page[tile.top : tile.top + height, tile.left : tile.left + width]
    return part[::-1]


def _greys(tiles: Sequence[Tile]) -> Image.Image:
    """Slices with letters and places."""
    page = _page(tiles, 3)
    page[:] = _BACK
    for tile in tiles:
        low, high = tile.panel.window
        grey = np.clip((tile.panel.pixels.astype(np.float64) - low) / (high - low), 0, 1)
        _within(page, tile)[:] = np.ma.filled(grey * 255, _NOTHING)[..., None]
    picture = Image.fromarray(page)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    style: dict[str, Any] = {"font": font, "fill": _INK, "stroke_width": 1, "stroke_fill": _BACK}
    for tile in tiles:
        height, width = tile.panel.pixels.shape[:2]
        middle = tile.top + height // 2
        draw.text((tile.left + 3, middle), tile.panel.letters[0], anchor="lm", **style)
        draw.text((tile.left + width - 3, middle), tile.panel.letters[1], anchor="rm", **style)
        draw.text((tile.left + 3, tile.top + 3), tile.place, anchor="lt", **style)
    return picture


def _lines(tiles: Sequence[Tile], draw: Callable[[Panel], npt.NDArray[np.uint8]]) -> Image.Image:
    """A transparent layer; each slice is drawn in red, green, blue and opacity."""
    page = _page(tiles, 4)
    for tile in tiles:
        _within(page, tile)[:] = draw(tile.panel)
    return Image.fromarray(page)


def _outlines(panel: Panel) -> npt.NDArray[np.uint8]:
    labels = np.ma.filled(panel.pixels, 0).astype(np.int32)
    opacity = borders(labels)[..., None] * np.uint8(255)
    return np.concatenate([label_colours(labels) * (opacity > 0), opacity], axis=-1)


def _edges(panel: Panel, sigma_pixels: float) -> npt.NDArray[np.uint8]:
    found = edges(panel.pixels, sigma_pixels, panel.window)
    return found[..., None].astype(np.uint8) * np.array((*_EDGE_COLOUR, 255), np.uint8)
