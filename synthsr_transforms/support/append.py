"""Tables that grow by whole rows, which several processes and machines append to."""

from __future__ import annotations

import csv
import io
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from synthsr_transforms.support.messages import SynthSRError
from synthsr_transforms.support.texts import read_text

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SECONDS_TO_WAIT = 30.0
"""Time after which a row is appended without the lock that another process keeps."""
_THREADS = threading.Lock()


def append_row(path: str | os.PathLike[str], columns: Sequence[str], row: Sequence[object]) -> None:
    """Append a row to a tab-separated table, with the names of the columns if it is new.

    The row is one write to the end of the file, under a lock of the system, which a process that
    dies gives back. Network file systems need the lock to know where the end is.

    Args:
        path: The table.
        columns: Names of its columns.
        row: Values; None is empty.

    Raises:
        OSError: If it cannot be written.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
    with _THREADS:
        file = os.open(path, flags, 0o666)
        try:
            with _locked(file):
                size = os.fstat(file).st_size
                before = b""
                if size == 0:
                    before = _line(columns)
                elif _last_byte(file, size) != b"\n":  # of a row that a power cut left
                    before = b"\n"
                os.write(file, before + _line(row))
        finally:
            os.close(file)


def read_rows(path: str | os.PathLike[str], columns: Sequence[str]) -> list[dict[str, str]]:
    """Whole rows of a table, in the order in which they were appended.

    Args:
        path: The table; an empty file has no rows.
        columns: Names of its columns.

    Raises:
        SynthSRError: If the file is another table.
    """
    text = read_text(Path(path))
    if not text:  # a process ended between making the file and its first row
        return []
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t"))
    except csv.Error:
        rows = []
    names = list(columns)
    if not rows or rows[0] != names:
        raise SynthSRError(
            f"{path} must be a table with the columns {', '.join(names[:4])}, ..., but is another"
            " file. Choose a new one."
        )
    whole = [row for row in rows[1:] if len(row) == len(names) and row != names]
    return [dict(zip(names, row, strict=True)) for row in whole]


@contextmanager
def _locked(file: int) -> Iterator[None]:
    """Lock a file, as far as its file system can."""
    if fcntl is None:
        yield
        return
    until, held = time.monotonic() + SECONDS_TO_WAIT, False
    while not held and time.monotonic() < until:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except (BlockingIOError, PermissionError):
            time.sleep(0.002)
        except OSError:  # a file system without locks
            break
    try:
        yield
    finally:
        if held:
            fcntl.lockf(file, fcntl.LOCK_UN)


def _last_byte(file: int, size: int) -> bytes:
    os.lseek(file, size - 1, os.SEEK_SET)
    return os.read(file, 1)


def _line(values: Sequence[object]) -> bytes:
    """A row as a line, whatever the values hold."""
    cells = ["" if value is None else " ".join(str(value).splitlines()) for value in values]
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "backslashreplace")
