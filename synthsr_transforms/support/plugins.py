"""Classes of other packages, found by name."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from .messages import SynthSRError, suggest

Kind = TypeVar("Kind")


def find_class(
    what: str, name: str, kind: type[Kind], known: Mapping[str, type[Kind]]
) -> type[Kind]:
    """Find a class by the name that a configuration gives it.

    Args:
        what: What it is, such as `transform`; plural of it, after `synthsr.`, is the group of
            entry points in which packages declare theirs.
        name: One of `known`, the name of an entry point, or `package.module.Class`.
        kind: Base of the class.
        known: Classes that need not be looked for.

    Raises:
        SynthSRError: If there is none; the message says where it was looked for.
    """
    if name in known:
        return known[name]
    declared = {point.name: point for point in entry_points(group=f"synthsr.{_plural(what)}")}
    if name in declared:
        found = _attempt(declared[name].load, f"{what} {name!r}")
    elif "." in name:
        found = _imported(what, name)
    else:
        raise SynthSRError(
            f"{what} must be one of {', '.join([*known, *declared])}, or package.module.Class, got"
            f" {name!r}{suggest(name, [*known, *declared])}. A class of your own can be named once"
            " --import has named its module."
        )
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise SynthSRError(
            f"{what} {name!r} must be a subclass of {kind.__module__}.{kind.__qualname__}, got"
            f" {found!r}."
        )
    return found


def _plural(what: str) -> str:
    return f"{what}es" if what.endswith("s") else f"{what}s"


def _imported(what: str, name: str) -> Any:
    module_name, _, class_name = name.rpartition(".")
    module = import_module(module_name, f"{what} {name!r}")
    if not hasattr(module, class_name):
        classes = [n for n, value in vars(module).items() if isinstance(value, type)]
        raise SynthSRError(
            f"{what} {name!r} must be in the module {module_name}, {module.__file__}, which has no"
            f" {class_name}{suggest(class_name, classes)}."
        )
    return getattr(module, class_name)


def import_module(name: str, what: str) -> Any:
    """Import a module, or a file of Python.

    Args:
        name: Name of a module that Python finds, or path of a file `.py`.
        what: What asks for it, for messages.

    Raises:
        SynthSRError: If it is not found, or its own code fails.
    """
    path = Path(name).expanduser()
    if path.suffix == ".py":
        return _import_file(path, what)
    return _attempt(partial(importlib.import_module, name), what)


def _import_file(path: Path, what: str) -> Any:
    path, name = path.resolve(), path.stem
    if not path.is_file():
        raise SynthSRError(f"{what}: {path} must be a file of Python, but does not exist.")
    loaded = sys.modules.get(name)
    if loaded is not None:
        if getattr(loaded, "__file__", None) != str(path):
            raise SynthSRError(
                f"{what}: {path} must not have the name of another module, {name}. Rename it."
            )
        return loaded
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        _attempt(partial(spec.loader.exec_module, module), what)
    except SynthSRError:
        del sys.modules[name]
        raise
    return module


def _attempt(load: Callable[[], Any], what: str) -> Any:
    """Run code of others, whose mistakes are told in one line."""
    try:
        return load()
    except ModuleNotFoundError as error:
        raise SynthSRError(
            f"{what}: no module {error.name!r} was found. Install its package, or give the path of"
            " its file with --import FILE.py."
        ) from error
    except Exception as error:
        raise SynthSRError(
            f"{what} must be importable, but {type(error).__name__}: {error}"
        ) from error
