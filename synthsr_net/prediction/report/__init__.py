"""Reports of prediction runs: one entry per scan, and one page over all of them.

A report is a folder:

| file | what |
| --- | --- |
| `report.html` | the page: open it in any browser, offline |
| `entries/*.json` | one file per scan, so that several processes can add to one report, and a run that goes on later completes it |
| `pictures/*.png` | one picture per scan |
| `pictures/*.webp` | many slices of it, as layers that lie over each other |
"""  # noqa: E501 - a table

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

from synthsr_transforms.support.atomic import replacing

from .entries import ReportEntry, entry_key, entry_path, picture_path, read_entries, save_entry

__all__ = [
    "EMBEDDED_BYTES",
    "ReportEntry",
    "entry_path",
    "picture_path",
    "read_entries",
    "save_entry",
    "write_report",
]

EMBEDDED_BYTES = 32 * 2**20
"""Pictures of up to this size together (about 50 scans) are put into the page, which then needs no
other file. Those of larger runs stay in the folder `pictures`, and are loaded as they come into
sight."""


def _worst_first(entry: ReportEntry) -> tuple[bool, float]:
    """Key that sorts failures first, and others by score; doubts without one count as low."""
    unscored = -1.0 if entry.warnings else math.inf
    return entry.error is None, unscored if entry.score is None else entry.score


def write_report(
    folder: str | os.PathLike[str],
    *,
    title: str,
    details: Mapping[str, str],
    embedded_bytes: int = EMBEDDED_BYTES,
) -> Path:
    """Write the page over all entries of a folder, atomically.

    Args:
        folder: Folder of the report. Entries of other processes and of earlier runs count.
        title: Heading of the page.
        details: What there is to know of the run, by name: model, version, options, device, date.
        embedded_bytes: See `EMBEDDED_BYTES`.

    Returns:
        Path of `report.html`.
    """
    from .page import page

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(read_entries(folder), key=_worst_first)
    entries = [(entry_key(entry.input), entry) for entry in ordered]
    path = folder / "report.html"
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        stream.writelines(page(folder, entries, title, details, embedded_bytes))
    return path
