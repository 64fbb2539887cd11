"""Colours of labels in pictures."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.colors import hsv_to_rgb


@cache
def _table() -> dict[int, list[int]]:
    """Colours that FreeSurfer gives its labels, from `colours.tsv`."""
    lines = Path(__file__).with_name("colours.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line[0].isdigit()]
    return {int(v): [int(n) for n in colour] for *colour, labels in rows for v in labels.split()}


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


def _colour(value: int) -> list[int]:
    if 2000 <= value < 3000:  # parcels of the right cortex
        value -= 1000
    if value in _table():
        return _table()[value]
    colour = hsv_to_rgb((value * 0.61803 % 1, 0.55, 0.6 + value * 0.41421 % 0.4))
    return [round(255 * float(channel)) for channel in colour]
