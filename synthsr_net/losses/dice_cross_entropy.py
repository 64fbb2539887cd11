"""Soft Dice loss and cross-entropy of a segmentation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from .base import ImageLoss, at_least_float32, without_autocast
from .segmentation import dice_of_sums

_EVERYWHERE = (0, 2, 3, 4)


class DiceCrossEntropyLoss(ImageLoss):
    r"""Soft Dice loss, mean over structures, and mean cross-entropy over voxels.

    The network has one output per structure, before the softmax. Sums of the Dice loss go over all
    elements of a batch. Where the prediction has a coarser grid than the label map, the target of
    a voxel is the share of each structure in it.

    Args:
        values: Value of each structure in label maps, in the order of the outputs. A run takes
            them from the step `GroupLabels` of its generator.
        cross_entropy_weight: Weight of the cross-entropy; that of the Dice loss is 1.

    Raises:
        ValueError: If values are fewer than two, negative or repeated.

    References:
        Milletari et al., V-Net: Fully convolutional neural networks for volumetric medical image
        segmentation, 3DV 2016; Isensee et al., nnU-Net, Nature Methods 18:203 (2021), for the sum.

    Examples:
        >>> labels = torch.tensor([0.0, 41, 41, 0]).reshape(1, 1, 4, 1, 1)
        >>> right = torch.where(labels == torch.tensor([0, 41])[:, None, None, None], 20.0, 0.0)
        >>> round(DiceCrossEntropyLoss([0, 41])(right, labels).item(), 4)
        0.0
    """

    def __init__(self, values: Sequence[int], cross_entropy_weight: float = 1.0) -> None:
        super().__init__()
        if len(values) < 2 or len(set(values)) < len(values) or min(values) < 0:
            raise ValueError(
                f"values must be at least two different labels, from 0 on, got {list(values)}."
            )
        self.outputs_per_target = len(values)  # type: ignore[misc]
        self.cross_entropy_weight = float(cross_entropy_weight)
        self.values: Tensor
        self.register_buffer("values", torch.tensor(values), persistent=False)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compare a batch with its label map.

        Args:
            prediction: `(B, K, X, Y, Z)` logits.
            target: `(B, 1, x, y, z)` label map; values of no structure are read as none.

        Returns:
            One number, float32 (float64 if the prediction is), in autocast too.

        Raises:
            ValueError: If shapes do not fit.
        """
        if target.shape[:2] != (len(prediction), 1) or prediction.shape[1] != len(self.values):
            raise ValueError(
                f"prediction must be (B, {len(self.values)}, X, Y, Z) and target (B, 1, X, Y, Z),"
                f" got {tuple(prediction.shape)} and {tuple(target.shape)}."
            )
        with without_autocast(prediction):
            return self.measure(at_least_float32(prediction), target)

    def compared(self, prediction: Tensor) -> Tensor:
        """All channels."""
        return prediction

    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """See `forward`."""
        shares = self.shares(target, prediction.shape[2:]).to(prediction.dtype)
        logarithms = prediction.log_softmax(1)
        probabilities = logarithms.exp()
        overlap = (shares * probabilities).sum(_EVERYWHERE)
        squares = (shares.square().sum(_EVERYWHERE), probabilities.square().sum(_EVERYWHERE))
        entropy = -(shares * logarithms).sum(1).mean()
        return dice_of_sums(overlap, *squares).mean() + self.cross_entropy_weight * entropy

    def shares(self, target: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the share of each structure in each voxel of a grid with this field of view.

        Args:
            target: `(B, 1, x, y, z)` label map.
            shape: Sizes of the grid.

        Returns:
            `(B, K, *shape)` float32.
        """
        inside = (target == self.values.view(1, -1, 1, 1, 1)).float()
        x, y, z = shape
        return inside if inside.shape[2:] == shape else F.adaptive_avg_pool3d(inside, (x, y, z))
