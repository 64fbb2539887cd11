"""Exams as tasks: several scans of one person, from options, a table or the sessions of BIDS."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from synthsr_net.prediction.exams.transforms import read_transform
from synthsr_net.prediction.files import (
    ENDING,
    EXTRA_ENDINGS,
    find_scans,
)
from synthsr_transforms.io.files import is_written
from synthsr_transforms.support.messages import SynthSRError, suggest
from synthsr_transforms.support.pointers import refuse_pointer
from synthsr_transforms.support.texts import read_text

from .bids import (
    CT_SUFFIX,
    KINDS,
    MRI_SUFFIXES,
    PIPELINE,
    PREDICTION,
    BidsScan,
    check_derivative,
    find_bids_scans,
    sidecar,
)
from .rows import ENDINGS
from .selection import Selection
from .tasks import NOTHING, AnyPath, Task, beside, check_files

EXAM, SCAN, OUTPUT, CT, REGISTRATION = "exam", "scan", "output", "ct", "registration"
COLUMNS = (EXAM, SCAN, OUTPUT, CT, REGISTRATION)
"""Columns of a table of exams; the first two are needed."""
YES, NO = ("yes", "true", "1", "ct"), ("no", "false", "0", "mri", "mr")
"""What the column `ct` may hold, besides nothing."""


def as_exams(tasks: Sequence[Task], transforms: Sequence[AnyPath] = ()) -> list[Task]:
    """Tasks of several scans as exams, with a sidecar beside each prediction.

    Args:
        tasks: From `plan_tasks`.
        transforms: Files for the scans after the first, in their order, see `read_transform`. They
            go with a single task.

    Raises:
        SynthSRError: If a scan is there twice, or the number of transforms is not that of scans.
    """
    exams = [_as_exam(task) for task in tasks]
    if transforms:
        others = len(exams[0].inputs) - 1
        if len(exams) > 1 or len(transforms) != others:
            raise SynthSRError(
                f"--registration must be given once for each --also, for one exam, got"
                f" {len(transforms)} for {others} in {len(exams)} exams. Use a table of exams."
            )
        matrices = (None, *map(read_transform, transforms))
        exams = [replace(exams[0], transforms=matrices)]
    check_files(exams)
    return exams


def _as_exam(task: Task) -> Task:
    """A task with its sidecar."""
    paths = [os.path.realpath(path) for path in task.inputs]
    for index, path in enumerate(paths):
        if path in paths[:index]:
            raise SynthSRError(
                f"each scan of an exam must be given once, got {task.inputs[index]} twice."
            )
    content = {
        "Description": "T1-weighted scan predicted from an exam; intensities are not those of an"
        " acquired scan",
        "Sources": [str(path) for path in task.inputs],
        "GeneratedBy": {"Name": PIPELINE, "Version": version("synthsr")},
    }
    return replace(task, sidecars={**task.sidecars, beside(task.output): content})


# Tables ------------------------------------------------------------------------------------------


def is_table(path: Path) -> bool:
    """Whether an input is a table of exams, by its name."""
    return path.suffix.lower() in ENDINGS and not path.is_dir()


def plan_exams(
    table: AnyPath, output: AnyPath, *, extra: Mapping[str, AnyPath | None] = NOTHING
) -> list[Task]:
    """Tasks for the exams of a table.

    Args:
        table: `.tsv` or `.csv` file with a row per scan and the columns `exam` and `scan`, of which
            the first scan of an exam leads, and any of `output` (name in the output folder,
            `EXAM_synthsr.nii.gz` by default), `ct` (yes, no or nothing) and `registration` (see
            `read_transform`). Paths start at the working folder, or else at that of the table.
        output: Folder of the predictions.
        extra: Folders for further images, by the names of `EXTRA_ENDINGS`.

    Raises:
        SynthSRError: If something is missing, does not fit, or cannot be written.
    """
    table, output = Path(table), Path(output)
    for place in (output, *(p for p in extra.values() if p is not None)):
        if is_written(Path(place)) or Path(place).is_file():
            raise SynthSRError(f"output of a table of exams must be a folder, got {place}.")
    exams: dict[str, list[dict[str, str]]] = {}
    for row in _rows(table):
        exams.setdefault(row[EXAM], []).append(row)
    tasks = [_exam_of_table(name, rows, table, output, extra) for name, rows in exams.items()]
    return as_exams(tasks)


def _exam_of_table(
    name: str,
    rows: Sequence[Mapping[str, str]],
    table: Path,
    output: Path,
    extra: Mapping[str, AnyPath | None],
) -> Task:
    scans = [_file(row[SCAN], table) for row in rows]
    for scan in scans:
        find_scans(scan)  # refuses what is not there
    named = {row[OUTPUT] for row in rows} - {""}
    if len(named) > 1:
        raise SynthSRError(
            f"{table}: exam {name} must have one output, got {', '.join(sorted(named))}."
        )
    files = {"": f"{name}{ENDING}.nii.gz"}
    files |= {kind: f"{name}{EXTRA_ENDINGS[kind]}.nii.gz" for kind in extra}
    made = output / Path(*named).expanduser() if named else output / files[""]
    if not is_written(made):
        raise SynthSRError(
            f"{table}: output of exam {name} must be a file such as {name}.nii.gz, got {made.name}."
        )
    given = [row[REGISTRATION] for row in rows]
    if given[0]:
        raise SynthSRError(
            f"{table}: registration must be empty for the first scan of exam {name}, which the"
            f" others are aligned with, got {given[0]}."
        )
    cts = tuple(_yes_or_no(row[CT], table, name) for row in rows)
    return Task(
        name=name,
        inputs=tuple(scans),
        output=made,
        extra={kind: Path(place) / files[kind] for kind, place in extra.items() if place},
        ct=True if True in cts else None,
        cts=cts,
        transforms=tuple(read_transform(_file(t, table)) if t else None for t in given),
    )


def _rows(table: Path) -> list[dict[str, str]]:
    """Rows of a table, all columns filled in, those without an exam left out."""
    refuse_pointer(table)
    try:
        text = io.StringIO(read_text(table))
    except FileNotFoundError:
        raise SynthSRError(f"{table} must be a table of exams, but does not exist.") from None
    except OSError as error:
        raise SynthSRError(f"{table} must be a table of exams ({error.strerror}).") from error
    try:
        names, *lines = csv.reader(text, delimiter=ENDINGS[table.suffix.lower()], strict=True)
    except (csv.Error, ValueError):
        names, lines = [], []
    names = [name.strip().lower() for name in names]
    unknown = [name for name in names if name not in COLUMNS]
    if not {EXAM, SCAN} <= set(names) or unknown or len(set(names)) < len(names):
        hint = suggest(unknown[0], COLUMNS) if unknown else ""
        raise SynthSRError(
            f"{table} must have the columns exam and scan, and may have output, ct and"
            f" registration, got {', '.join(names) or 'none'}{hint}."
        )
    rows = []
    for number, line in enumerate(lines, 2):
        if not any(cell.strip() for cell in line):
            continue
        row = dict.fromkeys(COLUMNS, "")
        row |= dict(zip(names, (cell.strip() for cell in line), strict=False))
        name = row[EXAM]
        if len(line) > len(names) or not row[SCAN] or not name or {"/", "\\"} & {*name}:
            raise SynthSRError(
                f"{table}, line {number}: each row must have an exam (a name without slashes), a"
                f" scan and no more than the columns above, got {line}."
            )
        rows.append(row)
    if not rows:
        raise SynthSRError(f"{table} must hold a row for each scan, but holds none.")
    return rows


def _file(text: str, table: Path) -> Path:
    path = Path(text).expanduser()
    there = table.parent / path
    return there if not path.exists() and os.path.lexists(there) else path


def _yes_or_no(text: str, table: Path, name: str) -> bool | None:
    if text.lower() in ("", "n/a"):
        return None
    if text.lower() not in (*YES, *NO):
        raise SynthSRError(
            f"{table}: ct of exam {name} must be yes, no or empty, got {text!r}. Correct it."
        )
    return text.lower() in YES


# BIDS --------------------------------------------------------------------------------------------


def plan_sessions(
    root: AnyPath,
    output: AnyPath,
    *,
    participants: Sequence[str] = (),
    selection: Selection | None = None,
    extra: Mapping[str, AnyPath | None] = NOTHING,
) -> list[Task]:
    """Tasks for the sessions of a BIDS dataset: all scans of each make one prediction.

    The first scan is a T1w if there is one, else of the first of `MRI_SUFFIXES` that there is.

    Args:
        root: The dataset.
        output: Folder of the derivative dataset.
        participants: Labels of participants; none given means all.
        selection: What is wanted of their scans; None means all.
        extra: Folders for further images, laid out alike, by the names of `EXTRA_ENDINGS`.

    Raises:
        SynthSRError: If something is missing or cannot be written.
    """
    root, output = Path(root), Path(output)
    sessions: dict[tuple[str, str], list[BidsScan]] = {}
    for scan in find_bids_scans(root, participants, selection):
        key = scan.entities["sub"], scan.entities.get("ses", "")
        sessions.setdefault(key, []).append(scan)
    places = {PREDICTION: output}
    places |= {kind: Path(place) for kind, place in extra.items() if place is not None}
    for folder in places.values():
        check_derivative(root, folder)
    tasks = [_session_task(scans, places) for scans in sessions.values()]
    check_files(tasks)
    return tasks


def _session_task(scans: Iterable[BidsScan], places: Mapping[str, Path]) -> Task:
    order = (*MRI_SUFFIXES, CT_SUFFIX)
    ordered = sorted(scans, key=lambda scan: order.index(scan.suffix))
    first = ordered[0]
    images = {kind: place / _session_file(first, kind) for kind, place in places.items()}
    cts = tuple(scan.is_ct or None for scan in ordered)
    return Task(
        name="_".join(f"{key}-{first.entities[key]}" for key in _keys(first)),
        inputs=tuple(scan.path for scan in ordered),
        output=images[PREDICTION],
        extra={kind: path for kind, path in images.items() if kind != PREDICTION},
        ct=True if True in cts else None,
        cts=cts,
        sidecars={beside(path): _session_sidecar(ordered, k) for k, path in images.items()},
    )


def _session_sidecar(scans: Sequence[BidsScan], kind: str) -> dict[str, Any]:
    first = scans[0]
    content = sidecar(first, kind)
    contrasts = " and ".join(dict.fromkeys(scan.suffix for scan in scans))
    description = content["Description"].replace(f"a {first.suffix} scan", f"scans: {contrasts}")
    sources = [sidecar(scan, kind)["Sources"][0] for scan in scans]
    return {**content, "Description": description, "Sources": sources}


def _session_file(scan: BidsScan, kind: str) -> Path:
    """Path of an image of a session in its derivative dataset, of the first scan."""
    label, derived, _ = KINDS[kind]
    entities = "_".join(f"{key}-{scan.entities[key]}" for key in _keys(scan))
    name = f"{entities}_desc-{label}Exam_{derived}.nii.gz"
    return Path(*scan.relative.parent.parent.parts, "anat", name)


def _keys(scan: BidsScan) -> list[str]:
    return [key for key in ("sub", "ses") if key in scan.entities]
