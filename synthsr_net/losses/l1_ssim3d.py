"""Mean absolute difference together with structural similarity."""

from __future__ import annotations

from torch import Tensor

from .base import ImageLoss
from .l1 import L1Loss
from .ssim3d import SSIM3dLoss


class L1SSIM3dLoss(ImageLoss):
    r"""\((1 - w)\,\mathrm{L1} + w\,(1 - \mathrm{SSIM})\), with the similarity of `SSIM3dLoss`.

    L1 alone is content with blurred borders; similarity alone with shifted intensities.

    Args:
        weight: w, in [0, 1].
        window_size: Size of the Gaussian window in voxels along each axis, odd.
        sigma: Standard deviation of the window in voxels.

    References:
        Zhao et al., Loss functions for image restoration with neural networks, IEEE Transactions
        on Computational Imaging 3 (2017).

    Examples:
        >>> import torch
        >>> volume = torch.rand(1, 1, 11, 12, 13)
        >>> round(L1SSIM3dLoss()(volume, volume).item(), 4)
        0.0
    """

    def __init__(self, weight: float = 0.2, window_size: int = 11, sigma: float = 1.5) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise ValueError(f"weight must be within 0 and 1, got {weight}.")
        self.weight = weight
        self.l1, self.ssim = L1Loss(), SSIM3dLoss(window_size, sigma)

    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """See `ImageLoss.measure`."""
        dissimilarity = 1 + self.ssim.measure(prediction, target)
        return (1 - self.weight) * self.l1.measure(prediction, target) + self.weight * dissimilarity
