"""The critic of adversarial training, as in the original SynthSR."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn

SLOPE = 0.2
"""Slope of the activations below 0."""


@dataclass(frozen=True, kw_only=True)
class CriticConfig:
    """Architecture of a `Critic`; the defaults are those of the original."""

    shape: tuple[int, int, int]
    """Size of the images in voxels; the last layers depend on it."""
    in_channels: int = 1
    """Number of channels of the images."""
    num_features: int = 32
    """Number of feature maps at full resolution; each level has twice those of the one before."""
    num_levels: int = 4
    """Number of resolutions that convolutions run at, each half the one before."""

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"critic.shape must be three sizes in voxels, got {self.shape}.")
        for name in ("in_channels", "num_features", "num_levels"):
            if getattr(self, name) < 1:
                raise ValueError(f"critic.{name} must be at least 1, got {getattr(self, name)}.")

    @property
    def features(self) -> tuple[int, ...]:
        """Number of features of each level."""
        return tuple(self.num_features * 2**level for level in range(self.num_levels))

    @property
    def last_shape(self) -> tuple[int, ...]:
        """Size after the last level; each halves, rounding up."""
        return tuple(math.ceil(n / 2**self.num_levels) for n in self.shape)


class Critic(nn.Module):
    """Scores images: higher for real ones than for fake ones, once trained.

    Each level is a convolution and one with stride 2, both 3x3x3 with leaky ReLU, then come two
    dense layers. There is no normalisation, so that elements of a batch do not depend on each
    other, as the gradient penalty needs. Padding and the order of features before the dense layers
    are those of TensorFlow, so that weights of the original fit.

    Kernels start from the uniform distribution of Glorot and Bengio (2010), biases from 0, as in
    Keras.

    Args:
        config: Architecture.

    References:
        Gulrajani et al., Improved training of Wasserstein GANs, NIPS 2017.

    Examples:
        >>> critic = Critic(CriticConfig(shape=(9, 8, 7), num_features=2, num_levels=2))
        >>> critic(torch.zeros(3, 1, 9, 8, 7)).shape
        torch.Size([3, 1])
    """

    def __init__(self, config: CriticConfig) -> None:
        super().__init__()
        self.config = config
        inputs = (config.in_channels, *config.features)
        self.levels = nn.ModuleList(
            _Level(inputs[level], features) for level, features in enumerate(config.features)
        )
        width = config.num_features * 2**config.num_levels
        self.dense = nn.Linear(config.features[-1] * math.prod(config.last_shape), width)
        self.score = nn.Linear(width, 1)
        self.apply(_initialise)

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """Score a batch.

        Args:
            image: `(B, in_channels, *shape)`.
            mask: `(B, 1, *shape)` factors of the image, 0 for voxels that are not to count; see
                `mask_of`.

        Returns:
            `(B, 1)`.

        Raises:
            ValueError: If a shape is not the one that the critic was made for.
        """
        expected = (len(image), self.config.in_channels, *self.config.shape)
        if image.shape != expected:
            raise ValueError(f"the critic takes images {expected}, got {tuple(image.shape)}.")
        if mask is not None:
            if mask.shape != (len(image), 1, *self.config.shape):
                raise ValueError(
                    f"mask must be ({len(image)}, 1, ...) of the size of the image, got"
                    f" {tuple(mask.shape)} for {expected}."
                )
            image = image * mask
        for level in self.levels:
            image = level(image)
        features = image.permute(0, 2, 3, 4, 1).flatten(1)  # channels last, as in TensorFlow
        return self.score(F.leaky_relu(self.dense(features), SLOPE))


class _Level(nn.Module):
    """A convolution and one with stride 2.

    Args:
        in_channels: Number of channels of the input.
        features: Number of channels of the output.
    """

    def __init__(self, in_channels: int, features: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, features, 3, padding=1)
        self.halve = nn.Conv3d(features, features, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, X, Y, Z)` to `(B, features, ceil(X / 2), ceil(Y / 2), ceil(Z / 2))`."""
        x = F.leaky_relu(self.conv(x), SLOPE)
        return F.leaky_relu(self.halve(_padded(x)), SLOPE)


def _padded(x: Tensor) -> Tensor:
    """Zeros around a volume, as TensorFlow pads for stride 2: before odd sizes, after all."""
    sides = [side for n in reversed(x.shape[2:]) for side in (n % 2, 1)]
    return F.pad(x, sides)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def mask_of(labels: Tensor, removed_values: Sequence[int]) -> Tensor:
    """Mask of the voxels that a critic scores.

    Args:
        labels: `(B, 1, X, Y, Z)` label map.
        removed_values: Label values that are left out.

    Returns:
        Same shape, float32: 1 where voxels count, 0 where they do not.

    Examples:
        >>> mask_of(torch.tensor([0, 2, 41]).reshape(1, 1, 3, 1, 1), [0]).flatten().tolist()
        [0.0, 1.0, 1.0]
    """
    keep = torch.ones_like(labels, dtype=torch.bool)
    for value in removed_values:
        keep &= labels != value
    return keep.float()
