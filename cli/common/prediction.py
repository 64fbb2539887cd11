"""Shared part of the commands that predict: processes, model, progress, report and summary.

Commands import this module when they run, since it loads PyTorch.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import click
import torch

from synthsr_net.models.zoo.files import default_model
from synthsr_net.prediction.files import check_writable
from synthsr_net.prediction.predictor import Predictor, Prepared
from synthsr_net.prediction.report import write_report
from synthsr_net.prediction.runs.distribution import (
    Share,
    find_share,
    launch,
    num_processes,
    sum_over_processes,
)
from synthsr_net.prediction.runs.outcome import Outcome
from synthsr_net.prediction.runs.runner import Batch, DiskFullError, check_same_maker, check_tasks
from synthsr_net.prediction.runs.tasks import Task, is_complete, missing_tasks, order_inputs
from synthsr_net.prediction.settings import PredictorOptions
from synthsr_transforms.support.messages import SynthSRError, WorkFailedError, bytes_in_words
from synthsr_transforms.support.stopping import on_stop

from .describing import counted
from .errors import TRACEBACK
from .options import ARGUMENTS
from .progress import clock, pace, progress


def predict_all(
    tasks: Sequence[Task],
    options: dict[str, Any],
    *,
    doubts: Sequence[str] = (),
    names: Sequence[str | None] = (None,),
    output: Path,
    start: Callable[[], object] | None = None,
) -> None:
    """Load the model, predict, report and sum up.

    Args:
        tasks: What to predict.
        options: Options of the command.
        doubts: Warnings of what is not predicted.
        names: Names of the inputs of the tasks, see `order_inputs`.
        output: Where predictions go, for the summary.
        start: Called before the first prediction.

    Raises:
        SynthSRError: If input or settings cannot be used; nothing was written then.
        WorkFailedError: If there is no prediction of some scans.
        SystemExit: If the user stopped it, or other processes did the work.
    """
    share, num_gpus = find_share(), torch.cuda.device_count()
    mine = share.of(_shard(tasks, options["shard"]))
    if options["report"] is not None:
        check_writable([options["report"]])
    missing = missing_tasks(mine, resume=options["resume"], overwrite=options["overwrite"])
    device, number = options["device"] or "auto", 1
    if share.launcher is None and options["devices"] is not None:
        number = num_processes(options["devices"], device, num_gpus)
        number = min(number, max(len(missing), 1))
    device = "cpu" if number > 1 else share.device(device, num_gpus)
    predictor = _load({**options, "device": device})
    check_tasks(mine, predictor)
    outputs = {task.output for task in missing}
    complete = [task for task in mine if task.output not in outputs]
    check_same_maker(complete, predictor)
    known = [image.name for image in predictor.config.inputs]
    renamed = None not in names and not set(names) <= set(known)
    if not renamed:  # a model with other names for its inputs takes them in the order given
        missing, complete = (order_inputs(part, names, known) for part in (missing, complete))
    if number == 1 and share.rank == 0:
        if renamed:
            doubts = [*doubts, _renamed(predictor.config.name, known, names)]
        for text in doubts:
            click.echo(f"Warning: {text}", err=True)
    if missing and share.rank == 0 and start is not None:
        start()
    if number > 1:
        _start_again(number, overwrite=options["overwrite"])
    _Run(missing, complete, predictor, share, options).run(output)


def _shard(tasks: Sequence[Task], shard: tuple[int, int] | None) -> Sequence[Task]:
    number, total = shard or (1, 1)
    if not 1 <= number <= total:
        raise SynthSRError(f"shard must be I/N with I from 1 to N, got {number}/{total}.")
    return tasks[number - 1 :: total]


def _load(options: dict[str, Any]) -> Predictor:
    settings: Any = {k: v for k, v in options.items() if k in PredictorOptions.__annotations__}
    name = options["model"] or options.get("default_model") or default_model()
    return Predictor.from_file(name, **settings)


def _renamed(model: str, known: Sequence[str], names: Sequence[str | None]) -> str:
    """A warning of a model with other names for its inputs."""
    given = ", ".join(map(str, names))
    return f"model {model} takes {', '.join(known)}, which are taken from {given} in this order."


def _how_to_go_on(overwrite: bool) -> str:
    return f"The same command {'begins anew' if overwrite else 'with --resume goes on'}."


def _start_again(number: int, *, overwrite: bool) -> NoReturn:
    """Run this very command in several processes, and exit with their exit code."""
    program = "from synthsr_cli.main import main; main()"
    arguments = click.get_current_context().meta[ARGUMENTS]
    with on_stop(lambda: f"Stopped. {_how_to_go_on(overwrite)}"):
        code = launch(number, [sys.executable, "-c", program, *arguments])
    if code < 0:
        raise WorkFailedError(
            f"a process was killed ({signal.Signals(-code).name}), perhaps for want of memory, and"
            " the others were stopped. Run the same command with --resume, and with fewer"
            " --devices or less --max-memory if it happens again."
        )
    sys.exit(code)


@dataclass
class _Run:
    """Predictions of this process."""

    tasks: list[Task]
    complete: list[Task]
    """Tasks that were complete before."""
    predictor: Predictor
    share: Share
    options: dict[str, Any]
    predicted: int = 0
    failed: list[Outcome] = field(default_factory=list)

    def run(self, output: Path) -> None:
        """Predict, and report the result."""
        total, share = len(self.tasks) + len(self.complete), self.share
        alone = total == 1 and share.size == 1
        on_plan = _show_plan if alone and sys.stderr.isatty() else None
        batch = Batch(self.tasks, self.predictor, self.options["report"], on_plan=on_plan)
        begin, full = time.perf_counter(), None
        try:
            with on_stop(lambda: self._how_far(batch)):
                self._predict(batch, total, quiet=alone or share.rank > 0)
        except DiskFullError as error:
            full = error
        finally:
            fault = self._write_report(batch)
        self._summarise(output, time.perf_counter() - begin)
        if share.launcher == "torchrun" and share.rank == 0:
            fault = self._write_report(batch)  # once more, with what all processes did
        if full is not None:
            raise full
        self._raise_failures(alone)
        if fault is not None:
            raise WorkFailedError(f"{fault} The predictions are complete.")

    def _predict(self, batch: Batch, total: int, *, quiet: bool) -> None:
        """Run the tasks, with warnings and progress as they come."""
        size, done = self.share.size, len(self.complete)
        what = "scans" if size == 1 else f"scans of the first of {size} processes"
        with (
            closing(batch.run()) as outcomes,
            progress(what, total, done=done, quiet=quiet) as advance,
        ):
            for outcome in outcomes:
                for text in outcome.warnings:
                    click.echo(f"Warning: {outcome.task.name}: {text}", err=True)
                if outcome.error is None:
                    self.predicted += 1
                else:
                    self.failed.append(outcome)
                advance()

    def _how_far(self, batch: Batch) -> str:
        """Write the report of what was done until now, and return how far it got."""
        self._write_report(batch)
        overwrite, tasks = self.options["overwrite"], self.tasks
        made = self.predicted if overwrite else sum(map(is_complete, tasks))
        how_far = f" after {made} of {len(tasks)} scans" if self.share.size == 1 else ""
        return f"Stopped{how_far}. {_how_to_go_on(overwrite)}"

    def _write_report(self, batch: Batch) -> str | None:
        """Write the page of the report, if one is asked for; the reason if it cannot be written."""
        if batch.report is None:
            return None
        folder = batch.report.folder
        try:
            batch.report.add_complete(self.complete)
            write_report(folder, title="SynthSR predictions", details=self._details())
        except OSError as error:
            return f"the report in {folder} cannot be written ({error.strerror or error})."
        return None

    def _details(self) -> dict[str, str]:
        """Version, date, settings and device, for the head of the report."""
        predictor, tasks = self.predictor, [*self.tasks, *self.complete]
        settings = predictor.settings
        decides = settings.ct is None and settings.legacy is None
        told = (task.ct if settings.ct is None else settings.ct for task in tasks)
        details: dict[str, Any] = {
            "version": version("synthsr"),
            "date": f"{datetime.now().astimezone():%Y-%m-%d %H:%M}",
            **predictor.record.used(),
            "ct": "decided for each scan" if decides else _common(map(bool, told)),
            "lesion_kept": _common(task.lesion_mask is not None for task in tasks),
            "device": predictor.device,
            "precision": predictor.precision,
        }
        words = {"True": "yes", "False": "no", "None": "no"}
        return {k.replace("_", " "): words.get(str(v), str(v)) for k, v in details.items()}

    def _summarise(self, output: Path, seconds: float) -> None:
        """Print a summary, over all processes where they can communicate."""
        numbers = [self.predicted, len(self.failed), len(self.complete)]
        predicted, failed, complete = sum_over_processes(self.share, numbers)
        if self.share.rank > 0:
            return
        before = f" ({complete} were complete before)" if complete else ""
        missed = f", {failed} failed" if failed else ""
        where = f"listed in {output}" if output.suffix.lower() == ".txt" else f"in {output}"
        if predicted:
            each = "" if predicted == 1 else f", {pace(predicted, seconds)}"
            done = f"Predicted {counted(predicted, 'scan')} in {clock(seconds)}{each}"
            click.echo(f"{done}, {where}{before}{missed}.")
        elif complete:
            click.echo(f"Nothing to predict: all {complete} scans {where} are complete.")
        elif not failed:
            click.echo("Nothing to predict: there are no scans for this part.")

    def _raise_failures(self, alone: bool) -> None:
        """End with an error if there were failures: that of the only scan, or a count."""
        if alone and self.failed and self.failed[0].error is not None:
            raise self.failed[0].error
        for outcome in self.failed:
            if outcome.error is not None and click.get_current_context().meta.get(TRACEBACK):
                traceback.print_exception(outcome.error)
            click.echo(f"Failed: {outcome.task.name}: {outcome.reason}", err=True)
        if self.failed:
            raise WorkFailedError(
                f"{len(self.failed)} of {len(self.failed) + self.predicted} scans failed, as listed"
                " above. --resume tries them again and keeps the others."
            )


def _show_plan(task: Task, prepared: Prepared) -> None:
    assert prepared.plan is not None
    size = " x ".join(map(str, prepared.tensor.shape[1:]))
    memory = bytes_in_words(prepared.plan.num_bytes)
    click.echo(f"{task.name}: {size} voxels, about {memory} of memory", err=True)


def _common(values: Iterable[bool]) -> bool | str:
    """Whether all scans, or none, have a property, or else words for it."""
    found = set(values)
    return "some scans" if len(found) > 1 else True in found
