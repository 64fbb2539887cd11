"""Output files and folders: files appear whole or not at all, folders are checked before work."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from synthsr_transforms.support.messages import SynthSRError


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk, or somebody's share of it, is full."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write to a temporary file beside `path`, which it replaces only when complete.

    A reader of `path` sees the old file or the new one, never half of one.

    Args:
        path: The file to write.

    Yields:
        Path of the temporary file; it is hidden and keeps the extension.
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid4().hex}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
        SynthSRError: If less is free than expected.
    """
    with writing_to(folder):
        free = shutil.disk_usage(nearest_folder(Path(folder))).free
    if expected_bytes > free:
        raise SynthSRError(
            f"the disk of {folder} must have room for about {expected_bytes / 2**30:.1f} GiB, got"
            f" {free / 2**30:.1f} GiB free. Free some space, make fewer samples with -n, or choose"
            " another folder with --out."
        )


@contextmanager
def writing_to(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turn errors of the file system into one that names the folder and the remedy."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise SynthSRError(
                f"the disk of {folder} is full. Free some space and run the same command again:"
                " complete samples are kept."
            ) from error
        raise _unwritable(folder, error.strerror or str(error)) from error


def _unwritable(folder: str | os.PathLike[str], reason: str) -> SynthSRError:
    return SynthSRError(
        f"output folder must be writable, got {folder} ({reason}). Choose another with --out."
    )
