"""Models that ship with the package: names, files and checksums."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pooch

from .registry import ModelError

SHIPPED_FOLDER = Path(__file__).parents[2] / "weights"
"""Folder of the models that ship with the package, `NAME.safetensors`."""
CHECKSUMS = "SHA256SUMS"
"""File in that folder with the SHA-256 of each, as `sha256sum *.safetensors` writes it there."""
DEFAULT_MODEL = "synthsr-t1-v1"
"""Model that is used where none is named."""
ALIASES: Mapping[str, str] = {"fast": "synthsr-t1-fast-v1"}
"""Short names, and the shipped models that they stand for. They stay when a model gets a successor,
so write the full name where results must not change."""

_POINTER = b"version https://git-lfs"


def shipped_models() -> dict[str, Path]:
    """Files of the models that ship with the package, by name, the default first.

    They should all be there; `shipped_file` checks it.

    Examples:
        >>> list(shipped_models())
        ['synthsr-t1-v1', 'synthsr-t1-fast-v1']
    """
    names = dict.fromkeys([DEFAULT_MODEL, *ALIASES.values()])
    return {name: SHIPPED_FOLDER / f"{name}.safetensors" for name in names}


def default_model() -> str:
    """Name of the model that is used where none is named."""
    return DEFAULT_MODEL


def full_name(name: str) -> str:
    """The name that an alias stands for; other names stay as they are.

    Examples:
        >>> full_name("fast"), full_name("synthsr-v2")
        ('synthsr-t1-fast-v1', 'synthsr-v2')
    """
    return ALIASES.get(name, name)


def alias_of(name: str) -> str | None:
    """The alias of a model, or None."""
    return next((alias for alias, full in ALIASES.items() if full == name), None)


def shipped_file(name: str) -> Path:
    """File of a shipped model, whole and checked.

    Args:
        name: A name of `shipped_models`.

    Raises:
        ModelError: If the file is missing or damaged.
    """
    path = shipped_models()[name]
    if fault := _fault(path):
        raise ModelError(
            f"{path} must be the file of model {name}, which ships with the package, but {fault}"
        )
    return path


def shipped_state(name: str) -> str:
    """`shipped`, or `damaged` if the file of a shipped model is missing or has changed."""
    return "damaged" if _fault(shipped_models()[name]) else "shipped"


def checksums() -> dict[str, str]:
    """SHA-256 of each shipped file, in hexadecimal digits, by file name; empty if unknown."""
    try:
        lines = (SHIPPED_FOLDER / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return {}
    pairs = [line.split() for line in lines]
    return {pair[1].lstrip("*"): pair[0] for pair in pairs if len(pair) == 2}


def _fault(path: Path) -> str | None:
    """What is wrong with a shipped file, and what to do; None if it is as it was shipped."""
    again = "Install the package again."
    if not path.is_file():
        return f"is missing. {again}"
    try:
        with path.open("rb") as stream:
            if stream.read(len(_POINTER)) == _POINTER:
                return f"is a pointer of Git LFS. Run git lfs pull in the checkout. {again}"
        found = pooch.file_hash(str(path))
    except OSError as error:
        return f"cannot be read ({error.strerror}). {again}"
    return None if found == checksums().get(path.name) else f"has another checksum. {again}"
