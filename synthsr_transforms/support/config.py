"""Typed settings to and from YAML, with errors that name the field."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from synthsr_transforms.support.atomic import replacing
from synthsr_transforms.support.messages import SynthSRError, suggest

Config = TypeVar("Config")

_PLAIN = r"- [-+.\w]+\n"
_ROW = re.compile(
    rf"(?m)^(?P<head>(?P<indent> *)-)(?P<items> {_PLAIN}(?:(?P=indent)  {_PLAIN})+)(?!(?P=indent) )"
)
_LIST = re.compile(
    rf"(?m)^(?P<head>(?P<indent> *)[^-\s].*:)\n(?P<items>(?:(?P=indent){_PLAIN})+)(?!(?P=indent)-)"
)


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        SynthSRError: If the file is missing, not YAML, or not a mapping.
    """
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
    """Make a dataclass from plain data, checking names and types of its fields.

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
    known = [field.name for field in fields(cast(Any, kind))]
    prefix = f"{where}: " if where else ""
    for name in settings:
        if name not in known:
            raise SynthSRError(
                f"{prefix}unknown setting {name!r}{suggest(str(name), known)}."
                f" Settings are: {', '.join(known)}."
            )
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), dict(settings))
        result = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        field = getattr(error, "full_key", "") or ""
        reason = (getattr(error, "msg", None) or str(error)).splitlines()[0]
        raise SynthSRError(f"{prefix}setting {field!r} is not usable: {reason}.") from error
    return cast(Config, result)


def to_yaml(config: Any) -> str:
    """Settings as YAML text that `read_yaml` and `from_mapping` turn back into them.

    Lists of plain values take one line, as in the presets.
    """
    text = long = str(OmegaConf.to_yaml(OmegaConf.structured(config)))
    for lines in (_ROW, _LIST):
        text = lines.sub(_on_one_line, text)
    try:
        same = OmegaConf.create(text) == OmegaConf.create(long)
    except Exception:
        same = False
    return text if same else long


def _on_one_line(match: re.Match[str]) -> str:
    items = [line.split()[-1] for line in match["items"].splitlines()]
    return f"{match['head']} [{', '.join(items)}]\n"


def write_yaml(config: Any, path: str | os.PathLike[str]) -> None:
    """Write settings to a YAML file, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(to_yaml(config), encoding="utf-8")


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
    result: dict[str, Any] = _copy(settings)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            raise SynthSRError(f"a setting must be written name=value, got {assignment!r}.")
        keys = path.strip().split(".")
        keys = [*(shortcuts or {}).get(keys[0], keys[:1]), *keys[1:]]
        _assign(result, keys, _value(text, assignment), path.strip(), shortcuts or {})
    return result


def _value(text: str, assignment: str) -> Any:
    try:
        container = OmegaConf.to_container(OmegaConf.create(f"value: {text}"))
    except Exception as error:
        raise SynthSRError(
            f"the value of {assignment!r} is not YAML. Quote or correct it."
        ) from error
    return container["value"] if isinstance(container, dict) else None


def _assign(
    target: dict[str, Any], keys: Sequence[str], value: Any, path: str, extra: Mapping[str, Any]
) -> None:
    node = target
    for depth, key in enumerate(keys[:-1]):
        if not isinstance(node.get(key), dict):
            known = [*node, *(extra if depth == 0 else ())]
            raise SynthSRError(
                f"{path!r}: there is no setting {key!r}{suggest(key, known)}."
                f" Known here: {', '.join(map(str, known))}."
            )
        node = node[key]
    node[keys[-1]] = value


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, list) else value


def config_path(name: str | os.PathLike[str], ready: Mapping[str, Path], what: str) -> Path:
    """Path of a YAML file given by path or by the name of a ready one.

    Raises:
        SynthSRError: If it is neither; the nearest spelling is suggested.
    """
    text = str(name)
    if text in ready:
        return ready[text]
    path = Path(name)
    if path.suffix.lower() in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise SynthSRError(f"{path} does not exist. Check the path.")
        return path
    raise SynthSRError(
        f"{what} must be one of {', '.join(ready)} or a .yaml file,"
        f" got {text!r}{suggest(text, ready)}."
    )
