"""Weights of the original Keras network, read and written without Keras or TensorFlow."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from torch import Tensor

from synthsr_net.networks.unet import UNetConfig
from synthsr_transforms.support.atomic import replacing

from .file import CHECKPOINT, KerasLayers, ModelFacts, facts_of, layers_of, opened
from .layout import (
    KerasArray,
    KerasWeightsError,
    config_of,
    keras_arrays,
    keras_layers,
    to_keras,
)

SAME_ACTIVATIONS = {"elu": "elu", "relu": "relu", "gelu": "gelu", "silu": "silu", "swish": "silu"}
"""Activations that Keras and PyTorch define alike, by their names in Keras."""

ATTRIBUTE_BYTES = 64_000
"""Keras splits lists of names that are longer, as HDF5 keeps attributes below 64 kB."""

_VERSION, _BACKEND = b"2.3.1", b"tensorflow"  # bytes, as older versions of Keras decode them


class KerasNetwork(NamedTuple):
    """The network in a Keras file.

    Attributes:
        config: Architecture.
        state: State dict of a `UNet3d` of this architecture, float32.
        layout: Kind of file, in words.
        precision: Number type of the weights in the file, such as float32.
        notes: Facts that the file does not hold, and what is assumed instead.
    """

    config: UNetConfig
    state: dict[str, Tensor]
    layout: str
    precision: str
    notes: tuple[str, ...]


def read_keras(path: str | os.PathLike[str], *, activation: str | None = None) -> KerasNetwork:
    """Read the network of the original from a Keras file.

    Weight files (those of the published models, of FreeSurfer, and of `write_keras`), whole-model
    checkpoints as the original's training saves them, and `.weights.h5` files of Keras 3 are read,
    in any floating point precision. The architecture comes from the shapes of the arrays.

    Weight files hold neither activation nor softmax nor the rate of dropout. Where a checkpoint
    does not either, these are elu, no softmax, and 0; `dataclasses.replace` sets others.

    Args:
        path: The HDF5 file.
        activation: Used whatever the file says.

    Raises:
        KerasWeightsError: If the file cannot be read, or holds no such network or a damaged one.
    """
    with opened(path) as file:
        layers, facts = layers_of(file), facts_of(file)
        shapes = {
            layer: {role: tuple(data.shape) for role, data in arrays.items()}
            for layer, arrays in layers.arrays.items()
        }
        config = config_of(shapes)
        config, notes = _completed(config, layers, facts, activation)
        state: dict[str, Tensor] = {}
        for layer, role, entry, _ in keras_arrays(config):
            state[entry] = _tensor(layers.arrays[layer][role], f"the {role} of layer {layer}")
        precisions = {str(d.dtype) for a in layers.arrays.values() for d in a.values()}
    for entry in [e for e in state if e.endswith("running_mean")]:
        state[entry.replace("running_mean", "num_batches_tracked")] = torch.tensor(0)
    return KerasNetwork(config, state, layers.layout, ", ".join(sorted(precisions)), notes)


def _completed(
    config: UNetConfig, layers: KerasLayers, facts: ModelFacts, activation: str | None
) -> tuple[UNetConfig, tuple[str, ...]]:
    """The architecture with facts that shapes do not show, and notes on assumptions."""
    notes = []
    if activation is None and facts.activation is None:
        notes.append("the file does not name the activation: elu is assumed, as in the original")
    elif activation is None and facts.activation not in SAME_ACTIVATIONS:
        raise KerasWeightsError(
            f"its activation is {str(facts.activation)[:40]!r}, not one of"
            f" {', '.join(SAME_ACTIVATIONS)}"
        )
    if layers.has_dropout and facts.dropout is None:
        notes.append("the file does not hold the rate of its dropout: 0 is assumed (training only)")
    if layers.layout == CHECKPOINT and facts.softmax is None and config.out_channels > 1:
        notes.append("the file does not say whether a softmax comes last: none is assumed")
    known = SAME_ACTIVATIONS.get(facts.activation or "elu", "elu")
    config = replace(
        config,
        activation=activation or known,
        dropout=facts.dropout or 0.0 if layers.has_dropout else 0.0,
        softmax=bool(facts.softmax),
    )
    return config, tuple(notes)


def _tensor(data: h5py.Dataset, what: str) -> Tensor:
    if data.dtype.kind != "f":
        raise KerasWeightsError(f"{what} is of type {data.dtype}, not of floating point")
    with np.errstate(over="ignore"):
        array = np.asarray(data[()], np.float32)
    if not np.isfinite(array).all():
        raise KerasWeightsError(f"{what} is not finite")
    tensor = torch.from_numpy(array)
    return tensor.permute(4, 3, 0, 1, 2).contiguous() if array.ndim == 5 else tensor


def write_keras(
    path: str | os.PathLike[str], config: UNetConfig, state: Mapping[str, Tensor]
) -> None:
    """Write a weight file that the original and FreeSurfer read, atomically.

    The file holds float32 weights in the layout of Keras 2, for `load_weights(path, by_name=True)`.
    It holds the weights alone: the reader builds the network.

    Args:
        path: File ending in `.h5`.
        config: Architecture, with batch normalisation or none.
        state: State dict of a `UNet3d` of this architecture.

    Raises:
        KerasWeightsError: If Keras cannot express the architecture, or the state does not fit it.
        OSError: If the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".h5":
        raise KerasWeightsError(f"a Keras weight file must end in .h5, got {path}. Rename it.")
    _check_expressible(config)
    arrays: dict[str, dict[str, Any]] = {layer: {} for layer in keras_layers(config)}
    for array in _expected(config, state):
        arrays[array.layer][array.role] = _keras_array(array, state[array.entry])
    buffer = io.BytesIO()  # what a full disk says is clearer without HDF5 in between
    with h5py.File(buffer, "w") as file:
        file.attrs["backend"], file.attrs["keras_version"] = _BACKEND, _VERSION
        _write_names(file, "layer_names", list(arrays))
        for layer, roles in arrays.items():
            group = file.create_group(layer)
            _write_names(group, "weight_names", [f"{layer}/{role}:0" for role in roles])
            for role, data in roles.items():
                group.create_dataset(f"{layer}/{role}:0", data=data)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def _check_expressible(config: UNetConfig) -> None:
    if config.normalisation not in ("batch", "none"):
        raise KerasWeightsError(
            "normalisation must be batch or none for a Keras file, got"
            f" {config.normalisation}. The original has no layer for it."
        )
    if config.normalisation == "batch" and not config.normalise_last:
        raise KerasWeightsError(
            "normalise_last must be true for a Keras file, got false. The original normalises the"
            " last level as well."
        )
    if config.pool_scans:
        raise KerasWeightsError(
            "pool_scans must be false for a Keras file, got true. The original takes one scan."
        )
    if config.activation not in SAME_ACTIVATIONS:
        raise KerasWeightsError(
            f"activation must be one of {', '.join(SAME_ACTIVATIONS)} for a Keras file, got"
            f" {config.activation}. Keras defines it otherwise."
        )


def _expected(config: UNetConfig, state: Mapping[str, Tensor]) -> list[KerasArray]:
    """Arrays of an architecture, whose names must be those of the state dict."""
    arrays = keras_arrays(config)
    names = {name for name in state if not name.endswith("num_batches_tracked")}
    if wrong := sorted(names ^ {array.entry for array in arrays}):
        raise KerasWeightsError(
            f"state must hold the weights of its architecture, but {len(wrong)} names differ, first"
            f" {wrong[0]}. Give the config that belongs to it."
        )
    return arrays


def _keras_array(array: KerasArray, tensor: Tensor) -> Any:
    tensor = to_keras(tensor.detach().cpu().to(torch.float32))
    if tuple(tensor.shape) != array.shape or not bool(torch.isfinite(tensor).all()):
        raise KerasWeightsError(
            f"{array.entry} must hold finite numbers of shape {array.shape} (in Keras), got shape"
            f" {tuple(tensor.shape)}. Give the config that belongs to the state."
        )
    return tensor.contiguous().numpy()


def _write_names(group: h5py.Group, key: str, names: Sequence[str]) -> None:
    array = np.array([name.encode() for name in names])
    pieces = np.array_split(array, max(1, math.ceil(array.nbytes / ATTRIBUTE_BYTES)))
    for i, piece in enumerate(pieces):
        group.attrs[key if len(pieces) == 1 else f"{key}{i}"] = piece
