"""Training losses, one file per family, with torch alone.

Image losses take the prediction and the target of a batch and give one number; `build_loss` makes
them by name. All sums are done in float32 at least, whatever the precision of the network.
"""

from .adversarial import CriticLoss, critic_loss, generator_total
from .base import ImageLoss, add_residual, central_crop
from .registry import LOSSES, SEGMENTATION_LOSSES, build_loss
from .segmentation import SegmentationLoss

__all__ = [
    "LOSSES",
    "SEGMENTATION_LOSSES",
    "CriticLoss",
    "ImageLoss",
    "SegmentationLoss",
    "add_residual",
    "build_loss",
    "central_crop",
    "critic_loss",
    "generator_total",
]
