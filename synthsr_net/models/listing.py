"""The list of models that have a name."""

from __future__ import annotations

import os
from typing import NamedTuple

from .downloads import state_of
from .loading import read_any_config
from .registry import KNOWN_MODELS, input_text, shipped_models


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
