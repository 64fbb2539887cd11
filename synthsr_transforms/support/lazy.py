"""Names that a package exports without importing the modules that define them (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_exports(
    package: str, names: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Make `__getattr__`, `__dir__` and `__all__` of a package.

    Args:
        package: `__name__` of the package.
        names: Exported names by the module that defines them, relative to the package.

    Examples:
        >>> names = {"labels.table": ["LabelTable"]}
        >>> get, _, exported = lazy_exports("synthsr_transforms", names)
        >>> get("LabelTable").__name__, exported
        ('LabelTable', ['LabelTable'])
    """
    home = {name: f"{package}.{module}" for module, found in names.items() for name in found}

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(home[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home})

    return get, listed, sorted(home)
