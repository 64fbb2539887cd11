"""Which scans of a BIDS dataset are wanted: sessions, and filters by entities."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthsr_transforms.support.messages import SynthSRError, check_choice, listed
from synthsr_transforms.support.texts import read_json

if TYPE_CHECKING:
    from .bids import BidsScan

ENTITIES = {
    "subject": "sub",
    "session": "ses",
    "acquisition": "acq",
    "ceagent": "ce",
    "reconstruction": "rec",
    "direction": "dir",
    "inversion": "inv",
    "resolution": "res",
    "description": "desc",
    **{name: name for name in ("run", "echo", "flip", "part", "space", "chunk", "recording")},
}
"""Entities by the names of PyBIDS, and as they stand in names of files."""
OTHERS = ("datatype", "suffix", "extension")
"""Further keys of a filter."""
ABSENT, PRESENT = ("Query.NONE", None), ("Query.ANY", "*")
"""Values of a filter for an entity that must be missing, and for one of any value."""


@dataclass(frozen=True)
class Selection:
    """What is wanted of the scans of some participants.

    Attributes:
        sessions: Labels of sessions, with or without `ses-`; none: all, and scans without one.
        filters: Filters by the suffix that they are for, in any case; each holds values, or lists
            of values, by entity. Scans of other suffixes are all taken.
    """

    sessions: Sequence[str] = ()
    filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, scans: Iterable[BidsScan]) -> list[BidsScan]:
        """Those of some scans that are wanted.

        Raises:
            SynthSRError: If there is none of a session that was asked for, or none at all.
        """
        given = list(scans)
        wanted = [label.removeprefix("ses-") for label in self.sessions]
        found = {scan.entities.get("ses", "") for scan in given}
        if absent := [label for label in wanted if label not in found or not label]:
            there = listed([f"ses-{label}" for label in sorted(found - {""})], limit=5)
            raise SynthSRError(
                f"sessions must be those of the participants, got {listed(absent, limit=4)}."
                f" There are: {there or 'none'}."
            )
        kept = [s for s in given if not wanted or s.entities.get("ses") in wanted]
        kept = [scan for scan in kept if self._passes(scan)]
        if given and not kept:
            raise SynthSRError(
                f"filters must leave at least one of {len(given)} scans, but leave none. Correct"
                " the filter file."
            )
        return kept

    def _passes(self, scan: BidsScan) -> bool:
        for name, values in self.filters.items():
            suffixes = [str(each).lower() for each in _list(values.get("suffix", name))]
            if scan.suffix.lower() in suffixes:
                return all(
                    _fits(scan.entities.get(ENTITIES[key]), value)
                    for key, value in values.items()
                    if key not in OTHERS
                )
        return True


def read_filters(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """Read a filter file as other BIDS Apps take it, such as `{"t1w": {"session": "01"}}`.

    Raises:
        SynthSRError: If it cannot be read, or names an entity that is not known.
    """
    try:
        content = read_json(Path(path))
    except OSError as error:
        raise SynthSRError(f"{path} must be a JSON file, but cannot be read ({error}).") from error
    for name, values in content.items():
        if not isinstance(values, dict):
            raise SynthSRError(
                f"{path} must hold entities by the suffix of scans, such as"
                f' {{"t1w": {{"session": "01"}}}}, got {values!r} for {name}.'
            )
        for key in values:
            check_choice(f"{path}: an entity of {name}", key, [*ENTITIES, *OTHERS])
    return content


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _fits(label: str | None, wanted: Any) -> bool:
    """Whether the label of an entity, None if it is missing, is one that is wanted."""
    for value in _list(wanted):
        if value in ABSENT:
            fits = label is None
        elif value in PRESENT:
            fits = label is not None
        else:
            fits = label is not None and _same(label, str(value))
        if fits:
            return True
    return False


def _same(label: str, wanted: str) -> bool:
    """Whether labels are the same; numbers may have zeros in front."""
    if label.isdecimal() and wanted.isdecimal():
        return int(label) == int(wanted)
    return label == wanted.rpartition("-")[2]
