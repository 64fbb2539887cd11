"""Files that appear whole or not at all."""

from __future__ import annotations

import os
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
