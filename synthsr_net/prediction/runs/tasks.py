"""A batch as a list of tasks: which files each prediction reads and writes."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from synthsr_net.prediction.files import (
    CONTRASTS,
    ENDING,
    EXTRA_ENDINGS,
    MASK_WORDS,
    check_writable,
    find_scans,
    match,
    plan_outputs,
    refuse_inputs,
)
from synthsr_transforms.io.files import stem, unread_scans
from synthsr_transforms.io.grids import Affine
from synthsr_transforms.support.messages import SynthSRError, listed

from .bids import (
    DESCRIPTION,
    PREDICTION,
    BidsScan,
    check_derivative,
    find_bids_scans,
    sidecar,
)
from .rows import RowTable
from .selection import Selection

AnyPath: TypeAlias = "str | os.PathLike[str]"
NOTHING: Mapping[str, AnyPath | None] = {}


@dataclass(frozen=True, kw_only=True)
class Task:
    """One prediction: what is read and what is written."""

    name: str
    """Name in messages."""
    inputs: tuple[Path, ...]
    """Scans, one per input of the model, or all of an exam."""
    output: Path
    """The prediction."""
    lesion_mask: Path | None = None
    """Mask of a lesion in the first scan, which the prediction shows as the scan does."""
    extra: Mapping[str, Path] = field(default_factory=dict)
    """Files of further images, by the names of `EXTRA_ENDINGS`."""
    ct: bool | None = None
    """Whether the scan is CT, where the predictor is not set to treat all alike; None: unknown."""
    cts: tuple[bool | None, ...] = ()
    """The same for each scan of an exam; empty: all as `ct`."""
    transforms: tuple[Affine | None, ...] = field(default=(), compare=False)
    """Of an exam, see `Inferer.prepare`; empty: to be found."""
    source: str = ""
    """What reports and tables call a scan whose file is temporary; empty: its path."""
    sidecars: Mapping[Path, Mapping[str, Any]] = field(default_factory=dict)
    """JSON files beside the images, and what they say besides spacing, settings and warnings."""

    @property
    def outputs(self) -> list[Path]:
        """Every file that is written."""
        return [self.output, *self.extra.values(), *self.sidecars]

    @property
    def scan(self) -> str:
        """Path of the scan, or of several joined by commas: its name in reports and tables."""
        return self.source or ", ".join(map(str, self.inputs))


def plan_tasks(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    lesion_mask: AnyPath | None = None,
    extra: Mapping[str, AnyPath | None] = NOTHING,
    ending: str = ENDING,
    recursive: bool = False,
) -> list[Task]:
    """Tasks for scans, folders or lists.

    Args:
        inputs: One file, folder or list per input of the model. Folders are matched by names from
            which words such as T1w are taken, lists line by line.
        output: See `plan_outputs`.
        lesion_mask: Masks that go with the first input, matched in the same way.
        extra: Where further images go, by the names of `EXTRA_ENDINGS`; see `plan_outputs`.
        ending: Suffix of the names of outputs.
        recursive: See `find_scans`.

    Raises:
        SynthSRError: If something is missing, does not match, or cannot be written.
    """
    others = _others(inputs, output, lesion_mask, *extra.values())
    sources = [
        find_scans(path, without=without, recursive=recursive)
        for path, without in zip(inputs, others, strict=True)
    ]
    first = sources[0]
    columns = [list(first.scans), *(match(first, other, CONTRASTS) for other in sources[1:])]
    outputs = plan_outputs(first, output, ending)
    masks: list[Path | None] = [None] * len(outputs)
    if lesion_mask is not None:
        masks = [*match(first, find_scans(lesion_mask, recursive=recursive), MASK_WORDS)]
    further = {
        name: plan_outputs(first, place, EXTRA_ENDINGS[name])
        for name, place in extra.items()
        if place is not None
    }
    tasks = [
        Task(
            name=name,
            inputs=scans,
            output=outputs[i],
            lesion_mask=masks[i],
            extra={kind: paths[i] for kind, paths in further.items()},
        )
        for i, (name, scans) in enumerate(
            zip(unique_names(first.scans), zip(*columns, strict=True), strict=True)
        )
    ]
    check_files(tasks)
    return tasks


def unread_inputs(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    lesion_mask: AnyPath | None = None,
    extra: Mapping[str, AnyPath | None] = NOTHING,
    recursive: bool = False,
) -> list[str]:
    """Warnings of scans that `plan_tasks` leaves out, see `unread_scans`."""
    warnings = [
        f"{path} is a BIDS dataset: --bids predicts from its anatomical scans alone."
        for path in inputs
        if (Path(path) / DESCRIPTION).is_file()
    ]
    others = _others(inputs, output, lesion_mask, *extra.values())
    for path, without in zip(inputs, others, strict=True):
        warnings += unread_scans(path, without=without, recursive=recursive)
    return warnings


def _others(
    inputs: Sequence[str | os.PathLike[str]], *places: str | os.PathLike[str] | None
) -> list[list[Path]]:
    """Other inputs and places for each input."""
    paths = [Path(path) for path in (*inputs, *places) if path is not None]
    return [[*paths[:i], *paths[i + 1 :]] for i in range(len(inputs))]


def plan_bids(
    root: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    participants: Sequence[str] = (),
    selection: Selection | None = None,
    extra: Mapping[str, AnyPath | None] = NOTHING,
    kind: str = PREDICTION,
) -> list[Task]:
    """Tasks for the scans of a BIDS dataset; see `bids`.

    Args:
        root: The dataset.
        output: Folder of the derivative dataset.
        participants: Labels of participants; none given means all.
        selection: What is wanted of their scans; None means all.
        extra: Folders for further images, laid out alike, by the names of `EXTRA_ENDINGS`; they
            may be `output`.
        kind: What `output` is for: a key of `bids.KINDS`.

    Raises:
        ValueError: If something is missing or cannot be written.
    """
    root, output = Path(root), Path(output)
    scans = find_bids_scans(root, participants, selection)
    places = {kind: output, **{k: Path(place) for k, place in extra.items() if place is not None}}
    for folder in places.values():
        check_derivative(root, folder)
    tasks = [_bids_task(scan, places) for scan in scans]
    check_files(tasks)
    return tasks


def _bids_task(scan: BidsScan, places: Mapping[str, Path]) -> Task:
    """Task of a scan; its output is the first of the places."""
    images = {kind: place / scan.output(kind) for kind, place in places.items()}
    sidecars = {beside(image): sidecar(scan, kind) for kind, image in images.items()}
    first = next(iter(images))
    return Task(
        name=str(scan.relative),
        inputs=(scan.path,),
        output=images.pop(first),
        extra=images,
        ct=scan.is_ct or None,
        sidecars=sidecars,
    )


def beside(image: Path) -> Path:
    """The JSON file beside an image."""
    return image.with_name(f"{stem(image)}.json")


def check_files(tasks: Sequence[Task]) -> None:
    """Refuse outputs that are inputs, shared, or cannot be written.

    Raises:
        SynthSRError: If there is one.
    """
    outputs = [path for task in tasks for path in task.outputs]
    masks = [task.lesion_mask for task in tasks if task.lesion_mask is not None]
    refuse_inputs(outputs, [*masks, *(path for task in tasks for path in task.inputs)])
    first: dict[str, Task] = {}
    for task in tasks:
        for path in task.outputs:
            key = os.path.normcase(os.path.realpath(path))
            if key in first:
                raise _shared(path, first[key].inputs[0], task.inputs[0])
            first[key] = task
    check_writable(path.parent for path in outputs)


def _shared(output: Path, scan: Path, other: Path) -> SynthSRError:
    if scan == other:
        got, advice = f"{output} twice for {scan}", "Name each scan once, and other files for it"
    else:
        got, advice = f"{output} for both {scan} and {other}", "Rename one, or move it away"
    return SynthSRError(f"each output must be a file of its own, got {got}. {advice}.")


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Short names of files, with as many folders in front as make them differ.

    Examples:
        >>> unique_names([Path("a/T1.nii"), Path("b/T1.nii"), Path("b/T2.nii")])
        ['a/T1.nii', 'b/T1.nii', 'T2.nii']
    """
    names = [path.name for path in paths]
    depth = 1
    while depth < 10 and max(Counter(names).values(), default=1) > 1:
        depth += 1
        number = Counter(names)
        names = [
            name if number[name] == 1 else "/".join(path.absolute().parts[-depth:])
            for name, path in zip(names, paths, strict=True)
        ]
    return names


# What is there already ---------------------------------------------------------------------------


def is_complete(task: Task) -> bool:
    """Whether every file of a task is there; since files appear whole, they are complete."""
    try:
        return all(path.stat().st_size > 0 for path in task.outputs)
    except OSError:
        return False


def missing_tasks(
    tasks: Sequence[Task],
    *,
    tables: Collection[RowTable] = (),
    resume: bool = False,
    overwrite: bool = False,
) -> list[Task]:
    """Tasks whose outputs are to be made.

    Args:
        tasks: All tasks.
        tables: Tables that hold a row for each complete task.
        resume: Whether complete tasks are left out.
        overwrite: Whether outputs that exist are replaced.

    Raises:
        SynthSRError: If outputs exist and neither was asked for, or both.
    """
    if resume and overwrite:
        raise SynthSRError("resume and overwrite exclude each other. Choose one of them.")
    if overwrite:
        return list(tasks)
    recorded = [(table, table.among(task.scan for task in tasks)) for table in tables]
    if resume:
        done = set.intersection(*(scans for _, scans in recorded)) if recorded else set()
        return [
            task for task in tasks if not is_complete(task) or (recorded and task.scan not in done)
        ]
    there = [str(path) for task in tasks for path in task.outputs if path.exists()]
    there += [f"{scan} in {table.path}" for table, scans in recorded for scan in sorted(scans)]
    if there:
        names = listed(there, limit=3)
        what = f"{names} exists" if len(there) == 1 else f"{len(there)} exist: {names}"
        raise SynthSRError(
            f"outputs must be new, but {what}. Add --resume to keep them, or --overwrite."
        )
    return list(tasks)


def order_inputs(
    tasks: Sequence[Task], names: Sequence[str | None], known: Sequence[str]
) -> list[Task]:
    """Put the inputs of tasks into the order of those of a model.

    Args:
        tasks: Tasks with the inputs of `names`.
        names: Names that the user gave; None stands for the first input not named.
        known: Names of the inputs of the model.

    Raises:
        SynthSRError: If a name is unknown or there twice.
    """
    lower = [name.lower() for name in known]
    given = [name.lower() for name in names if name is not None]
    for name in given:
        if name not in lower:
            raise SynthSRError(
                f"inputs of the model are {', '.join(known)}, got {name!r}. Use one of these names."
            )
    free = [name for name in lower if name not in given]
    if len(set(given)) < len(given) or len(free) < names.count(None):
        raise SynthSRError(f"each input ({', '.join(known)}) must be given once, got one twice.")
    named = [name.lower() if name is not None else free.pop(0) for name in names]
    order = sorted(range(len(named)), key=lambda i: lower.index(named[i]))
    return [
        dataclasses.replace(task, inputs=tuple(task.inputs[i] for i in order)) for task in tasks
    ]
