"""Files that cannot be scans: told apart by name, size and first bytes, with what to do."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

from .extents import ScanError
from .volumes import EXTENSIONS, has_known_extension

DICOM_ENDINGS = (".dcm", ".ima", ".dicom")
MAX_RATIO = 1032
"""How many bytes one byte of a gzip file can become, at most."""


def check_file(path: str | os.PathLike[str]) -> None:
    """Refuse what is not a scan by its name, size or first bytes.

    Raises:
        ScanError: If the file is missing, empty, DICOM, or of an unknown type.
    """
    path = Path(path)
    advice = "Convert it with dcm2niix, and give the .nii.gz file that it writes."
    if path.is_dir():
        if any(_is_dicom(p) for p in sorted(path.iterdir())[:20]):
            raise ScanError(f"{path} must be a NIfTI or MGH file, got a folder of DICOM. {advice}")
        raise ScanError(f"{path} must be a scan, got a folder. Give the file in it.")
    if not path.is_file():
        raise ScanError(f"{path} does not exist. Check the path.")
    if path.stat().st_size == 0:
        raise ScanError(f"{path} must be a scan, got an empty file (0 bytes). Copy it again.")
    if _is_dicom(path):
        raise ScanError(f"{path} must be a NIfTI or MGH file, got DICOM. {advice}")
    if not has_known_extension(path):
        raise ScanError(
            f"{path} must be a scan, ending in {', '.join(EXTENSIONS)}. Convert it first."
        )


def _is_dicom(path: Path) -> bool:
    if path.name.lower().endswith(DICOM_ENDINGS) or path.name.upper() == "DICOMDIR":
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(128)
        return file.read(4) == b"DICM"


def damage(path: Path, error: Exception) -> ScanError:
    """Why a file cannot be read, as precisely as can be said.

    Args:
        path: The file.
        error: What reading it raised.
    """
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    if is_zipped(path) and not zipped:
        return ScanError(
            f"{path} must be a gzip file, as its name says, but is not. Name it after what it is,"
            " or copy it again."
        )
    if zipped and (isinstance(error, EOFError) or _ends_early(path)):
        return ScanError(
            f"{path} must be a complete gzip file, but ends early. Copy or convert it again."
        )
    return ScanError(f"{path} cannot be read as a scan ({reason}). Copy or convert it again.")


def _ends_early(path: Path) -> bool:
    try:
        with gzip.open(path) as file:
            while file.read(1 << 20):
                pass
    except EOFError:
        return True
    except (OSError, zlib.error):
        pass
    return False


def is_zipped(path: Path) -> bool:
    """Whether a file is zipped, by its name."""
    return path.name.lower().endswith((".gz", ".mgz"))


def check_size(shape: Sequence[int], bytes_per_voxel: int, path: Path) -> None:
    """Refuse a header that promises more voxels than the file can hold.

    Args:
        shape: All dimensions.
        bytes_per_voxel: Of the type on disk.
        path: The file.

    Raises:
        ScanError: If the file is too small, even if zipped as tightly as possible.
    """
    sizes = tuple(int(n) for n in shape)
    promised, size, zipped = math.prod(sizes) * bytes_per_voxel, path.stat().st_size, ""
    if is_zipped(path):
        zipped = " zipped"
        size *= MAX_RATIO
    if promised > size:
        raise ScanError(
            f"{path} must hold {promised:,} bytes of voxels for its shape {sizes}, but has"
            f" {path.stat().st_size:,}{zipped}. It is damaged or cut short: copy or convert it"
            " again."
        )
