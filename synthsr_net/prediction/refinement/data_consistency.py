"""Data consistency: detail of scans of the same contrast, added to predictions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from synthsr_net.prediction.neighbourhoods import Neighbourhoods
from synthsr_net.prediction.resampling import Grid
from synthsr_transforms.functional.acquisition import slice_operator
from synthsr_transforms.functional.blur import (
    SLICE_PROFILE,
    mirrored_blur,
    mirrored_blur_operator,
)
from synthsr_transforms.functional.operators import along_axes
from synthsr_transforms.support.devices import on_device

CORRELATIONS = (0.7, 0.9)
"""Correlations in a neighbourhood below which nothing is added, and above which everything."""
TISSUE = (72.0, 125.0)
"""Predicted intensities of white and grey matter."""
TISSUE_CORRELATIONS = (0.3, 0.6)
"""The same as `CORRELATIONS`, of the voxels with intensities of `TISSUE` alone."""
LARGEST = 30.0
"""Differences from here on are not added, in intensities that are 110 in white matter: lesions."""
HEAD = 12.0
"""Intensity above which a prediction shows tissue."""
SMOOTHING = 0.6
"""Standard deviation in voxels of the blur against noise of the scan."""
WIDER_MM = (3.0, 4.0, 5.0, 6.0, 8.0)
"""Widths of slices that are tried, in this order, where a scan may have been resampled."""
_MIN_CORRELATION = 0.6  # below it, scan and prediction have nothing in common to find a width by
_BETTER = 2e-3  # a width must raise the correlation by this

Operators = Sequence[Tensor | None]


def consistent(
    prediction: Tensor, scan: Tensor, slices: Operators, spacing_mm: float = 1.0
) -> Tensor:
    r"""Add to a prediction what a scan of its own contrast shows and it does not.

    Slices of the prediction are simulated, \(Ay\), and the scan \(x\) is mapped to them by linear
    regression in each neighbourhood, so that neither its scale nor its bias field matters. The
    prediction becomes \(y + g\,t(r)\,r\) with \(r = \hat{y}(x) - Ay\): one step of iterative
    back-projection (Irani and Peleg, "Improving resolution by image registration", 1991). The
    share \(g\) rises from 0 to 1 with the correlation of the neighbourhood and with that of its
    white and grey matter, so that other contrasts change nothing, such as a FLAIR, in which fluid
    is dark as in a T1, but grey matter brighter than white. Tukey's biweight \(t\) leaves large
    differences, such as lesions that the network filled in, as predicted.

    Args:
        prediction: `(X, Y, Z)` float32, white matter near 110.
        scan: `(X, Y, Z)` float32, any unit, interpolated to the same grid.
        slices: Three matrices of `slice_operator`, None for axes that are no coarser than the grid.
            Wider ones are looked for there, see `with_wider_slices`.
        spacing_mm: Voxel spacing of the grid.

    Returns:
        `(X, Y, Z)` float32, not clipped.

    Examples:
        >>> import torch
        >>> t1 = 100 * torch.rand(12, 12, 12)
        >>> torch.equal(consistent(t1, 1 - t1, [None] * 3), t1)  # another contrast
        True
    """
    compared = with_wider_slices(Comparison(prediction, scan, slices, spacing_mm))
    window, x, y = compared.window, compared.x, compared.y
    seen_x, seen_y = compared.shown
    xx, yy, xy = (window.mean_of(product) for product in (seen_x * x, seen_y * y, seen_x * y))
    share = _rise(_correlation(xx, yy, xy), CORRELATIONS)
    share *= _rise(compared.tissue_correlation(), TISSUE_CORRELATIONS)
    kept = window.everywhere(xy / xx.clamp(min=1e-12)).mul_(x).sub_(y)
    kept *= (kept / LARGEST).square_().neg_().add_(1).clamp_(min=0).square_()
    kept *= window.everywhere(share).mul_(window.weight)
    return mirrored_blur(kept, SMOOTHING).add_(prediction)


def _correlation(xx: Tensor, yy: Tensor, xy: Tensor) -> Tensor:
    """Correlation from two variances and the covariance, 0 where one is constant."""
    return xy / (xx * yy).sqrt().clamp(min=1e-9)


def _rise(value: Tensor, limits: tuple[float, float]) -> Tensor:
    """From 0 at the first limit to 1 at the second, smoothly."""
    low, high = limits
    share = ((value - low) / (high - low)).clamp(0, 1)
    return share.square() * (3 - 2 * share)


def slices_between(grid: Grid, scan_grid: Grid) -> list[Tensor | None]:
    """Operators of a scan's slices on a finer grid with parallel axes, as through its centre.

    Args:
        grid: Of the prediction.
        scan_grid: Of the scan, in any orientation.

    Returns:
        One `slice_operator` per axis of the grid, None where the scan is not coarser.
    """
    matrix = np.linalg.inv(grid[1]) @ scan_grid[1]
    return list(_slices_between(grid[0], scan_grid[0], tuple(matrix.ravel().tolist())))


@lru_cache(16)
def _slices_between(
    shape: tuple[int, int, int], scan_shape: tuple[int, int, int], scan_to_grid: tuple[float, ...]
) -> tuple[Tensor | None, ...]:
    """The same from shapes and the rows of a matrix, once for scans of one geometry."""
    matrix = np.reshape(scan_to_grid, (4, 4))
    operators: list[Tensor | None] = []
    for axis, size in enumerate(shape):
        along = int(np.argmax(np.abs(matrix[axis, :3])))
        width = float(abs(matrix[axis, along]))
        where = np.tile((np.array(scan_shape)[:, None] - 1) / 2, scan_shape[along])
        where[along] = np.arange(scan_shape[along])
        centres = matrix[axis, :3] @ where + matrix[axis, 3]
        coarse = width > 1 + 1e-3
        ordered = torch.from_numpy(np.sort(centres))
        operators.append(slice_operator(size, ordered, width) if coarse else None)
    return tuple(operators)


class Comparison:
    """A scan and the slices of a prediction, each minus its mean nearby.

    Args:
        prediction: See `consistent`.
        scan: See `consistent`.
        slices: By the header of the scan.
        spacing_mm: Voxel spacing of the grid.
    """

    def __init__(
        self, prediction: Tensor, scan: Tensor, slices: Operators, spacing_mm: float = 1.0
    ) -> None:
        self.prediction, self.scan, self.spacing_mm = prediction, scan, spacing_mm
        device = prediction.device
        self.slices = [None if each is None else on_device(each, device) for each in slices]
        self.seen = along_axes(prediction, self.slices)
        self.window = Neighbourhoods(self.seen > HEAD, spacing_mm)
        self.x, self.y = self.window.centred(scan), self.window.centred(self.seen)

    @cached_property
    def shown(self) -> tuple[Tensor, Tensor]:
        """`x` and `y`, 0 where nothing counts."""
        return self.x * self.window.weight, self.y * self.window.weight

    def likeness(self, y: Tensor | None = None) -> float:
        """Correlation of the scan with slices of the prediction, minus their mean nearby.

        Args:
            y: Other slices, minus their mean; None: those of the comparison.
        """
        x, own = self.shown
        y = own if y is None else y * self.window.weight
        return float((x * y).sum() / (x.square().sum() * y.square().sum()).sqrt().clamp(min=1e-9))

    def tissue_correlation(self) -> Tensor:
        """Correlation of white and grey matter in each neighbourhood, 0 where there is none."""
        low, high = TISSUE
        tissue = Neighbourhoods((self.seen > low) & (self.seen < high), self.spacing_mm)
        x, y = self.x, self.y
        shown_x, shown_y = x * tissue.weight, y * tissue.weight
        mean_x, mean_y = tissue.mean_of(shown_x), tissue.mean_of(shown_y)
        xx = tissue.mean_of(shown_x * x) - mean_x.square()
        yy = tissue.mean_of(shown_y * y) - mean_y.square()
        xy = tissue.mean_of(shown_x * y) - mean_x * mean_y
        return _correlation(xx.clamp(min=0), yy.clamp(min=0), xy)


def with_wider_slices(compared: Comparison) -> Comparison:
    """A comparison with slices as wide as those that the scan seems to be made of.

    Scans are often resampled, so that their headers promise a finer resolution than they have. An
    axis gets the width at which the slices of the prediction correlate best with the scan.

    Returns:
        The same comparison, or one with other slices along axes that are blurred.
    """
    prediction, spacing_mm = compared.prediction, compared.spacing_mm
    best, found = compared.likeness(), compared.slices
    if best < _MIN_CORRELATION:
        return compared
    for axis, size in enumerate(prediction.shape):
        if found[axis] is not None:
            continue
        least = best + _BETTER
        for width in [mm for mm in WIDER_MM if mm > spacing_mm]:
            sigma = SLICE_PROFILE * width / spacing_mm
            blur = mirrored_blur_operator(size, sigma, prediction.device)
            tried = [blur if a == axis else found[a] for a in range(3)]
            value = compared.likeness(compared.window.centred(along_axes(prediction, tried)))
            if value <= least:
                break
            best, least, found = value, value, tried
    if found is compared.slices:
        return compared
    return Comparison(prediction, compared.scan, found, spacing_mm)
