"""How much of the field of view T2 scans cover, beside T1 scans on the same grid.

Low-field T2 scans are often cut along the longest axis. The original SynthSR measures where they
begin and end in pairs of scans, to crop synthetic T2 channels in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

DILATION_VOXELS = 5
"""Radius of the ball that the covered part is widened by."""


def t2_extent(t2: npt.NDArray[Any], *, legacy: bool = False) -> tuple[float, float]:
    r"""Where the covered part begins and ends along the longest axis, as shares of its length.

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
