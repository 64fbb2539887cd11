"""Shared part of the commands that predict: processes, model, progress, report and summary.

Commands import this module when they run, since it loads PyTorch.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import click
import torch

from synthsr_net.models.zoo.files import default_model
from synthsr_net.prediction.files import check_writable
from synthsr_net.prediction.inferer import Inferer, Prepared
from synthsr_net.prediction.predictor import Predictor
from synthsr_net.prediction.report import write_report
from synthsr_net.prediction.runs.bids import left_out, write_descriptions, write_structures
from synthsr_net.prediction.runs.distribution import (
    Share,
    find_share,
    launch,
    num_processes,
    sum_over_processes,
)
from synthsr_net.prediction.runs.exams import as_exams, plan_exams, plan_sessions
from synthsr_net.prediction.runs.on_dask import DaskBatch, Recipe, absolute
from synthsr_net.prediction.runs.outcome import BatchReport, Outcome
from synthsr_net.prediction.runs.rows import RowTable, quality_table, volumes_table
from synthsr_net.prediction.runs.runner import (
    Batch,
    DiskFullError,
    check_same_maker,
    check_tasks,
)
from synthsr_net.prediction.runs.selection import Selection, read_filters
from synthsr_net.prediction.runs.summary import SUMMARY, Summary, failed_tasks
from synthsr_net.prediction.runs.tasks import (
    Task,
    is_complete,
    missing_tasks,
    order_inputs,
    plan_bids,
    plan_tasks,
    unread_inputs,
)
from synthsr_net.prediction.segmenter import Segmenter
from synthsr_net.prediction.settings import PredictorOptions, SegmenterOptions
from synthsr_transforms.support.messages import SynthSRError, WorkFailedError, bytes_in_words
from synthsr_transforms.support.stopping import on_stop

from .describing import counted
from .errors import TRACEBACK
from .messages import failed, log, say
from .options import ARGUMENTS
from .progress import lasted, progress
from .tables import print_table


def _load_predictor(options: dict[str, Any]) -> Predictor:
    settings: Any = {k: v for k, v in options.items() if k in PredictorOptions.__annotations__}
    name = options["model"] or options.get("default_model") or default_model()
    settings["uncertainty"] = bool(options.get("uncertainty") or options.get("report"))
    predictor = Predictor.from_file(name, **settings)
    if any(options[name] for name in ("segmentation", "volumes", "qc")):
        settings = {name: options[name] for name in ("device", "precision", "max_memory")}
        only_score = not (options["segmentation"] or options["volumes"])
        predictor.add_segmenter(Segmenter.from_file(**settings), brain_only=only_score)
    return predictor


def _load_segmenter(options: dict[str, Any]) -> Segmenter:
    settings: Any = {k: v for k, v in options.items() if k in SegmenterOptions.__annotations__}
    segmenter = Segmenter.from_file(options["model"], **settings)
    segmenter.keeps_posteriors = options["posteriors"] is not None
    return segmenter


@dataclass(frozen=True)
class Kind:
    """What a command makes of scans.

    Attributes:
        name: Key of `bids.KINDS`.
        load: Function of the options that loads the model.
        ending: Suffix of the names of its files.
        verb: Word for what was done.
        plural: Word for several results.
    """

    name: str
    load: Callable[[dict[str, Any]], Inferer[Any, Any]]
    ending: str
    verb: str
    plural: str


PREDICTION = Kind("prediction", _load_predictor, Predictor.ending, "Predicted", "predictions")
SEGMENTATION = Kind("segmentation", _load_segmenter, Segmenter.ending, "Segmented", "segmentations")
QUALITY_TABLE = "qc.tsv"
"""Name of the table of quality scores, in the folder of the outputs."""
EXTRA = {
    "uncertainty": "laplace_scale",
    "segmentation": "segmentation",
    "posteriors": "posteriors",
}
"""Options that say where further images go, and the names of these in `EXTRA_ENDINGS`."""


def run_scans(
    inputs: Sequence[Path],
    output: Path,
    options: dict[str, Any],
    *,
    kind: Kind = PREDICTION,
    names: Sequence[str | None] = (None,),
    exams: bool = False,
) -> None:
    """Apply a model to scans, folders or lists; see `run_all`.

    Args:
        inputs: One file, folder or list per input of the model, or per scan of an exam.
        output: See `plan_outputs`.
        options: Options of the command.
        kind: What to make.
        names: Names of the inputs, see `order_inputs`.
        exams: Whether the inputs are scans of exams, of any number.
    """
    _refuse_options_of_bids(options)
    more: dict[str, Any] = {
        "lesion_mask": options.get("lesion_mask"),
        "extra": extra_images(options),
        "recursive": options["recursive"],
    }
    tasks = plan_tasks(inputs, output, ending=kind.ending, **more)
    if exams:
        tasks = as_exams(tasks, options["transforms"])
    doubts = unread_inputs(inputs, output, **more)
    run_all(tasks, options, kind, doubts=doubts, names=names, output=output)


def _refuse_options_of_bids(options: Mapping[str, Any]) -> None:
    refused = {"participants": "--participant-label", "per_session": "--per-session"}
    refused |= {"sessions": "--session-label", "filter_file": "--bids-filter-file"}
    refuse(options, refused, "needs --bids. Add it, or give a folder.")


def refuse(options: Mapping[str, Any], refused: Mapping[str, str], why: str) -> None:
    """Refuse options, by their names in Python and on the command line, if they are given."""
    for name, option in refused.items():
        if options.get(name):
            raise SynthSRError(f"{option} {why}")


def run_table(table: Path, output: Path, options: dict[str, Any]) -> None:
    """Apply a model to the exams of a table; see `run_all`."""
    _refuse_options_of_bids(options)
    refused = {"lesion_mask": "--lesion-mask", "recursive": "--recursive"}
    refuse(options, refused, "does not go with a table of exams. Leave it out.")
    tasks = plan_exams(table, output, extra=extra_images(options))
    run_all(tasks, options, PREDICTION, names=(), output=output)


def run_bids(
    source: Path, output: Path, options: dict[str, Any], *, kind: Kind = PREDICTION
) -> None:
    """Apply a model to the scans of a BIDS dataset; see `run_all`."""
    refused = {"others": "--with", "lesion_mask": "--lesion-mask", "recursive": "--recursive"}
    refused |= {"also": "--also", "transforms": "--registration"}
    refuse(options, refused, "does not go with --bids. Give scans by path instead.")
    if options["ct"]:
        raise SynthSRError("--ct does not go with --bids, where the suffix says what CT is.")
    extra, participants = extra_images(options), options["participants"]
    filters = read_filters(options["filter_file"]) if options.get("filter_file") else {}
    chosen: dict[str, Any] = {
        "participants": participants,
        "selection": Selection(options["sessions"], filters),
        "extra": extra,
    }
    names: tuple[str | None, ...] = (None,)
    if options.get("per_session"):
        tasks = plan_sessions(source, output, **chosen)
        names = ()
    else:
        tasks = plan_bids(source, output, **chosen, kind=kind.name)
    folder = {kind.name: output, **extra}.get("segmentation")

    def start(model: Inferer[Any, Any]) -> None:
        write_descriptions(source, [output, *extra.values()])
        if folder is not None:
            write_structures(folder, _segmenter(model).config.structures)

    doubts = left_out(source, participants)
    run_all(tasks, options, kind, doubts=doubts, names=names, output=output, start=start)


def extra_images(options: Mapping[str, Any]) -> dict[str, Path]:
    """Where further images go, by the names of `EXTRA_ENDINGS`."""
    return {name: options[key] for key, name in EXTRA.items() if options.get(key) is not None}


def _segmenter(model: Inferer[Any, Any]) -> Segmenter:
    found = model.segmenter if isinstance(model, Predictor) else model
    assert isinstance(found, Segmenter)
    return found


def _tables(
    options: dict[str, Any], output: Path, tasks: Sequence[Task], model: Inferer[Any, Any]
) -> list[RowTable]:
    tables = []
    if options["volumes"] is not None:
        tables.append(volumes_table(options["volumes"], _segmenter(model)))
    if options["qc"]:
        folder = output.parent if _is_alone(tasks, output) else _folder(output)
        tables.append(quality_table(folder / QUALITY_TABLE, _segmenter(model)))
    check_writable([table.path.parent for table in tables])
    return tables


def _is_alone(tasks: Sequence[Task], output: Path) -> bool:
    """Whether the output is a file for one scan."""
    return any(task.output == output for task in tasks)


def _folder(output: Path) -> Path:
    """The folder of outputs, or that of a list of outputs."""
    return output.parent if output.suffix.lower() == ".txt" else output


def run_all(
    tasks: Sequence[Task],
    options: dict[str, Any],
    kind: Kind,
    *,
    doubts: Sequence[str] = (),
    names: Sequence[str | None] = (None,),
    output: Path,
    start: Callable[[Inferer[Any, Any]], object] | None = None,
) -> None:
    """Load the model, apply it, report and sum up.

    Args:
        tasks: What to make.
        options: Options of the command.
        kind: What that is.
        doubts: Warnings of what is left out.
        names: Names of the inputs of the tasks, see `order_inputs`; none: they have their order.
        output: Where results go, for the summary.
        start: Called with the model before the first scan.

    Raises:
        SynthSRError: If input or settings cannot be used; nothing was written then.
        WorkFailedError: If some scans failed.
        SystemExit: If the user stopped it, or other processes did the work.
    """
    if options["dask"] is not None:
        tasks, options, output = _for_workers(tasks, options, output)
    share = find_share()
    mine = share.of(_shard(tasks, options["shard"]))
    if (path := options["only_failed"]) is not None:
        mine, doubts = failed_tasks(mine, path), ()
        options = {**options, "resume": not options["overwrite"]}
        if not mine:
            return say(f"Nothing to do: no scan of this run failed in {path}.")
    if options["report"] is not None:
        check_writable([options["report"]])
    number, device = _devices(options, share, len(mine))
    predictor = kind.load({**options, "device": device})
    check_tasks(mine, predictor)
    tables = _tables(options, output, tasks, predictor)
    alone = _is_alone(tasks, output)
    summary = None if alone else Summary(_folder(output) / SUMMARY, predictor.record)
    missing, complete = _split(mine, tables, options, predictor)
    missing, complete, renamed = _ordered(missing, complete, names, predictor)
    doubts = [*doubts, *renamed]
    if number == 1 and share.rank == 0:
        _warn(doubts)
    if options["dry_run"]:
        return _show_tasks(missing, complete, kind)
    if missing and share.rank == 0 and start is not None:
        start(predictor)
    if number > 1:
        _start_again(number, overwrite=options["overwrite"])
    _Run(missing, complete, predictor, share, options, kind, tables, summary).run(output)


def _warn(doubts: Iterable[str]) -> None:
    for text in doubts:
        log.warning(text)


def _for_workers(
    tasks: Sequence[Task], options: dict[str, Any], output: Path
) -> tuple[list[Task], dict[str, Any], Path]:
    """Tasks, options and output with absolute paths, as workers need them."""
    refuse(options, {"devices": "--devices"}, "does not go with --dask, whose workers share scans.")
    paths = {name: options[name] for name in ("report", "volumes") if options[name] is not None}
    absolute_paths: dict[str, Any] = {name: path.absolute() for name, path in paths.items()}
    if options["model"] is not None and Path(options["model"]).is_file():
        absolute_paths["model"] = str(Path(options["model"]).absolute())
    absolute_paths["device"] = options["device"] or "auto"
    return list(map(absolute, tasks)), {**options, **absolute_paths}, output.absolute()


def _devices(options: Mapping[str, Any], share: Share, num_tasks: int) -> tuple[int, str]:
    """Number of processes to start, and the device of this one."""
    device, num_gpus = options["device"] or "auto", torch.cuda.device_count()
    if share.launcher is not None or options["devices"] is None:
        return 1, share.device(device, num_gpus)
    number = min(num_processes(options["devices"], device, num_gpus), max(num_tasks, 1))
    return number, "cpu" if number > 1 else share.device(device, num_gpus)


def _split(
    tasks: Sequence[Task],
    tables: Sequence[RowTable],
    options: Mapping[str, Any],
    predictor: Inferer[Any, Any],
) -> tuple[list[Task], list[Task]]:
    """Tasks to do, and those that are complete, by the model and settings of this run."""
    settings = {name: options[name] for name in ("resume", "overwrite")}
    missing = missing_tasks(tasks, tables=tables, **settings)
    outputs = {task.output for task in missing}
    complete = [task for task in tasks if task.output not in outputs]
    check_same_maker(complete, predictor)
    return missing, complete


def _ordered(
    missing: list[Task],
    complete: list[Task],
    names: Sequence[str | None],
    predictor: Inferer[Any, Any],
) -> tuple[list[Task], list[Task], list[str]]:
    """Tasks with inputs in the order of the model, and a warning if it has other names for them.

    Such a model takes them in the order given.
    """
    known = [image.name for image in predictor.config.inputs]
    if names and None not in names and not set(names) <= set(known):
        return missing, complete, [_renamed(predictor.config.name, known, names)]
    if names:
        missing, complete = (order_inputs(part, names, known) for part in (missing, complete))
    return missing, complete, []


def _show_tasks(missing: Sequence[Task], complete: Sequence[Task], kind: Kind) -> None:
    """Print what would be made of which scans."""
    rows = [
        (task.scan, str(path), "replace" if path.exists() else "make")
        for task in missing
        for path in task.outputs
    ]
    print_table(("scan", "output", "would"), rows, left=("scan", "output", "would"))
    kept = f" {counted(len(complete), 'scan')} would be kept." if complete else ""
    number = counted(len(missing), "scan")
    log.info(f"Nothing was written: {kind.plural} of {number} to make.{kept}")


def _shard(tasks: Sequence[Task], shard: tuple[int, int] | None) -> Sequence[Task]:
    number, total = shard or (1, 1)
    if not 1 <= number <= total:
        raise SynthSRError(f"shard must be I/N with I from 1 to N, got {number}/{total}.")
    return tasks[number - 1 :: total]


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
    predictor: Inferer[Any, Any]
    share: Share
    options: dict[str, Any]
    kind: Kind
    tables: list[RowTable]
    summary: Summary | None = None
    predicted: int = 0
    failed: list[Outcome] = field(default_factory=list)

    def run(self, output: Path) -> None:
        """Predict, and report the result."""
        total, share = len(self.tasks) + len(self.complete), self.share
        alone = total == 1 and share.size == 1
        on_plan = _show_plan if alone and sys.stderr.isatty() else None
        folder, convention = self.options["report"], self.options["convention"]
        report = None if folder is None else BatchReport(folder, convention)
        batch = (
            Batch(self.tasks, self.predictor, report, self.tables, self.summary, on_plan)
            if self.options["dask"] is None
            else self._on_workers(output)
        )
        if self.summary is not None:
            self.summary.add_complete(self.complete)
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
            raise WorkFailedError(f"{fault} The {self.kind.plural} are complete.")

    def _on_workers(self, output: Path) -> DaskBatch:
        """The tasks, for the workers of a cluster."""
        recipe = Recipe(
            run=uuid4().hex,
            load=partial(self.kind.load, self.options),
            tables=partial(_tables, self.options, output),
            report=self.options["report"],
            convention=self.options["convention"],
            overwrite=self.options["overwrite"],
        )
        return DaskBatch(self.options["dask"], self.tasks, recipe, self.summary)

    def _predict(self, batch: Batch | DaskBatch, total: int, *, quiet: bool) -> None:
        """Run the tasks, with warnings and progress as they come."""
        size, done = self.share.size, len(self.complete)
        what = "scans" if size == 1 else f"scans of the first of {size} processes"
        with (
            closing(batch.run()) as outcomes,
            progress(what, total, done=done, quiet=quiet) as advance,
        ):
            for outcome in outcomes:
                if outcome.error is None:
                    self.predicted += 1
                else:
                    self.failed.append(outcome)
                advance()

    def _how_far(self, batch: Batch | DaskBatch) -> str:
        """Write the report of what was done until now, and return how far it got."""
        self._write_report(batch)
        overwrite, tasks = self.options["overwrite"], self.tasks
        made = self.predicted if overwrite else sum(map(is_complete, tasks))
        how_far = f" after {made} of {len(tasks)} scans" if self.share.size == 1 else ""
        return f"Stopped{how_far}. {_how_to_go_on(overwrite)}"

    def _write_report(self, batch: Batch | DaskBatch) -> str | None:
        """Write the page of the report, if one is asked for; the reason if it cannot be written."""
        if batch.report is None:
            return None
        folder = batch.report.folder
        try:
            batch.report.add_complete(self.complete)
            write_report(folder, title=f"SynthSR {self.kind.plural}", details=self._details())
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
        """Print a summary of this process, and one of all where they can communicate."""
        share, own = self.share, [self.predicted, len(self.failed), len(self.complete)]
        sums = sum_over_processes(share, own)
        if share.size > 1:
            tell = log.info if share.launcher == "torchrun" else say
            tell(f"{share.name}: {self._in_words(own, output, seconds)}")
        whole = share.size == 1 or share.launcher == "torchrun"
        if whole and share.rank == 0 and (sums[0] or not sums[1]):  # else the errors say it
            say(self._in_words(sums, output, seconds))

    def _in_words(self, numbers: Sequence[int], output: Path, seconds: float) -> str:
        """What was made, in a line."""
        predicted, failed, complete = numbers
        before = f" ({complete} were complete before)" if complete else ""
        missed = f", {failed} failed" if failed else ""
        where = f"listed in {output}" if output.suffix.lower() == ".txt" else f"in {output}"
        if predicted:
            done = f"{self.kind.verb} {counted(predicted, 'scan')} in {lasted(predicted, seconds)}"
            return f"{done}, {where}{before}{missed}."
        if failed:
            return f"{self.kind.verb} no scan{before}{missed}."
        if complete:
            return f"Nothing to do: all {complete} scans {where} are complete."
        return "Nothing to do: there are no scans for this part."

    def _raise_failures(self, alone: bool) -> None:
        """End with an error if there were failures: that of the only scan, or a count."""
        if alone and self.failed and self.failed[0].error is not None:
            raise self.failed[0].error
        for outcome in self.failed:
            if outcome.error is not None and click.get_current_context().meta.get(TRACEBACK):
                traceback.print_exception(outcome.error)
            failed(f"{outcome.task.name}: {outcome.reason}")
        if self.failed:
            raise WorkFailedError(
                f"{len(self.failed)} of {len(self.failed) + self.predicted} scans failed, as listed"
                " above. --resume tries them again and keeps the others."
            )


def _show_plan(task: Task, prepared: Prepared) -> None:
    assert prepared.plan is not None
    size = " x ".join(map(str, prepared.tensor.shape[-3:]))
    memory = bytes_in_words(prepared.plan.num_bytes)
    log.info(f"{task.name}: {size} voxels, about {memory} of memory")


def _common(values: Iterable[bool]) -> bool | str:
    """Whether all scans, or none, have a property, or else words for it."""
    found = set(values)
    return "some scans" if len(found) > 1 else True in found
