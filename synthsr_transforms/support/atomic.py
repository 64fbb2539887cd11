"""Output files and folders: files appear whole or not at all, folders are checked before work."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from synthsr_transforms.support.messages import (
    SynthSRError,
    WorkFailedError,
    bytes_in_words,
    is_full,
)
from synthsr_transforms.support.stopping import signals_held, undoing

HOURS_KEPT = 24
"""Time after which a temporary file of another machine counts as left behind."""
_TEMPORARY = re.compile(r"\.([0-9a-f]{8})([0-9a-f]{8})[0-9a-f]{16}-")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write to a temporary file beside `path`, which it replaces only when complete.

    A reader of `path` sees the old file or the new one, never half of one.

    Args:
        path: The file to write.

    Yields:
        Path of the temporary file; it is hidden and keeps the extension.

    Raises:
        OSError: If it cannot be written; the error names `path`.
    """
    path = Path(path)
    temporary = _temporary(path.parent, path.name)
    with undoing(lambda: temporary.unlink(missing_ok=True)):
        try:
            yield temporary
            os.replace(temporary, path)
        except OSError as error:
            if "requested and" in str(error):  # all that numpy says of a full disk
                full = errno.ENOSPC
                raise OSError(full, os.strerror(full), str(path)) from error
            if error.errno is not None and error.filename in (None, str(temporary), temporary):
                error.filename, error.filename2 = str(path), None
            raise


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for a while, where the system keeps such things."""
    with signals_held():  # Python tries the place with a file of its own, the first time
        place = tempfile.gettempdir()
    folder = _temporary(Path(place), "synthsr")
    with undoing(lambda: shutil.rmtree(folder, ignore_errors=True)):
        folder.mkdir(mode=0o700)
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _temporary(folder: Path, name: str) -> Path:
    """Temporary path in a folder, from which leftovers are removed when it is first used."""
    _tidy_once(folder)
    return folder / f".{_machine()}{os.getpid():08x}{secrets.token_hex(8)}-{name}"


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files and folders of processes that were killed.

    The name of each tells the machine and the number of the process that writes it, as several
    machines may write to a folder at the same time. On this machine, what a living process writes
    stays: one of that number that began before the file was last changed. Of other machines, whose
    processes cannot be seen, what changed within the last `HOURS_KEPT` hours stays.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name = _TEMPORARY.match(entry.name)
            if name is not None and _is_left(entry, name[1], int(name[2], 16)):
                with suppress(OSError):
                    shutil.rmtree(entry) if entry.is_dir() else os.unlink(entry)


_tidy_once = cache(remove_leftovers)


def _is_left(entry: os.DirEntry[str], machine: str, process: int) -> bool:
    """Whether a temporary file has nobody who writes it."""
    import psutil

    try:
        changed = entry.stat(follow_symlinks=False).st_mtime
        if machine != _machine():
            return time.time() - changed > 3600 * HOURS_KEPT
        return bool(psutil.Process(process).create_time() > changed + 2)  # seconds of rounding
    except psutil.NoSuchProcess:
        return True
    except (OSError, psutil.Error):
        return False


@cache
def _machine() -> str:
    """Eight digits for this machine and, in a container, for its own numbers of processes."""
    space = ""
    with suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file, atomically and with the same bytes on every system."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write a JSON file, atomically; folders that are missing are made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def nearest_folder(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next(p for p in (path, *path.absolute().parents) if p.exists())


def why_unwritable(folder: Path) -> str | None:
    """Why a folder cannot be made or written to; None if it can."""
    nearest = nearest_folder(folder)
    if not nearest.is_dir():
        return f"{nearest} is a file"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"no permission to write to {nearest}"
    try:
        tempfile.TemporaryFile(dir=nearest).close()  # some folders promise more than they keep
    except OSError as error:
        if not is_full(error):
            return f"no file can be made in {nearest}"
    return None


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Refuse an output folder that cannot be made or written to.

    Raises:
        SynthSRError: If so.
    """
    wrong = why_unwritable(Path(folder))
    if wrong:
        raise _unwritable(folder, wrong)


def check_space(folder: str | os.PathLike[str], expected_bytes: float) -> None:
    """Refuse work that the disk cannot hold.

    Raises:
        WorkFailedError: If less is free than expected.
    """
    with writing_to(folder):
        free = shutil.disk_usage(nearest_folder(Path(folder))).free
    if expected_bytes > free:
        raise WorkFailedError(
            f"the disk of {folder} must have room for about {bytes_in_words(expected_bytes)}, got"
            f" {bytes_in_words(free)} free. Free some space, ask for less, or choose another --out."
        )


@contextmanager
def writing_to(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turn errors of the file system into one that names the folder and the remedy."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise WorkFailedError(
                f"the disk of {folder} is full. Free some space and run the same command again:"
                " complete samples are kept."
            ) from error
        raise _unwritable(folder, error.strerror or str(error)) from error


def _unwritable(folder: str | os.PathLike[str], reason: str) -> SynthSRError:
    return SynthSRError(
        f"output folder must be writable, got {folder} ({reason}). Choose another with --out."
    )
