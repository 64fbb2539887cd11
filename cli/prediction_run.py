"""Predictions of a command: progress, warnings, report, summary and failures."""

from __future__ import annotations

import sys
import time
import traceback
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .errors import TRACEBACK, WorkFailedError
from .progress import clock, pace, progress

if TYPE_CHECKING:
    from synthsr_net.batch.outcome import Outcome
    from synthsr_net.batch.run import Batch
    from synthsr_net.batch.sharing import Share
    from synthsr_net.batch.tasks import Task
    from synthsr_net.predict import Predictor, Prepared


@dataclass
class Tally:
    """What was done."""

    predicted: int = 0
    seconds: float = 0.0
    failed: list[Outcome] = field(default_factory=list)


def run_tasks(
    tasks: list[Task],
    total: int,
    predictor: Predictor,
    report: Path | None,
    share: Share,
    output: Path,
) -> None:
    """Predict, and tell what became of it.

    Args:
        tasks: What to do.
        total: Number of tasks, with those that were complete before.
        predictor: The model.
        report: Folder of the report, if there is to be one.
        share: What of the whole work this is.
        output: Where predictions go, for the summary.

    Raises:
        WorkFailedError: If there is no prediction of some of several scans.
        Exception: Why there is none of the only one.
        SystemExit: If the user stopped it.
    """
    from synthsr_net.batch.run import Batch, DiskFullError

    alone = total == 1 and share.size == 1
    told = _tell_plan if alone and sys.stderr.isatty() else None
    batch = Batch(tasks, predictor, report, on_plan=told)
    tally, begin = Tally(), time.perf_counter()
    full: DiskFullError | None = None
    try:
        _predict(batch, tally, total, quiet=alone or share.rank > 0)
    except DiskFullError as error:
        full = error
    except KeyboardInterrupt:
        done = f"{tally.predicted} of {len(tasks)} scans"
        click.echo(f"Stopped after {done}. The same command with --resume goes on.", err=True)
        sys.exit(130)
    finally:
        _write_report(batch)
    seconds = time.perf_counter() - begin
    _finish(tally, total - len(tasks), seconds, share, output)
    if share.launcher == "torchrun" and share.rank == 0:
        _write_report(batch)  # once more, with what all processes did
    if full is not None:
        raise WorkFailedError(str(full))
    _raise_failures(tally, alone)


def _predict(batch: Batch, tally: Tally, total: int, *, quiet: bool) -> None:
    """Run the tasks, telling warnings and progress as they come."""
    done = total - len(batch.tasks)
    with (
        closing(batch.run()) as outcomes,
        progress("scans", total, done=done, quiet=quiet) as advance,
    ):
        for outcome in outcomes:
            for text in outcome.warnings:
                click.echo(f"Warning: {outcome.task.name}: {text}", err=True)
            if outcome.error is None:
                tally.predicted += 1
            else:
                tally.failed.append(outcome)
            advance()


def _tell_plan(task: Task, prepared: Prepared) -> None:
    from synthsr_net.memory import in_gigabytes

    assert prepared.plan is not None
    size = " x ".join(map(str, prepared.tensor.shape[1:]))
    memory = in_gigabytes(prepared.plan.num_bytes)
    click.echo(f"{task.name}: {size} voxels, about {memory} of memory", err=True)


def _write_report(batch: Batch) -> None:
    if batch.report is None:
        return
    from synthsr_net.report import write_report

    predictor = batch.predictor
    used = {
        **predictor.record.used(),
        "device": str(predictor.device),
        "precision": predictor.precision,
    }
    details = {name.replace("_", " "): str(value) for name, value in used.items()}
    write_report(batch.report.folder, title="SynthSR predictions", details=details)


def _finish(tally: Tally, kept: int, seconds: float, share: Share, output: Path) -> None:
    """Sum up, over all processes where they know of each other."""
    from synthsr_net.batch.sharing import add_up

    predicted, failed, kept = add_up(share, [tally.predicted, len(tally.failed), kept])
    if share.rank > 0:
        return
    before = f" ({kept} were complete before)" if kept else ""
    missed = f", {failed} failed" if failed else ""
    if predicted:
        scans = "1 scan" if predicted == 1 else f"{predicted} scans"
        each = "" if predicted == 1 else f", {pace(predicted, seconds)}"
        click.echo(f"Predicted {scans} in {clock(seconds)}{each}, in {output}{before}{missed}.")
    elif not failed:
        click.echo(f"Nothing to predict: all {kept} scans in {output} are complete.")


def _raise_failures(tally: Tally, alone: bool) -> None:
    """End with an error if there were failures: of the scan itself, or of some of many."""
    if not tally.failed:
        return
    if alone:
        error = tally.failed[0].error
        assert error is not None
        raise error
    for outcome in tally.failed:
        if outcome.error is not None and click.get_current_context().meta.get(TRACEBACK):
            traceback.print_exception(outcome.error)
        click.echo(f"Failed: {outcome.task.name}: {outcome.reason}", err=True)
    number, total = len(tally.failed), len(tally.failed) + tally.predicted
    raise WorkFailedError(
        f"{number} of {total} scans failed, as listed above. --resume tries them again and keeps"
        " the others."
    )
