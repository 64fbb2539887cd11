"""Losses of adversarial training: of a critic, and of the network that it judges."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .base import at_least_float32, without_autocast

Critic = Callable[..., Tensor]
"""`critic(image)` or `critic(image, mask)`: scores `(B, 1)` of images `(B, C, X, Y, Z)`."""


class CriticLoss(NamedTuple):
    """Loss of a critic and the terms that it is the sum of."""

    total: Tensor
    """Sum of the others."""
    real: Tensor
    """Minus the mean score of real images."""
    fake: Tensor
    """Mean score of fake images."""
    penalty: Tensor
    """Weighted gradient penalty."""


def critic_loss(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    *,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
    penalty_weight: float = 10.0,
    generator: torch.Generator | None = None,
) -> CriticLoss:
    r"""Loss of a Wasserstein critic with gradient penalty.

    \[-\overline{D(r)} + \overline{D(f)} + \lambda \overline{(1 - \|\nabla D(a)\|)^2}, \quad
    a = w r + (1 - w) f\]

    The norm is taken over the voxels of each channel, the mean of the penalty over elements and
    channels. All is computed in float32, in autocast too. No gradient goes to the images.

    Args:
        critic: Scores images, see `synthsr_net.networks.critic.Critic`.
        real: `(B, C, X, Y, Z)` r.
        fake: `(B, C, X, Y, Z)` f.
        mask: `(B, 1, X, Y, Z)` second argument of the critic, if it is to have one.
        weights: `(B, 1, 1, 1, 1)` w; by default uniform in [0, 1), one per element.
        penalty_weight: \(\lambda\).
        generator: Random generator of the weights; by default the global generator of the device.

    Raises:
        ValueError: If the shapes of images or weights differ.

    References:
        Gulrajani et al., Improved training of Wasserstein GANs, NIPS 2017.
    """
    if real.shape != fake.shape or real.ndim != 5:
        raise ValueError(
            "real and fake must have one shape (B, C, X, Y, Z), got"
            f" {tuple(real.shape)} and {tuple(fake.shape)}."
        )
    given = () if mask is None else (mask,)
    with without_autocast(real):
        real, fake = at_least_float32(real.detach()), at_least_float32(fake.detach())
        between = _between(real, fake, weights, generator).requires_grad_()
        score = critic(between, *given).sum()
        (gradient,) = torch.autograd.grad(score, between, create_graph=True)
        norms = torch.linalg.vector_norm(gradient, dim=(2, 3, 4))
        penalty = penalty_weight * (1 - norms).square().mean()
        on_real, on_fake = -critic(real, *given).mean(), critic(fake, *given).mean()
    return CriticLoss(on_real + on_fake + penalty, on_real, on_fake, penalty)


def _between(
    real: Tensor, fake: Tensor, weights: Tensor | None, generator: torch.Generator | None
) -> Tensor:
    shape = (len(real), 1, 1, 1, 1)
    if weights is None:
        device = real.device if generator is None else generator.device
        weights = torch.rand(shape, generator=generator, device=device)
    if weights.shape != shape:
        raise ValueError(f"weights must be {shape}, got {tuple(weights.shape)}.")
    weights = weights.to(real.device, real.dtype, non_blocking=True)
    return weights * real + (1 - weights) * fake


def generator_total(
    image_loss: Tensor,
    critic_score: Tensor,
    dice: Tensor | None = None,
    *,
    critic_weight: float = 0.01,
    dice_weight: float = 0.25,
) -> Tensor:
    r"""Loss of a network whose predictions are judged by a critic.

    \[(1 - w_D - w_S) L - w_D \overline{D(f)} + w_S S\]

    Args:
        image_loss: L, such as the mean absolute difference from the target.
        critic_score: `(B, 1)` scores D(f) of the predictions.
        dice: S, the loss of a segmentation network; without one, its weight counts as 0.
        critic_weight: w_D.
        dice_weight: w_S.

    Returns:
        One number.

    Raises:
        ValueError: If a weight is below 0 or their sum above 1.

    Examples:
        >>> one = torch.ones(())
        >>> round(generator_total(one, torch.full((2, 1), -1.0), critic_weight=0.5).item(), 4)
        1.0
    """
    dice_weight = 0.0 if dice is None else dice_weight
    if min(critic_weight, dice_weight) < 0 or critic_weight + dice_weight > 1:
        raise ValueError(
            "weights of critic and segmentation must be at least 0 and at most 1 together,"
            f" got {critic_weight} and {dice_weight}."
        )
    total = (1 - critic_weight - dice_weight) * image_loss - critic_weight * critic_score.mean()
    return total if dice is None else total + dice_weight * dice
