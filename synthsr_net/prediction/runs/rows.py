"""Tables of a run: one row per scan, in a file that several processes write to."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from filelock import SoftFileLock, Timeout

from synthsr_transforms.support.atomic import replacing
from synthsr_transforms.support.messages import SynthSRError, WorkFailedError
from synthsr_transforms.support.stopping import undoing
from synthsr_transforms.support.texts import read_text

SCAN = "scan"
"""Column that rows are known by."""
ENDINGS = {".csv": ",", ".tsv": "\t"}
SECONDS_TO_WAIT = 120.0


class RowTable:
    """Rows by scan, in a text file. A row of a scan takes the place of an earlier one.

    Args:
        path: File ending in `.csv` or `.tsv`.
        columns: Names of the columns after `scan`.

    Raises:
        SynthSRError: If the ending is another, or the file has other columns.
    """

    def __init__(self, path: str | os.PathLike[str], columns: Sequence[str]) -> None:
        self.path, self.columns = Path(path), (SCAN, *columns)
        if self.path.suffix.lower() not in ENDINGS:
            raise SynthSRError(f"tables must end in .csv or .tsv, got {self.path}. Rename it.")
        if self.path.is_dir():
            raise SynthSRError(f"{self.path} must be a file, but is a folder. Name a file in it.")
        self._delimiter = ENDINGS[self.path.suffix.lower()]
        self._lock = SoftFileLock(f"{self.path}.lock", timeout=SECONDS_TO_WAIT)
        self._read()

    def among(self, scans: Iterable[str]) -> set[str]:
        """Those of some scans that have a row."""
        found = self._read()
        return {scan for scan in scans if _plain(scan) in found}

    def put(self, scan: str, values: Mapping[str, object]) -> None:
        """Write the row of a scan.

        Args:
            scan: Path of the scan.
            values: Value of each column.

        Raises:
            WorkFailedError: If another process does not leave the file.
        """
        row = [_plain(scan), *(_text(values[name]) for name in self.columns[1:])]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._lock, undoing(lambda: self._lock.release(force=True)):
                rows = {**self._read(), row[0]: row}
                text = io.StringIO()
                writer = csv.writer(text, delimiter=self._delimiter, lineterminator="\n")
                writer.writerows([self.columns, *rows.values()])
                with replacing(self.path) as temporary:
                    temporary.write_text(text.getvalue(), "utf-8")
        except Timeout:
            raise WorkFailedError(
                f"{self.path} is locked by another process. Remove {self._lock.lock_file} if there"
                " is none."
            ) from None

    def _read(self) -> dict[str, list[str]]:
        if not self.path.is_file():
            return {}
        try:
            rows = list(csv.reader(io.StringIO(read_text(self.path)), delimiter=self._delimiter))
        except csv.Error:
            rows = []
        if not rows or tuple(rows[0]) != self.columns:
            raise SynthSRError(
                f"{self.path} must be a table of this command with the columns"
                f" {', '.join(self.columns[:4])}, ..., but is another file. Choose a new one."
            )
        return {row[0]: row for row in rows[1:] if len(row) == len(self.columns)}


def _plain(scan: str) -> str:
    """A path whose bytes that are no characters are written out."""
    return scan.encode("utf-8", "backslashreplace").decode()


def _text(value: object) -> str:
    """A value in a cell; nothing for None."""
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
