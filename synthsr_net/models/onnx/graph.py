"""A `UNet3d` written as an ONNX graph, for volumes of any size.

The graph is written node by node, not traced: tracing fixes what depends on sizes, such as the
cropping after upsampling, to the sizes of its example.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from synthsr_net.networks.unet import Level, UNet3d

if TYPE_CHECKING:
    import onnx

OPSET = 17
"""Version of the operators; the first with all that are used here is 15."""
INPUT, OUTPUT = "image", "prediction"
"""Names of the input and the output."""
AXES = ("batch", "x", "y", "z")
"""Names of the axes whose size is free."""


def graph_of(network: UNet3d, *, input_text: str = "", output_text: str = "") -> onnx.GraphProto:
    """Write a network in inference as an ONNX graph.

    Args:
        network: Weights and architecture. Initialisers have the names of its state dict.
        input_text: What the input is, in words.
        output_text: What the output is, in words.

    Returns:
        Graph from `image`, `(batch, in_channels, x, y, z)` float32, to `prediction`, `(batch,
        out_channels, x, y, z)` float32, of operators of version `OPSET`.
    """
    import onnx
    from onnx import helper

    config, writer = network.config, _Writer()
    _write_network(writer, network)
    batch, *sizes = AXES
    values = [
        helper.make_tensor_value_info(
            name, onnx.TensorProto.FLOAT, [batch, channels, *sizes], doc_string=text
        )
        for name, channels, text in (
            (INPUT, config.in_channels, input_text),
            (OUTPUT, config.out_channels, output_text),
        )
    ]
    return helper.make_graph(
        writer.nodes, "UNet3d", values[:1], values[1:], list(writer.constants.values())
    )


class _Writer:
    """Nodes and constants of a graph; values are known by their names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def add(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add a node with one output, and return the name of that."""
        from onnx import helper

        name = name or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: npt.ArrayLike | Tensor) -> str:
        """Store a constant once, and return its name; fractional numbers become float32."""
        from onnx import numpy_helper

        if name not in self.constants:
            array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
            array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
            self.constants[name] = numpy_helper.from_array(array, name)
        return name


def _write_network(writer: _Writer, network: UNet3d) -> None:
    """As `UNet3d.forward`."""
    x = read = INPUT
    skips = []
    for index, level in enumerate(network.encoder):
        if index:
            x = writer.add("MaxPool", x, kernel_shape=[2, 2, 2], strides=[2, 2, 2], ceil_mode=1)
        x, skip = _level(writer, x, level, network, f"encoder.{index}")
        skips.append(skip)
    for index, (level, skip) in enumerate(zip(network.decoder, skips[-2::-1], strict=True)):
        read = writer.add("Concat", skip, _upsampled(writer, x, skip), axis=1)
        x, _ = _level(writer, read, level, network, f"decoder.{index}")
    softmax = network.config.softmax
    single = not softmax and not network.scales
    output = _convolution(writer, x, network.head, "head", name=OUTPUT if single else None)
    if softmax:
        writer.add("Softmax", output, axis=1, name=OUTPUT)
    if network.scales:
        x, _ = _level(writer, read, network.scales[0], network, "scales.0")
        x = _convolution(writer, x, network.scales[1], "scales.1")
        writer.add("Concat", output, x, axis=1, name=OUTPUT)


def _level(
    writer: _Writer, x: str, level: nn.Module, network: UNet3d, where: str
) -> tuple[str, str]:
    """As `Level.forward`: the output, and what a skip connection carries. Dropout is no more."""
    assert isinstance(level, Level)
    for index, conv in enumerate(level.convs):
        x = _convolution(writer, x, conv, f"{where}.convs.{index}")
        x = _ACTIVATIONS[network.config.activation](writer, x)
    plain = isinstance(level.norm, nn.Identity)
    norm = _NORMALISATIONS["none" if plain else network.config.normalisation]
    return norm(writer, x, level.norm, f"{where}.norm"), x


def _convolution(
    writer: _Writer, x: str, conv: nn.Module, where: str, name: str | None = None
) -> str:
    """A convolution, padded with zeros so that sizes stay."""
    assert isinstance(conv, nn.Conv3d)
    constants = [writer.constant(f"{where}.weight", conv.weight)]
    if conv.bias is not None:
        constants.append(writer.constant(f"{where}.bias", conv.bias))
    size = list(conv.kernel_size)
    pads = [n // 2 for n in size] * 2
    return writer.add("Conv", x, *constants, kernel_shape=size, pads=pads, name=name)


def _upsampled(writer: _Writer, x: str, skip: str) -> str:
    """Each voxel twice along each axis, cropped to the sizes of the skip connection."""
    twice = writer.constant("upsampling", [1.0, 1.0, 2.0, 2.0, 2.0])
    large = writer.add(
        "Resize", x, "", twice,
        mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric",
    )  # fmt: skip
    begin, axes = writer.constant("begin", [0, 0, 0]), writer.constant("axes", [2, 3, 4])
    return writer.add("Slice", large, begin, writer.add("Shape", skip, start=2), axes)


def _gelu(writer: _Writer, x: str) -> str:
    """`x (1 + erf(x / sqrt(2))) / 2`."""
    error = writer.add("Erf", writer.add("Mul", x, writer.constant("gelu.scale", math.sqrt(0.5))))
    positive = writer.add("Add", error, writer.constant("gelu.one", 1.0))
    half = writer.add("Mul", x, writer.constant("gelu.half", 0.5))
    return writer.add("Mul", half, positive)


_ACTIVATIONS: dict[str, Callable[[_Writer, str], str]] = {
    "elu": lambda writer, x: writer.add("Elu", x, alpha=1.0),
    "relu": lambda writer, x: writer.add("Relu", x),
    "leaky_relu": lambda writer, x: writer.add("LeakyRelu", x, alpha=0.01),
    "gelu": _gelu,
    "silu": lambda writer, x: writer.add("Mul", x, writer.add("Sigmoid", x)),
}
"""The activations of `unet.ACTIVATIONS`."""


def _batch_norm(writer: _Writer, x: str, norm: Any, where: str) -> str:
    names = ("weight", "bias", "running_mean", "running_var")
    constants = [writer.constant(f"{where}.{name}", getattr(norm, name)) for name in names]
    return writer.add("BatchNormalization", x, *constants, epsilon=norm.eps)


def _standardised(writer: _Writer, x: str, norm: Any, where: str) -> str:
    """Mean 0 and variance 1 of each group of channels, then weight and bias by channel.

    `InstanceNormalization` would do, but onnxruntime adds the voxels up one by one in float32: on
    a head, what that gives is far off.
    """
    features = len(norm.weight)
    groups = getattr(norm, "num_groups", features)
    centred = writer.add("Sub", x, _means(writer, x, groups, features))
    squares = writer.add("Mul", centred, centred)
    epsilon = writer.constant(f"epsilon.{norm.eps:g}", float(norm.eps))
    variance = writer.add("Add", _means(writer, squares, groups, features), epsilon)
    weight, bias = (
        writer.constant(f"{where}.{name}", getattr(norm, name).reshape(-1, 1, 1, 1))
        for name in ("weight", "bias")
    )
    factor = writer.add("Div", weight, writer.add("Sqrt", variance))
    return writer.add("Add", writer.add("Mul", centred, factor), bias)


def _means(writer: _Writer, x: str, groups: int, features: int) -> str:
    """Mean of the group that a channel is of, `(batch, features, 1, 1, 1)`; one axis at a time."""
    for axis in (4, 3, 2):
        x = writer.add("ReduceMean", x, axes=[axis], keepdims=1)
    if groups == features:
        return x
    split = writer.constant(f"groups.{groups}", [0, groups, -1, 1, 1])
    x = writer.add("ReduceMean", writer.add("Reshape", x, split), axes=[2], keepdims=1)
    members = writer.constant(f"members.{features // groups}", [1, 1, features // groups, 1, 1])
    joined = writer.constant("channels", [0, -1, 1, 1, 1])
    return writer.add("Reshape", writer.add("Expand", x, members), joined)


_NORMALISATIONS: dict[str, Callable[[_Writer, str, Any, str], str]] = {
    "batch": _batch_norm,
    "instance": _standardised,
    "group": _standardised,
    "none": lambda writer, x, norm, where: x,
}
"""The normalisations of `unet.NORMALISATIONS`."""
