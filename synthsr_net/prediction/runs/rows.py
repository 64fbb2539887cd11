"""Tables of a run: one row per scan, in a file that several processes write to."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import SoftFileLock, Timeout

from synthsr_transforms.support.atomic import replacing
from synthsr_transforms.support.messages import SynthSRError, WorkFailedError
from synthsr_transforms.support.stopping import undoing
from synthsr_transforms.support.texts import read_text

if TYPE_CHECKING:
    from synthsr_net.prediction.segmenter import Segmenter
    from synthsr_net.prediction.space.postprocess import Segmentation

SCAN = "scan"
"""Column that rows are known by."""
ENDINGS = {".csv": ",", ".tsv": "\t"}
SECONDS_TO_WAIT = 120.0


def volumes_table(path: str | os.PathLike[str], segmenter: Segmenter) -> RowTable:
    """Table of the volumes of structures, in ml."""

    def row(segmentation: Segmentation) -> list[object]:
        return list(segmentation.volumes_ml.values())

    return RowTable(path, [column(f"{name}_ml") for name in segmenter.volume_names], row)


def quality_table(path: str | os.PathLike[str], segmenter: Segmenter) -> RowTable:
    """Table of quality scores: the overall one, whether to look at the scan, and those of groups.

    Raises:
        SynthSRError: If the network is not calibrated.
    """
    config = segmenter.config
    if config.quality is None:
        raise SynthSRError(
            f"a quality score needs a calibrated segmentation network, but {config.name} is none."
            " Leave --qc out, or choose another model."
        )
    groups = [group.name for group in config.quality.groups]

    def row(segmentation: Segmentation) -> list[object]:
        quality = segmentation.quality
        assert quality is not None
        look = "yes" if quality.doubtful else "no"
        return [quality.overall, look, *(quality.groups.get(name) for name in groups)]

    return RowTable(path, ["score", "look_at_it", *map(column, groups)], row)


def column(name: str) -> str:
    """Name of a column.

    Examples:
        >>> column("left hippocampus_ml")
        'left_hippocampus_ml'
    """
    return re.sub(r"\W+", "_", name)


class RowTable:
    """Rows by scan, in a text file. A row of a scan takes the place of an earlier one.

    Args:
        path: File ending in `.csv` or `.tsv`.
        columns: Names of the columns after `scan`.
        row: Function of a segmentation that gives the values of these columns.

    Raises:
        SynthSRError: If the ending is another, or the file has other columns.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        columns: Sequence[str],
        row: Callable[[Segmentation], Sequence[object]],
    ) -> None:
        self.path, self.columns, self._row = Path(path), (SCAN, *columns), row
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

    def put(self, scan: str, segmentation: Segmentation) -> None:
        """Write the row of a scan.

        Args:
            scan: Path of the scan.
            segmentation: Its segmentation, or that of its prediction.

        Raises:
            WorkFailedError: If another process does not leave the file.
        """
        row = [_plain(scan), *map(_text, self._row(segmentation))]
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
