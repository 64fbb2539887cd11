"""Models loaded by name, or from a file of either kind."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from torch import Tensor

from synthsr_net.models.zoo.files import resolve_model
from synthsr_net.networks.unet import UNetConfig

from .checkpoint import Model, ModelConfig, network_of, read_config, read_model

log = logging.getLogger("synthsr_net")
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
        SynthSRError: If there is no such model, or its file cannot be used.
    """
    path = resolve_model(name_or_path, root=root)
    log.debug("model %s: reading %s", name_or_path, path)
    if not _is_hdf5(path):
        return read_model(path)
    from .keras.converted import config_of_keras
    from .keras.weights import read_keras

    network = read_keras(path)
    config = config_of_keras(path, network.config)
    return Model(config, network_of(network.config, network.state, str(path)))


def load_model_config(path: str | os.PathLike[str]) -> ModelConfig:
    """Config of a model file, or the one that is assumed for a Keras file.

    Raises:
        SynthSRError: As for `load_model`.
    """
    if not _is_hdf5(path):
        return read_config(path)
    from .keras.converted import config_of_keras
    from .keras.weights import read_keras

    return config_of_keras(path, read_keras(path).config)


def load_weights(name_or_path: str | os.PathLike[str]) -> tuple[UNetConfig, dict[str, Tensor]]:
    """Architecture and weights of a model, see `load_model`, of any number of channels.

    Raises:
        SynthSRError: As for `load_model`.
    """
    path = resolve_model(name_or_path)
    if _is_hdf5(path):
        from .keras.weights import read_keras

        network = read_keras(path)
        return network.config, network.state
    model = read_model(path)
    return model.config.network, model.network.state_dict()


def _is_hdf5(path: str | os.PathLike[str]) -> bool:
    with Path(path).open("rb") as stream:
        return stream.read(len(_HDF5)) == _HDF5
