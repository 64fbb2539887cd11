"""Measures of part of a head: predictions and interpolations beside what they should show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from synthsr_net.metrics.comparison import DICE_TISSUES, OUTSIDE, Reference, compare, mean_of

DICE = tuple(DICE_TISSUES)
"""Names of the Dice scores."""


def mapped_scores(volume: Tensor, reference: Reference) -> dict[str, float]:
    """Measures in the brain after the best cubic mapping of intensities.

    Args:
        volume: `(X, Y, Z)` in any contrast.
        reference: What it should show.

    Returns:
        `l1`, `psnr` and `ssim`, and `dice_wm`, `dice_gm`, `dice_csf` of the tissues that occur;
        see `synthsr_net.metrics.comparison.compare`.
    """
    found = compare(volume, reference)
    return {
        name.removeprefix("brain/"): value
        for name, value in found.items()
        if name.startswith("brain/")
    }


def brain_of(reference: Reference) -> Tensor:
    """Mask of the brain, `(X, Y, Z)` bool."""
    return reference.tissues > OUTSIDE


def grouped(
    rows: Sequence[Mapping[str, Any]], keys: Sequence[str], measured: Sequence[str]
) -> list[dict[str, Any]]:
    """Means of rows that agree in some keys.

    Args:
        rows: Each with all keys, and mappings of measures.
        keys: What rows of a group have in common; groups keep the order of their first rows.
        measured: Names of the mappings to average.

    Examples:
        >>> rows = [{"scan": s, "network": {"ssim": x}} for s, x in (("a", 1.0), ("a", 0.5))]
        >>> grouped(rows, ["scan"], ["network"])
        [{'scan': 'a', 'count': 2, 'network': {'ssim': 0.75}}]
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [
        {
            **dict(zip(keys, values, strict=True)),
            "count": len(members),
            **{name: mean_of(row[name] for row in members) for name in measured},
        }
        for values, members in groups.items()
    ]
