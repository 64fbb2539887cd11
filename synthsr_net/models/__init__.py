"""Models by name or file: listed and loaded.

Predicting never downloads anything: `resolve_model` only looks at the disk.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from synthsr_transforms.downloads import DownloadError

from .downloads import (
    URL_VARIABLE,
    cached_path,
    download_model,
    find_known,
    resolve_model,
    state_of,
)
from .registry import (
    KNOWN_MODELS,
    KnownModel,
    ModelError,
    default_model,
    input_text,
    shipped_models,
)

if TYPE_CHECKING:
    from ..checkpoint import Model, ModelConfig

__all__ = [
    "KNOWN_MODELS",
    "URL_VARIABLE",
    "DownloadError",
    "KnownModel",
    "ListedModel",
    "ModelError",
    "cached_path",
    "default_model",
    "download_model",
    "find_known",
    "list_models",
    "load_any_model",
    "read_any_config",
    "resolve_model",
    "shipped_models",
    "state_of",
]

_HDF5 = b"\x89HDF\r\n\x1a\n"


class ListedModel(NamedTuple):
    """A model that has a name.

    Attributes:
        name: What `--model` takes.
        inputs: The scans that it takes, in words.
        size_bytes: Size of its file; None if not known.
        licence: In short.
        state: `shipped`, or see `state_of`.
    """

    name: str
    inputs: str
    size_bytes: int | None
    licence: str
    state: str


def list_models(root: str | os.PathLike[str] | None = None) -> list[ListedModel]:
    """All models that have a name: those that ship with the package, then published ones.

    Args:
        root: See `cached_path`.

    Examples:
        >>> [model.name for model in list_models()][-1]
        'synthsr-hyperfine'
    """
    listed = []
    for name, path in shipped_models().items():
        config = read_any_config(path)
        inputs = input_text([image.contrast for image in config.inputs])
        listed.append(ListedModel(name, inputs, path.stat().st_size, config.licence, "shipped"))
    for known in KNOWN_MODELS.values():
        listed.append(
            ListedModel(
                known.name, known.input_text, known.size_bytes, known.licence, state_of(known, root)
            )
        )
    return listed


def load_any_model(
    name_or_path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None
) -> Model:
    """Load a model by name, from a model file, or from a Keras file of the original.

    Args:
        name_or_path: Name of a shipped or downloaded model, or path of a file.
        root: See `cached_path`.

    Returns:
        The model on the CPU, in float32, ready for inference.

    Raises:
        ModelError: If there is no such model, or the settings of a Keras file cannot be told.
        ModelFileError: If a model file cannot be used.
        KerasWeightsError: If a Keras file cannot be used.
    """
    from ..checkpoint import Model, load_model, network_of

    path = resolve_model(name_or_path, root=root)
    if not _is_hdf5(path):
        return load_model(path)
    from ..keras_weights.weights import read_keras
    from .configs import config_of_keras

    network, state = read_keras(path)
    return Model(config_of_keras(path, network), network_of(network, state, str(path)))


def read_any_config(path: str | os.PathLike[str]) -> ModelConfig:
    """Config of a model file, or that which is assumed for a Keras file.

    Raises:
        ModelError, ModelFileError, KerasWeightsError: As for `load_any_model`.
    """
    if not _is_hdf5(path):
        from ..checkpoint import read_config

        return read_config(path)
    from ..keras_weights.weights import read_keras
    from .configs import config_of_keras

    return config_of_keras(path, read_keras(path)[0])


def _is_hdf5(path: str | os.PathLike[str]) -> bool:
    with Path(path).open("rb") as stream:
        return stream.read(len(_HDF5)) == _HDF5
