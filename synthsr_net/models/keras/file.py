"""HDF5 files as Keras writes them: which arrays belong to which layer of the network.

Three layouts are read, see `layers_of`. Nothing that a file describes is ever built or executed:
of the description of the model that checkpoints carry, only plain facts are taken.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from synthsr_transforms.io.hdf5 import fault_in
from synthsr_transforms.support.pointers import refuse_pointer

from .layout import PREFIX, KerasWeightsError, roles_of

Arrays = Mapping[str, h5py.Dataset]
"""Arrays of a layer by role, such as `kernel`."""

MAX_BYTES = 10**9
"""Largest array that is read."""
WEIGHTS, CHECKPOINT, KERAS_3 = "weight file", "whole-model checkpoint", "weight file of Keras 3"


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """An HDF5 file, open for reading.

    Raises:
        KerasWeightsError: If there is no such file, or it is damaged or no HDF5 file, also where
            that shows only on reading.
    """
    path = Path(path)
    refuse_pointer(path)
    if not path.is_file():
        raise KerasWeightsError(f"{path} must be a Keras weight file, but there is no such file.")
    try:
        with h5py.File(path, "r") as file:
            if fault := fault_in(file, path.stat().st_size, MAX_BYTES):
                raise KerasWeightsError(fault)
            yield file
    except KerasWeightsError as error:
        reason = " ".join(str(error).split())
        raise KerasWeightsError(
            f"{path} must hold the weights of a SynthSR network, but {reason}. Use a file that the"
            " original, FreeSurfer or --to-keras wrote."
        ) from error
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:  # all from h5py
        reason = " ".join(str(error).split())
        raise KerasWeightsError(
            f"{path} must be an HDF5 file of Keras (.h5), but cannot be read ({reason}). Get the"
            " file again."
        ) from error


@dataclass(frozen=True)
class KerasLayers:
    """Layers of the network in a file, while it is open."""

    layout: str
    """`WEIGHTS`, `CHECKPOINT` or `KERAS_3`."""
    arrays: Mapping[str, Arrays]
    """Arrays of each layer that has some."""
    has_dropout: bool
    """Whether there are layers of dropout."""


def layers_of(file: h5py.File) -> KerasLayers:
    """Layers of the network in a file.

    * Weight files: one group per layer, whose attribute `weight_names` lists its arrays.
    * Whole-model checkpoints: the same in a group `model_weights`, among layers of the generator
      and losses. A frozen segmentation network in there (`unet`, without more) is left out.
    * Keras 3 (`.weights.h5`): numbered arrays in `layers/*/vars`, which carry the layer's name.

    Raises:
        KerasWeightsError: If there are none, or their arrays cannot be distinguished.
    """
    if "layers" in file:
        layout, groups = KERAS_3, _keras_3(file["layers"])
    else:
        checkpoint = "model_weights" in file
        layout, root = (CHECKPOINT, file["model_weights"]) if checkpoint else (WEIGHTS, file)
        groups = {name: item for name, item in root.items() if isinstance(item, h5py.Group)}
    ours = {name: group for name, group in groups.items() if name.startswith(PREFIX)}
    if not ours:
        others = ", ".join(list(groups)[:3]) or "none"
        raise KerasWeightsError(
            f"none of its {len(groups)} layers has a name that starts with {PREFIX} (they are"
            f" {others}{', ...' if len(groups) > 3 else ''})"
        )
    found = {name: _datasets(name, group) for name, group in ours.items()}
    arrays = {name: _by_role(name, datasets) for name, datasets in found.items() if datasets}
    return KerasLayers(layout, arrays, any(n.startswith(f"{PREFIX}dropout") for n in ours))


def _keras_3(layers: h5py.Group) -> dict[str, h5py.Group]:
    """Groups of arrays by name of the layer; Keras 2 and early Keras 3 wrote no names there."""
    groups = [layer["vars"] for layer in layers.values() if "vars" in layer]
    named = {str(g.attrs["name"]): g for g in groups if "name" in g.attrs}
    if groups and not named:
        raise KerasWeightsError(
            "it does not say which layer is which. Save it with a name that ends in .h5 instead of"
            " .weights.h5, for the older layout"
        )
    return named


def _datasets(layer: str, group: h5py.Group) -> dict[str, h5py.Dataset]:
    """Arrays of a layer by name, in the order of Keras."""
    names = _texts(group.attrs, "weight_names")
    if names is None:
        names = []
        group.visititems(
            lambda n, item: names.append(n) if isinstance(item, h5py.Dataset) else None
        )
    for name in names:
        if not isinstance(group.get(name), h5py.Dataset):
            raise KerasWeightsError(f"array {name} of layer {layer} is missing")
    return {name: group[name] for name in names}


def _by_role(layer: str, datasets: Mapping[str, h5py.Dataset]) -> Arrays:
    """By the last part of their names, or by their order if these say nothing."""
    roles = roles_of(layer)
    named = {name.rsplit("/", 1)[-1].split(":")[0]: data for name, data in datasets.items()}
    if set(named) == set(roles):
        return named
    if len(datasets) != len(roles) or set(named) & set(roles):
        raise KerasWeightsError(
            f"layer {layer} holds {', '.join(named)} where {', '.join(roles)} belong"
        )
    return dict(zip(roles, datasets.values(), strict=True))


def _texts(attributes: Mapping[str, Any], key: str) -> list[str] | None:
    """A list of texts, which Keras splits into `key0`, `key1`, ... where it is long."""
    split = itertools.takewhile(attributes.__contains__, (f"{key}{i}" for i in itertools.count()))
    pieces = [attributes[k] for k in ([key] if key in attributes else split)]
    return [_text(name) for piece in pieces for name in piece] if pieces else None


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def facts_of(file: h5py.File) -> dict[str, Any]:
    """Fields of a `UNetConfig` that the description of the model tells (`model_config`).

    Checkpoints carry such a description.
    """
    layers = _described_layers(file)
    activation = layers.get(f"{PREFIX}conv_downarm_0_0", {}).get("activation")
    rate = layers.get(f"{PREFIX}dropout_downarm_0_0", {}).get("rate")
    last = layers.get(f"{PREFIX}prediction", {}).get("activation")
    facts: dict[str, Any] = {}
    if isinstance(activation, str):
        facts["activation"] = activation
    if isinstance(rate, float) and 0 <= rate < 1:
        facts["dropout"] = rate
    if isinstance(last, str):
        facts["softmax"] = last == "softmax"
    return facts


def _described_layers(file: h5py.File) -> dict[str, dict[str, Any]]:
    """Settings of each layer, as far as they are what they should be."""
    try:
        layers = json.loads(_text(file.attrs.get("model_config", "{}")))["config"]["layers"]
        settings = [layer["config"] for layer in layers]
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    named = [s for s in settings if isinstance(s, dict) and isinstance(s.get("name"), str)]
    return {each["name"]: each for each in named}
