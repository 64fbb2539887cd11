"""Exponential moving average of the weights of a network."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class MovingAverage(nn.Module):
    """A network whose weights follow those of another slowly.

    After step n, each weight is `d * average + (1 - d) * weight` with
    `d = min(decay, (1 + n) / (10 + n))`, so that the first steps are soon forgotten. Running
    statistics of normalisations are averaged as well. Nothing waits for the device.

    Args:
        network: The network to follow.
        decay: Decay per step, in [0, 1).

    References:
        Polyak and Juditsky, SIAM J. Control Optim. 1992, for averaging; the rising decay is that of
        TensorFlow's ExponentialMovingAverage.

    Examples:
        >>> layer = nn.Linear(1, 1)
        >>> average = MovingAverage(layer, decay=0.5)
        >>> before = layer.weight.detach().clone()
        >>> _ = layer.weight.data.add_(1)
        >>> average.update(layer, step=100)
        >>> torch.allclose(average.network.weight, before + 0.5)
        True
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Follow the network after an update of its weights.

        Args:
            network: What to follow.
            step: Number of batches so far, from 0; without accumulation that of updates.
        """
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        ours, theirs = self.network.state_dict(), network.state_dict()
        floats = [name for name, tensor in ours.items() if tensor.is_floating_point()]
        averages: list[Tensor] = [ours[name] for name in floats]
        torch._foreach_lerp_(averages, [theirs[name] for name in floats], weight)
        for name, tensor in ours.items():
            if not tensor.is_floating_point():
                tensor.copy_(theirs[name])
