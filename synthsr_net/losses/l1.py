"""Mean absolute difference."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from .base import ImageLoss


class L1Loss(ImageLoss):
    """Mean absolute difference over elements, channels and voxels.

    Examples:
        >>> import torch
        >>> volume = torch.zeros(1, 1, 2, 2, 2)
        >>> L1Loss()(volume + 3, volume).item()
        3.0
    """

    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """See `ImageLoss.measure`."""
        return F.l1_loss(prediction, target)
