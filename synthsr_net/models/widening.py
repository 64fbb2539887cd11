"""More features for a network that is trained already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from synthsr_net.networks.seeding import seeded
from synthsr_net.networks.unet import WIDENED, UNet3d, UNetConfig

BY_CHANNEL = (*WIDENED, "batch")
"""Normalisations by channel, which new channels beside the others do not change."""


def widened(
    config: UNetConfig,
    state: Mapping[str, Tensor],
    num_features: int,
    feature_multiplier: float | None = None,
    seed: int = 0,
) -> tuple[UNetConfig, dict[str, Tensor]]:
    """Weights of a network with more features that computes the same.

    New features have random kernels, and nothing reads them yet: the old features and the output
    have weights of 0 for them, which training changes.

    Args:
        config: Architecture.
        state: State dict of a `UNet3d` of `config`.
        num_features: Number of feature maps at full resolution.
        feature_multiplier: Ratio of the features of a level and of the one above; None: as before.
        seed: Of the random kernels.

    Returns:
        Architecture and state dict.

    Raises:
        ValueError: If a level would have fewer features, or the normalisation is `group`, whose
            groups would have other channels.

    References:
        Chen, Goodfellow, Shlens, Net2Net, ICLR 2016, for the idea; they copy features instead.
    """
    multiplier = config.feature_multiplier if feature_multiplier is None else feature_multiplier
    wide = replace(config, num_features=num_features, feature_multiplier=multiplier)
    if not _holds(config, wide):
        raise ValueError(
            f"levels must have at least {config.features} features, got {wide.features}."
        )
    if config.normalisation not in BY_CHANNEL:
        raise ValueError(
            "a network with more features must have one of the normalisations"
            f" {', '.join(BY_CHANNEL)}, got {config.normalisation}."
        )
    with seeded(seed):
        result = UNet3d(wide).state_dict()
    for name, tensor in result.items():
        narrow = state[name]
        if tensor.ndim > 1:
            tensor[: len(narrow)] = 0
            tensor[: len(narrow), _inputs(name, narrow, config, wide)] = narrow
        elif tensor.ndim == 1:
            tensor[: len(narrow)] = narrow
        else:
            tensor.copy_(narrow)
    return wide, result


def can_widen(narrow: UNetConfig, wide: UNetConfig) -> bool:
    """Whether a network differs from another in having more features, and may get them."""
    by_channel = narrow.normalisation in BY_CHANNEL and wide.normalisation in BY_CHANNEL
    return by_channel and narrow.features != wide.features and _holds(narrow, wide)


def _holds(narrow: UNetConfig, wide: UNetConfig) -> bool:
    """Whether each level of the wide network has the features of the narrow one, or more."""
    pairs = zip(narrow.features, wide.features, strict=False)
    return narrow.num_levels == wide.num_levels and all(old <= new for old, new in pairs)


def _inputs(name: str, weight: Tensor, config: UNetConfig, wide: UNetConfig) -> Tensor:
    """Input channels of a convolution of the wide network that the narrow one has as well."""
    part, index, *rest = name.split(".")
    channels = torch.arange(weight.shape[1])
    if part == "decoder" and rest == ["convs", "0", "weight"]:
        # the skip connection lies in front of the level below
        level = config.num_levels - 2 - int(index)
        skip = config.features[level]
        channels[skip:] += wide.features[level] - skip
    return channels
