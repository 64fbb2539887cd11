"""Downloads of data sets: a file of the web appears on disk whole and checked, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pooch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn

ROOT_VARIABLE = "SYNTHSR_DATA"
"""Environment variable that names the folder in which data sets are kept."""

_CHUNK_BYTES = 2**16


class DownloadError(OSError):
    """A file of a data set could not be had, or is not the file that was expected."""


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Folder in which data sets are kept.

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
    store = pooch.create(path=folder, base_url=f"{base_url.rstrip('/')}/", registry=dict(registry))
    return [_fetch_file(store, file, progressbar) for file in registry]


def _fetch_file(store: pooch.Pooch, file: str, progressbar: bool) -> Path:
    """One file of a store: from disk if it is whole, else from the web."""

    def download(url: str, output_file: str, _: Any) -> None:
        with _bar(file) if progressbar else nullcontext(False) as bar:
            get = pooch.HTTPDownloader(bar, _CHUNK_BYTES, hooks={"response": _close_failed})
            get(url, output_file, store)
        _check(Path(output_file), store.registry[file], url)

    try:
        return Path(store.fetch(file, downloader=download))
    except DownloadError:
        raise
    except OSError as error:
        msg = (
            f"{file} must be reachable at {store.get_url(file)}, got {error}. Check the "
            f"connection, give another base_url, or put the file into {store.abspath}."
        )
        raise DownloadError(msg) from error


def _check(path: Path, expected: str, url: str) -> None:
    got = pooch.file_hash(str(path))
    if got != expected:
        msg = (
            f"SHA-256 of {url} must be {expected}, got {got}. Nothing was kept: try again, and if "
            f"it stays so, the file was changed at its source and should not be trusted."
        )
        raise DownloadError(msg)


def _close_failed(response: Any, **_: Any) -> None:
    """Hand back the connection of a refused download at once."""
    if not response.ok:
        response.close()


class _Bar:
    """A `rich` progress bar with the methods that pooch calls."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    @property
    def total(self) -> float | None:
        return self._progress.tasks[self._task].total

    @total.setter
    def total(self, n_bytes: int) -> None:
        self._progress.update(self._task, total=n_bytes or None)

    def update(self, n_bytes: int) -> None:
        self._progress.advance(self._task, n_bytes)

    def reset(self) -> None:
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        pass


@contextmanager
def _bar(file: str) -> Iterator[_Bar]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield _Bar(progress, progress.add_task(file, total=None))
