"""Typed settings to and from YAML, with errors that name the field."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from synthsr_transforms.support.messages import SynthSRError, suggest
from synthsr_transforms.support.pointers import refuse_pointer

Config = TypeVar("Config")


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes texts that OmegaConf reads as numbers, such as `1e3`."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[\d_.]+[eE][-+]?\d+"), list("-+.0123456789")
)


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        SynthSRError: If the file is missing, not YAML, or not a mapping.
    """
    refuse_pointer(path)
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(Path(path)), resolve=True)
    except FileNotFoundError:
        raise SynthSRError(f"{path} does not exist. Check the path.") from None
    except Exception as error:
        reason = " ".join(str(error).split())
        raise SynthSRError(f"{path} cannot be read as YAML: {reason}.") from error
    if not isinstance(loaded, dict):
        raise SynthSRError(f"{path} must hold a mapping of settings, got {type(loaded).__name__}.")
    return {str(key): value for key, value in loaded.items()}


def from_mapping(kind: type[Config], settings: Mapping[str, Any], where: str = "") -> Config:
    """Make a dataclass from plain data, checking names and types of its fields at every depth.

    Args:
        kind: The dataclass.
        settings: Plain data, as YAML gives it.
        where: What is being read, for messages.

    Returns:
        An instance of `kind`.

    Raises:
        SynthSRError: If a field is unknown (the nearest spelling is suggested), missing or of
            another type.
    """
    return cast(Config, OmegaConf.to_object(_merged(kind, settings, where)))


def complete(kind: type, settings: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Fill plain data up with the defaults of a dataclass; see `from_mapping`."""
    return cast("dict[str, Any]", OmegaConf.to_container(_merged(kind, settings, where)))


def _merged(kind: type, settings: Mapping[str, Any], where: str) -> Any:
    prefix = f"{where}: " if where else ""
    defaults = OmegaConf.structured(kind)
    sections = _sections(cast(Any, OmegaConf.to_container(defaults)), settings, prefix)
    try:
        return OmegaConf.merge(defaults, sections)
    except OmegaConfBaseException as error:
        field, owner = error.full_key or "", error.object_type
        if isinstance(error, ConfigKeyError) and is_dataclass(owner):
            known = [known.name for known in fields(owner)]
            raise SynthSRError(
                f"{prefix}unknown setting {field!r}{suggest(str(error.key), known)}."
                f" Settings are: {', '.join(known)}."
            ) from error
        reason = (error.msg or str(error)).splitlines()[0]
        raise SynthSRError(f"{prefix}setting {field!r} is not usable: {reason}.") from error


def _sections(
    defaults: Mapping[str, Any], settings: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Leave out sections without content, and refuse values in the place of sections."""
    result = {}
    for name, value in settings.items():
        inner = defaults.get(name)
        if isinstance(inner, Mapping):
            if value is None:
                continue
            if not isinstance(value, Mapping):
                example = f", such as {name}.{next(iter(inner))}" if inner else ""
                raise SynthSRError(f"{where}{name} must hold settings{example}, got {value!r}.")
            value = _sections(inner, value, f"{where}{name}.")
        result[name] = value
    return result


def to_yaml(config: Any) -> str:
    """Settings as YAML text that `read_yaml` and `from_mapping` turn back into them."""
    layout = {"default_flow_style": None, "sort_keys": False, "allow_unicode": True, "width": 100}
    settings = OmegaConf.to_container(OmegaConf.structured(config))
    return str(yaml.dump(settings, Dumper=_Dumper, **layout))


def to_plain(config: Any) -> dict[str, Any]:
    """Settings as `read_yaml` gives them back: mappings and lists, no tuples."""
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(to_yaml(config))))


def override(
    settings: Mapping[str, Any],
    assignments: Sequence[str],
    *,
    shortcuts: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Change settings by `a.b.c=value` assignments.

    Args:
        settings: Plain nested data, which stays as it is.
        assignments: Values are read as YAML, so `[1, 2]`, `true` and `null` work.
        shortcuts: First names that stand for a longer path, such as names of steps.

    Returns:
        The changed copy.

    Raises:
        SynthSRError: If an assignment has no `=`, or leads through a name that does not exist; the
            nearest spelling is suggested.

    Examples:
        >>> override({"a": {"b": 1}}, ["a.b=[2, 3]"])
        {'a': {'b': [2, 3]}}
    """
    result: dict[str, Any] = deepcopy(dict(settings))
    shortcuts = shortcuts or {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        first, *rest = path.strip().split(".")
        if not equals or not first:
            raise SynthSRError(f"a setting must be written name=value, got {assignment!r}.")
        try:
            value = OmegaConf.to_container(OmegaConf.create(f"value: {text}"))
        except Exception as error:
            raise SynthSRError(
                f"the value of {assignment!r} is not YAML. Quote or correct it."
            ) from error
        *outer, last = (*shortcuts.get(first, (first,)), *rest)
        node = result
        for depth, name in enumerate(outer):
            inner = node.get(_key(node, name))
            if not isinstance(inner, dict):  # `OmegaConf.update` would add a misspelt name
                known = [*map(str, node), *(() if depth else shortcuts)]
                raise SynthSRError(
                    f"{path.strip()!r}: there is no setting {name!r}{suggest(name, known)}."
                    f" Known here: {', '.join(known)}."
                )
            node = inner
        node[_key(node, last)] = value["value"] if isinstance(value, dict) else None
    return result


def _key(node: Mapping[Any, Any], name: str) -> Any:
    """The key that is written as a name: keys may be numbers, such as label values."""
    return next((key for key in node if str(key) == name), name)


def config_path(name: str | os.PathLike[str], ready: Mapping[str, Path], what: str) -> Path:
    """Path of a YAML file given by path or by the name of a ready one.

    Raises:
        SynthSRError: If it is neither; the nearest spelling is suggested.
    """
    text = str(name)
    if text in ready:
        return ready[text]
    path = Path(name)
    refuse_pointer(path)
    if path.suffix.lower() in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise SynthSRError(f"{path} does not exist. Check the path.")
        return path
    raise SynthSRError(
        f"{what} must be one of {', '.join(ready)} or a .yaml file,"
        f" got {text!r}{suggest(text, ready)}."
    )
