"""Files of volumes: their names, and what is refused by name, size or first bytes."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from synthsr_transforms.support.messages import SynthSRError

EXTENSIONS = (".nii.gz", ".nii", ".mgz", ".npz")
"""Endings of the files that are read, in lower or upper case."""
MAX_RATIO = 1032
"""Most bytes that one byte of a file compressed by deflate can become."""
LARGE_BYTES, LARGE_RATIO = 10**9, 250
"""Volumes above this size must not be compressed more than so many times: scans are compressed
about 3 times, label maps up to 200 times."""
_DICOM_ENDINGS = (".dcm", ".ima", ".dicom")
_DCM2NIIX = "Convert it with dcm2niix, and give the .nii.gz file that it writes."


class VolumeError(SynthSRError):
    """A file that does not hold what it should; the message names it and says what to do."""


def has_known_extension(path: str | os.PathLike[str]) -> bool:
    """Whether a file name ends as those of volumes do.

    Examples:
        >>> has_known_extension("scan.NII.GZ"), has_known_extension("scan.dcm")
        (True, False)
    """
    return Path(path).name.lower().endswith(EXTENSIONS)


def stem(path: str | os.PathLike[str]) -> str:
    """File name without its extension.

    Examples:
        >>> stem("folder.nii/sub-01_T1w.nii.gz")
        'sub-01_T1w'
    """
    name = Path(path).name
    known = (extension for extension in EXTENSIONS if name.lower().endswith(extension))
    return name[: len(name) - len(next(known, ""))]


def list_volumes(path: str | os.PathLike[str]) -> list[Path]:
    """Volumes in a folder, sorted by name, or the one file given.

    Raises:
        VolumeError: If the path does not exist or holds no volume.
    """
    path = Path(path)
    if path.is_file():
        if not has_known_extension(path):
            check_file(path)  # says what it is instead
        return [path]
    if not path.is_dir():
        raise VolumeError(f"{path} must be a file or folder, but does not exist. Check the path.")
    found = sorted(
        p for p in path.iterdir() if has_known_extension(p) and not p.name.startswith(".")
    )
    if not found:
        raise VolumeError(
            f"{path} must hold label maps or images ({', '.join(EXTENSIONS)}), but holds none."
        )
    return found


def check_file(path: str | os.PathLike[str]) -> None:
    """Refuse what is not a volume by its name, size or first bytes.

    Raises:
        VolumeError: If the file is missing, empty, DICOM, or of an unknown type.
    """
    path = Path(path)
    if path.is_dir():
        if any(_is_dicom(p) for p in sorted(path.iterdir())[:20]):
            raise VolumeError(
                f"{path} must be a NIfTI or MGH file, got a folder of DICOM. {_DCM2NIIX}"
            )
        raise VolumeError(f"{path} must be a file, got a folder. Give the file in it.")
    if not path.is_file():
        raise VolumeError(f"{path} does not exist. Check the path.")
    if path.stat().st_size == 0:
        raise VolumeError(f"{path} must be a volume, got an empty file (0 bytes). Copy it again.")
    if _is_dicom(path):
        raise VolumeError(f"{path} must be a NIfTI or MGH file, got DICOM. {_DCM2NIIX}")
    if not has_known_extension(path):
        raise VolumeError(f"{path} must end in one of {', '.join(EXTENSIONS)}. Convert it first.")


def _is_dicom(path: Path) -> bool:
    if path.name.lower().endswith(_DICOM_ENDINGS) or path.name.upper() == "DICOMDIR":
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(128)
        return file.read(4) == b"DICM"


def check_holds(num_bytes: int, path: Path) -> None:
    """Refuse a header that promises more voxels than the file can hold.

    Args:
        num_bytes: Size of all voxels by the header.
        path: The file.

    Raises:
        VolumeError: If the file is too small, even if compressed very tightly.
    """
    size = path.stat().st_size
    compressed = not path.name.lower().endswith(".nii")
    ratio = LARGE_RATIO if num_bytes > LARGE_BYTES else MAX_RATIO
    if num_bytes > size * (ratio if compressed else 1):
        raise VolumeError(
            f"{path} must hold {num_bytes:,} bytes of voxels by its header, but has {size:,}"
            f"{' compressed' if compressed else ''}. It is damaged or cut short: copy or convert it"
            " again."
        )


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Turn whatever reading a file raises into a VolumeError that says why it cannot be read."""
    try:
        yield
    except (MemoryError, VolumeError):
        raise
    except Exception as error:
        raise VolumeError(f"{path} {_damage(path, error)}") from error


def _damage(path: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror}). Check the path and its permissions."
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    if is_gzipped(path) and not zipped:
        return (
            "must be a gzip file, as its name says, but is not. Name it after what it is, or copy"
            " it again."
        )
    if zipped:
        try:
            with gzip.open(path) as unzipped:
                read_to_end(unzipped)
        except EOFError:
            return "must be a complete gzip file, but ends early. Copy or convert it again."
        except (OSError, zlib.error):
            pass
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return f"cannot be read as a volume ({reason[:150]}). Copy or convert it again."


def is_gzipped(path: Path) -> bool:
    """Whether a file is compressed by gzip, by its name."""
    return path.name.lower().endswith((".gz", ".mgz"))


def read_to_end(file: Any) -> None:
    """Read the rest of an open file, at whose end its checksum is verified.

    Raises:
        ValueError: If more than `LARGE_BYTES` follow.
    """
    num_bytes = 0
    while block := file.read(1 << 20):
        num_bytes += len(block)
        if num_bytes > LARGE_BYTES:
            raise ValueError(f"more than {LARGE_BYTES:,} bytes follow its voxels")


def array_header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array in an open `.npy` file.

    Raises:
        ValueError: If its header is damaged.
    """
    try:
        old = np.lib.format.read_magic(file) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except (EOFError, LookupError, MemoryError, RecursionError, SyntaxError, TypeError) as error:
        raise ValueError("its header is damaged") from error
    return shape, dtype
