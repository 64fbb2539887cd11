"""Metrics of a run, one row per epoch, as a CSV file that is replaced at once by every change."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path

from synthsr_transforms.support.atomic import write_text
from synthsr_transforms.support.messages import SynthSRError

EPOCH = "epoch"
"""Column that every table has; its whole numbers increase from row to row."""

Row = dict[str, float]


class MetricsFile:
    """A table of numbers with one row per epoch.

    Columns may grow: a new one is added at the right, and older rows stay empty there. Numbers have
    6 significant digits, whole numbers all of theirs.

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
        """Return the rows in order, without their empty cells; none if there is no file.

        Raises:
            SynthSRError: If the file is not such a table.
        """
        return self._read()[1]

    def append(self, row: Mapping[str, float]) -> None:
        """Add the row of an epoch. Rows of this epoch and of later ones are dropped.

        Args:
            row: Values by column, `epoch` among them.

        Raises:
            SynthSRError: If the file is not such a table.
        """
        names, rows = self._read()
        names += [name for name in row if name not in names]
        self._write(names, [*(old for old in rows if old[EPOCH] < row[EPOCH]), row])

    def truncate(self, last_epoch: int) -> None:
        """Drop the rows of all epochs after some epoch, as after going back to a saved state.

        Raises:
            SynthSRError: If the file is not such a table.
        """
        names, rows = self._read()
        before = [row for row in rows if row[EPOCH] <= last_epoch]
        if len(before) < len(rows):
            self._write(names, before)

    def _read(self) -> tuple[list[str], list[Row]]:
        if not self.path.exists():
            return [EPOCH], []
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                names, *lines = csv.reader(file, strict=True)
            rows = [
                {name: _number(cell) for name, cell in zip(names, line, strict=True) if cell}
                for line in lines
            ]
            epochs = [row[EPOCH] for row in rows]
            if len({*names, ""}) <= len(names) or EPOCH not in names:
                raise ValueError(f"columns {', '.join(names)[:60]}")
            if sorted({*epochs}) != epochs:
                raise ValueError("its epochs do not increase")
        except (ValueError, KeyError, csv.Error) as error:
            raise SynthSRError(
                f"{self.path} must be a table of metrics with a column {EPOCH}, but is damaged or"
                f" another file ({error}). Move it away."
            ) from error
        return names, rows

    def _write(self, names: Sequence[str], rows: Sequence[Mapping[str, float]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
        write_text(self.path, text.getvalue())


def _cell(value: float) -> str:
    return str(int(value)) if isinstance(value, Integral) else f"{float(value):.6g}"


def _number(cell: str) -> float:
    return int(cell) if cell.removeprefix("-").isdecimal() else float(cell)
