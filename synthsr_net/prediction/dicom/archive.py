"""Archives of studies: the DICOM files of a `.zip`, with limits and under names of our own."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from synthsr_transforms.io.files import (
    DICOM_ENDINGS,
    LARGE_BYTES,
    LARGE_RATIO,
    MAX_RATIO,
    starts_as_dicom,
)
from synthsr_transforms.support.messages import SynthSRError

from .conversion import check_room

MAX_FILES = 100_000
"""Most files of an archive."""
MAX_BYTES = 20 * 10**9
"""Most bytes of their content."""
_START = 132
_BLOCK = 1 << 20


def unpack(archive: Path, folder: Path) -> int:
    """Unpack the DICOM files of a `.zip`; other files stay in it.

    Files get numbers for names, as those in an archive may lead out of the folder or name patients.

    Args:
        archive: The `.zip`.
        folder: An empty folder.

    Returns:
        Number of files.

    Raises:
        SynthSRError: If it is damaged, encrypted, leads out of its folder, has no DICOM file, or
            more than `MAX_FILES` files or `MAX_BYTES` of content.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = [entry for entry in opened.infolist() if not entry.is_dir()]
            _check(archive, entries)
            check_room(sum(entry.file_size for entry in entries), folder)
            number = _unpack_each(archive, opened, entries, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise SynthSRError(
            f"{archive} must be a complete .zip archive, but cannot be unpacked ({error}). Copy it"
            " again, or give the folder that it was made from."
        ) from error
    if not number:
        raise SynthSRError(
            f"{archive} must hold DICOM files, but none of its {len(entries)} files is one. Unpack"
            " it, and give the scans in it."
        )
    return number


def _check(archive: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Refuse what can be known to be wrong before anything is unpacked."""
    for entry in entries:
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in entry.filename[:2]:
            raise SynthSRError(
                f"{archive} must hold files below its own folder, but one leads out of it. Do not"
                " trust it: get the study again."
            )
        if entry.flag_bits & 1:
            raise SynthSRError(
                f"{archive} is encrypted. Unpack it with its password, and give the folder."
            )
    num_bytes, size = sum(entry.file_size for entry in entries), os.path.getsize(archive)
    ratio = LARGE_RATIO if num_bytes > LARGE_BYTES else MAX_RATIO
    if len(entries) > MAX_FILES or num_bytes > min(MAX_BYTES, ratio * size):
        raise _too_large(archive)


def _unpack_each(
    archive: Path, opened: zipfile.ZipFile, entries: list[zipfile.ZipInfo], folder: Path
) -> int:
    left, number = MAX_BYTES, 0
    for entry in entries:
        path = folder / f"{number:06d}.dcm"
        named = entry.filename.lower().endswith(DICOM_ENDINGS)
        with opened.open(entry) as source, path.open("wb") as target:
            block = source.read(_START)
            while block and left >= 0:  # sizes in the archive may lie
                target.write(block)
                left -= len(block)
                if target.tell() == _START and not (named or block.endswith(b"DICM")):
                    break
                block = source.read(_BLOCK)
        if left < 0:
            raise _too_large(archive)
        if named or starts_as_dicom(path):
            number += 1
        else:
            path.unlink()
    return number


def _too_large(archive: Path) -> SynthSRError:
    return SynthSRError(
        f"{archive} must hold at most {MAX_FILES:,} files of {MAX_BYTES / 1e9:.0f} GB in all,"
        " compressed as far as images can be, but holds more. Unpack it, and give its folders."
    )
