"""Layers of the original Keras network: names, arrays, and where these go in a `UNet3d`.

A kernel of Keras is `(X, Y, Z, in, out)`, the weight of a PyTorch convolution `(out, in, X, Y, Z)`.
Decoder layers are numbered on from the encoder, their normalisations and dropouts from 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_transforms.support.messages import SynthSRError

PREFIX = "unet_"
"""Names of the network's layers start with this; no other layer of a checkpoint's does."""

CONVOLUTION = {"kernel": "weight", "bias": "bias"}
"""Arrays of a convolution, in the order of Keras, and what PyTorch calls them."""
NORMALISATION = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
"""The same for a batch normalisation."""

Shape = tuple[int, ...]
Shapes = Mapping[str, Mapping[str, Shape]]
"""Shapes of the arrays of each layer, by layer and by role, such as `kernel`."""


class KerasWeightsError(SynthSRError):
    """Keras weights that cannot be used; the message names the file and says what is wrong."""


class KerasArray(NamedTuple):
    """One array of a layer.

    Attributes:
        layer: Name of the layer.
        role: A key of `CONVOLUTION` or `NORMALISATION`.
        entry: Its name in the state dict of a `UNet3d`.
        shape: Its shape in Keras.
    """

    layer: str
    role: str
    entry: str
    shape: Shape


def keras_layers(config: UNetConfig) -> dict[str, str | None]:
    """Layers of the original network of an architecture, in the order of its model.

    Args:
        config: Architecture, with batch normalisation or none.

    Returns:
        For each layer the module of a `UNet3d` that has its arrays, None for layers without.

    Examples:
        >>> list(keras_layers(UNetConfig(num_levels=1, convs_per_level=1)))
        ['unet_input', 'unet_conv_downarm_0_0', 'unet_bn_down_0', 'unet_likelihood',
         'unet_prediction']
    """
    depth = config.num_levels
    layers: dict[str, str | None] = {f"{PREFIX}input": None}
    for level in range(depth):
        layers |= _level(config, "down", level, level, f"encoder.{level}")
        if level < depth - 1:
            layers[f"{PREFIX}maxpool_{level}"] = None
    for step in range(depth - 1):
        layers |= {f"{PREFIX}{kind}_{depth + step}": None for kind in ("up", "merge")}
        layers |= _level(config, "up", depth + step, step, f"decoder.{step}")
    return {**layers, f"{PREFIX}likelihood": "head", f"{PREFIX}prediction": None}


def _level(
    config: UNetConfig, arm: str, number: int, step: int, module: str
) -> dict[str, str | None]:
    layers: dict[str, str | None] = {}
    for conv in range(config.convs_per_level):
        layers[f"{PREFIX}conv_{arm}arm_{number}_{conv}"] = f"{module}.convs.{conv}"
        if config.dropout:
            layers[f"{PREFIX}dropout_{arm}arm_{step}_{conv}"] = None
    if config.normalisation == "batch":
        layers[f"{PREFIX}bn_{arm}_{step}"] = f"{module}.norm"
    return layers


def keras_arrays(config: UNetConfig) -> list[KerasArray]:
    """Arrays of all layers, in the order of Keras."""
    with torch.device("meta"):
        state = UNet3d(config).state_dict()
    arrays = []
    for layer, module in keras_layers(config).items():
        if module is None:
            continue
        for role, name in roles_of(layer).items():
            entry = f"{module}.{name}"
            arrays.append(KerasArray(layer, role, entry, tuple(to_keras(state[entry]).shape)))
    return arrays


def to_keras(weight: Tensor) -> Tensor:
    """A weight with the axes of Keras."""
    return weight.permute(2, 3, 4, 1, 0) if weight.ndim == 5 else weight


def roles_of(layer: str) -> dict[str, str]:
    """Arrays of a layer, in the order of Keras, and what PyTorch calls them.

    Examples:
        >>> list(roles_of("unet_conv_uparm_5_0"))
        ['kernel', 'bias']
    """
    return NORMALISATION if layer.startswith(f"{PREFIX}bn_") else CONVOLUTION


def config_of(shapes: Shapes) -> UNetConfig:
    """Architecture of a network from the shapes of its arrays.

    Activation, dropout and a final softmax leave no trace in shapes: those of the result are the
    defaults.

    Args:
        shapes: Of every layer that has arrays.

    Raises:
        KerasWeightsError: If these are not the arrays of such a network; the message is the end of
            a sentence that begins with `but`.
    """
    levels, convs = _size(shapes)
    kernels = [_kernel(shapes, f"{PREFIX}conv_downarm_{level}_0") for level in range(levels)]
    features = [kernel[-1] for kernel in kernels]
    head = _kernel(shapes, f"{PREFIX}likelihood")
    multiplier = multiplier_of(features)
    try:
        config = UNetConfig(
            in_channels=kernels[0][-2],
            out_channels=head[-1],
            num_levels=levels,
            num_features=features[0],
            feature_multiplier=multiplier,
            convs_per_level=convs,
            kernel_size=kernels[0][0],
            normalisation="batch" if any("_bn_" in name for name in shapes) else "none",
        )
    except ValueError as error:
        raise KerasWeightsError(str(error).rstrip(".")) from error
    _compare(shapes, config)
    return config


def _size(shapes: Shapes) -> tuple[int, int]:
    """Numbers of levels and of convolutions per level."""
    start = f"{PREFIX}conv_downarm_"
    found = {tuple(n.removeprefix(start).split("_")) for n in shapes if n.startswith(start)}
    numbers = {(int(n[0]), int(n[1])) for n in found if len(n) == 2 and "".join(n).isdecimal()}
    levels, convs = (1 + max((n[i] for n in numbers), default=0) for i in (0, 1))
    if len(numbers) != levels * convs:  # else there may be far too many to go through
        every = ((level, conv) for level in range(levels) for conv in range(convs))
        level, conv = next(pair for pair in every if pair not in numbers)
        raise KerasWeightsError(f"layer {start}{level}_{conv} is missing")
    return levels, convs


def _kernel(shapes: Shapes, layer: str) -> Shape:
    if layer not in shapes:
        raise KerasWeightsError(f"layer {layer} is missing")
    kernel = shapes[layer]["kernel"]
    if len(kernel) != 5:
        raise KerasWeightsError(
            f"the kernel of layer {layer} has shape {kernel}, not that of a 3-D convolution"
        )
    return kernel


def _compare(shapes: Shapes, config: UNetConfig) -> None:
    arrays = keras_arrays(config)
    expected = dict.fromkeys(array.layer for array in arrays)
    missing = [name for name in expected if name not in shapes]
    unknown = sorted(set(shapes) - set(expected))
    if missing or unknown:
        what = f"layer {missing[0]} is missing" if missing else f"layer {unknown[0]} is unknown"
        raise KerasWeightsError(what)
    for layer, role, _, shape in arrays:
        if shapes[layer][role] != shape:
            raise KerasWeightsError(
                f"the {role} of layer {layer} has shape {shapes[layer][role]} where that of the"
                f" first layers asks for {shape}"
            )


def multiplier_of(features: Sequence[int]) -> float:
    """The shortest decimal number whose powers give the features of all levels.

    Args:
        features: Number of features of each level.

    Raises:
        KerasWeightsError: If there is no such number.

    Examples:
        >>> multiplier_of([24, 48, 96, 192, 384]), multiplier_of([10, 15, 22])
        (2.0, 1.5)
    """
    first, powers = features[0], list(enumerate(features))[1:]
    if not powers:
        return UNetConfig.feature_multiplier
    if min(features) >= 1:
        low = max(((n - 0.5) / first) ** (1 / k) for k, n in powers)
        high = min(((n + 0.5) / first) ** (1 / k) for k, n in powers)
        ratios = [(n / first) ** (1 / k) for k, n in powers]
        for digits, x in itertools.product(range(17), [*ratios, (low + high) / 2]):
            multiplier = round(x, digits)
            if all(round(first * multiplier**k) == n for k, n in powers):
                return multiplier
    raise KerasWeightsError(
        f"the levels have {', '.join(map(str, features))} features, which do not grow by one factor"
    )
