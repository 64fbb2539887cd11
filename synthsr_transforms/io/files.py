"""Files of volumes: where they are found, and what is refused by name, size or first bytes."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from synthsr_transforms.support.messages import SynthSRError, listed
from synthsr_transforms.support.pointers import refuse_pointer

WRITTEN = (".nii.gz", ".nii", ".mgz", ".npz")
"""Endings of the files that are written."""
_READ_ONLY = (".mgh", ".hdr", ".img", ".nrrd", ".nhdr", ".mnc")
EXTENSIONS = (*WRITTEN, *_READ_ONLY)
"""Endings of the files that are read, in lower or upper case."""
MAX_RATIO = 1032
"""Most bytes that one byte of a file compressed by deflate can become."""
LARGE_BYTES, LARGE_RATIO = 10**9, 250
"""Volumes above this size must not be compressed more than so many times: scans are compressed
about 3 times, label maps up to 200 times."""
_GZIP = b"\x1f\x8b"
_NIFTI = (b"n+1\0", b"ni1\0")
_MOST_FOLDERS = 1000
_SURFACES = (".gii", ".gii.gz", ".annot", ".label", ".dscalar.nii", ".dlabel.nii", ".dtseries.nii")
"""Endings of values on surfaces: GIFTI, FreeSurfer, CIFTI."""
_OTHER_SCANS = (".mha", ".mhd", ".par", ".rec", ".head", ".brik", ".dcm", ".ima")
"""Endings of files that are scans, but of kinds that are not read."""
DICOM_ENDINGS = (".dcm", ".ima", ".dicom")
FREESURFER_LABELS, FREESURFER_SCAN = "aparc+aseg.mgz", "orig.mgz"
"""Files in `mri` of a subject: its labels, and the scan on their grid, intensities as measured."""
_AVERAGES = re.compile(r"fsaverage.*|[lr]h\.EC_average|V1_average|cvs_avg35.*")
"""Average heads that FreeSurfer puts beside the subjects."""
_DCM2NIIX = "Give it to synthsr predict, or convert it with dcm2niix."


class VolumeError(SynthSRError):
    """A file that does not hold what it should; the message names it and says what to do."""


def has_known_extension(path: str | os.PathLike[str]) -> bool:
    """Whether a file name ends as those of volumes do.

    Examples:
        >>> has_known_extension("scan.NII.GZ"), has_known_extension("scan.dcm")
        (True, False)
    """
    return Path(path).name.lower().endswith(EXTENSIONS)


def is_written(path: str | os.PathLike[str]) -> bool:
    """Whether a file name ends as those of volumes that can be written."""
    return Path(path).name.lower().endswith(WRITTEN)


def is_volume(path: str | os.PathLike[str]) -> bool:
    """Whether a file name is that of a volume, and not of a hidden file such as `._scan.nii`.

    Of a pair, the header counts.
    """
    name = Path(path).name
    return has_known_extension(path) and not name.startswith(".") and name[-4:].lower() != ".img"


def stem(path: str | os.PathLike[str]) -> str:
    """File name without its extension.

    Examples:
        >>> stem("folder.nii/sub-01_T1w.nii.gz")
        'sub-01_T1w'
    """
    name = Path(path).name
    known = (extension for extension in EXTENSIONS if name.lower().endswith(extension))
    return name[: len(name) - len(next(known, ""))]


# Finding -----------------------------------------------------------------------------------------


def list_volumes(
    path: str | os.PathLike[str],
    *,
    recursive: bool = False,
    without: Iterable[str | os.PathLike[str]] = (),
    freesurfer: str | None = None,
) -> list[Path]:
    """Volumes in a folder, sorted by path, or the one file given. Hidden files do not count.

    Args:
        path: A folder, a volume, or a pattern such as `scans/*_0000.nii.gz`.
        recursive: Whether to search subfolders, hidden ones apart. Links are followed, but no
            folder is searched twice.
        without: Subfolders that are not searched.
        freesurfer: Name of the file in `mri` to take of each subject, where the folder is
            FreeSurfer's directory of subjects.

    Raises:
        SynthSRError: If the path does not exist or holds no volume, or a subfolder that is to be
            searched cannot be read.
    """
    path = Path(path)
    refuse_pointer(path)
    if path.is_file():
        if not has_known_extension(path):
            check_file(path)  # says what it is instead
        return [path]
    if not path.exists() and (top := searched_folder(path)) != path:
        pattern = path.relative_to(top).as_posix()
        if found := sorted(p for p in top.glob(pattern) if is_volume(p)):
            return found
    if not path.is_dir():
        raise VolumeError(f"{path} must be a file or folder, but does not exist. Check the path.")
    if freesurfer and (subjects := subject_folders(path)):
        return _of_subjects(path, subjects, freesurfer)
    places = _folders(path, without, _refuse_unreadable) if recursive else [path]
    found = [
        p for q in places for p in q.iterdir() if is_volume(p) and not (recursive and p.is_dir())
    ]
    if not found:
        below = left_below(path, without)
        advice = "Only synthsr predict and segment read DICOM."
        if below:
            advice = f"{below}: give one of these, or add --recursive (--bids for a BIDS dataset)."
        raise VolumeError(
            f"{path} must hold scans or label maps ({', '.join(EXTENSIONS)}), got none. {advice}"
        )
    return sorted(found)


def _of_subjects(path: Path, subjects: Sequence[Path], name: str) -> list[Path]:
    files = [file for s in subjects if os.path.lexists(file := s / "mri" / name)]
    if not files:
        raise VolumeError(
            f"subjects of FreeSurfer in {path} must have a file mri/{name}, but none of"
            f" {len(subjects)} has one. Name another by a pattern, such as '{path}/*/mri/aseg.mgz'."
        )
    return files


def subject_folders(path: str | os.PathLike[str]) -> list[Path]:
    """Folders of subjects in a subjects directory, or the one given, also by its folder `mri`.

    Args:
        path: Any path; there are none in other folders.
    """
    path = Path(path)
    if path.name == "mri" and (path / FREESURFER_LABELS).exists():
        return [path.parent]
    if (path / "mri").is_dir():
        return [path]
    inside = sorted(path.iterdir()) if path.is_dir() else []
    if not any((folder / "mri").is_dir() for folder in inside):
        return []
    return [folder for folder in inside if _is_subject(folder)]


def _is_subject(folder: Path) -> bool:
    """Whether a folder is that of a subject, perhaps without results, or a link without target."""
    if folder.name.startswith(".") or _AVERAGES.fullmatch(folder.name):
        return False
    missing = folder.is_symlink() and not folder.exists()
    return missing or any((folder / name).is_dir() for name in ("mri", "scripts", "surf"))


def file_name(path: Path) -> str:
    """Name of a file in messages: that of its subject for files in `mri`, which share theirs.

    Examples:
        >>> file_name(Path("subjects/bert/mri/orig.mgz")), file_name(Path("scans/a.nii"))
        ('bert', 'a.nii')
    """
    return path.parent.parent.name if path.parent.name == "mri" else path.name


def searched_folder(path: str | os.PathLike[str]) -> Path:
    """The folder that a path or pattern is looked for in: itself, or the one above wildcards.

    Examples:
        >>> searched_folder("subjects/*/mri/T1.mgz"), searched_folder("scans")
        (PosixPath('subjects'), PosixPath('scans'))
    """
    path = Path(path)
    for part in (*path.parents[::-1], path):
        if set("*?[") & set(part.name) and not part.exists():
            return part.parent
    return path


def unread_scans(
    path: str | os.PathLike[str],
    *,
    without: Iterable[Path] = (),
    recursive: bool = False,
    freesurfer: str | None = None,
) -> list[str]:
    """Warnings of what `list_volumes` leaves out: scans of other kinds or in subfolders, subjects.

    Args:
        path: A folder; other things hold none.
        without: See `list_volumes`.
        recursive: See `list_volumes`.
        freesurfer: See `list_volumes`.
    """
    if not os.path.isdir(path):
        return []
    if freesurfer and (subjects := subject_folders(path)):
        bare = [s.name for s in subjects if not os.path.lexists(s / "mri" / freesurfer)]
        text = f"{path}: subjects without mri/{freesurfer} are left out: {listed(bare, limit=6)}."
        return [text] if bare else []
    warnings = []
    if other := sorted(name for name in os.listdir(path) if name.lower().endswith(_OTHER_SCANS)):
        warnings.append(
            f"{path} also holds scans of kinds that are not read: {listed(other, limit=3)}. Convert"
            " them to have them read."
        )
    if not recursive and (below := left_below(path, without)):
        warnings.append(f"{path}: {below}, which are not searched. Add --recursive to read them.")
    return warnings


def left_below(
    folder: str | os.PathLike[str], without: Iterable[str | os.PathLike[str]] = ()
) -> str | None:
    """Say how many volumes are in subfolders, and in which; None if there are none.

    Args:
        folder: What is searched, at most `_MOST_FOLDERS` folders of it.
        without: Subfolders that do not count.
    """
    number, names = 0, []
    places = list(islice(_folders(Path(folder), without), 1, _MOST_FOLDERS))
    for place in places:
        with suppress(OSError):
            here = sum(1 for p in place.iterdir() if is_volume(p) and not p.is_dir())
            names += [place.relative_to(folder).as_posix()] if here else []
            number += here
    more = " or more" if len(places) == _MOST_FOLDERS - 1 else ""
    what = "1 file is" if number == 1 and not more else f"{number}{more} files are"
    return f"{what} in subfolders ({listed(names, limit=3)})" if number else None


def _folders(
    top: Path,
    without: Iterable[str | os.PathLike[str]] = (),
    on_error: Callable[[OSError], object] | None = None,
) -> Iterator[Path]:
    """A folder and those below it, each once, real ones before those that links lead to."""
    seen = {os.path.realpath(path) for path in without} - {os.path.realpath(top)}
    starts = [str(top)]
    for start in starts:  # grows
        for folder, below, _ in os.walk(start, onerror=on_error):
            below[:] = sorted(name for name in below if not name.startswith("."))
            if os.path.realpath(folder) in seen:
                below.clear()
                continue
            seen.add(os.path.realpath(folder))
            starts += [link for name in below if os.path.islink(link := os.path.join(folder, name))]
            yield Path(folder)


def _refuse_unreadable(error: OSError) -> None:
    raise VolumeError(
        f"{error.filename} must be readable, as --recursive searches it, but is not"
        f" ({error.strerror}). Correct its permissions, or move it away."
    ) from error


# Checking ----------------------------------------------------------------------------------------


def check_file(path: str | os.PathLike[str]) -> None:
    """Refuse what is not a volume by its name, size or first bytes.

    Raises:
        SynthSRError: If the file is missing, a pointer, empty, DICOM, zipped under the name of a
            file that is not, or of an unknown type.
    """
    path = Path(path)
    refuse_pointer(path)
    if path.is_dir():
        if any(is_dicom(p) for p in sorted(path.iterdir())[:20]):
            raise VolumeError(f"{path} must be NIfTI or MGH, got a folder of DICOM. {_DCM2NIIX}")
        raise VolumeError(f"{path} must be a file, got a folder. Give the file in it.")
    if not path.is_file():
        raise VolumeError(f"{path} does not exist. Check the path.")
    if path.stat().st_size == 0:
        raise VolumeError(f"{path} must be a volume, got an empty file (0 bytes). Copy it again.")
    if is_dicom(path):
        raise VolumeError(f"{path} must be a NIfTI or MGH file, got DICOM. {_DCM2NIIX}")
    if path.name.lower().endswith(_SURFACES):
        raise VolumeError(f"{path} must be a volume, got values on a surface. Give the volume.")
    if not has_known_extension(path):
        raise VolumeError(f"{path} must end in one of {', '.join(EXTENSIONS)}. Convert it first.")
    if not is_gzipped(path) and _starts_with(path, _GZIP):
        raise VolumeError(f"{path} is a gzip file. Name it {stem(path)}.nii.gz.")


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its name or its content."""
    if path.name.lower().endswith(DICOM_ENDINGS) or path.name.upper() == "DICOMDIR":
        return True
    return path.is_file() and starts_as_dicom(path)


def starts_as_dicom(path: Path) -> bool:
    """Whether the content of a file is DICOM: four letters after a preamble."""
    return _starts_with(path, b"DICM", 128)


def _starts_with(path: Path, magic: bytes, offset: int = 0) -> bool:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(len(magic)) == magic


def check_holds(num_bytes: int, path: Path) -> None:
    """Refuse a header that promises more voxels than the file can hold.

    Args:
        num_bytes: Size of all voxels by the header.
        path: The file.

    Raises:
        VolumeError: If the file is too small, even if compressed very tightly.
    """
    size = path.stat().st_size
    compressed = not path.name.lower().endswith((".nii", ".mgh", ".img"))
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
    except (MemoryError, SynthSRError):
        raise
    except Exception as error:
        raise VolumeError(f"{path} {_damage(path, error)}") from error


def _damage(path: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror}). Check the path and its permissions."
    zipped = _starts_with(path, _GZIP)
    if is_gzipped(path) and not zipped:
        if any(_starts_with(path, magic, 344) for magic in _NIFTI):
            return f"is not a gzip file, but a plain NIfTI file. Name it {stem(path)}.nii."
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
