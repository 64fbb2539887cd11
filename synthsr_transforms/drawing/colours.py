"""Colours of labels in pictures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from matplotlib.colors import hsv_to_rgb

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
