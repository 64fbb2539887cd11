"""Label tables from the lists of the original."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from synthsr_transforms import LabelTable


def sided_table(values: Sequence[int], neutral: Any = None) -> LabelTable:
    """Table of a list `[neutral | left half | right half]` with one class per label.

    Args:
        values: Label values in the order of the original.
        neutral: Number of neutral labels; all of them if None.
    """
    count = len(values) if neutral is None else int(neutral)
    half = (len(values) - count) // 2
    left, right = values[count : count + half], values[count + half :]
    # A table pairs labels by rank, the original by place: the same for lists in FreeSurfer order.
    for side in (left, right):
        assert list(side) == sorted(side), f"a table cannot pair unsorted labels, got {side}"
    sides = ["neutral"] * count + ["left"] * len(left) + ["right"] * len(right)
    rows = [
        (value, f"label {value}", side, k, "brain_other")
        for k, (value, side) in enumerate(zip(values, sides, strict=True))
    ]
    return LabelTable(tuple(rows), keep_order=True)
