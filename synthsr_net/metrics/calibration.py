"""Predicted scales of errors against the errors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

LOWEST, HIGHEST, BINS = math.log(1e-5), math.log(10.0), 1024
"""Logarithms of scales are counted in so many bins between these."""


class TenthsOfScales(Metric):
    """Mean absolute error over mean predicted scale, in each tenth of the predicted scales.

    The mean absolute error of a Laplace distribution is its scale, so each ratio is 1 if scales are
    right. Voxels are counted in narrow bins of log scales, which tenths are made of, so that memory
    does not grow, and processes can be added up.

    Args:
        **kwargs: See `torchmetrics.Metric`.

    References:
        Guo et al., On calibration of modern neural networks, ICML 2017, for the bins; Levi et al.,
        Evaluating and calibrating uncertainty prediction in regression tasks, Sensors 22 (2022),
        for errors.

    Examples:
        >>> tenths = TenthsOfScales()
        >>> scale = torch.linspace(0.01, 0.1, 1000)
        >>> tenths.update(scale.log(), 2 * scale)
        >>> [round(ratio, 2) for ratio in tenths.compute().tolist()][::3]
        [2.0, 2.0, 2.0, 2.0]
    """

    is_differentiable = False
    full_state_update = False
    counts: Tensor
    errors: Tensor
    scales: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for state in ("counts", "errors", "scales"):
            empty = torch.zeros(BINS, dtype=torch.float64)
            self.add_state(state, empty, dist_reduce_fx="sum")

    def update(self, log_scales: Tensor, errors: Tensor) -> None:
        """Add voxels.

        Args:
            log_scales: `(N,)` natural logarithms of predicted scales.
            errors: `(N,)` absolute errors, in the same units.
        """
        place = (log_scales - LOWEST) / (HIGHEST - LOWEST) * BINS
        bins = place.clamp(0, BINS - 1).long()
        self.counts += torch.bincount(bins, minlength=BINS)
        self.errors += torch.bincount(bins, errors.double(), BINS)
        self.scales += torch.bincount(bins, log_scales.double().exp(), BINS)

    def means(self) -> tuple[Tensor, Tensor]:
        """Mean absolute error and mean predicted scale of each tenth, `(10,)`; NaN if empty."""
        share = (self.counts.cumsum(0) - self.counts / 2) / self.counts.sum()
        tenth = torch.nan_to_num(10 * share).long().clamp(0, 9)
        errors, scales, counts = (
            torch.zeros(10, dtype=torch.float64, device=each.device).index_add_(0, tenth, each)
            for each in (self.errors, self.scales, self.counts)
        )
        return errors / counts, scales / counts

    def compute(self) -> Tensor:
        """Ratio of error and scale of each tenth, `(10,)`; NaN for tenths without a voxel."""
        errors, scales = self.means()
        return errors / scales
