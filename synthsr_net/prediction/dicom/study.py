"""Studies as people have them: folders, files and archives, converted for as long as needed."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from synthsr_transforms.io.files import has_known_extension, is_dicom, is_volume, starts_as_dicom
from synthsr_transforms.support.atomic import temporary_folder
from synthsr_transforms.support.messages import SynthSRError, listed
from synthsr_transforms.support.pointers import refuse_pointer

from .archive import unpack
from .conversion import DEPTH, convert
from .series import Series, series_of

MOST_FILES = 10_000
"""Files that are looked at for the first that is DICOM."""


@dataclass(frozen=True)
class Study:
    """Series of one or more studies.

    Attributes:
        series: All that were converted.
        failure: Why some files were not; None if all were.
        folder: Where their files are for now.
    """

    series: tuple[Series, ...]
    failure: str | None
    folder: Path

    @property
    def exams(self) -> list[str]:
        """Names of the exams."""
        return list(dict.fromkeys(each.exam for each in self.series))

    def told(self, text: str) -> str:
        """A text without the paths of temporary files."""
        return text.replace(f"{self.folder}{os.sep}", "")


def is_study(path: Path, *, recursive: bool = False) -> bool:
    """Whether an input is DICOM, by its content: a file, a `.zip`, or a folder of such files.

    A folder that holds volumes is none, whatever its subfolders hold.

    Args:
        path: Any path.
        recursive: Whether volumes in subfolders count as well.

    Raises:
        SynthSRError: If a folder holds both kinds of files side by side.
    """
    if path.is_file():
        return path.suffix.lower() == ".zip" or (not has_known_extension(path) and is_dicom(path))
    if not path.is_dir():
        return False
    here = [file for file in sorted(path.iterdir()) if file.is_file()]
    volumes = [file.name for file in here if is_volume(file)]
    if not volumes and not recursive:
        return any(is_dicom(file) for file in islice(_files(path), MOST_FILES))
    searched = list(islice(_files(path), MOST_FILES)) if recursive else here
    volumes = volumes or [file.name for file in searched if is_volume(file)]
    others = [file for file in searched if not has_known_extension(file)]
    if volumes and any(starts_as_dicom(file) for file in others):
        raise SynthSRError(
            f"{path} must hold DICOM files or volumes, got both ({listed(volumes, limit=2)} beside"
            " DICOM). Give folders with one kind."
        )
    return not volumes and any(is_dicom(file) for file in others)


def _files(top: Path) -> Iterator[Path]:
    """Files in a folder and below, as deep as dcm2niix looks, the nearest first."""
    level = [top]
    for _ in range(DEPTH + 1):
        below: list[Path] = []
        for folder in level:
            for path in sorted(folder.iterdir()) if os.access(folder, os.R_OK | os.X_OK) else ():
                if path.is_dir():
                    below.append(path)
                elif path.is_file() and not path.name.startswith("."):
                    yield path
        level = below


@contextmanager
def opened(path: Path, *, keep_names: bool = False) -> Iterator[Study]:
    """Convert a study to temporary files, which go at the end of the block.

    Args:
        path: What `is_study` accepts.
        keep_names: Whether names of patients are kept in names of files and in texts.

    Yields:
        Its series.

    Raises:
        SynthSRError: If there is no DICOM image that can be converted.
    """
    refuse_pointer(path)
    with temporary_folder() as folder:
        source = path.parent if path.name.upper() == "DICOMDIR" else path
        if path.suffix.lower() == ".zip":
            source = folder / "unpacked"
            source.mkdir()
            unpack(path, source)
        converted = folder / "converted"
        converted.mkdir()
        conversion = convert(source, converted)
        series = [
            _under_its_name(each, folder)
            for each in series_of(conversion.volumes, keep_names=keep_names)
        ]
        yield Study(tuple(series), conversion.failure, folder)


def _under_its_name(series: Series, folder: Path) -> Series:
    """Give the file of a series the name that messages know it by."""
    path = folder / series.exam / f"{series.name}.nii"
    path.parent.mkdir(exist_ok=True)
    series.path.rename(path)
    return replace(series, path=path)


def chosen(series: Sequence[Series], wanted: Sequence[str] = ()) -> list[Series]:
    """Series to predict: those that can be brains, or those that are asked for.

    Args:
        series: All series.
        wanted: For each, the number of a series, or text in its description, such as `t1` or
            `*sag*`; large and small letters are the same.

    Raises:
        SynthSRError: If none can be a brain, or nothing fits a text.
    """
    if not wanted:
        found = [each for each in series if each.left_out is None]
        if not found:
            reasons = listed([f"{each.name}: {each.left_out}" for each in series], limit=3)
            raise SynthSRError(
                f"DICOM must hold a series that can be a brain, got none ({reasons}). If one is a"
                " brain, choose it by --series."
            )
        return found
    found = []
    for text in wanted:
        fitting = [each for each in series if text.isdecimal() and each.number == int(text)]
        fitting = fitting or [each for each in series if _fits(each, text)]
        if not fitting:
            there = listed([each.name for each in series], limit=8)
            raise SynthSRError(
                f"--series must be the number or a part of the description of a series, got"
                f" {text!r}. There are: {there}."
            )
        found += fitting
    return [each for each in series if each in found]


def _fits(series: Series, text: str) -> bool:
    described = (series.description.lower(), series.name.lower())
    return any(fnmatch.fnmatchcase(each, f"*{text.lower()}*") for each in described)
