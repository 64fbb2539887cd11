"""Draw scans, their predictions and the uncertainty of these, a column for each scan.

Usage: python examples/before_after.py OUTPUT.png SCAN PREDICTION UNCERTAINTY TITLE [...]

Sagittal planes for scans in axial slices, else axial ones, through the centre of the head.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from matplotlib.figure import Figure

from synthsr_transforms.drawing.panels import Panel, draw_grid, save_figure, write
from synthsr_transforms.drawing.planes import panels_through, view_of
from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.grids import Volume, reorient
from synthsr_transforms.io.volumes import read_volume

SAGITTAL, AXIAL = 0, 2
PIXELS_PER_MM = 1.4
WORDS = "SCAN PREDICTION UNCERTAINTY TITLE"
THICK = 2.0  # slices whose spacing is at least so many times that of the other axes


def plane_of(scan: Volume) -> int:
    """A plane that shows the slices edge on."""
    spacing = [float(mm) for mm in scan.spacing_mm]
    return SAGITTAL if spacing[2] >= THICK * min(spacing) else AXIAL


def column(*volumes: Volume) -> list[Panel]:
    """Panels of a scan, its prediction and the uncertainty of that in one plane."""
    turned = [reorient(volume) for volume in volumes]
    view, plane = view_of(turned[:1], turned[1]), plane_of(turned[0])
    return [
        panel
        for volume in turned
        for panel in panels_through(volume, view, PIXELS_PER_MM, planes=[plane])
    ]


def draw(columns: Sequence[list[Panel]], titles: Sequence[str]) -> Figure:
    """Scans above, predictions and uncertainty below."""
    rows = [list(row) for row in zip(*columns, strict=True)]
    figure = draw_grid(rows, pixels_per_mm=PIXELS_PER_MM)
    count = len(columns)
    words = [*titles, *["prediction, 1 mm"] * count, *["expected error"] * count]
    for axes, title in zip(figure.axes, words, strict=True):
        write(axes, title)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", help="picture (.png)")
    parser.add_argument("columns", nargs="+", metavar=WORDS)
    given = parser.parse_args(arguments)
    if len(given.columns) % 4:
        parser.error(f"each column needs {WORDS}, got {len(given.columns)} words.")
    *files, titles = (given.columns[k::4] for k in range(4))
    try:
        columns = [column(*map(read_volume, paths)) for paths in zip(*files, strict=True)]
    except VolumeError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    save_figure(given.output, partial(draw, columns, titles), grey=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
