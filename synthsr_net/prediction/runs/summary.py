"""The summary of a folder: what became of each scan, a row for each attempt."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from synthsr_net.prediction.provenance import PredictionRecord
from synthsr_transforms.support.append import append_row, read_rows
from synthsr_transforms.support.messages import SynthSRError

from .outcome import MADE_BEFORE, Outcome
from .tasks import Task

log = logging.getLogger("synthsr_net")
SUMMARY = "summary.tsv"
"""Name of the table, in the folder of the outputs."""
COLUMNS = (
    "scan",
    "output",
    "status",
    "seconds",
    "warnings",
    "error",
    "quality_score",
    "version",
    "model",
    "model_sha256",
)
DONE, FAILED = "done", "failed"
"""What `status` may be."""


class Summary:
    """A table that processes append rows to; of several rows of an output, the last one counts.

    Args:
        path: The file.
        record: The model, with which outputs are made.

    Raises:
        SynthSRError: If the file is another table.
    """

    def __init__(self, path: str | os.PathLike[str], record: PredictionRecord) -> None:
        self.path, self._record = Path(path), record
        if self.path.exists():
            read_rows(self.path, COLUMNS)

    def add(self, outcome: Outcome) -> None:
        """Append what became of a task; a table that cannot be written does not hide it."""
        used = self._record.used()
        self._append(
            outcome.task,
            FAILED if outcome.error is not None else DONE,
            f"{outcome.seconds:.2f}",
            " ".join(outcome.warnings),
            outcome.reason,
            None if outcome.score is None else f"{outcome.score:.4f}",
            version("synthsr"),
            used["model"],
            used["model_sha256"],
        )

    def add_complete(self, tasks: Iterable[Task]) -> None:
        """Append rows of complete outputs that have none, since a process died before it."""
        states = {key: row["status"] for key, row in _latest(self.path).items()}
        for task in tasks:
            if states.get(_key(task.output)) != DONE:
                self._append(task, DONE, None, MADE_BEFORE, *[None] * 5)

    def _append(self, task: Task, *values: object) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_row(self.path, COLUMNS, [task.scan, task.output, *values])
        except OSError as error:
            log.warning("%s lacks %s (%s).", self.path, task.name, error.strerror or error)


def failed_tasks(tasks: Sequence[Task], path: str | os.PathLike[str]) -> list[Task]:
    """Tasks that failed, as a summary says.

    Args:
        tasks: All tasks.
        path: The summary.

    Raises:
        SynthSRError: If there is no summary, or it is another file.
    """
    if not Path(path).is_file():
        raise SynthSRError(
            f"--only-failed must be the {SUMMARY} of an earlier run, but {path} does not exist."
        )
    rows = _latest(path)
    states = {key: row["status"] for key, row in rows.items()}
    return [task for task in tasks if states.get(_key(task.output)) == FAILED]


def _latest(path: str | os.PathLike[str]) -> dict[str, dict[str, str]]:
    """The last row of each output."""
    if not Path(path).is_file():
        return {}
    return {_key(row["output"]): row for row in read_rows(path, COLUMNS)}


def _key(output: str | os.PathLike[str]) -> str:
    path = os.fspath(output).encode("utf-8", "backslashreplace").decode()
    return os.path.abspath(path)
