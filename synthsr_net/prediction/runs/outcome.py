"""Outcomes of the tasks of a batch, and their records in a report."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from synthsr_net.prediction.inferer import Result
from synthsr_net.prediction.report.entries import (
    ReportEntry,
    entry_path,
    layers_stem,
    picture_path,
    save_entry,
)
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.support.messages import describe

from .tasks import Task

if TYPE_CHECKING:
    from synthsr_transforms.drawing.slices import Convention

log = logging.getLogger("synthsr_net")
MADE_BEFORE = "made by an earlier run, of which this report has no record: no picture."
"""Warning in the report for a complete prediction without a record."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of a task.

    Attributes:
        task: The task.
        seconds: Time that reading, computing and writing took, waiting not counted.
        warnings: Doubts about the scan.
        error: Why there is no prediction; None if there is one.
        score: Quality score, 0 to 1, if there is one.
    """

    task: Task
    seconds: float
    warnings: tuple[str, ...] = ()
    error: Exception | None = None
    score: float | None = None

    @property
    def reason(self) -> str:
        """The error in one line, without the path of a single scan in front."""
        text = describe(self.error) if self.error else ""
        path = str(self.task.inputs[0])
        if self.task.source:  # of a file that is temporary
            text = text.replace(path, self.task.source)
            path = self.task.source
        if len(self.task.inputs) == 1 and text.startswith(path):
            text = text.removeprefix(path).lstrip(": ")
        return text


def announce(outcome: Outcome) -> None:
    """Log what became of a task: its warnings, and the file or the reason that there is none."""
    name = outcome.task.name
    for text in outcome.warnings:
        log.warning("%s: %s", name, text)
    if outcome.error is None:
        log.info("%s: wrote %s in %.2f s", name, outcome.task.output, outcome.seconds)
    else:
        log.info("%s: failed: %s", name, outcome.reason)


class BatchReport:
    """Pictures and records of a batch, from which `write_report` makes a page.

    Args:
        folder: Where they go.
        convention: Where the left of heads is drawn.
    """

    def __init__(
        self, folder: str | os.PathLike[str], convention: Convention = "neurological"
    ) -> None:
        self.folder, self.convention = Path(folder), convention

    def add(
        self,
        outcome: Outcome,
        scans: Mapping[str, Volume],
        result: Result,
        windows: Mapping[str, tuple[float, float]],
    ) -> None:
        """Draw a picture of scans, by name, and the result, and record it.

        Args:
            outcome: What became of the task.
            scans: The scans.
            result: What was made of them.
            windows: See `write_picture`.
        """
        from synthsr_net.prediction.report.layers import write_layers
        from synthsr_net.prediction.report.picture import write_picture

        picture, title = picture_path(self.folder, outcome.task.scan), outcome.task.name
        labels = None if result.segmentation is None else result.segmentation.image
        image = None if result is result.segmentation else result.image
        write_picture(
            picture,
            scans,
            image,
            labels,
            uncertainty=result.extra.get("laplace_scale"),
            title=title,
            windows=windows,
            convention=self.convention,
        )
        name, scan = next(iter(scans.items()))
        layers = write_layers(
            layers_stem(self.folder, outcome.task.scan),
            scan,
            image,
            labels,
            window=windows.get(name),
            convention=self.convention,
        )
        entry = _entry(outcome, scan, result)
        inside = {key: path.relative_to(self.folder).as_posix() for key, path in layers.items()}
        shown = picture.relative_to(self.folder).as_posix()
        entry = replace(entry, picture=shown, layers=inside, convention=self.convention)
        save_entry(self.folder, entry)

    def add_failure(self, outcome: Outcome) -> None:
        """Record that there is no prediction, and why."""
        save_entry(self.folder, _entry(outcome))

    def add_complete(self, tasks: Iterable[Task]) -> None:
        """Record predictions of earlier runs, if they are not in the report already.

        They are missing there if the report is new, or if a process died between a prediction and
        its record.
        """
        for task in tasks:
            scan = task.scan
            if not entry_path(self.folder, scan).exists():
                entry = ReportEntry(task.name, scan, str(task.output), warnings=(MADE_BEFORE,))
                save_entry(self.folder, entry)


def _entry(
    outcome: Outcome,
    scan: Volume | None = None,
    result: Result | None = None,
) -> ReportEntry:
    image = None if result is None else result.image
    return ReportEntry(
        name=outcome.task.name,
        input=outcome.task.scan,
        output=str(outcome.task.output),
        input_shape=None if scan is None else scan.data.shape,
        input_spacing_mm=None if scan is None else scan.spacing_mm,
        output_shape=None if image is None else image.data.shape,
        output_spacing_mm=None if image is None else image.spacing_mm,
        seconds=outcome.seconds,
        score=outcome.score,
        warnings=outcome.warnings,
        error=outcome.reason or None,
    )
