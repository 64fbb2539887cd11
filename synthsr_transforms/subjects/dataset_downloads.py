"""Where data sets are kept, and how their files get there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pooch

from synthsr_transforms.support.downloads import DownloadError, WebFile, fetch

__all__ = ["ROOT_VARIABLE", "DownloadError", "data_root", "fetch_files"]

ROOT_VARIABLE = "SYNTHSR_DATA"
"""Environment variable that names the folder in which data sets and models are kept."""


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Folder in which data sets and models are kept.

    Examples:
        >>> data_root("downloads").as_posix()
        'downloads'
    """
    chosen = root or os.environ.get(ROOT_VARIABLE) or pooch.os_cache("synthsr")
    return Path(chosen).expanduser()


def fetch_files(
    registry: Mapping[str, str], *, folder: Path, base_url: str, progressbar: bool
) -> list[Path]:
    """Download the files of a registry (name -> SHA-256) that are not in a folder yet."""
    base = base_url.rstrip("/")
    return [
        fetch(
            WebFile(url=f"{base}/{name}", path=folder / name, sha256=checksum),
            progressbar=progressbar,
        )
        for name, checksum in registry.items()
    ]
