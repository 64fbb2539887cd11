"""Predictions of a command: progress, warnings, report, summary and failures."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from synthsr_transforms.support.messages import WorkFailedError

from .errors import TRACEBACK
from .progress import clock, pace, progress

if TYPE_CHECKING:
    from synthsr_net.prediction.predictor import Predictor, Prepared
    from synthsr_net.prediction.runs.distribution import Share
    from synthsr_net.prediction.runs.outcome import Outcome
    from synthsr_net.prediction.runs.runner import Batch
    from synthsr_net.prediction.runs.tasks import Task


@dataclass
class Tally:
    """What was done."""

    predicted: int = 0
    seconds: float = 0.0
    failed: list[Outcome] = field(default_factory=list)


def run_tasks(
    tasks: list[Task],
    kept: list[Task],
    predictor: Predictor,
    report: Path | None,
    share: Share,
    output: Path,
    *,
    overwrite: bool = False,
) -> None:
    """Predict, and tell what became of it.

    Args:
        tasks: What to do.
        kept: Tasks that were complete before.
        predictor: The model.
        report: Folder of the report, if there is to be one.
        share: What of the whole work this is.
        output: Where predictions go, for the summary.
        overwrite: Whether predictions that exist are replaced.

    Raises:
        WorkFailedError: If there is no prediction of some of several scans, or no report.
        Exception: Why there is none of the only one.
        SystemExit: If the user stopped it.
    """
    from synthsr_net.prediction.runs.runner import Batch, DiskFullError

    total = len(tasks) + len(kept)
    alone = total == 1 and share.size == 1
    told = _tell_plan if alone and sys.stderr.isatty() else None
    batch = Batch(tasks, predictor, report, on_plan=told)
    tally, begin = Tally(), time.perf_counter()
    full: DiskFullError | None = None
    try:
        _predict(batch, tally, total, share, quiet=alone or share.rank > 0)
    except DiskFullError as error:
        full = error
    except KeyboardInterrupt:
        _tell_stop(tasks, tally, share, overwrite=overwrite)
        sys.exit(130)
    finally:
        wrong = _write_report(batch, kept)
    seconds = time.perf_counter() - begin
    _finish(tally, len(kept), seconds, share, output)
    if share.launcher == "torchrun" and share.rank == 0:
        wrong = _write_report(batch, kept)  # once more, with what all processes did
    if full is not None:
        raise full
    _raise_failures(tally, alone)
    if wrong is not None:
        raise WorkFailedError(f"{wrong} The predictions are complete.")


def _predict(batch: Batch, tally: Tally, total: int, share: Share, *, quiet: bool) -> None:
    """Run the tasks, telling warnings and progress as they come."""
    done = total - len(batch.tasks)
    what = "scans" if share.size == 1 else f"scans of the first of {share.size} processes"
    with (
        closing(batch.run()) as outcomes,
        progress(what, total, done=done, quiet=quiet) as advance,
    ):
        for outcome in outcomes:
            for text in outcome.warnings:
                click.echo(f"Warning: {outcome.task.name}: {text}", err=True)
            if outcome.error is None:
                tally.predicted += 1
            else:
                tally.failed.append(outcome)
            advance()


def _tell_stop(tasks: list[Task], tally: Tally, share: Share, *, overwrite: bool) -> None:
    """Tell how far it got, with the scan that was being written when it was stopped."""
    from synthsr_net.prediction.runs.tasks import is_complete

    if share.rank > 0:
        return
    made = tally.predicted if overwrite else sum(map(is_complete, tasks))
    how_far = f" after {made} of {len(tasks)} scans" if share.size == 1 else ""
    advice = "begins anew" if overwrite else "with --resume goes on"
    click.echo(f"Stopped{how_far}. The same command {advice}.", err=True)


def _tell_plan(task: Task, prepared: Prepared) -> None:
    from synthsr_transforms.support.memory import in_gigabytes

    assert prepared.plan is not None
    size = " x ".join(map(str, prepared.tensor.shape[1:]))
    memory = in_gigabytes(prepared.plan.num_bytes)
    click.echo(f"{task.name}: {size} voxels, about {memory} of memory", err=True)


def _write_report(batch: Batch, kept: list[Task]) -> str | None:
    """Write the page of the report, if there is to be one; why not, if it cannot be written."""
    if batch.report is None:
        return None
    from synthsr_net.prediction.report import write_report

    folder, details = batch.report.folder, _details(batch, kept)
    try:
        batch.report.add_kept(kept)
        write_report(folder, title="SynthSR predictions", details=details)
    except OSError as error:
        return f"the report in {folder} cannot be written ({error.strerror or error})."
    return None


def _details(batch: Batch, kept: list[Task]) -> dict[str, str]:
    """What there is to know of a run, in words."""
    predictor, tasks = batch.predictor, [*batch.tasks, *kept]
    settings = predictor.settings
    told: dict[str, Any] = {
        "version": version("synthsr"),
        "date": f"{datetime.now().astimezone():%Y-%m-%d %H:%M}",
        **predictor.record.used(),
        "ct": _common(settings.ct if task.ct is None else task.ct for task in tasks),
        "lesion_kept": _common(task.lesion_mask is not None for task in tasks),
        "device": predictor.device,
        "precision": predictor.precision,
    }
    words = {"True": "yes", "False": "no", "None": "no"}
    return {
        name.replace("_", " "): words.get(str(value), str(value)) for name, value in told.items()
    }


def _common(values: Iterable[bool]) -> bool | str:
    """Whether something holds of all scans or of none, or else the words for it."""
    found = set(values)
    return "some scans" if len(found) > 1 else True in found


def _finish(tally: Tally, kept: int, seconds: float, share: Share, output: Path) -> None:
    """Sum up, over all processes where they know of each other."""
    from synthsr_net.prediction.runs.distribution import add_up

    predicted, failed, kept = add_up(share, [tally.predicted, len(tally.failed), kept])
    if share.rank > 0:
        return
    before = f" ({kept} were complete before)" if kept else ""
    missed = f", {failed} failed" if failed else ""
    where = f"listed in {output}" if output.suffix.lower() == ".txt" else f"in {output}"
    if predicted:
        scans = "1 scan" if predicted == 1 else f"{predicted} scans"
        each = "" if predicted == 1 else f", {pace(predicted, seconds)}"
        click.echo(f"Predicted {scans} in {clock(seconds)}{each}, {where}{before}{missed}.")
    elif kept:
        click.echo(f"Nothing to predict: all {kept} scans {where} are complete.")
    elif not failed:
        click.echo("Nothing to predict: there are no scans for this part.")


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
