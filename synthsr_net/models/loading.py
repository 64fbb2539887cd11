"""Models loaded by name, or from a file of either kind."""

from __future__ import annotations

import os
from pathlib import Path

from synthsr_net.models.zoo.files import resolve_model
from synthsr_net.models.zoo.registry import config_of_keras

from .checkpoint import Model, ModelConfig, network_of, read_config, read_model
from .keras import read_keras

_HDF5 = b"\x89HDF\r\n\x1a\n"


def load_model(
    name_or_path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None
) -> Model:
    """Load a model by name, from a model file, or from a Keras file of the original.

    Args:
        name_or_path: Name or alias of a shipped model, name of a downloaded one, or path of a
            file, see `resolve_model`.
        root: See `cached_path`.

    Returns:
        The model on the CPU, in float32, ready for inference.

    Raises:
        ModelError: If there is no such model, or the settings of a Keras file cannot be told.
        SynthSRError: If a model file cannot be used.
        KerasWeightsError: If a Keras file cannot be used.
    """
    path = resolve_model(name_or_path, root=root)
    if not _is_hdf5(path):
        return read_model(path)
    network, state = read_keras(path)
    return Model(config_of_keras(path, network), network_of(network, state, str(path)))


def load_model_config(path: str | os.PathLike[str]) -> ModelConfig:
    """Config of a model file, or that which is assumed for a Keras file.

    Raises:
        ModelError, SynthSRError, KerasWeightsError: As for `load_model`.
    """
    if not _is_hdf5(path):
        return read_config(path)
    return config_of_keras(path, read_keras(path)[0])


def _is_hdf5(path: str | os.PathLike[str]) -> bool:
    with Path(path).open("rb") as stream:
        return stream.read(len(_HDF5)) == _HDF5
