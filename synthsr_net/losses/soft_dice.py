"""The Dice loss of probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .precision import at_least_float32, without_autocast

EPSILON = 1e-7
"""Keeps channels that are empty in both finite: their loss is 0."""
SPACE = (-3, -2, -1)


def soft_dice(truth: Tensor, probabilities: Tensor, checks: bool = False) -> Tensor:
    r"""Mean Dice loss over channels and elements.

    \[1 - \frac{2 \sum g p + \epsilon}{\sum g^2 + \sum p^2 + \epsilon}\]

    Args:
        truth: `(B, C, X, Y, Z)`, g: 1 inside a structure, 0 outside.
        probabilities: Same shape, p, within 0 and 1.
        checks: Whether both are divided by their sums over channels and clipped to 0 and 1 before.

    Returns:
        One number within 0 and 1, float32 (float64 if an argument is).

    Raises:
        ValueError: If shapes differ.

    References:
        Milletari et al., V-Net: Fully convolutional neural networks for volumetric medical image
        segmentation, 3DV 2016.

    Examples:
        >>> truth = torch.ones(1, 1, 2, 2, 2)
        >>> soft_dice(truth, truth).item(), round(soft_dice(truth, truth / 2).item(), 4)
        (0.0, 0.2)
    """
    if truth.ndim != 5 or truth.shape != probabilities.shape:
        raise ValueError(
            "truth and probabilities must have one shape (B, C, X, Y, Z), got"
            f" {tuple(truth.shape)} and {tuple(probabilities.shape)}."
        )
    with without_autocast(probabilities):
        truth, probabilities = at_least_float32(truth), at_least_float32(probabilities)
        if checks:
            truth, probabilities = _shares(truth), _shares(probabilities)
        overlap, size = (truth * probabilities).sum(SPACE), truth.square().sum(SPACE)
        return dice_of_sums(overlap, size, probabilities.square().sum(SPACE)).mean()


def dice_of_sums(overlap: Tensor, truth: Tensor, probabilities: Tensor) -> Tensor:
    """Dice loss from sums over voxels, of any shape.

    Args:
        overlap: Sum of products of truth and probability.
        truth: Sum of squares of the truth.
        probabilities: Sum of squares of the probabilities.
    """
    return 1 - (2 * overlap + EPSILON) / (truth + probabilities + EPSILON)


def _shares(x: Tensor) -> Tensor:
    return (x / (x.sum(1, keepdim=True) + EPSILON)).clamp(0, 1)


def label_one_hot(labels: Tensor, values: Sequence[int]) -> Tensor:
    """One channel per label value: 1 where the map has the value, 0 elsewhere.

    Args:
        labels: `(B, 1, X, Y, Z)` label map.
        values: Label values, one per channel, as they are in the map.

    Returns:
        `(B, len(values), X, Y, Z)` float32.

    Raises:
        ValueError: If the map has not one channel.

    Examples:
        >>> label_one_hot(torch.tensor([0, 41]).reshape(1, 1, 2, 1, 1), [41, 2]).flatten().tolist()
        [0.0, 1.0, 0.0, 0.0]
    """
    if labels.ndim != 5 or labels.shape[1] != 1:
        raise ValueError(f"labels must be (B, 1, X, Y, Z), got {tuple(labels.shape)}.")
    return torch.cat([labels == value for value in values], dim=1).float()
