"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


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
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return f"no file can be made in {nearest}"
    return None
