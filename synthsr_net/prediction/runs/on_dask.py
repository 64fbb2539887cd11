"""A batch on the workers of a Dask cluster: one scan per task, and each scan once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthsr_net.prediction.inferer import Inferer
from synthsr_transforms.support.dask import connected, each_done
from synthsr_transforms.support.messages import SynthSRError, WorkFailedError, describe

from .outcome import BatchReport, Outcome, announce
from .rows import RowTable
from .runner import Batch
from .summary import Summary
from .tasks import Task, missing_tasks

if TYPE_CHECKING:
    from synthsr_transforms.drawing.slices import Convention

MADE_BY_LOST_WORKER = "made by a worker that died before it could say so: no time."
"""Warning for a result that was complete when its task came again."""
_ONE_AT_A_TIME = threading.Lock()
_ready: dict[str, tuple[Inferer[Any, Any], list[RowTable]]] = {}
"""Model and tables of the last run that this worker took part in."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What workers need to know besides the scan; everything in it can be pickled.

    Attributes:
        run: Unique word for the run.
        load: Loads the model.
        tables: Makes the tables that get a row of each scan, for a task and a model.
        report: Folder of the report; None: no report.
        convention: Where the left of heads is drawn in it.
        overwrite: Whether outputs that exist are replaced.
    """

    run: str
    load: Callable[[], Inferer[Any, Any]]
    tables: Callable[[Sequence[Task], Inferer[Any, Any]], list[RowTable]]
    report: Path | None
    convention: Convention
    overwrite: bool


class DaskBatch:
    """Tasks for the workers of a cluster, see `Batch`; this process keeps the summary.

    Args:
        address: See `connected`.
        tasks: What to do, with absolute paths, see `absolute`.
        recipe: How.
        summary: Table of what becomes of each scan; None: none.
    """

    def __init__(
        self, address: str, tasks: Sequence[Task], recipe: Recipe, summary: Summary | None = None
    ) -> None:
        self.address, self.tasks, self.recipe, self.summary = address, tasks, recipe, summary
        self.report = None if recipe.report is None else BatchReport(recipe.report)

    def run(self) -> Generator[Outcome, None, None]:
        """Do the tasks.

        Yields:
            What became of each, as they are done.

        Raises:
            SynthSRError: If there is no such cluster.
            WorkFailedError: If it is lost.
        """
        items = {str(task.output): task for task in self.tasks}
        with connected(self.address) as client:
            work = partial(do_task, self.recipe)
            for name, made in each_done(client, work, items, self.address):
                if isinstance(made, Exception):
                    outcome = Outcome(items[name], 0.0, error=made)
                else:
                    outcome = made
                announce(outcome)
                if self.summary is not None:
                    self.summary.add(outcome)
                yield outcome


def do_task(recipe: Recipe, task: Task) -> Outcome:
    """Do a task, on a worker, unless an earlier call did it that was lost.

    Raises:
        Exception: If it failed for another reason than its input, so that it is tried again.
    """
    with _ONE_AT_A_TIME:
        if recipe.run not in _ready:
            _ready.clear()
            model = recipe.load()
            _ready[recipe.run] = model, recipe.tables([task], model)
        model, tables = _ready[recipe.run]
        if not recipe.overwrite and not missing_tasks([task], tables=tables, resume=True):
            return Outcome(task, 0.0, (MADE_BY_LOST_WORKER,))
        folder = recipe.report
        report = None if folder is None else BatchReport(folder, recipe.convention)
        outcome = next(Batch([task], model, report, tables).run())
    error = outcome.error
    if error is None:
        return outcome
    if isinstance(error, SynthSRError):
        return replace(outcome, error=SynthSRError(str(error)))
    raise WorkFailedError(describe(error))


def absolute(task: Task) -> Task:
    """A task with absolute paths, since workers have other working folders."""
    mask = task.lesion_mask
    return replace(
        task,
        inputs=tuple(_absolute(path) for path in task.inputs),
        output=_absolute(task.output),
        lesion_mask=None if mask is None else _absolute(mask),
        extra={kind: _absolute(path) for kind, path in task.extra.items()},
        sidecars={_absolute(path): content for path, content in task.sidecars.items()},
    )


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))
