"""Configs of models whose files hold weights alone: those of the original authors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pooch

from synthsr_net.models.checkpoint import InputConfig, ModelConfig, ScanConfig
from synthsr_net.networks.unet import UNetConfig

from .registry import KNOWN_MODELS, KnownModel, ModelError

_BY_CHANNELS = {1: "synthsr-v1", 2: "synthsr-hyperfine"}


def config_of_known(known: KnownModel, network: UNetConfig | None = None) -> ModelConfig:
    """Config of a published model.

    Args:
        known: The model.
        network: Its architecture, where it was read from the weights; None for the published one.

    Examples:
        >>> config_of_known(KNOWN_MODELS["synthsr-v2"]).scan.sharpen
        True
    """
    return _config(
        known,
        network or UNetConfig(in_channels=len(known.inputs)),
        name=known.name,
        description=known.description,
        licence=f"{known.licence}. {known.licence_note}",
        citation=known.citation,
    )


def config_of_keras(path: str | os.PathLike[str], network: UNetConfig) -> ModelConfig:
    """Config of a Keras file, which does not say how scans become inputs.

    A file of the registry, known by its checksum or else by its name, has the settings there. Any
    other is taken for a model as the original trains them by default: of one scan of any contrast
    (as synthsr-v1), or of two low-field scans (as synthsr-hyperfine). The description says so.

    Args:
        path: The file.
        network: Its architecture, read from the weights.

    Raises:
        ModelError: If the channels fit neither.
    """
    path = Path(path)
    fitting = [m for m in KNOWN_MODELS.values() if len(m.inputs) == network.in_channels]
    for known in fitting:
        if _is_file_of(known, path):
            return config_of_known(known, network)
    named = [m for m in fitting if m.file.lower() == path.name.lower()]
    if network.out_channels != 1 or network.in_channels not in _BY_CHANNELS:
        raise ModelError(
            f"{path} must have one or two input channels and one output channel to be used as it"
            f" is, got {network.in_channels} and {network.out_channels}. Say what they are by"
            " synthsr convert-weights --inputs."
        )
    known = named[0] if named else KNOWN_MODELS[_BY_CHANNELS[network.in_channels]]
    why = "file name" if named else "number of channels"
    return _config(
        known,
        network,
        name=path.stem,
        description=f"Keras file {path.name}, used with the settings of {known.name}, to which"
        f" its {why} points.",
    )


def _is_file_of(known: KnownModel, path: Path) -> bool:
    same_size = path.stat().st_size == known.size_bytes
    return same_size and pooch.file_hash(str(path)) == known.sha256


def _config(known: KnownModel, network: UNetConfig, **described: Any) -> ModelConfig:
    """Settings of a known model, for a network, which may have another depth."""
    divisor = 2**network.num_levels  # as in the original, though half of it would do
    return ModelConfig(
        network=network,
        inputs=[InputConfig(**image) for image in known.inputs],
        scan=ScanConfig(**{"divisor": divisor, **known.scan}),
        **described,
    )
