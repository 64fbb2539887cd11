"""Differences of intensities, voxel by voxel, and their likelihood under a predicted scale."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from .base import ImageLoss

SMALLEST_SCALE = 1e-5
"""Smallest scale b, in units of intensity."""
UNIT_SCALE = 0.02
"""Scale that an output of 0 adds to it."""


class L1Loss(ImageLoss):
    """Mean absolute difference over elements, channels and voxels.

    Examples:
        >>> volume = torch.zeros(1, 1, 2, 2, 2)
        >>> L1Loss()(volume + 3, volume).item()
        3.0
    """

    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """See `ImageLoss.measure`."""
        return F.l1_loss(prediction, target)


class L2Loss(ImageLoss):
    """Mean squared difference over elements, channels and voxels.

    Examples:
        >>> volume = torch.zeros(1, 1, 2, 2, 2)
        >>> L2Loss()(volume + 3, volume).item()
        9.0
    """

    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """See `ImageLoss.measure`."""
        return F.mse_loss(prediction, target)


class LaplaceLoss(ImageLoss):
    r"""Mean negative log-likelihood of the target under a Laplace distribution per voxel.

    The network has two channels for each channel of the target: first all intensities P, then all
    scale outputs S. With \(b = 10^{-5} + 0.02 \exp(S)\) and the target G, the loss is the mean of
    \(\log(2b) + |P - G| / b\). It is smallest where b is the mean absolute error, so that b is
    the likely error of the prediction.

    References:
        Kendall and Gal, What uncertainties do we need in Bayesian deep learning for computer
        vision?, NIPS 2017; constants of Iglesias et al., NeuroImage 237:118206 (2021).

    Examples:
        >>> target = torch.zeros(1, 1, 2, 2, 2)
        >>> exact = torch.zeros(1, 2, 2, 2, 2)
        >>> round(LaplaceLoss()(exact, target).exp().item(), 4)  # 2 b
        0.04
    """

    outputs_per_target = 2

    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """See `ImageLoss.measure`."""
        intensity, scale_output = prediction.chunk(2, dim=1)
        log_b = log_scale(scale_output)
        return (math.log(2) + log_b + (intensity - target).abs() * (-log_b).exp()).mean()


def log_scale(scale_output: Tensor) -> Tensor:
    r"""Logarithm of the scale \(b = 10^{-5} + 0.02 \exp(S)\), finite for any S.

    Args:
        scale_output: S, any shape, floating point.

    Examples:
        >>> [round(s, 3) for s in log_scale(torch.tensor([-100.0, 0.0, 100.0])).tolist()]
        [-11.513, -3.912, 96.088]
    """
    smallest = torch.full_like(scale_output, math.log(SMALLEST_SCALE))
    return torch.logaddexp(scale_output + math.log(UNIT_SCALE), smallest)
