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

from synthsr_net.models.checkpoint import network_of
from synthsr_net.networks.unet import UNetConfig
from synthsr_transforms.support.atomic import replacing

from .file import CHECKPOINT, KerasLayers, facts_of, layers_of, opened
from .layout import (
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
        layers = layers_of(file)
        shapes = {
            layer: {role: tuple(data.shape) for role, data in arrays.items()}
            for layer, arrays in layers.arrays.items()
        }
        config, notes = _completed(config_of(shapes), layers, facts_of(file), activation)
        state: dict[str, Tensor] = {}
        for layer, role, entry, _ in keras_arrays(config):
            state[entry] = _tensor(layers.arrays[layer][role], f"the {role} of layer {layer}")
        precisions = {str(d.dtype) for a in layers.arrays.values() for d in a.values()}
    for entry in [e for e in state if e.endswith("running_mean")]:
        state[entry.replace("running_mean", "num_batches_tracked")] = torch.tensor(0)
    return KerasNetwork(config, state, layers.layout, ", ".join(sorted(precisions)), notes)


def _completed(
    config: UNetConfig, layers: KerasLayers, facts: dict[str, Any], activation: str | None
) -> tuple[UNetConfig, tuple[str, ...]]:
    """The architecture with facts that shapes do not show, and notes on assumptions."""
    notes, told = [], facts.get("activation")
    if activation is None and told is None:
        notes.append("the file does not name the activation: elu is assumed, as in the original")
    elif activation is None and told not in SAME_ACTIVATIONS:
        raise KerasWeightsError(
            f"its activation is {str(told)[:40]!r}, not one of {', '.join(SAME_ACTIVATIONS)}"
        )
    if layers.has_dropout and "dropout" not in facts:
        notes.append("the file does not hold the rate of its dropout: 0 is assumed (training only)")
    if layers.layout == CHECKPOINT and "softmax" not in facts and config.out_channels > 1:
        notes.append("the file does not say whether a softmax comes last: none is assumed")
    facts["activation"] = activation or SAME_ACTIVATIONS.get(told or "", "elu")
    if not layers.has_dropout:
        facts["dropout"] = 0.0
    return replace(config, **facts), tuple(notes)


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
        SynthSRError: If Keras cannot express the architecture, or the state does not fit it.
        OSError: If the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".h5":
        raise KerasWeightsError(f"a Keras weight file must end in .h5, got {path}. Rename it.")
    _check_expressible(config)
    weights = network_of(config, state, "state").cpu().state_dict()
    arrays: dict[str, dict[str, Any]] = {layer: {} for layer in keras_layers(config)}
    for layer, role, entry, _ in keras_arrays(config):
        arrays[layer][role] = to_keras(weights[entry]).contiguous().numpy()
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
    last = (True,) if config.normalisation == "batch" else (True, False)
    for name, possible, reason in (
        ("normalisation", ("batch", "none"), "The original has no layer for it."),
        ("normalise_last", last, "The original normalises the last level as well."),
        ("scale_features", (0,), "The original has one head."),
        ("activation", tuple(SAME_ACTIVATIONS), "Keras defines it otherwise."),
    ):
        if (value := getattr(config, name)) not in possible:
            known = ", ".join(map(str, possible)).lower()
            known = f"one of {known}" if len(possible) > 1 else known
            raise KerasWeightsError(
                f"{name} must be {known} for a Keras file, got {str(value).lower()}. {reason}"
            )


def _write_names(group: h5py.Group, key: str, names: Sequence[str]) -> None:
    array = np.array([name.encode() for name in names])
    pieces = np.array_split(array, max(1, math.ceil(array.nbytes / ATTRIBUTE_BYTES)))
    for i, piece in enumerate(pieces):
        group.attrs[key if len(pieces) == 1 else f"{key}{i}"] = piece
