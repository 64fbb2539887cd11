"""Metrics of a run, one row per epoch, as a CSV file that is whole at any moment."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from synthsr_transforms.support.atomic import replacing

EPOCH = "epoch"
"""Column that every table has; its whole numbers increase from row to row."""

Value = float | int | str
Row = dict[str, Value]


class MetricsFile:
    """A table of numbers and words with one row per epoch.

    Columns may grow: a new one is added at the right, and older rows stay empty there. Numbers keep
    6 significant digits, whole numbers all of theirs; line breaks in words become spaces. Every
    change replaces the file at once.

    Args:
        path: The file, which need not exist.

    Examples:
        >>> import tempfile
        >>> table = MetricsFile(Path(tempfile.mkdtemp()) / "metrics.csv")
        >>> table.append({"epoch": 0, "train/loss": 0.25})
        >>> table.append({"epoch": 1, "train/loss": 0.125, "brain/psnr": 21.5})
        >>> table.rows()
        [{'epoch': 0, 'train/loss': 0.25}, {'epoch': 1, 'train/loss': 0.125, 'brain/psnr': 21.5}]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def rows(self) -> list[Row]:
        """Rows in order, without their empty cells; none if there is no file.

        Raises:
            ValueError: If the file is not such a table.
        """
        return [
            {name: _value(cell) for name, cell in row.items() if cell} for row in self._read()[1]
        ]

    def append(self, row: Mapping[str, Value]) -> None:
        """Add the row of an epoch. Rows of this epoch and of later ones are dropped.

        Args:
            row: Values by column, `epoch` among them.

        Raises:
            ValueError: If the row has no epoch, or the file is not such a table.
        """
        epoch = row.get(EPOCH)
        if not isinstance(epoch, Integral) or isinstance(epoch, bool) or epoch < 0:
            raise ValueError(f"a row must have its number of {EPOCH}, from 0, got {epoch!r}.")
        names, rows = self._read()
        names += [name for name in row if name not in names]
        rows = [old for old in rows if int(old[EPOCH]) < int(epoch)]
        rows.append({name: _cell(value) for name, value in row.items()})
        self._write(names, rows)

    def truncate(self, last_epoch: int) -> None:
        """Drop the rows of all later epochs, as after going back to a saved state.

        Args:
            last_epoch: Last epoch to keep; -1 keeps none.

        Raises:
            ValueError: If the file is not such a table.
        """
        names, rows = self._read()
        kept = [row for row in rows if int(row[EPOCH]) <= last_epoch]
        if len(kept) < len(rows):
            self._write(names, kept)

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        if not self.path.exists():
            return [EPOCH], []
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                names, *cells = list(csv.reader(file, strict=True))
            return names, _checked(names, cells)
        except (ValueError, csv.Error) as error:
            raise ValueError(
                f"{self.path} must be a table of metrics with a column {EPOCH}, but is damaged or"
                f" another file ({error}). Move it away."
            ) from error

    def _write(self, names: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        with replacing(self.path) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8", newline="")


def _checked(names: Sequence[str], cells: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Rows by column.

    Raises:
        ValueError: If names repeat or are empty, a row is too short or long, or epochs do not rise.
    """
    if EPOCH not in names or not all(names) or len(set(names)) < len(names):
        raise ValueError(f"columns {', '.join(names)[:60]}")
    last = -1
    rows = []
    for line, row in enumerate(cells, start=2):
        if len(row) != len(names):
            raise ValueError(f"line {line} has {len(row)} cells, not {len(names)}")
        rows.append(dict(zip(names, row, strict=True)))
        epoch = rows[-1][EPOCH]
        if not epoch.isdecimal() or int(epoch) <= last:
            raise ValueError(f"line {line} has epoch {epoch[:20]!r} after {last}")
        last = int(epoch)
    return rows


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return " ".join(value.splitlines())
    return str(int(value)) if isinstance(value, Integral) else f"{float(value):.6g}"


def _value(cell: str) -> Value:
    for kind in (int, float):
        try:
            return cell if "_" in cell else kind(cell)  # Python reads 1_2 as 12
        except ValueError:
            continue
    return cell
