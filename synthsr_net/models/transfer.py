"""Starting from the weights of another network."""

from __future__ import annotations

import os
from dataclasses import asdict

import torch
from torch import Tensor

from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_transforms.support.messages import SynthSRError

from .loading import load_weights
from .widening import can_widen, widened

_MAY_DIFFER = (
    "in_channels",
    "out_channels",
    "softmax",
    "dropout",
    "normalisation",
    "num_groups",
    "normalise_last",
)


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
    own = network.state_dict()
    with torch.no_grad():
        for name, tensor in own.items():
            other = state.get(name)
            if other is None:
                if not name.endswith("num_batches_tracked"):
                    notes.append(f"{name} is new")
            elif other.shape == tensor.shape and not _is_other_head(name, ours, config):
                tensor.copy_(other)
            else:
                notes.append(_copy_shared(name, tensor, other, ours, config))
    return notes


def _is_other_head(name: str, ours: UNetConfig, theirs: UNetConfig) -> bool:
    return name.startswith("head.") and (ours.softmax != theirs.softmax)


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
