"""Optimisers and learning rates from settings."""

from __future__ import annotations

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
            passed = min(max(step - config.warmup_steps, 0) / _left(config, num_steps), 1.0)
            wave = 0.5 * (1 + math.cos(math.pi * passed))
            value = config.final_learning_rate_ratio + (1 - config.final_learning_rate_ratio) * wave
        else:
            value = 1 / (
                1 + (config.inverse_time_decay * step if config.schedule == "inverse_time" else 0)
            )
        rising = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
        return value * rising

    return factor


def _left(config: OptimiserConfig, num_steps: int) -> int:
    return max(1, num_steps - config.warmup_steps)
