"""Layers of the original Keras network: names, arrays, and where these go in a `UNet3d`.

A kernel of Keras is `(X, Y, Z, in, out)`, the weight of a PyTorch convolution `(out, in, X, Y, Z)`.
Decoder layers are numbered on from the encoder, their normalisations and dropouts from 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from synthsr_net.networks.unet import UNetConfig
from synthsr_transforms.support.messages import SynthSRError

PREFIX = "unet_"
"""Names of the network's layers start with this; no other layer of a checkpoint's does."""

CONVOLUTION = {"kernel": "weight", "bias": "bias"}
NORMALISATION = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}

Shape = tuple[int, ...]
Shapes = Mapping[str, Mapping[str, Shape]]
"""Shapes of the arrays of each layer, by layer and by what they are, such as `kernel`."""


class KerasWeightsError(SynthSRError):
    """Keras weights that cannot be used; the message names the file and says what is wrong."""


@dataclass(frozen=True)
class KerasArray:
    """One array of a layer."""

    role: str
    """What it is in Keras: a key of `CONVOLUTION` or `NORMALISATION`."""
    entry: str
    """Its name in the state dict of a `UNet3d`."""
    shape: Shape
    """Its shape in Keras."""


@dataclass(frozen=True)
class KerasLayer:
    """One layer, with its arrays in the order of Keras; most layers have none."""

    name: str
    arrays: tuple[KerasArray, ...] = ()


def keras_layers(config: UNetConfig) -> list[KerasLayer]:
    """Layers of the original network of an architecture, in the order of its model.

    Args:
        config: Architecture, with batch normalisation or none.

    Examples:
        >>> [layer.name for layer in keras_layers(UNetConfig(num_levels=1, convs_per_level=1))]
        ['unet_input', 'unet_conv_downarm_0_0', 'unet_bn_down_0', 'unet_likelihood',
         'unet_prediction']
    """
    features, depth = config.features, config.num_levels
    layers = [KerasLayer(f"{PREFIX}input")]
    for level, inputs in enumerate((config.in_channels, *features[:-1])):
        names = _Names("down", level, level, f"encoder.{level}")
        layers += _level(config, names, inputs, features[level])
        if level < depth - 1:
            layers.append(KerasLayer(f"{PREFIX}maxpool_{level}"))
    for step, level in enumerate(reversed(range(depth - 1))):
        number = depth + step
        layers += [KerasLayer(f"{PREFIX}up_{number}"), KerasLayer(f"{PREFIX}merge_{number}")]
        names = _Names("up", number, step, f"decoder.{step}")
        layers += _level(config, names, features[level] + features[level + 1], features[level])
    head = _convolution(f"{PREFIX}likelihood", "head", (1, 1, 1, features[0], config.out_channels))
    return [*layers, head, KerasLayer(f"{PREFIX}prediction")]


@dataclass(frozen=True)
class _Names:
    arm: str
    number: int
    step: int
    module: str


def _level(config: UNetConfig, names: _Names, inputs: int, features: int) -> Iterator[KerasLayer]:
    size = (config.kernel_size,) * 3
    for conv in range(config.convs_per_level):
        yield _convolution(
            f"{PREFIX}conv_{names.arm}arm_{names.number}_{conv}",
            f"{names.module}.convs.{conv}",
            (*size, features if conv else inputs, features),
        )
        if config.dropout:
            yield KerasLayer(f"{PREFIX}dropout_{names.arm}arm_{names.step}_{conv}")
    if config.normalisation == "batch":
        yield KerasLayer(
            f"{PREFIX}bn_{names.arm}_{names.step}",
            tuple(
                KerasArray(role, f"{names.module}.norm.{entry}", (features,))
                for role, entry in NORMALISATION.items()
            ),
        )


def _convolution(name: str, module: str, kernel: Shape) -> KerasLayer:
    shapes = {"kernel": kernel, "bias": kernel[-1:]}
    arrays = [KerasArray(r, f"{module}.{e}", shapes[r]) for r, e in CONVOLUTION.items()]
    return KerasLayer(name, tuple(arrays))


def roles_of(layer: str) -> tuple[str, ...]:
    """What the arrays of a layer are, in the order of Keras.

    Examples:
        >>> roles_of("unet_conv_uparm_5_0")
        ('kernel', 'bias')
    """
    return tuple(NORMALISATION if layer.startswith(f"{PREFIX}bn_") else CONVOLUTION)


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
    expected = {layer.name: layer for layer in keras_layers(config) if layer.arrays}
    missing = [name for name in expected if name not in shapes]
    unknown = sorted(set(shapes) - set(expected))
    if missing or unknown:
        what = f"layer {missing[0]} is missing" if missing else f"layer {unknown[0]} is unknown"
        raise KerasWeightsError(what)
    for name, layer in expected.items():
        for array in layer.arrays:
            if shapes[name][array.role] != array.shape:
                raise KerasWeightsError(
                    f"the {array.role} of layer {name} has shape {shapes[name][array.role]}"
                    f" where that of the first layers asks for {array.shape}"
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
    first, wanted = features[0], tuple(features)
    if len(features) == 1:
        return UNetConfig.feature_multiplier
    if min(features) >= 1:
        ratios = [(n / first) ** (1 / k) for k, n in enumerate(features) if k]
        powers = list(enumerate(features))[1:]
        low = max(((n - 0.5) / first) ** (1 / k) for k, n in powers)
        high = min(((n + 0.5) / first) ** (1 / k) for k, n in powers)
        middle = (low + high) / 2
        decimals = (round(x, digits) for digits in range(16) for x in (*ratios, middle, low, high))
        for multiplier in (*decimals, middle):
            if multiplier > 0 and _features(first, multiplier, len(wanted)) == wanted:
                return multiplier
    raise KerasWeightsError(
        f"the levels have {', '.join(map(str, features))} features, which do not grow by one factor"
    )


def _features(first: int, multiplier: float, levels: int) -> Shape:
    try:
        config = UNetConfig(num_features=first, feature_multiplier=multiplier, num_levels=levels)
    except ValueError:  # a level is empty
        return ()
    return config.features
