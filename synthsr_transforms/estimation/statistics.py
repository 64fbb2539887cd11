"""Statistics of one scan: medians and robust standard deviations of classes, extent of T2.

Functions of arrays, with the formulas of the original SynthSR (Billot et al., Medical Image
Analysis 2023, `build_intensity_stats`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]

PERCENTILES = (2.0, 98.0)
"""Percentiles of a channel that become 0 and `RANGE`."""
RANGE = 255.0
"""Largest intensity after rescaling."""
MAD_TO_STD = 1.4826
"""Standard deviation of a Gaussian over its median absolute deviation from the median."""
DILATION_VOXELS = 5
"""Radius of the ball that the covered part is widened by."""


class ClassStatistics(NamedTuple):
    """The classes of one channel of one scan.

    Attributes:
        medians: `(K,)` median intensities, NaN where a class has no voxel.
        stds: `(K,)` robust standard deviations, likewise.
        voxels: `(K,)` numbers of voxels that they are taken from.
        top: `(K,)` shares of these voxels that have the highest intensity of the channel, NaN where
            a class has none. Above a quarter, the standard deviation is too small.
        samples: A few intensities of each class, to draw histograms from.
    """

    medians: npt.NDArray[np.float64]
    stds: npt.NDArray[np.float64]
    voxels: npt.NDArray[np.int64]
    top: npt.NDArray[np.float64]
    samples: tuple[FloatArray, ...]


def rescale_intensities(
    channel: FloatArray, classes: npt.NDArray[np.integer[Any]] | None = None
) -> FloatArray:
    """Clip a channel to its percentiles 2 and 98, which become 0 and 255.

    Args:
        channel: Finite intensities of any shape.
        classes: Class of each voxel: percentile 98 is then that of the brightest class above 0, so
            that wide margins do not count.

    Returns:
        Intensities of the same shape; all 0 where the two percentiles are equal.

    Examples:
        >>> rescale_intensities(np.arange(101.0))[[0, 2, 50, 98, 100]]
        array([  0. ,   0. , 127.5, 255. , 255. ])
    """
    low, high = (float(value) for value in np.percentile(channel, PERCENTILES))
    if classes is not None:
        inside = classes > 0
        groups = _groups(channel[inside], classes[inside], int(classes.max()) + 1)
        tops = (float(np.percentile(group, PERCENTILES[1])) for group in groups if group.size)
        high = max(tops, default=high)
    if low >= high:
        return np.zeros_like(channel)
    with np.errstate(over="ignore"):  # infinity is clipped too
        scaled = channel - np.asarray(low, dtype=channel.dtype)
        scaled /= high - low
        scaled *= RANGE
    return np.clip(scaled, 0, RANGE, out=scaled)


def class_statistics(
    channel: FloatArray,
    classes: npt.NDArray[np.integer[Any]],
    num_classes: int,
    *,
    positive_only: bool = True,
    num_samples: int = 0,
    legacy: bool = False,
) -> ClassStatistics:
    """Median and 1.4826 times the median absolute deviation of every class.

    Where more than half of the voxels of a class above 0 have one intensity, the latter is 0, and
    their standard deviation takes its place.

    Args:
        channel: Intensities of any shape.
        classes: Class of each voxel, of the same shape; negative where a voxel has none.
        num_classes: Number of classes, K.
        positive_only: Whether to leave out voxels of 0 and less in every class but class 0, where
            zeros are what skull stripping and padding leave.
        num_samples: Number of intensities of each class to keep, taken evenly from its voxels.
        legacy: Whether to leave these deviations 0, as the original does.

    Returns:
        The statistics.

    Examples:
        >>> channel = np.array([0.0, 1.0, 5.0, 7.0, 9.0, 0.0])
        >>> found = class_statistics(channel, np.array([0, 0, 1, 1, 1, 1]), 3)
        >>> found.medians, found.stds.round(2), found.voxels
        (array([0.5, 7. ,  nan]), array([0.74, 2.97,  nan]), array([2, 3, 0]))
    """
    channel, classes = channel.ravel(), classes.ravel()
    inside = classes > 0
    if positive_only:
        inside &= channel > 0
    groups = [channel[classes == 0], *_groups(channel[inside], classes[inside], num_classes)]
    medians, stds, top = np.full((3, num_classes), np.nan)
    highest = channel.max()
    for k, group in enumerate(groups):
        if group.size:
            medians[k] = middle = float(np.median(group))
            stds[k] = MAD_TO_STD * float(np.median(np.abs(group - middle)))
            if stds[k] == 0 and k > 0 and not legacy:
                stds[k] = float(np.std(group, dtype=np.float64))
            top[k] = np.count_nonzero(group == highest) / group.size
    return ClassStatistics(
        medians,
        stds,
        np.array([group.size for group in groups]),
        top,
        tuple(_evenly(group, num_samples) for group in groups),
    )


def _groups(
    values: FloatArray, classes: npt.NDArray[np.integer[Any]], num_classes: int
) -> list[FloatArray]:
    """Values of classes 1, 2, ..., K-1."""
    order = np.argsort(classes, kind="stable")
    counts = np.bincount(classes, minlength=num_classes)[1:]
    return np.split(values[order], np.cumsum(counts)[:-1]) if num_classes > 1 else []


def _evenly(group: FloatArray, number: int) -> FloatArray:
    """A few values from all over a group."""
    if group.size <= number:
        return group.astype(np.float32)
    places = (np.arange(number) + 0.5) * (group.size / max(number, 1))
    return group[places.astype(np.int64)].astype(np.float32)


# T2 cropping -------------------------------------------------------------------------------------
# Low-field T2 scans are often cut along the longest axis. The original measures where they begin
# and end in pairs of scans, to crop synthetic T2 channels in the same way.


def t2_extent(t2: npt.NDArray[Any], *, legacy: bool = False) -> tuple[float, float]:
    r"""Begin and end of the covered part along the longest axis, as shares of its length.

    With n voxels along that axis, the covered part reaches from voxel i to voxel j after it was
    widened by a ball of radius r = 5: the shares are \((i + \lfloor r/2 \rfloor) / n\) and
    \((j - \lfloor r/2 \rfloor) / n\).

    Args:
        t2: `(X, Y, Z)` intensities, 0 where nothing was measured.
        legacy: Whether voxels of 0 count as covered, as in the original; then whatever has no
            negative number is covered everywhere.

    Raises:
        ValueError: If nothing is covered.

    Examples:
        >>> t2 = np.zeros((9, 20, 12))
        >>> t2[:, 8:14] = 1
        >>> t2_extent(t2)
        (0.25, 0.8)
    """
    axis = int(np.argmax(t2.shape))
    size = t2.shape[axis]
    covered = t2 >= 0 if legacy else t2 > 0
    planes = np.flatnonzero(covered.any(axis=tuple({0, 1, 2} - {axis})))
    if not planes.size:
        raise ValueError("T2 channel must have intensities above 0, got none.")
    # A ball moves the first and the last plane by its radius, but not out of the volume.
    first = max(int(planes[0]) - DILATION_VOXELS, 0)
    last = min(int(planes[-1]) + DILATION_VOXELS, size - 1)
    inset = DILATION_VOXELS // 2
    return max(first + inset, 0) / size, min(last - inset, size) / size


def t2_cropping_stats(extents: Iterable[tuple[float, float]]) -> npt.NDArray[np.float64]:
    """Mean and standard deviation of where T2 scans begin, then of where they end.

    Args:
        extents: One pair of shares per scan, see `t2_extent`.

    Returns:
        `(4,)` mean and population standard deviation of the begin, then of the end.

    Examples:
        >>> t2_cropping_stats([(0.1, 0.8), (0.3, 0.8)]).round(3)
        array([0.2, 0.1, 0.8, 0. ])
    """
    begins, ends = np.array(list(extents), dtype=np.float64).T
    return np.array([begins.mean(), begins.std(), ends.mean(), ends.std()])
