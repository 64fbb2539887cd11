"""Transforms as data: `{name, params}` and back."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from synthsr_transforms.distributions import Distribution
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.support.messages import suggest

if TYPE_CHECKING:
    from torchio.transforms.transform import Transform


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


def to_plain(value: Any) -> Any:
    """Turn distributions, tables, tuples, arrays and tensors into data that YAML and JSON hold."""
    if isinstance(value, Distribution):
        return value.to_spec()
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, LabelTable):
        return value.to_spec()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_plain(v) for v in value]
    return value


def build_transform(spec: Mapping[str, Any], **context: Any) -> Transform:
    """Make a transform from its description.

    Args:
        spec: `{"name": class name, "params": {argument: value}}`; names are those of this library
            and of TorchIO.
        context: Arguments given to transforms that take them and do not set them, such as the
            label table of a generator.

    Returns:
        The transform.

    Raises:
        ValueError: If the name or an argument is unknown (the nearest spelling is suggested), or
            the constructor refuses a value.
    """
    unknown = set(spec) - {"name", "params"}
    if unknown or "name" not in spec:
        raise ValueError(f"a step must have the keys name and params, got {sorted(spec)}.")
    cls = transform_class(str(spec["name"]))
    params = dict(spec.get("params") or {})
    accepted = {*_defaults(cls), "copy"}
    for name in params:
        if name not in accepted:
            raise ValueError(unknown_parameter(cls, name))
    params = {**{k: v for k, v in context.items() if k in accepted}, **params}
    try:
        return cls(**_tuples_for_torchio(cls, params))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{cls.__name__}: {error}") from error


def unknown_parameter(cls: type, name: str) -> str:
    """Message about an argument that a constructor does not take."""
    accepted = sorted({*_defaults(cls), "copy"})
    return (
        f"{cls.__name__} has no parameter {name!r}{suggest(name, accepted)}."
        f" It takes: {', '.join(accepted)}."
    )


def transform_class(name: str) -> type[Transform]:
    """Find a transform of this library or of TorchIO by class name.

    Raises:
        ValueError: If there is none; the nearest spelling is suggested.
    """
    import torchio

    from .base import registered_transforms

    ours = registered_transforms()
    if name in ours:
        return ours[name]
    theirs = getattr(torchio, name, None)
    if isinstance(theirs, type) and issubclass(theirs, torchio.Transform):
        return theirs
    raise ValueError(
        f"transform must be one of {', '.join(ours)} or a TorchIO transform,"
        f" got {name!r}{suggest(name, ours)}."
    )


def _tuples_for_torchio(cls: type, params: dict[str, Any]) -> dict[str, Any]:
    """TorchIO reads ranges as tuples where YAML gives lists."""
    from .base import SynthTransform

    if issubclass(cls, SynthTransform):
        return params
    names = {"include", "exclude"}
    return {k: tuple(v) if isinstance(v, list) and k not in names else v for k, v in params.items()}
