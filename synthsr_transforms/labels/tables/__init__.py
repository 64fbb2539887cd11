"""Ready label tables, one TSV file each."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def ready_names() -> tuple[str, ...]:
    """Names of the tables that come with the library, sorted."""
    return tuple(sorted(file.stem for file in FOLDER.glob("*.tsv")))
