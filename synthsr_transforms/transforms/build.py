"""Transforms from their description `{name, params}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torchio
from torchio.transforms.transform import Transform

from synthsr_transforms.support.plugins import find_class

from .base import SynthTransform, registered_transforms
from .spec import constructor_arguments, unknown_parameter


def build_transform(spec: Mapping[str, Any], **context: Any) -> Transform:
    """Make a transform from its description.

    Args:
        spec: `{"name": class name, "params": {argument: value}}`, see `transform_class`.
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
    accepted = constructor_arguments(cls)
    for name in params:
        if name not in accepted:
            raise ValueError(unknown_parameter(cls, name))
    params = {**{k: v for k, v in context.items() if k in accepted}, **params}
    try:
        return cls(**_tuples_for_torchio(cls, params))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{cls.__name__}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError) as error:
        given = ", ".join(f"{name}={value!r}" for name, value in params.items())
        raise ValueError(
            f"{cls.__name__}: arguments must be of the types that it takes, got {given} ({error})."
        ) from error


def transform_class(name: str) -> type[Transform]:
    """Find a transform by the name that configurations give it.

    Args:
        name: Class name of one of this library, of one in a module that was imported, or of one of
            TorchIO; or see `find_class`.

    Raises:
        ValueError: If there is none; the nearest spelling is suggested.
    """
    ours, theirs = registered_transforms(), getattr(torchio, name, None)
    if name not in ours and isinstance(theirs, type) and issubclass(theirs, Transform):
        return theirs
    return find_class("transform", name, Transform, ours)


def _tuples_for_torchio(cls: type, params: dict[str, Any]) -> dict[str, Any]:
    """TorchIO reads ranges as tuples where YAML gives lists."""
    if issubclass(cls, SynthTransform):
        return params
    names = {"include", "exclude"}
    return {k: tuple(v) if isinstance(v, list) and k not in names else v for k, v in params.items()}
