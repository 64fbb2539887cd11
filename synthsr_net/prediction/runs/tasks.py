"""A batch as a list of tasks: which files each prediction reads and writes."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synthsr_net.prediction.files import (
    CONTRASTS,
    MASK_WORDS,
    check_writable,
    find_scans,
    match,
    plan_outputs,
    refuse_inputs,
)
from synthsr_transforms.io.files import stem, unread_scans
from synthsr_transforms.support.messages import SynthSRError, listed

from .bids import DESCRIPTION, BidsScan, check_derivative, find_bids_scans, sidecar

SCALE_LABEL = "synthsrSpread"
"""Beginning of the `desc` label of Laplace scales in BIDS datasets."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One prediction: what is read and what is written."""

    name: str
    """Name in messages."""
    inputs: tuple[Path, ...]
    """Scans, one per input of the model."""
    output: Path
    """The prediction."""
    lesion_mask: Path | None = None
    """Mask of a lesion in the first scan, which the prediction shows as the scan does."""
    uncertainty: Path | None = None
    """File of the predicted Laplace scale."""
    ct: bool | None = None
    """Whether the scan is CT, where the predictor is not set to treat all alike; None: unknown."""
    sidecars: Mapping[Path, Mapping[str, Any]] = field(default_factory=dict)
    """JSON files beside the images, and what they say besides spacing, settings and warnings."""

    @property
    def outputs(self) -> list[Path]:
        """Every file that is written."""
        scales = [] if self.uncertainty is None else [self.uncertainty]
        return [self.output, *scales, *self.sidecars]


def plan_tasks(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    lesion_mask: str | os.PathLike[str] | None = None,
    uncertainty: str | os.PathLike[str] | None = None,
    recursive: bool = False,
) -> list[Task]:
    """Tasks for scans, folders or lists.

    Args:
        inputs: One file, folder or list per input of the model. Folders are matched by names from
            which words such as T1w are taken, lists line by line.
        output: See `plan_outputs`.
        lesion_mask: Masks that go with the first input, matched in the same way.
        uncertainty: Where predicted Laplace scales go; see `plan_outputs`.
        recursive: See `find_scans`.

    Raises:
        SynthSRError: If something is missing, does not match, or cannot be written.
    """
    others = _others(inputs, output, lesion_mask, uncertainty)
    sources = [
        find_scans(path, without=without, recursive=recursive)
        for path, without in zip(inputs, others, strict=True)
    ]
    first = sources[0]
    columns = [list(first.scans), *(match(first, other, CONTRASTS) for other in sources[1:])]
    outputs = plan_outputs(first, output)
    masks: list[Path | None] = [None] * len(outputs)
    scales = list(masks)
    if lesion_mask is not None:
        masks = [*match(first, find_scans(lesion_mask, recursive=recursive), MASK_WORDS)]
    if uncertainty is not None:
        scales = [*plan_outputs(first, uncertainty, "_synthsr_spread")]
    tasks = [
        Task(name=name, inputs=scans, output=path, lesion_mask=mask, uncertainty=scale)
        for name, scans, path, mask, scale in zip(
            unique_names(first.scans),
            zip(*columns, strict=True),
            outputs,
            masks,
            scales,
            strict=True,
        )
    ]
    check_files(tasks)
    return tasks


def unread_inputs(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    lesion_mask: str | os.PathLike[str] | None = None,
    uncertainty: str | os.PathLike[str] | None = None,
    recursive: bool = False,
) -> list[str]:
    """Warnings of scans that `plan_tasks` leaves out, see `unread_scans`."""
    warnings = [
        f"{path} is a BIDS dataset: --bids predicts from its anatomical scans alone."
        for path in inputs
        if (Path(path) / DESCRIPTION).is_file()
    ]
    others = _others(inputs, output, lesion_mask, uncertainty)
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
    uncertainty: str | os.PathLike[str] | None = None,
) -> list[Task]:
    """Tasks for the scans of a BIDS dataset; see `bids`.

    Args:
        root: The dataset.
        output: Folder of the derivative dataset.
        participants: Labels of participants; none given means all.
        uncertainty: Folder for predicted Laplace scales, laid out alike; it may be `output`.

    Raises:
        ValueError: If something is missing or cannot be written.
    """
    root, output = Path(root), Path(output)
    scans = find_bids_scans(root, participants)
    for folder in (output, uncertainty):
        if folder is not None:
            check_derivative(root, Path(folder))
    tasks = [_bids_task(scan, output, uncertainty) for scan in scans]
    check_files(tasks)
    return tasks


def _bids_task(scan: BidsScan, output: Path, uncertainty: str | os.PathLike[str] | None) -> Task:
    image = output / scan.output()
    sidecars = {_beside(image): sidecar(scan)}
    scale = None if uncertainty is None else Path(uncertainty) / scan.output(SCALE_LABEL)
    if scale is not None:
        sidecars[_beside(scale)] = sidecar(scan, laplace_scale=True)
    return Task(
        name=str(scan.relative),
        inputs=(scan.path,),
        output=image,
        uncertainty=scale,
        ct=scan.is_ct or None,
        sidecars=sidecars,
    )


def _beside(image: Path) -> Path:
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
    tasks: Sequence[Task], *, resume: bool = False, overwrite: bool = False
) -> list[Task]:
    """Tasks whose outputs are to be made.

    Args:
        tasks: All tasks.
        resume: Whether complete tasks are left out.
        overwrite: Whether outputs that exist are replaced.

    Raises:
        SynthSRError: If outputs exist and neither was asked for, or both.
    """
    if resume and overwrite:
        raise SynthSRError("resume and overwrite exclude each other. Choose one of them.")
    if overwrite:
        return list(tasks)
    if resume:
        return [task for task in tasks if not is_complete(task)]
    there = [str(path) for task in tasks for path in task.outputs if path.exists()]
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
