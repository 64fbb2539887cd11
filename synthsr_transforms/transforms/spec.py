"""Arguments of a transform as plain data."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from synthsr_transforms.distributions import Distribution
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.support.messages import suggest

_NAMED = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def constructor_params(transform: Any) -> dict[str, Any]:
    """Arguments of a transform that differ from their defaults, as plain data.

    Every argument of a constructor is kept under its own name as an attribute.

    Args:
        transform: A transform of this library.

    Returns:
        Numbers, strings, lists and mappings that `build_transform` takes.
    """
    params = {}
    for name, default in _defaults(type(transform)).items():
        value = to_plain(getattr(transform, name))
        if value != to_plain(default):
            params[name] = value
    return params


def _defaults(cls: type) -> dict[str, Any]:
    """Keyword arguments of a constructor and those it passes on, with their defaults."""
    found: dict[str, Any] = {}
    for klass in cls.__mro__:
        init = klass.__dict__.get("__init__")
        if init is None:
            continue
        parameters = list(inspect.signature(init).parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind in _NAMED:
                found.setdefault(parameter.name, parameter.default)
        if not any(p.kind is p.VAR_KEYWORD and p.name != "unknown" for p in parameters):
            break
    return {k: v for k, v in found.items() if k != "copy"}


def constructor_arguments(cls: type) -> set[str]:
    """Names of all arguments that a constructor takes."""
    return {*_defaults(cls), "copy"}


def to_plain(value: Any) -> Any:
    """Turn distributions, tables, tuples, arrays and tensors into data that YAML and JSON hold."""
    if isinstance(value, Distribution | LabelTable):
        return value.to_spec()
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_plain(v) for v in value]
    return value


def unknown_parameter(cls: type, name: str) -> str:
    """Message about an argument that a constructor does not take."""
    accepted = sorted(constructor_arguments(cls))
    return (
        f"{cls.__name__} has no parameter {name!r}{suggest(name, accepted)}."
        f" It takes: {', '.join(accepted)}."
    )
