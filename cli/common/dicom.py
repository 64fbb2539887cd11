"""Shared part of the commands that take DICOM: series are listed, chosen and predicted.

Commands import this module when they run, since it loads PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from synthsr_net.prediction.dicom.series import Series
from synthsr_net.prediction.dicom.study import Study, chosen, is_study, opened
from synthsr_net.prediction.runs.studies import plan_study
from synthsr_transforms.io.grids import format_spacing
from synthsr_transforms.support.messages import SynthSRError, WorkFailedError
from synthsr_transforms.support.stopping import LAUNCHED, is_first_process

from .describing import counted
from .messages import log
from .prediction import PREDICTION, Kind, extra_images, refuse, run_all
from .tables import print_table

COLUMNS = ("exam", "series", "description", "contrast", "slices", "spacing_mm", "left_out")
_REFUSED = {
    "bids": "--bids",
    "participants": "--participant-label",
    "others": "--with",
    "also": "--also",
    "transforms": "--registration",
    "lesion_mask": "--lesion-mask",
}


def is_dicom(source: Path, options: Mapping[str, Any]) -> bool:
    """Whether the input of a command is DICOM; if not, options for DICOM are refused.

    Raises:
        SynthSRError: If such an option is given for something else.
    """
    if not options["bids"] and is_study(source, recursive=options["recursive"]):
        return True
    for name, option in (
        ("series", "--series"),
        ("list_series", "--list-series"),
        ("keep_names", "--keep-names"),
    ):
        if options[name]:
            raise SynthSRError(
                f"{option} goes with DICOM files, of which {source} holds none. Leave it out, or"
                " give the folder of a study."
            )
    return False


def run_dicom(
    source: Path, output: Path | None, options: dict[str, Any], *, kind: Kind = PREDICTION
) -> None:
    """Apply a model to series of DICOM studies; see `run_all`.

    Args:
        source: A file, folder or `.zip` of DICOM.
        output: See `plan_study`; None where series are only listed.
        options: Options of the command.
        kind: What to make.

    Raises:
        SynthSRError: If there is nothing to convert, or options do not fit.
        WorkFailedError: If some series failed, or some files could not be converted.
    """
    refuse(options, _REFUSED, "does not go with DICOM. Leave it out, or convert the scans first.")
    with opened(source, keep_names=options["keep_names"]) as study, _own_words(study):
        if options["list_series"]:
            _print_series(study)
        else:
            assert output is not None
            _predict(study, output, options, kind)
    if study.failure is not None:
        raise WorkFailedError(study.failure)


def _predict(study: Study, output: Path, options: dict[str, Any], kind: Kind) -> None:
    series = chosen(study.series, options["series"])
    tasks = plan_study(
        series,
        output,
        extra=extra_images(options),
        kind=kind.name,
        ending=kind.ending,
        per_session=bool(options.get("per_session")),
    )
    if is_first_process() and LAUNCHED not in os.environ:
        _tell(study, series)
    names: tuple[str | None, ...] = () if options.get("per_session") else (None,)
    run_all(tasks, options, kind, names=names, output=output)


def _tell(study: Study, wanted: Sequence[Series]) -> None:
    """Say of each series what it is, or why it is left out, and what dcm2niix said."""
    number = len(study.exams)
    exams = f" of {counted(number, 'exam')}" if number > 1 else ""
    log.info(f"DICOM: {len(study.series)} series{exams}, {len(wanted)} to be used.")
    for each in study.series:
        name = f"{each.exam}/{each.name}" if number > 1 else each.name
        if each in wanted:
            log.info(f"  {name}: {_in_words(each)}")
            for text in each.warnings:
                log.warning(f"{name}: dcm2niix: {text}")
        else:
            log.info(f"  {name}: left out: {each.left_out or 'not asked for'}")


def _in_words(series: Series) -> str:
    contrast = "unknown contrast" if series.contrast == "?" else series.contrast
    spacing = format_spacing(series.spacing_mm)
    return f"{contrast}, {counted(series.num_slices, 'slice')}, voxels of {spacing}"


def _print_series(study: Study) -> None:
    if is_first_process():
        print_table(COLUMNS, _rows(study.series), left=("exam", "description", "left_out"))


def _rows(series: Iterable[Series]) -> Iterator[list[str]]:
    for each in series:
        spacing = format_spacing(each.spacing_mm).removesuffix(" mm")
        facts = [str(each.number), each.description, each.contrast, str(each.num_slices), spacing]
        yield [each.exam, *facts, each.left_out or ""]


@contextmanager
def _own_words(study: Study) -> Iterator[None]:
    """Errors without the paths of temporary files."""
    try:
        yield
    except SynthSRError as error:
        raise SynthSRError(study.told(str(error))) from error
    except WorkFailedError as error:
        raise WorkFailedError(study.told(str(error))) from error
