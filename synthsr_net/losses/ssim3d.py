"""Structural similarity of volumes."""

from __future__ import annotations

from torch import Tensor

from .base import ImageLoss
from .similarity import (
    check_window_fits,
    gaussian_window,
    local_mean,
    products,
    similarity,
)


class SSIM3dLoss(ImageLoss):
    """Minus the mean structural similarity under a window in three dimensions.

    Intensities are taken to lie within 0 and 1. Only places count where the window lies inside the
    volume. The loss is -1 for a perfect prediction. Channels are compared one by one and averaged.

    Args:
        window_size: Size of the Gaussian window in voxels along each axis, odd.
        sigma: Standard deviation of the window in voxels.

    References:
        Wang et al., Image quality assessment: from error visibility to structural similarity,
        IEEE Transactions on Image Processing 13 (2004).

    Examples:
        >>> import torch
        >>> volume = torch.rand(1, 1, 11, 12, 13)
        >>> round(SSIM3dLoss()(volume, volume).item(), 4)
        -1.0
    """

    def __init__(self, window_size: int = 11, sigma: float = 1.5) -> None:
        super().__init__()
        self.window = gaussian_window(window_size, sigma)

    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """See `ImageLoss.measure`."""
        check_window_fits(prediction, self.window)
        return -similarity([self._mean(m) for m in products(prediction, target)]).mean()

    def _mean(self, moment: Tensor) -> Tensor:
        for axis in (2, 3, 4):
            moment = local_mean(moment, self.window, axis)
        return moment
