"""A list of labels in their colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from .colours import label_colours
from .panels import BACKGROUND, FAINT, TEXT, Horizontal, Vertical, write

_LINES, _HEIGHT, _WIDTH, _DPI = 40, 18, 600, 100  # labels of a column; pixels of a line
_SWATCH = 26  # pixels


def legend_figure(values: Sequence[int], names: Sequence[str], details: Sequence[str]) -> Figure:
    """Draw labels in columns: colour, value and name, and details after them.

    Args:
        values: Labels.
        names: Of each.
        details: Of each.

    Returns:
        A figure outside the state of pyplot, with axes for each column of colours.

    Examples:
        >>> len(legend_figure(range(50), ["name"] * 50, ["left"] * 50).axes)
        2
    """
    columns = -(-len(values) // _LINES)
    lines = min(len(values), _LINES)
    wide, tall = columns * _WIDTH, (lines + 1) * _HEIGHT
    figure = Figure(figsize=(wide / _DPI, tall / _DPI), dpi=_DPI, facecolor=BACKGROUND)
    for column in range(columns):
        rows = slice(column * _LINES, (column + 1) * _LINES)
        own = np.array(values[rows])
        high = len(own) * _HEIGHT
        place = (column * _WIDTH + 8, tall - _HEIGHT / 2 - high, _SWATCH, high)
        axes = figure.add_axes(tuple(np.array(place) / [wide, tall, wide, tall]))
        axes.axis("off")
        axes.imshow(label_colours(own)[:, None], aspect="auto", interpolation="nearest")
        texts = zip(own, names[rows], details[rows], strict=True)
        for line, (value, name, detail) in enumerate(texts):
            place_of_line = (1, 1 - (line + 0.5) / len(own))
            for text, right, colour in ((f"{value}  {name}", 6, TEXT), (detail, 225, FAINT)):
                align: tuple[Horizontal, Vertical] = ("left", "center")
                write(axes, text, place_of_line, align, offset=(right, 0), colour=colour)
    return figure
