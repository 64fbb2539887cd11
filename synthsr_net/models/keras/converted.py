"""Config of a model whose weights come from Keras.

Keras files hold weights alone. How scans become channels, and the output a scan, the original and
FreeSurfer keep in one script per published model; the registry has it as settings.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pooch

from synthsr_net.models.checkpoint import InputConfig, ModelConfig, ScanConfig
from synthsr_net.models.zoo.registry import PUBLISHED_MODELS, ModelError
from synthsr_net.networks.unet import UNetConfig
from synthsr_transforms.support.messages import check_choice

PRESETS = {"v1": "synthsr-v1", "v2": "synthsr-v2", "hyperfine": "synthsr-hyperfine"}
"""Published model whose settings a preset has."""
NO_RESIDUAL = "none"


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
    path, channels = Path(path), network.in_channels
    if network.out_channels != 1 or channels not in (1, 2):
        raise ModelError(
            f"{path} must have one or two input channels and one output channel to be used as it"
            f" is, got {channels} and {network.out_channels}. Say what they are by synthsr"
            " convert-weights --inputs."
        )
    named = []
    for known in PUBLISHED_MODELS.values():
        if known.config.num_channels == channels:
            same_size = path.stat().st_size == known.size_bytes
            if same_size and pooch.file_hash(str(path)) == known.sha256:
                return replace(known.config, network=network, scan=_scan(known.config, network))
            named += [known.config] * (known.file.lower() == path.name.lower())
    why = "file name" if named else "number of channels"
    like = [*named, PUBLISHED_MODELS[PRESETS["v1" if channels == 1 else "hyperfine"]].config][0]
    return ModelConfig(
        name=path.stem,
        description=f"Keras file {path.name}, used with the settings of {like.name}, to which its"
        f" {why} points.",
        network=network,
        inputs=like.inputs,
        scan=_scan(like, network),
    )


def _scan(config: ModelConfig, network: UNetConfig) -> ScanConfig:
    """Settings of a model for a network that may have another depth."""
    return replace(config.scan, divisor=2**network.num_levels)  # as in the original


def config_of_converted(
    path: str | os.PathLike[str],
    network: UNetConfig,
    *,
    preset: str | None = None,
    inputs: Sequence[str] = (),
    reliability_maps: bool = False,
    residual_input: str | None = None,
    spread: bool = False,
    **about: Any,
) -> ModelConfig:
    """Config of the model that a Keras file becomes.

    Args:
        path: The Keras file.
        network: Its architecture, read from the weights.
        preset: One of `PRESETS`. None: that of `config_of_keras` for files that it knows, else
            `hyperfine` for a T1 and a T2 scan without maps, and `v1` for all others, as the
            original trains by default.
        inputs: Names of the images that the network takes, in the order of its channels. None are
            needed for one image, and for the T1 and T2 of Hyperfine.
        reliability_maps: Whether each image is followed by its reliability map.
        residual_input: Name of the image that the output is added to, or `none`. None: as in the
            preset.
        spread: Whether the network predicts the scale of a Laplace distribution.
        about: Other fields of `ModelConfig`, such as `name` and `licence`.

    Raises:
        ValueError: If the images do not make the channels of the network, or a name is unknown.

    Examples:
        >>> config_of_converted("own.h5", UNetConfig(in_channels=2), preset="hyperfine").name
        'own'
    """
    described = preset or inputs or reliability_maps or network.out_channels > 1
    if not described and network.in_channels <= 2:
        config = config_of_keras(path, network)
    else:
        preset = preset or _default_preset(network, inputs, reliability_maps)
        known = PUBLISHED_MODELS[PRESETS[check_choice("preset", preset, PRESETS)]].config
        images = _images(network, preset, inputs, reliability_maps)
        scan = _scan(known, network)
        config = ModelConfig(name=Path(path).stem, network=network, inputs=images, scan=scan)
    scan = _with_residual(config, residual_input)
    return replace(config, scan=scan, spread=spread, **about)


def _default_preset(network: UNetConfig, names: Sequence[str], maps: bool) -> str:
    alike = network.in_channels == 2 and list(names) in ([], ["T1", "T2"]) and not maps
    return "hyperfine" if alike else "v1"


def _images(
    network: UNetConfig, preset: str, names: Sequence[str], maps: bool
) -> list[InputConfig]:
    if "" in names or len(set(names)) < len(names):
        raise ModelError(f"the images must have different names, got {', '.join(names)!r}.")
    count = len(names) or network.in_channels // (2 if maps else 1)
    known = PUBLISHED_MODELS[PRESETS[preset]].config.inputs
    if not names and count != len(known):
        raise ModelError(
            f"the images of preset {preset} must make as many channels as the network"
            f" takes, {network.in_channels}, but make {len(known) * (1 + maps)}. Name the images,"
            ' such as --inputs "T1,T2", and add --reliability-maps if each is followed by its map.'
        )
    images = known if count == len(known) else [InputConfig()] * count
    images = [replace(image, reliability_map=maps) for image in images]
    return [replace(i, name=n) for i, n in zip(images, names, strict=True)] if names else images


def _with_residual(config: ModelConfig, name: str | None) -> ScanConfig:
    """Settings with another residual input, whose output is in the intensities of that scan."""
    names = [image.name for image in config.inputs]
    if name is None:
        return config.scan
    if name == NO_RESIDUAL:
        return replace(config.scan, residual_input=None, output_range=ScanConfig.output_range)
    check_choice("the residual input", name, [*names, NO_RESIDUAL])
    return replace(config.scan, residual_input=names.index(name), output_range=None)
