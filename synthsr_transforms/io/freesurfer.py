"""FreeSurfer's folders of subjects: the label map and the scan of each."""

from __future__ import annotations

import os
import re
from pathlib import Path

LABELS, SCAN = "aparc+aseg.mgz", "orig.mgz"
"""Files in `mri` of a subject: its labels, and the scan on their grid, intensities as measured."""

_AVERAGES = re.compile(r"fsaverage.*|[lr]h\.EC_average|V1_average|cvs_avg35.*")
"""Average heads that FreeSurfer puts beside the subjects."""


def subject_folders(path: str | os.PathLike[str]) -> list[Path]:
    """Folders of subjects in a subjects directory, or the one given, also by its folder `mri`.

    Args:
        path: Any path; there are none in other folders.
    """
    path = Path(path)
    if path.name == "mri" and (path / LABELS).exists():
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
