"""Prediction from many scans: some are read, one is computed and some are written at a time.

Reading and preparing, the network, and finishing and writing run in threads of their own, with as
many scans in flight as there are threads, so that memory stays bounded and a GPU need not wait.
A scan that fails does not stop the others.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from synthsr_net.prediction.inferer import Inferer, Prepared, Result
from synthsr_net.prediction.intensities import CT_WINDOW_HU
from synthsr_net.prediction.provenance import read_description
from synthsr_net.prediction.space.preprocess import check_number
from synthsr_transforms.functional.kernels.choice import kernels_on
from synthsr_transforms.io.files import stem
from synthsr_transforms.io.grids import Volume, format_spacing
from synthsr_transforms.io.scans import read_scan
from synthsr_transforms.io.volumes import read_image
from synthsr_transforms.support.atomic import write_json
from synthsr_transforms.support.devices import beside, mark, shared_here
from synthsr_transforms.support.messages import SynthSRError, WorkFailedError, describe, is_full
from synthsr_transforms.support.stopping import undoing
from synthsr_transforms.support.threads import num_cores, threads

from .outcome import BatchReport, Outcome, announce
from .rows import RowTable
from .summary import Summary
from .tasks import Task

READERS_BESIDE_GPU, WRITERS_BESIDE_GPU = 6, 12
"""Threads beside a GPU, at most; beside a network on the CPU there is one of each. Reading and
checking a scan, and finishing and writing its prediction, take several times as long as a GPU needs
to predict it."""

KERNELS_FROM = 200
"""Scans from which kernels are compiled, which takes seconds and saves 15 ms of each scan."""


class DiskFullError(WorkFailedError):
    """There is no room for outputs; the message says what to do."""


class _Loaded(NamedTuple):
    """A scan that was read, and what its task needs besides."""

    prepared: Prepared
    mask: Volume | None
    seconds: float


def check_tasks(tasks: Sequence[Task], predictor: Inferer[Any, Any]) -> None:
    """Refuse tasks that do not go with a model.

    Raises:
        ValueError: If the model takes another number of scans, or predicts no Laplace scale where
            one is to be written.
    """
    for task in tasks:
        check_number(predictor.config, len(task.inputs))
        if "laplace_scale" in task.extra and not predictor.config.spread:
            raise SynthSRError(
                "uncertainty needs a model that predicts a Laplace scale, got"
                f" {predictor.config.name}, which predicts none. Leave --uncertainty out, or choose"
                " another model."
            )


def check_same_maker(tasks: Sequence[Task], predictor: Inferer[Any, Any]) -> None:
    """Refuse predictions that were made by another model or with other settings.

    NIfTI headers say so; other files are not checked.

    Args:
        tasks: Complete tasks.
        predictor: What the others are to be made with.

    Raises:
        ValueError: If one differs.
    """
    for task in tasks:
        there = read_description(task.output).split()
        here = _description(task, predictor).split()
        if there[:1] == here[:1] and there[-1] != here[-1]:
            raise SynthSRError(
                f"{task.output} was made by another model or with other settings. Add --overwrite"
                " instead of --resume, or choose another output."
            )


def _description(task: Task, predictor: Inferer[Any, Any]) -> str:
    lesion, num_scans = task.lesion_mask is not None, len(task.inputs)
    return predictor.record.describe(ct=task.ct, lesion=lesion, num_scans=num_scans)


class Batch:
    """Tasks for one model.

    Args:
        tasks: What to do, in order.
        predictor: The model.
        report: Pictures and the record of each scan, from which `write_report` makes a page, or
            the folder for them; None: no report.
        tables: Tables that get a row of each scan.
        summary: Table of what becomes of each scan; None: none.
        on_plan: Called before a scan is computed, when its size and its need of memory are known.

    Raises:
        ValueError: See `check_tasks`.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        predictor: Inferer[Any, Any],
        report: BatchReport | str | os.PathLike[str] | None = None,
        tables: Iterable[RowTable] = (),
        summary: Summary | None = None,
        on_plan: Callable[[Task, Prepared], object] | None = None,
    ) -> None:
        check_tasks(tasks, predictor)
        self.tasks, self.predictor, self.on_plan = list(tasks), predictor, on_plan
        if report is not None and not isinstance(report, BatchReport):
            report = BatchReport(report)
        self.report = report
        self.tables, self.summary = list(tables), summary

    def run(self) -> Generator[Outcome, None, None]:
        """Do the tasks.

        Yields:
            What became of each, in order. When the iteration is given up, scans that are being
            written are finished and nothing is left of the others.

        Raises:
            DiskFullError: If there is no room for more, after what became of the task that found
                it out.
        """
        readers, writers = self._num_threads()
        waiting: deque[Future[Outcome]] = deque()
        with self._kernels(), threads(readers) as reading, threads(writers) as writing:
            for task, loading in self._ahead(reading, readers):
                waiting.append(self._infer(task, loading, writing))
                while waiting and (waiting[0].done() or len(waiting) > writers):
                    yield from self._finished(waiting.popleft())
            while waiting:
                yield from self._finished(waiting.popleft())

    def _kernels(self) -> AbstractContextManager[None]:
        """Kernels where they save more time than it takes to compile them."""
        if len(self.tasks) < KERNELS_FROM:
            return kernels_on()
        self.predictor.warm_up()
        return nullcontext()

    def _num_threads(self) -> tuple[int, int]:
        if self.predictor.device.type == "cpu":
            return 1, 1
        cores = num_cores()
        readers, writers = max(1, cores // 2), max(1, cores * 3 // 4)
        return min(READERS_BESIDE_GPU, readers), min(WRITERS_BESIDE_GPU, writers)

    def _ahead(
        self, pool: ThreadPoolExecutor, number: int
    ) -> Iterator[tuple[Task, Future[_Loaded]]]:
        """Load scans in order, some while those before are worked on."""
        loading: deque[tuple[Task, Future[_Loaded]]] = deque()
        for task in self.tasks:
            loading.append((task, pool.submit(self._load, task)))
            if len(loading) > number:
                yield loading.popleft()
        while loading:
            yield loading.popleft()

    def _load(self, task: Task) -> _Loaded:
        begin = time.perf_counter()
        scans = [read_scan(path) for path in task.inputs]
        mask = None if task.lesion_mask is None else read_image(task.lesion_mask)
        ct = task.cts or task.ct
        with beside(self.predictor.device):
            prepared = self.predictor.prepare(scans, ct=ct, transforms=task.transforms)
        return _Loaded(prepared, mask, time.perf_counter() - begin)

    def _infer(
        self, task: Task, loading: Future[_Loaded], pool: ThreadPoolExecutor
    ) -> Future[Outcome]:
        try:
            loaded = loading.result()
            begin = time.perf_counter()
            prepared = self.predictor.planned(loaded.prepared)
            if self.on_plan is not None:
                self.on_plan(task, prepared)
            output = self.predictor.infer(prepared)
        except Exception as error:
            _free_memory(error)
            return pool.submit(self._failed, Outcome(task, 0.0, error=error))
        seconds = loaded.seconds + time.perf_counter() - begin
        loaded = loaded._replace(prepared=prepared, seconds=seconds)
        return pool.submit(self._write, task, loaded, output, mark(self.predictor.device))

    def _write(
        self, task: Task, loaded: _Loaded, output: Tensor, made: torch.cuda.Event | None
    ) -> Outcome:
        begin = time.perf_counter()
        try:
            with beside(self.predictor.device, after=made):
                shared_here(output, loaded.prepared.tensor)
                result = self.predictor.finish(loaded.prepared, output, lesion_mask=loaded.mask)
            self._write_files(task, result, loaded.prepared)
            seconds = loaded.seconds + time.perf_counter() - begin
            outcome = Outcome(task, seconds, result.warnings, score=_score(result))
        except Exception as error:
            return self._failed(Outcome(task, loaded.seconds, error=error))
        return self._summed_up(self._reported(outcome, loaded.prepared, result))

    def _summed_up(self, outcome: Outcome) -> Outcome:
        if self.summary is not None:
            self.summary.add(outcome)
        return outcome

    def _reported(self, outcome: Outcome, prepared: Prepared, result: Result) -> Outcome:
        """Add a prediction to the report; without a place in it, it is still a prediction."""
        if self.report is None:
            return outcome
        try:
            shown, cts = self._shown(prepared), prepared.space.cts
            windows = {n: CT_WINDOW_HU for n, is_ct in zip(shown, cts, strict=True) if is_ct}
            self.report.add(outcome, shown, result, windows)
        except Exception as error:
            lack = f"the report lacks this scan ({describe(error).rstrip('.')})."
            return replace(outcome, warnings=(*outcome.warnings, lack))
        return outcome

    def _shown(self, prepared: Prepared) -> dict[str, Volume]:
        used = [p for p in prepared.placements if p.left_out is None]
        if used:
            words = [f"{p.index + 1}: {stem(Path(p.name))}" for p in used]
            return dict(zip(words, (scan.volume for scan in prepared.scans), strict=True))
        names = [image.name for image in self.predictor.config.inputs]
        names = names if len(names) > 1 else ["input"]
        return {name: scan.volume for name, scan in zip(names, prepared.scans, strict=True)}

    def _failed(self, outcome: Outcome) -> Outcome:
        """Record a failure; a record that cannot be written does not hide it."""
        if self.report is not None:
            with suppress(OSError):
                self.report.add_failure(outcome)
        return self._summed_up(outcome)

    def _write_files(self, task: Task, result: Result, prepared: Prepared) -> None:
        """Write the prediction last, so that where it is, the others are."""
        new = [path for path in task.outputs if not path.exists()]

        def remove() -> None:
            for path in new:
                path.unlink(missing_ok=True)

        with undoing(remove):
            self._write_each(task, result, prepared)

    def _write_each(self, task: Task, result: Result, prepared: Prepared) -> None:
        description = _description(task, self.predictor)
        for kind, path in task.extra.items():
            volume = result.extra[kind]
            assert volume is not None
            self.predictor.write(path, volume, description)
        for path, content in task.sidecars.items():
            record = self.predictor.record
            used = record.used(ct=any(prepared.space.cts), num_scans=len(task.inputs))
            used["precision"] = self.predictor.precision
            more = {
                "Resolution": format_spacing(result.image.spacing_mm),
                "Settings": used,
                "Warnings": list(result.warnings),
                **_volumes(result),
                **_scans(prepared, content),
            }
            write_json(path, {**content, **more})
        self.predictor.write(task.output, result.image, description)
        if result.segmentation is not None:
            for table in self.tables:
                table.put(task.scan, result.segmentation)

    def _finished(self, writing: Future[Outcome]) -> Iterator[Outcome]:
        outcome = writing.result()
        announce(outcome)
        yield outcome
        if outcome.error is not None and is_full(outcome.error):
            raise DiskFullError(
                f"the disk of {outcome.task.output.parent} is full. Free some space and run the"
                " same command again with --resume: complete predictions are kept."
            )


def _scans(prepared: Prepared, content: Mapping[str, Any]) -> dict[str, Any]:
    """What the sidecar says of the scans of an exam: how they were aligned, which were left out."""
    placed = prepared.placements
    scans = [{"Source": content["Sources"][each.index], **each.as_json()} for each in placed]
    return {"Scans": scans} if scans else {}


def _volumes(result: Result) -> dict[str, Any]:
    """What the sidecar says of structures."""
    if result.segmentation is None:
        return {}
    volumes, quality = result.segmentation.volumes_ml, result.segmentation.quality
    found: dict[str, Any] = {
        "VolumesInMillilitres": {name: round(volume, 4) for name, volume in volumes.items()}
    }
    if quality is not None:
        found["QualityScore"] = {
            "Overall": round(quality.overall, 4),
            **{name: round(dice, 4) for name, dice in quality.groups.items()},
        }
    return found


def _score(result: Result) -> float | None:
    """The quality score, where there is one."""
    quality = None if result.segmentation is None else result.segmentation.quality
    return None if quality is None else quality.overall


def _free_memory(error: Exception) -> None:
    """Give memory back to the device after it ran out, so that smaller scans still fit."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        torch.cuda.empty_cache()
