"""The list of models that have a name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from synthsr_net.models.checkpoint import ModelConfig
from synthsr_net.models.loading import load_model_config

from .downloads import state_of
from .registry import KNOWN_MODELS, input_text
from .shipped import alias_of, default_model, shipped_models, shipped_state


class ListedModel(NamedTuple):
    """A model that has a name.

    Attributes:
        name: What `--model` takes.
        alias: A shorter name that `--model` takes as well; None if there is none.
        is_default: Whether it is used where no model is named.
        inputs: The scans that it takes, in words.
        size_bytes: Size of its file; None if not known.
        licence: In short; `unknown` for a damaged file.
        state: `shipped`, `damaged`, or see `state_of`.
    """

    name: str
    alias: str | None
    is_default: bool
    inputs: str
    size_bytes: int | None
    licence: str
    state: str


def list_models(root: str | os.PathLike[str] | None = None) -> list[ListedModel]:
    """All models that have a name: those that ship with the package, then published ones.

    Args:
        root: See `cached_path`.

    Examples:
        >>> [model.name for model in list_models()][0]
        'synthsr-t1-v1'
    """
    shipped = [_shipped(name, path) for name, path in shipped_models().items()]
    published = [
        ListedModel(
            name=known.name,
            alias=None,
            is_default=False,
            inputs=known.input_text,
            size_bytes=known.size_bytes,
            licence=known.licence,
            state=state_of(known, root),
        )
        for known in KNOWN_MODELS.values()
    ]
    return [*shipped, *published]


def _shipped(name: str, path: Path) -> ListedModel:
    state = shipped_state(name)
    whole = state == "shipped"
    config = load_model_config(path) if whole else ModelConfig()
    return ListedModel(
        name=name,
        alias=alias_of(name),
        is_default=name == default_model(),
        inputs=input_text([image.contrast for image in config.inputs]),
        size_bytes=path.stat().st_size if whole else None,
        licence=config.licence,
        state=state,
    )
