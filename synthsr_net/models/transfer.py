"""Initial weights from another network, which may have fewer features."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace

import torch
from torch import Tensor

from synthsr_net.networks.seeding import seeded
from synthsr_net.networks.unet import WIDENED, UNet3d, UNetConfig
from synthsr_transforms.support.messages import SynthSRError

from .loading import load_weights

_MAY_DIFFER = (
    "in_channels",
    "out_channels",
    "softmax",
    "dropout",
    "normalisation",
    "num_groups",
    "normalise_last",
    "scale_features",
)

BY_CHANNEL = (*WIDENED, "batch")
"""Normalisations by channel, which new channels beside the others do not change."""


def start_from(network: UNet3d, source: str | os.PathLike[str], seed: int = 0) -> list[str]:
    """Give a network the weights of another, as far as they fit.

    The first convolution takes the channels that both have, the output layer the channels that
    both have if neither network predicts labels, and the rest stays as it was initialised. Of
    another kind of normalisation, only scales and shifts are taken. A network with fewer features
    is widened first, see `widened`.

    Args:
        network: Changed in place.
        source: See `load_weights`.
        seed: Of the kernels of new features.

    Returns:
        What is new, in sentences.

    Raises:
        SynthSRError: If the architectures differ in more than channels, normalisation and
            features, or ours has fewer features.
    """
    config, state = load_weights(source)
    notes: list[str] = []
    ours = network.config
    if can_widen(config, ours):
        known = ", ".join(map(str, config.features))
        notes.append(f"features beyond {known} of the levels are new, and not read yet")
        multiplier = ours.feature_multiplier
        config, state = widened(config, state, ours.num_features, multiplier, seed)
    _check_architecture(ours, config, str(source))
    own, other_head = network.state_dict(), ours.softmax != config.softmax
    with torch.no_grad():
        for name, tensor in own.items():
            other = state.get(name)
            if other is None:
                if not name.endswith("num_batches_tracked"):
                    notes.append(f"{name} is new")
            elif other.shape == tensor.shape and not (other_head and name.startswith("head.")):
                tensor.copy_(other)
            else:
                notes.append(_copy_shared(name, tensor, other, ours, config))
    return notes


def _copy_shared(
    name: str, tensor: Tensor, other: Tensor, ours: UNetConfig, theirs: UNetConfig
) -> str:
    """Copy the channels that two tensors share, and say what is new."""
    if name.startswith("head."):
        if ours.softmax or theirs.softmax:
            return f"{name} is new"
        shared = min(len(tensor), len(other))
        tensor[:shared] = other[:shared]
        return f"{name} is new from channel {shared} on"
    shared = min(tensor.shape[1], other.shape[1])
    tensor[:, :shared] = other[:, :shared]
    return f"{name} is new from input channel {shared} on"


def _check_architecture(ours: UNetConfig, theirs: UNetConfig, source: str) -> None:
    here, there = asdict(ours), asdict(theirs)
    for name, value in here.items():
        if name not in _MAY_DIFFER and there[name] != value:
            raise SynthSRError(
                f"initial weights must be those of a network with {name} {value!r}, got"
                f" {there[name]!r} in {source}. Use --set network.{name}={there[name]}, or other"
                " weights."
            )


def widened(
    config: UNetConfig,
    state: Mapping[str, Tensor],
    num_features: int,
    feature_multiplier: float,
    seed: int = 0,
) -> tuple[UNetConfig, dict[str, Tensor]]:
    """Weights of a network with more features that computes the same.

    New features have random kernels, and nothing reads them yet: the old features and the output
    have weights of 0 for them, which training changes.

    Args:
        config: Architecture, which `can_widen` to the new one.
        state: State dict of a `UNet3d` of `config`.
        num_features: Number of feature maps at full resolution.
        feature_multiplier: Ratio of the features of a level and of the one above.
        seed: Of the random kernels.

    Returns:
        Architecture and state dict.

    References:
        Chen, Goodfellow, Shlens, Net2Net, ICLR 2016, for the idea; they copy features instead.
    """
    wide = replace(config, num_features=num_features, feature_multiplier=feature_multiplier)
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
    """Whether each level of a network has the features of another or more, and may get them."""
    by_channel = narrow.normalisation in BY_CHANNEL and wide.normalisation in BY_CHANNEL
    pairs = list(zip(narrow.features, wide.features, strict=False))
    larger = narrow.num_levels == wide.num_levels and all(old <= new for old, new in pairs)
    return by_channel and larger and narrow.features != wide.features


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
