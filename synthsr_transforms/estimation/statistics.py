"""The estimator: the median and the robust spread of every class in one channel of one scan.

Array in, numbers out: nothing here knows files. The formulas are those of the original SynthSR
(Billot et al., Medical Image Analysis 2023, `build_intensity_stats`).
"""

from __future__ import annotations

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


class ClassStatistics(NamedTuple):
    """The classes of one channel of one scan.

    Attributes:
        medians: `(K,)` median intensities, NaN where a class has no voxel.
        stds: `(K,)` robust standard deviations, likewise.
        voxels: `(K,)` numbers of voxels that they are taken from.
        samples: A few intensities of each class, to draw histograms from.
    """

    medians: npt.NDArray[np.float64]
    stds: npt.NDArray[np.float64]
    voxels: npt.NDArray[np.int64]
    samples: tuple[FloatArray, ...]


def rescale_intensities(channel: FloatArray) -> FloatArray:
    """Clip a channel to its percentiles 2 and 98, which become 0 and 255.

    Args:
        channel: Finite intensities of any shape.

    Returns:
        Intensities of the same shape; all 0 where the two percentiles are equal.

    Examples:
        >>> rescale_intensities(np.arange(101.0))[[0, 2, 50, 98, 100]]
        array([  0. ,   0. , 127.5, 255. , 255. ])
    """
    low, high = (float(value) for value in np.percentile(channel, PERCENTILES))
    if low == high:
        return np.zeros_like(channel)
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
) -> ClassStatistics:
    """Median and 1.4826 times the median absolute deviation of every class.

    Args:
        channel: Intensities of any shape.
        classes: Class of each voxel, of the same shape; negative where a voxel has none.
        num_classes: Number of classes, K.
        positive_only: Whether to leave out voxels of 0 and less in every class but class 0, where
            zeros are what skull stripping and padding leave.
        num_samples: How many intensities of each class to keep, evenly spread over its voxels.

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
    medians, stds = np.full((2, num_classes), np.nan)
    for k, group in enumerate(groups):
        if group.size:
            medians[k] = middle = float(np.median(group))
            stds[k] = MAD_TO_STD * float(np.median(np.abs(group - middle)))
    return ClassStatistics(
        medians,
        stds,
        np.array([group.size for group in groups]),
        tuple(_spread_out(group, num_samples) for group in groups),
    )


def _groups(
    values: FloatArray, classes: npt.NDArray[np.integer[Any]], num_classes: int
) -> list[FloatArray]:
    """Values of classes 1, 2, ..., K-1."""
    order = np.argsort(classes, kind="stable")
    counts = np.bincount(classes, minlength=num_classes)[1:]
    return np.split(values[order], np.cumsum(counts)[:-1]) if num_classes > 1 else []


def _spread_out(group: FloatArray, number: int) -> FloatArray:
    """A few values from all over a group."""
    if group.size <= number:
        return group.astype(np.float32)
    places = (np.arange(number) + 0.5) * (group.size / max(number, 1))
    return group[places.astype(np.int64)].astype(np.float32)
