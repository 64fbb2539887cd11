"""Entries of a report: one file per scan."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from synthsr_transforms.io.files import stem
from synthsr_transforms.support.atomic import write_text
from synthsr_transforms.support.texts import read_json

LAYERS = ("scan", "prediction", "outlines", "edges")
"""Names of pictures of many slices that lie over each other, from below to above."""


@dataclass(frozen=True)
class ReportEntry:
    """Entry of one scan."""

    name: str
    """Heading of the scan."""
    input: str
    """Path of the scan, or of several joined by commas; unique."""
    output: str | None = None
    """Path of the prediction."""
    input_shape: tuple[int, ...] | None = None
    input_spacing_mm: tuple[float, ...] | None = None
    output_shape: tuple[int, ...] | None = None
    output_spacing_mm: tuple[float, ...] | None = None
    seconds: float | None = None
    """Time from reading to writing."""
    score: float | None = None
    """Quality score, 0 to 1, if there is one."""
    warnings: tuple[str, ...] = ()
    error: str | None = None
    """Why there is no prediction; None if there is one."""
    picture: str | None = None
    """Path of the picture: absolute, or within the folder of the report."""
    layers: Mapping[str, str] = field(default_factory=dict)
    """Paths of many slices, like that of the picture, by names of `LAYERS`."""
    convention: str = "neurological"
    """Where the left of the head is drawn, see `slices.Convention`."""

    @property
    def state(self) -> str:
        """`failed`, `warnings` or `done`."""
        if self.error is not None:
            return "failed"
        return "warnings" if self.warnings else "done"


def entry_key(scan: str) -> str:
    """Name of the files of a scan within a report: that of the scan, and a hash of its path.

    Examples:
        >>> entry_key("/a/b c.nii.gz")
        'b_c-826d7ad992'
    """
    whole = hashlib.sha256(os.fsencode(os.path.abspath(scan))).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", stem(scan))[:60].strip("._")
    return f"{readable or 'scan'}-{whole[:10]}"


def picture_path(folder: str | os.PathLike[str], scan: str) -> Path:
    """Path of the picture of a scan in the folder of a report, which is made if needed.

    Args:
        folder: Folder of the report.
        scan: `ReportEntry.input`.
    """
    path = Path(folder) / "pictures" / f"{entry_key(scan)}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def layers_stem(folder: str | os.PathLike[str], scan: str) -> Path:
    """Start of the paths of the layers of a scan, beside its picture."""
    return picture_path(folder, scan).with_suffix("")


def entry_path(folder: str | os.PathLike[str], scan: str) -> Path:
    """Path of the entry of a scan in the folder of a report.

    Args:
        folder: Folder of the report.
        scan: `ReportEntry.input`.
    """
    return Path(folder) / "entries" / f"{entry_key(scan)}.json"


def save_entry(folder: str | os.PathLike[str], entry: ReportEntry) -> Path:
    """Write the entry of a scan, atomically; an earlier one of the same scan is replaced.

    Args:
        folder: Folder of the report, made if needed.
        entry: The entry.
    """
    path = entry_path(folder, entry.input)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(asdict(entry), indent=1, default=lambda number: number.item()))
    return path


def read_entries(folder: str | os.PathLike[str]) -> list[ReportEntry]:
    """Entries of a report, sorted by name; files that are no entries are left out."""
    paths = (Path(folder) / "entries").glob("[!.]*.json")
    entries = [entry for entry in map(_read_entry, paths) if entry is not None]
    return sorted(entries, key=lambda entry: (_natural(entry.name), entry.input))


def _read_entry(path: Path) -> ReportEntry | None:
    try:
        fields = read_json(path)
        for name, value in fields.items():
            if isinstance(value, list):
                fields[name] = tuple(value)
        entry = ReportEntry(**fields)
        return entry if _is_sound(entry) else None
    except (ValueError, TypeError, FileNotFoundError):
        return None


def _is_sound(entry: ReportEntry) -> bool:
    """Whether the fields are of the types that the page shows."""
    sizes = (entry.input_shape, entry.input_spacing_mm, entry.output_shape, entry.output_spacing_mm)
    if not all(isinstance(items, tuple) for items in (entry.warnings, *filter(None, sizes))):
        return False
    if not isinstance(entry.layers, dict):
        return False
    texts = [entry.name, entry.input, entry.convention, *entry.warnings, *entry.layers.values()]
    texts += [text for text in (entry.output, entry.error, entry.picture) if text is not None]
    numbers = [number for size in sizes for number in size or ()]
    numbers += [number for number in (entry.seconds, entry.score) if number is not None]
    return all(isinstance(text, str) for text in texts) and all(
        isinstance(number, (int, float)) for number in numbers
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """Key that sorts sub-2 before sub-10."""
    parts = re.split(r"(\d+)", name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
