"""DICOM studies as tasks: one for each series, or one for all scans of each exam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from synthsr_net.prediction.dicom.series import CONTRASTS, Series
from synthsr_net.prediction.files import ENDING, EXTRA_ENDINGS, refuse_file
from synthsr_transforms.io.files import is_written
from synthsr_transforms.support.messages import SynthSRError, listed

from .bids import KINDS, PIPELINE, PREDICTION
from .tasks import NOTHING, AnyPath, Task, beside, check_files


def plan_study(
    series: Sequence[Series],
    output: AnyPath,
    *,
    extra: Mapping[str, AnyPath | None] = NOTHING,
    kind: str = PREDICTION,
    ending: str = ENDING,
    per_session: bool = False,
) -> list[Task]:
    """Tasks for series, with a JSON file beside each result.

    Args:
        series: Those to predict.
        output: A file for one result, or a folder: names there are those of series, in a folder
            for each exam if there are several.
        extra: Where further images go, laid out alike, by the names of `EXTRA_ENDINGS`.
        kind: What `output` is for: a key of `bids.KINDS`.
        ending: Suffix of the names of outputs.
        per_session: Whether all scans of an exam make one result.

    Raises:
        SynthSRError: If a file is given for several results, or an output cannot be written.
    """
    exams: dict[str, list[Series]] = {}
    for each in series:
        exams.setdefault(each.exam, []).append(each)
    if per_session:
        groups = {name: sorted(scans, key=_leading) for name, scans in exams.items()}
    else:
        place = "{exam}/{name}" if len(exams) > 1 else "{name}"
        groups = {place.format(exam=each.exam, name=each.name): [each] for each in series}
    places = {kind: (Path(output), ending)}
    places |= {k: (Path(p), EXTRA_ENDINGS[k]) for k, p in extra.items() if p is not None}
    tasks = []
    for name, scans in groups.items():
        files = {k: _file(place, name + end, groups) for k, (place, end) in places.items()}
        tasks.append(_task(name, scans, files, kind))
    check_files(tasks)
    return tasks


def _leading(series: Series) -> tuple[int, float]:
    """Order of the scans of an exam: T1 first, of these the one of the smallest voxels."""
    x, y, z = series.spacing_mm
    return CONTRASTS.index(series.contrast), x * y * z


def _file(place: Path, name: str, groups: Mapping[str, object]) -> Path:
    """File of a result: the one given for a single result, or one in the folder given."""
    if place.is_dir() or not is_written(place):
        refuse_file(place)
        return place / f"{name}.nii.gz"
    if len(groups) > 1:
        raise SynthSRError(
            f"output must be a folder for {len(groups)} results ({listed(list(groups), limit=3)}),"
            f" got {place}. Or choose one by --series."
        )
    return place


def _task(name: str, scans: Sequence[Series], files: Mapping[str, Path], kind: str) -> Task:
    output = files[kind]
    cts = tuple(each.is_ct for each in scans)
    return Task(
        name=name,
        inputs=tuple(each.path for each in scans),
        output=output,
        extra={k: path for k, path in files.items() if k != kind},
        ct=any(cts),
        cts=cts if len(scans) > 1 else (),
        source=name if name.startswith(scans[0].exam) else f"{scans[0].exam}/{name}",
        sidecars={beside(output): _sidecar(scans, kind)},
    )


def _sidecar(scans: Sequence[Series], kind: str) -> dict[str, Any]:
    """What the JSON file beside a result says of its scans; the first field of each is its name."""
    contrasts = " and ".join(dict.fromkeys(each.contrast.replace("?", "DICOM") for each in scans))
    return {
        "Description": KINDS[kind][2].format(contrasts),
        "Sources": [f"{each.exam}/{each.name}" for each in scans],
        "Acquisitions": [{**each.facts, "ConversionWarnings": each.warnings} for each in scans],
        "GeneratedBy": {"Name": PIPELINE, "Version": version("synthsr")},
    }
