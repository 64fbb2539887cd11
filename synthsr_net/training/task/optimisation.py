"""Optimisers, learning rate schedules and averaged weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from synthsr_net.training.config import OptimiserConfig


def make_optimiser(
    parameters: Iterable[nn.Parameter], config: OptimiserConfig, learning_rate: float | None = None
) -> torch.optim.Optimizer:
    """Make the optimiser of some weights.

    Args:
        parameters: The weights; on a GPU they are updated by one fused kernel.
        config: Settings.
        learning_rate: Another than that of the settings.
    """
    weights = list(parameters)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(
        weights,
        lr=config.learning_rate if learning_rate is None else learning_rate,
        betas=(config.betas[0], config.betas[1]),
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        fused=all(weight.is_cuda for weight in weights),
    )


def learning_rate_factor(config: OptimiserConfig, num_steps: int) -> Callable[[int], float]:
    """Factor of the learning rate as a function of the step of the optimiser, from 0.

    Args:
        config: Settings.
        num_steps: Number of steps of the whole run.

    Examples:
        >>> config = OptimiserConfig(schedule="cosine", final_learning_rate_ratio=0)
        >>> factor = learning_rate_factor(config, 100)
        >>> factor(0), round(factor(50), 6), factor(100)
        (1.0, 0.5, 0.0)
    """

    def factor(step: int) -> float:
        if config.schedule == "cosine":
            left = max(1, num_steps - config.warmup_steps)
            passed = min(max(step - config.warmup_steps, 0) / left, 1.0)
            wave = 0.5 * (1 + math.cos(math.pi * passed))
            value = config.final_learning_rate_ratio + (1 - config.final_learning_rate_ratio) * wave
        else:
            value = 1 / (
                1 + (config.inverse_time_decay * step if config.schedule == "inverse_time" else 0)
            )
        rising = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
        return value * rising

    return factor


class MovingAverage(nn.Module):
    """Exponential moving average of the weights of a network.

    After step n, each weight is `d * average + (1 - d) * weight` with
    `d = min(decay, (1 + n) / (10 + n))`, so that the first weights are soon forgotten. Running
    statistics of normalisations are averaged as well. Nothing waits for the device.

    `EMAWeightAveraging` of Lightning has a constant decay, replaces the average by the weights at
    its first update and averages everything that the task holds, also networks that are frozen.

    Args:
        network: The network to average.
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
            network: The network.
            step: Number of batches so far, from 0; without accumulation that of updates.
        """
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        averages, weights = ([*n.parameters(), *n.buffers()] for n in (self.network, network))
        floats = [k for k, tensor in enumerate(averages) if tensor.is_floating_point()]
        torch._foreach_lerp_([averages[k] for k in floats], [weights[k] for k in floats], weight)
        for k in set(range(len(averages))).difference(floats):
            averages[k].copy_(weights[k])
