"""DICOM files to NIfTI by dcm2niix, which resolves gantry tilt and uneven slices.

One run converts all series that it finds; one that is damaged does not stop the others.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthsr_transforms.support.messages import SynthSRError, WorkFailedError, bytes_in_words
from synthsr_transforms.support.stopping import signals_held, undoing

DEPTH = 9
"""Levels of subfolders that are searched, the most that dcm2niix allows."""
HOURS = 2.0
"""Time after which dcm2niix is taken to have got stuck; studies take minutes."""
OPTIONS = ("-g", "i", "-z", "n", "-b", "y", "-ba", "n", "-l", "n", "-w", "2", "-c", "")
"""No defaults of the user; plain NIfTI with all fields of the header beside it; uint16 as int16
where it fits, without which dcm2niix does not resolve uneven slices; no comment."""
_CONVERTED = re.compile(r"Convert (\d+) DICOM as (.+) \(\d+(?:x\d+)+\)\s*$")
_COUNT = re.compile(r"Converted (\d+) of (\d+) files")
_RESOLVED = r"(?:_Tilt)?(?:_Eq)?(?:_\d+)?\.nii"
_NEEDED = {"Modality", "ImageOrientationPatientDICOM"}
"""Fields of which each image has one; what has none is made of bytes that are no image."""
_RESOLVED_AS = {
    "_Tilt": "without gantry tilt",
    "_Eq": "of even slices",
    "_Tilt_Eq": "without gantry tilt and of even slices",
}
_DAMAGE = re.compile(r"not large enough|corrupt|Illegal DICOM|FileSize <|unable to decode", re.I)
_NO_MATTER = re.compile(r"protocol name|slice timing|issue 642|Future release", re.I)
"""Warnings about names of files and about times, which nothing here depends on."""
_NO_IMAGES, _PARTLY = 2, 8
"""Exit codes of dcm2niix: no images, some files not converted."""


@dataclass(frozen=True)
class Volume:
    """A volume that dcm2niix made.

    Attributes:
        path: NIfTI file.
        facts: Fields of the header, as dcm2niix names them.
        warnings: What dcm2niix said about it.
    """

    path: Path
    facts: Mapping[str, Any]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Conversion:
    """What became of DICOM files.

    Attributes:
        volumes: Those that were made.
        failure: Why some files were not converted; None if all were.
    """

    volumes: tuple[Volume, ...]
    failure: str | None = None


def convert(source: Path, folder: Path) -> Conversion:
    """Convert a DICOM file, or all files in a folder and below.

    Args:
        source: A file, or a folder.
        folder: Where NIfTI files go; they hold names of patients.

    Raises:
        SynthSRError: If no file holds an image that is complete.
        WorkFailedError: If dcm2niix cannot be run, or fails altogether.
    """
    files = [source] if source.is_file() else (p for p in source.rglob("*") if p.is_file())
    check_room(sum(file.stat().st_size for file in files), folder)
    single = ["-s", "y"] if source.is_file() else ["-d", str(DEPTH)]
    arguments = [*OPTIONS, *single, "-f", "%s_%j", "-o", str(folder), os.path.abspath(source)]
    code, said = _run(arguments)
    said = [_without_paths(line, source, folder) for line in said]
    volumes = tuple(_volumes(folder, _warnings_by_file(said, folder)))
    if volumes and code in (0, _PARTLY):
        return Conversion(volumes, _failure(said, volumes))
    if volumes:
        return Conversion(volumes, f"dcm2niix failed on some files ({_reason(said)}).")
    if code < 0:
        raise WorkFailedError(
            f"dcm2niix, which converts DICOM, was ended by {signal.Signals(-code).name}. A file may"
            " be damaged: give the folders of series one by one."
        )
    if code == _NO_IMAGES:
        raise SynthSRError(
            f"{source} must hold DICOM images, but dcm2niix finds none ({_reason(said)}). Export"
            " the study again."
        )
    raise SynthSRError(
        f"{source} must hold complete DICOM images, but dcm2niix can convert none"
        f" ({_reason(said)}). Export or copy them again."
    )


def check_room(num_bytes: float, folder: Path) -> None:
    """Refuse more than the disk of a temporary folder has room for.

    Raises:
        WorkFailedError: If it has not.
    """
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise WorkFailedError(
            f"the disk of temporary files must have room for about {bytes_in_words(num_bytes)}, got"
            f" {bytes_in_words(free)} free. Set TMPDIR to a folder on another disk."
        )


def _run(arguments: Sequence[str]) -> tuple[int, list[str]]:
    """Exit code and lines of dcm2niix, which ends with this program."""
    import dcm2niix

    started: list[subprocess.Popen[bytes]] = []

    def end() -> None:
        for process in started:
            with suppress(Exception):
                os.kill(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
                os.waitpid(process.pid, 0)  # writes no more once its folder is removed

    try:
        with undoing(end):
            with signals_held():
                process = subprocess.Popen(
                    [dcm2niix.bin, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
                started.append(process)
            try:
                said = process.communicate(timeout=3600 * HOURS)[0].decode("utf-8", "replace")
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise WorkFailedError(
                    f"dcm2niix, which converts DICOM, must end within {HOURS:g} h, but was still at"
                    " work. A file may be damaged: give the folders of series one by one."
                ) from None
    except OSError as error:
        raise WorkFailedError(
            f"dcm2niix, which converts DICOM, cannot be run ({error.strerror}). Install the package"
            " dcm2niix again."
        ) from error
    return process.returncode, said.splitlines()


def _without_paths(line: str, source: Path, folder: Path) -> str:
    """A line without paths of DICOM files, which may name patients."""
    top = re.escape(os.path.abspath(source))
    line = re.sub(rf"{top}[^\n'\"]*", "a file", line.strip())
    return line.replace(f"{folder}{os.sep}", "")


def _warnings_by_file(said: Sequence[str], folder: Path) -> dict[str, tuple[str, ...]]:
    """Warnings before the line that names a file; those after the last belong to the last."""
    found: dict[str, tuple[str, ...]] = {}
    waiting: list[str] = []
    last = ""
    for line in said:
        if match := _CONVERTED.match(line):
            last = match[2]
            found[last], waiting = tuple(dict.fromkeys(waiting)), []
        elif text := _warning(line):
            waiting.append(text)
    if last:
        found[last] = tuple(dict.fromkeys((*found[last], *waiting)))
    return found


def _warning(line: str) -> str:
    """The text of a warning; empty if a line is none, or of no matter here."""
    missing = line.startswith("DICOM images may be missing")
    if not (missing or line.startswith("Warning: ")):
        return ""
    text = line.removeprefix("Warning: ")
    return "" if _NO_MATTER.search(text) or _DAMAGE.search(text) else text


def _volumes(folder: Path, warnings: Mapping[str, tuple[str, ...]]) -> Iterator[Volume]:
    """Volumes with a header, of which the one with even slices counts; others are incomplete."""
    images = sorted(path.name for path in folder.glob("*.nii"))
    for header in sorted(folder.glob("*.json")):
        stem = header.name.removesuffix(".json")
        own = re.compile(re.escape(stem) + _RESOLVED)
        made = sorted((name for name in images if own.fullmatch(name)), key=len)
        with suppress(ValueError):
            facts = json.loads(header.read_bytes().decode("utf-8", "replace"))
            if made and isinstance(facts, dict) and _NEEDED & set(facts):
                said = warnings.get(stem, ())
                resolved = _RESOLVED_AS.get(made[-1].removeprefix(stem).rpartition("_")[0])
                said += (f"used is the volume {resolved} that it made.",) if resolved else ()
                yield Volume(folder / made[-1], facts, said)


def _failure(said: Sequence[str], volumes: Sequence[Volume]) -> str | None:
    counts = [match for line in said if (match := _COUNT.search(line))]
    if not counts:
        return None
    missing = int(counts[0][2]) - int(counts[0][1])
    return (
        f"{missing} of {counts[0][2]} DICOM files were not converted ({_reason(said)}). Export or"
        " copy them again."
    )


def _reason(said: Sequence[str]) -> str:
    """The line that says most about a failure."""
    for wanted in (_DAMAGE, re.compile("^Error"), re.compile("^Warning"), re.compile("No valid")):
        for line in reversed(said):
            if wanted.search(line) and not _COUNT.search(line):
                return re.sub(r"^(?:Error|Warning): ", "", line).rstrip(".")[:120]
    return "it says nothing more"
