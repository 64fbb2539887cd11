"""Whether a volume shows regions, as label maps do, or changes from voxel to voxel, as scans do."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MAX_MAP_VALUES = 4
"""Volumes with so few values are no scans."""
MANY_VALUES = 64
"""More than this are values of a parcellation, or of a scan."""
TOO_SMALL = 4_000
"""Volumes of fewer voxels may be label maps whatever their values."""
_PAIRS_PER_AXIS = 1_000_000


def looks_like_labels(data: Array) -> bool:
    """Whether a volume is a segmentation, mask or tissue map rather than a scan.

    Its values are few, or neighbours are nearly always equal; a scan with few grey levels is flat
    as well, but goes from one level to the next, where a label map skips several.

    Args:
        data: `(X, Y, Z)` values, not all equal.

    Examples:
        >>> labels = np.kron(np.arange(27).reshape(3, 3, 3), np.ones((9, 9, 9)))
        >>> noise = np.random.default_rng(0).normal(size=labels.shape)
        >>> looks_like_labels(labels), looks_like_labels(noise)
        (True, False)
    """
    if _num_values_is_at_most(MAX_MAP_VALUES, data):
        return True
    pairs = _neighbours(data)
    flat = _flatness(pairs)
    many = np.unique(thinned(data)).size > MANY_VALUES
    return flat >= 0.9 or (flat >= (0.75 if many else 0.62) and _leaps(pairs) >= 0.1)


def looks_like_fractions(data: Array) -> bool:
    """Whether a volume is a map of probabilities or a soft mask: mostly nothing or all."""
    low, high = float(data.min()), float(data.max())
    shown = thinned(data).astype(np.float64)
    shown = shown[shown > low]
    if not shown.size:
        return False
    share = (shown - low) / (high - low)
    return bool((share >= 0.98).mean() >= 0.3 and ((share > 0.25) & (share < 0.75)).mean() <= 0.3)


def looks_like_image(labels: Array) -> bool:
    """Whether whole numbers are the intensities of an image rather than labels.

    They are many, and neighbours are seldom equal.

    Args:
        labels: `(X, Y, Z)` whole numbers.

    Examples:
        >>> noise = np.random.default_rng(0).integers(0, 500, (20, 20, 20))
        >>> looks_like_image(noise), looks_like_image(noise // 100)
        (True, False)
    """
    if labels.size < TOO_SMALL or np.unique(thinned(labels)).size <= MANY_VALUES:
        return False
    return _flatness(_neighbours(labels)) < 0.4


def commonest(data: Array) -> tuple[float, float]:
    """The most common value, such as that of the background, and its share."""
    values, counts = np.unique(data, return_counts=True)
    return float(values[counts.argmax()]), float(counts.max() / data.size)


def thinned(data: Array) -> Array:
    """Some of the voxels of a volume: about 64 or more along each axis."""
    return data[tuple(slice(None, None, max(1, n // 64)) for n in data.shape)]


def _num_values_is_at_most(most: int, data: Array) -> bool:
    for rest in (thinned(data).ravel(), data.ravel()):  # the first is quicker
        for _ in range(most):
            rest = rest[rest != rest[0]] if rest.size else rest
        if rest.size:
            return False
    return True


def _neighbours(data: Array) -> list[tuple[Array, Array]]:
    """Values of neighbours along each axis, of which neither is background."""
    step = max(1, round((data.size / _PAIRS_PER_AXIS) ** 0.5))
    values, counts = np.unique(thinned(data), return_counts=True)
    wide = counts > 0.1 * counts.sum() if values.size > MANY_VALUES else counts == counts.max()
    pairs = []
    for axis in range(3):
        lines = np.moveaxis(data, axis, 0)[:, ::step, ::step]
        ground = np.isin(lines, values[wide])
        shown = ~(ground[1:] | ground[:-1])
        if shown.any():
            pairs.append((lines[1:][shown], lines[:-1][shown]))
    return pairs


def _flatness(pairs: list[tuple[Array, Array]]) -> float:
    """Share of equal neighbours along the axis with the median share: slices may be thick."""
    return float(np.median([(a == b).mean() for a, b in pairs])) if pairs else 1.0


def _leaps(pairs: list[tuple[Array, Array]]) -> float:
    """Share of unequal neighbours with two or more values between theirs, along such an axis."""
    shares = []
    values = np.unique(np.concatenate([each for pair in pairs for each in pair]))
    for first, second in pairs:
        differ = first != second
        steps = np.searchsorted(values, first[differ]) - np.searchsorted(values, second[differ])
        shares.append(float((np.abs(steps) > 2).mean()) if steps.size else 0.0)
    return float(np.median(shares))
