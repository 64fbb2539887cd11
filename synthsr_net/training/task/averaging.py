"""Exponential moving average of the weights of a network."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

_Place = tuple[dict[str, Any], str]


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
        self._pairs: tuple[nn.Module, list[_Place], list[_Place]] | None = None

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Follow the network after an update of its weights.

        Args:
            network: What to follow.
            step: Number of batches so far, from 0; without accumulation that of updates.
        """
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        if self._pairs is None or self._pairs[0] is not network:
            self._pairs = (network, _places(self.network), _places(network))
        _, ours, theirs = self._pairs
        averages: list[Tensor] = []
        weights: list[Tensor] = []
        for (store, name), (other, _) in zip(ours, theirs, strict=True):
            tensor = store[name]
            if tensor.is_floating_point():
                averages.append(tensor)
                weights.append(other[name])
            else:
                tensor.copy_(other[name])
        torch._foreach_lerp_(averages, weights, weight)


def _places(network: nn.Module) -> list[_Place]:
    """Where a network keeps what its `state_dict` holds, which takes long to make at every step."""
    found: list[_Place] = []
    for module in network.modules():
        skipped = module._non_persistent_buffers_set
        found += [(module._parameters, k) for k, v in module._parameters.items() if v is not None]
        found += [
            (module._buffers, name)
            for name, buffer in module._buffers.items()
            if buffer is not None and name not in skipped
        ]
    return found
