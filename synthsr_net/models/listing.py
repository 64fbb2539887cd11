"""The list of models that have a name."""

from __future__ import annotations

import os
from typing import NamedTuple

from synthsr_net.models.checkpoint import ModelConfig
from synthsr_net.models.loading import load_model_config

from .zoo.files import alias_of, default_model, fault_of_shipped, shipped_models, state_of
from .zoo.registry import PUBLISHED_MODELS


class ListedModel(NamedTuple):
    """A model that has a name.

    Attributes:
        name: What `--model` takes.
        inputs: The scans that it takes, in words.
        size_bytes: Size of its file; None if not known.
        licence: In short; `unknown` for a damaged file.
        state: `shipped`, `damaged`, or see `state_of`.
        alias: A shorter name that `--model` takes as well; None if there is none.
        is_default: Whether it is used where no model is named.
    """

    name: str
    inputs: str
    size_bytes: int | None
    licence: str
    state: str
    alias: str | None = None
    is_default: bool = False


def list_models(root: str | os.PathLike[str] | None = None) -> list[ListedModel]:
    """All models that have a name: those that ship with the package, then published ones.

    Args:
        root: See `cached_path`.

    Examples:
        >>> [model.name for model in list_models()][0]
        'synthsr-t1-v1'
    """
    published = [
        ListedModel(
            name=known.name,
            inputs=_in_words([str(image.get("contrast", "any")) for image in known.inputs]),
            size_bytes=known.size_bytes,
            licence=known.licence,
            state=state_of(known, root),
        )
        for known in PUBLISHED_MODELS.values()
    ]
    return [*map(_shipped, shipped_models()), *published]


def _shipped(name: str) -> ListedModel:
    path, whole = shipped_models()[name], fault_of_shipped(name) is None
    config = load_model_config(path) if whole else ModelConfig()
    return ListedModel(
        name=name,
        inputs=_in_words([image.contrast for image in config.inputs]),
        size_bytes=path.stat().st_size if whole else None,
        licence=config.licence,
        state="shipped" if whole else "damaged",
        alias=alias_of(name),
        is_default=name == default_model(),
    )


def _in_words(contrasts: list[str]) -> str:
    """The scans that a network takes, from the contrast of each."""
    return " + ".join("any contrast" if c == "any" else c for c in contrasts)
