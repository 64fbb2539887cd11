"""Typed settings to and from YAML, with errors that name the field."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from synthsr_transforms.support.messages import SynthSRError, suggest
from synthsr_transforms.support.pointers import refuse_pointer
from synthsr_transforms.support.texts import read_text

Config = TypeVar("Config")

MAX_VALUES = 10**6
"""Most values of a YAML file that uses aliases."""


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes texts that OmegaConf reads as numbers, such as `1e3`."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[\d_.]+[eE][-+]?\d+"), list("-+.0123456789")
)


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML file that holds a mapping. Texts are taken as they are: nothing is looked up.

    Raises:
        SynthSRError: If the file is missing, too large, not YAML or not a mapping, or if a text
            holds `${`.
    """
    refuse_pointer(path)
    try:
        loaded = _parsed(read_text(path))
    except FileNotFoundError:
        raise SynthSRError(f"{path} does not exist. Check the path.") from None
    except SynthSRError:
        raise
    except Exception as error:
        deep = isinstance(error, RecursionError)
        reason = "too deeply nested" if deep else " ".join(str(error).split()).rstrip(".")
        raise SynthSRError(f"{path} cannot be read as YAML: {reason}.") from error
    if not isinstance(loaded, dict):
        raise SynthSRError(f"{path} must hold a mapping of settings, got {type(loaded).__name__}.")
    check_literal(loaded, str(path))
    return {str(key): value for key, value in loaded.items()}


def _parsed(text: str) -> Any:
    if "*" in text:
        _check_aliases(yaml.compose(text, Loader=yaml.SafeLoader))
    return OmegaConf.to_container(OmegaConf.create(text)) if text.strip() else {}


def _check_aliases(node: Any) -> None:
    """Refuse aliases (`*name`) that would make millions of values of a few lines."""
    sizes: dict[int, int | None] = {}

    def size(inner: Any) -> int:
        known = sizes.get(id(inner), 0)
        if known is None:
            raise ValueError("an alias that holds itself")
        if not known:
            sizes[id(inner)] = None
            values = inner.value if isinstance(inner, yaml.CollectionNode) else ()
            parts = (part for v in values for part in (v if isinstance(v, tuple) else (v,)))
            known = sizes[id(inner)] = 1 + sum(map(size, parts))
        return known

    if size(node) > MAX_VALUES:
        raise ValueError(f"aliases that stand for more than {MAX_VALUES:,} values")


def check_literal(value: Any, where: str, field: str = "") -> None:
    """Refuse texts with `${`, which other programs replace by values of the environment.

    Raises:
        SynthSRError: If there is one; the message names the field.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            check_literal(key, where, field)
            check_literal(inner, where, f"{field}.{key}" if field else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            check_literal(inner, where, f"{field}[{index}]")
    elif isinstance(value, str) and "${" in value:
        raise SynthSRError(
            f"{where}: {field or 'a name'} must not hold ${{, got {value!r}. Write out what it"
            " stands for, or rename the file."
        )


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
    return cast(Config, _merged(kind, settings, where, OmegaConf.to_object))


def complete(kind: type, settings: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Fill plain data up with the defaults of a dataclass; see `from_mapping`."""
    return cast("dict[str, Any]", _merged(kind, settings, where, OmegaConf.to_container))


def _merged(
    kind: type, settings: Mapping[str, Any], where: str, convert: Callable[[Any], Any]
) -> Any:
    prefix = f"{where}: " if where else ""
    sections = _checked(kind, settings, "", prefix)
    try:
        return convert(OmegaConf.merge(_schema(kind), sections))
    except OmegaConfBaseException as error:
        field, owner = error.full_key or "", error.object_type
        if isinstance(error, ConfigKeyError) and is_dataclass(owner):
            known = [known.name for known in fields(owner)]
            raise SynthSRError(
                f"{prefix}unknown setting {field!r}{suggest(str(error.key), known)}."
                f" Settings are: {', '.join(known)}."
            ) from error
        reason = (error.msg or str(error)).splitlines()[0].rstrip(".")
        if isinstance(error, MissingMandatoryValue):
            raise SynthSRError(f"{prefix}{reason.partition(' missing ')[2] or reason}.") from error
        raise SynthSRError(f"{prefix}setting {field!r} is not usable: {reason}.") from error
    except ValueError as error:  # from the dataclass
        raise SynthSRError(f"{prefix}{error}") from error


@cache
def _schema(kind: type) -> Any:
    """Fields of a dataclass with their types and defaults; merging leaves them alone."""
    return OmegaConf.structured(kind)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _checked(hint: Any, value: Any, field: str, prefix: str) -> Any:
    """Settings without empty sections, with mappings, lists and numbers where they belong."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    if get_origin(hint) in (Union, UnionType):
        hint = Any if value is None or len(kinds) > 1 else kinds[0]
        kinds = list(get_args(hint))
    origin = get_origin(hint) or hint
    if is_dataclass(origin) or origin is dict:
        hints = _hints(cast(type, origin)) if is_dataclass(origin) else {}
        if not isinstance(value, Mapping):
            name = field.rpartition(".")[2]
            example = f", such as {name}.{next(iter(hints))}" if hints and name else ""
            raise SynthSRError(
                f"{prefix}{field or 'file'} must hold settings{example}, got {value!r}."
            )
        inner = {
            name: hints.get(str(name), Any) if hints else (kinds or [Any, Any])[1] for name in value
        }
        return {
            name: _checked(inner[name], v, f"{field}.{name}" if field else str(name), prefix)
            for name, v in value.items()
            if v is not None or not _is_section(inner[name])
        }
    expected = None
    if origin in (list, tuple):
        if isinstance(value, (list, tuple)):
            each = kinds[0] if kinds else Any
            return [_checked(each, v, f"{field}[{i}]", prefix) for i, v in enumerate(value)]
        expected = "a list"
    elif origin in (int, float) and isinstance(value, (bool, int, float)):
        limit = math.inf if origin is float else 2**63
        usable = not isinstance(value, bool) and abs(value) < limit
        expected = None if usable else "a number" if origin is float else "a whole number"
    if expected:
        raise SynthSRError(f"{prefix}{field} must be {expected}, got {value!r}.")
    return value


def _is_section(hint: Any) -> bool:
    return is_dataclass(hint) or get_origin(hint) is dict


def to_yaml(config: Any) -> str:
    """Settings as YAML text that `read_yaml` and `from_mapping` turn back into them."""
    layout = {"default_flow_style": None, "sort_keys": False, "allow_unicode": True, "width": 100}
    return str(yaml.dump(to_plain(config), Dumper=_Dumper, **layout))


def to_plain(config: Any, hint: Any = Any) -> Any:
    """Settings as `read_yaml` gives them back: mappings, lists, no tuples, floats as such.

    Args:
        config: A dataclass, or a value of a field.
        hint: Type of the field.
    """
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    if get_origin(hint) in (Union, UnionType):
        return to_plain(config, kinds[0] if len(kinds) == 1 else Any)
    if is_dataclass(config):
        hints = _hints(cast(type, type(config)))
        return {name: to_plain(getattr(config, name), each) for name, each in hints.items()}
    if isinstance(config, Mapping):
        return {key: to_plain(v, kinds[1] if kinds else Any) for key, v in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_plain(value, kinds[0] if kinds else Any) for value in config]
    return float(config) if hint is float and type(config) is int else config


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
            value = _parsed(f"value: {text}")
        except Exception as error:
            raise SynthSRError(
                f"the value of {assignment!r} is not YAML. Quote or correct it."
            ) from error
        value = value["value"] if isinstance(value, dict) else None
        check_literal(value, "--set", path.strip())
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
        node[_key(node, last)] = value
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
        f"{what} must be {', '.join(ready)} or a .yaml file, got {text!r}{suggest(text, ready)}."
    )
