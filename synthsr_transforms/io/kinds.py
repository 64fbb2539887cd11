"""Whether a volume shows regions, as label maps do, or changes from voxel to voxel, as scans do.

Volumes are arrays, or tensors on any device, of which numbers are read in few goes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

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


class _Pairs(NamedTuple):
    """Neighbours along an axis.

    Attributes:
        first: Values.
        second: Those of their neighbours.
        shown: Where neither is background.
    """

    first: Any
    second: Any
    shown: Any


def looks_like_labels(data: Any, ordered: Array | None = None) -> bool:
    """Whether a volume is a segmentation, mask or tissue map rather than a scan.

    Its values are few, or neighbours are nearly always equal; a scan with few grey levels is flat
    as well, but goes from one level to the next, where a label map skips several.

    Args:
        data: `(X, Y, Z)` values, not all equal.
        ordered: Those of `thinned(data)`, sorted, where they are at hand.

    Examples:
        >>> labels = np.kron(np.arange(27).reshape(3, 3, 3), np.ones((9, 9, 9)))
        >>> noise = np.random.default_rng(0).normal(size=labels.shape)
        >>> looks_like_labels(labels), looks_like_labels(noise)
        (True, False)
    """
    values, counts = runs(np.sort(thinned(data), axis=None) if ordered is None else ordered)
    if values.size <= MAX_MAP_VALUES and _num_values_is_at_most(MAX_MAP_VALUES, data):
        return True
    pairs = _neighbours(data, values, counts)
    flat = _flatness(pairs)
    return flat >= 0.9 or (
        flat >= (0.75 if values.size > MANY_VALUES else 0.62) and _leaps(pairs) >= 0.1
    )


def looks_like_fractions(
    data: Any, ordered: Array | None = None, extremes: tuple[float, float] | None = None
) -> bool:
    """Whether a volume is a map of probabilities or a soft mask: mostly nothing or all.

    Args:
        data: `(X, Y, Z)` values, not all equal.
        ordered: See `looks_like_labels`.
        extremes: The lowest and the highest value, where they are at hand.
    """
    low, high = (float(data.min()), float(data.max())) if extremes is None else extremes
    shown = np.sort(thinned(data), axis=None) if ordered is None else ordered
    shown = shown[np.searchsorted(shown, low, "right") :].astype(np.float64)
    if not shown.size:
        return False
    share = (shown - low) / (high - low)
    most = share.size - np.searchsorted(share, 0.98)
    between = np.searchsorted(share, 0.75) - np.searchsorted(share, 0.25, "right")
    return bool(most / share.size >= 0.3 and between / share.size <= 0.3)


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
    if labels.size < TOO_SMALL:
        return False
    values, counts = runs(np.sort(thinned(labels), axis=None))
    return values.size > MANY_VALUES and _flatness(_neighbours(labels, values, counts)) < 0.4


def commonest(ordered: Array) -> tuple[float, float]:
    """The most common of sorted values, such as that of the background, and its share."""
    values, counts = runs(ordered)
    return float(values[counts.argmax()]), float(counts.max() / ordered.size)


def runs(ordered: Array) -> tuple[Array, Array]:
    """Different values among sorted ones, and how often each is there.

    Examples:
        >>> [each.tolist() for each in runs(np.array([1, 1, 2, 4, 4]))]
        [[1, 2, 4], [2, 1, 2]]
    """
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return ordered[starts], np.diff(starts, append=ordered.size)


def thinned(data: Any) -> Any:
    """Some of the voxels of a volume: about 64 or more along each axis."""
    return data[tuple(slice(None, None, step) for step in thinning(data.shape))]


def thinning(shape: Sequence[int]) -> list[int]:
    """Steps along each axis from one voxel of `thinned` to the next."""
    return [max(1, n // 64) for n in shape]


def count(*masks: Any) -> list[int]:
    """Number of voxels in each of several masks, arrays or tensors, read in one go."""
    if isinstance(masks[0], np.ndarray):
        return [int(np.count_nonzero(mask)) for mask in masks]
    import torch

    from synthsr_transforms.support.devices import on_host

    return list(map(int, on_host(torch.stack([mask.sum() for mask in masks]))))


def _num_values_is_at_most(most: int, data: Any) -> bool:
    if not isinstance(data, np.ndarray):
        return int(data.unique().numel()) <= most
    rest = data.ravel()
    for _ in range(most):
        rest = rest[rest != rest[0]] if rest.size else rest
    return not rest.size


def _neighbours(data: Any, values: Array, counts: Array) -> list[_Pairs]:
    """Neighbours along each axis of a volume, from how often values are in some of its voxels."""
    step = max(1, round((math.prod(data.shape) / _PAIRS_PER_AXIS) ** 0.5))
    wide = counts > 0.1 * counts.sum() if values.size > MANY_VALUES else counts == counts.max()
    grounds, pairs = values[wide].tolist(), []
    for axis in range(3):
        lines = data.swapaxes(0, axis)[:, ::step, ::step]
        lines = lines.copy() if isinstance(lines, np.ndarray) else lines.contiguous()
        shown = lines == lines
        for ground in grounds:
            shown &= lines != ground
        pairs.append(_Pairs(lines[1:], lines[:-1], shown[1:] & shown[:-1]))
    return pairs


def _flatness(pairs: list[_Pairs]) -> float:
    """Share of equal neighbours along the axis with the median share: slices may be thick."""
    masks = [m for each in pairs for m in (each.shown, (each.first == each.second) & each.shown)]
    numbers = count(*masks)
    shares = [m / n for n, m in zip(numbers[::2], numbers[1::2], strict=True) if n]
    return float(np.median(shares)) if shares else 1.0


def _leaps(pairs: list[_Pairs]) -> float:
    """Share of unequal neighbours with two or more values between theirs, along such an axis."""
    shares = []
    seen = [[_on_host(values[each.shown]) for values in each[:2]] for each in pairs]
    values = np.unique(np.concatenate([each for pair in seen for each in pair]))
    for first, second in seen:
        if not first.size:
            continue
        differ = first != second
        steps = np.searchsorted(values, first[differ]) - np.searchsorted(values, second[differ])
        shares.append(float((np.abs(steps) > 2).mean()) if steps.size else 0.0)
    return float(np.median(shares))


def _on_host(values: Any) -> Array:
    return values if isinstance(values, np.ndarray) else values.cpu().numpy()
