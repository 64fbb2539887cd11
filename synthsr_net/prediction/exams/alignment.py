"""Which scans of an exam go together, and where they lie: registered, checked or as told."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from synthsr_transforms.io.grids import Affine, Volume
from synthsr_transforms.io.scans import Scan

from .network_space import in_words
from .registration import Head, Registration, head_of, register

MIN_CORRELATION = 0.8
"""Correlation in the brain after registration below which a scan shows another head, or a mirrored
one: those of one head in slices of 5 mm reach 0.88 and more, others 0.75 at most."""
MIN_COVERED = 0.8
"""Share of the brain of the first scan that another must show."""
MAX_SHIFT_MM, MAX_DEGREES = 80.0, 30.0
"""Moves above which headers are taken to be wrong."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a scan of an exam lies, or why it was left out."""

    name: str
    """Path of the scan, or another name."""
    index: int
    """Its place among the scans that were given, from 0."""
    how: str
    """`first scan`, `header`, `registration` or `given`."""
    first_to_scan: Affine
    """`(4, 4)`, from points of the first scan to those of this one, in mm of the world."""
    left_out: str | None = None
    """Why it was left out; None if it was used."""
    registration: Registration | None = None
    """What the registration found, if it ran."""

    def as_json(self) -> dict[str, Any]:
        """What sidecars say of it."""
        content: dict[str, Any] = {
            "Used": self.left_out is None,
            "Alignment": self.how,
            "FirstToScan": np.round(self.first_to_scan, 6).tolist(),
        }
        if self.left_out is not None:
            content["LeftOut"] = self.left_out
        if self.registration is not None:
            found = self.registration
            content["CorrelationBefore"] = _rounded(found.before)
            content["CorrelationAfter"] = _rounded(found.after)
            content["ShiftInMillimetres"] = _rounded(found.shift_mm)
            content["AngleInDegrees"] = _rounded(found.angle_degrees)
            content["ShareOfBrainCovered"] = _rounded(found.covered)
        return content


@dataclass(frozen=True)
class Exam:
    """Scans of one person in the space of the first.

    Attributes:
        scans: Those that are used, the first one leading. Their affines are moved, nothing is
            resampled.
        placements: Of all scans that were given, in their order.
        warnings: Of scans left out, one line each.
    """

    scans: tuple[Scan, ...]
    placements: tuple[Placement, ...]
    warnings: tuple[str, ...] = ()


def by_headers(scans: Sequence[Scan]) -> Exam:
    """An exam whose headers are trusted."""
    return aligned_as_told(scans, [None] * len(scans))


def aligned_as_told(scans: Sequence[Scan], transforms: Sequence[Affine | None]) -> Exam:
    """An exam with transforms that the user knows.

    Args:
        scans: The scans, the first one leading.
        transforms: For each, from points of the first to those of the scan; None: as in its header.
    """
    placements = [
        Placement(
            name=scan.name,
            index=index,
            how="header" if matrix is None else "given",
            first_to_scan=np.eye(4) if matrix is None else matrix,
        )
        for index, (scan, matrix) in enumerate(zip(scans, transforms, strict=True))
    ]
    placements[0] = replace(placements[0], how="first scan", first_to_scan=np.eye(4))
    return _exam(scans, placements)


def registered(
    scans: Sequence[Scan],
    predict: Callable[[int], Volume],
    transforms: Sequence[Affine | None],
) -> Exam:
    """An exam whose scans are registered to the first, and left out where they do not fit.

    Args:
        scans: The scans, the first one leading.
        predict: Makes the T1-weighted scan of 1 mm that is predicted from a scan, by its number.
        transforms: Those that the user knows, see `aligned_as_told`; these scans are not
            registered.
    """
    told = aligned_as_told(scans, transforms)
    missing = [p for p in told.placements[1:] if p.how == "header"]
    if not missing:
        return told
    head = head_of(predict(0))
    if head is None:
        doubt = f"no brain was found in {in_words(0, scans[0])}: headers of the others are trusted."
        return replace(told, warnings=(doubt,))
    placements = list(told.placements)
    for placement in missing:
        placements[placement.index] = _placed(placement, head, predict(placement.index))
    return _exam(scans, placements)


def _placed(placement: Placement, head: Head, prediction: Volume) -> Placement:
    found = register(head, prediction)
    placement = replace(placement, how="registration", registration=found)
    if found is None:
        return replace(placement, left_out="no brain was found in it")
    return replace(placement, first_to_scan=found.first_to_scan, left_out=why_left_out(found))


def why_left_out(found: Registration) -> str | None:
    """Why a scan does not go with the first, or None if it does.

    Examples:
        >>> good = Registration(np.eye(4), 0.7, 0.92, 4.0, 3.0, 1.0)
        >>> why_left_out(good) is None
        True
        >>> why_left_out(good._replace(covered=0.5))
        'it shows 50% of the brain of the first scan, and not the 80% that it must'
    """
    if found.covered < MIN_COVERED:
        return (
            f"it shows {found.covered:.0%} of the brain of the first scan, and not the"
            f" {MIN_COVERED:.0%} that it must"
        )
    if not found.after >= MIN_CORRELATION:
        return (
            f"it seems to show another head, or to be mirrored: after registration it correlates"
            f" at {found.after:.2f} with the first scan, below {MIN_CORRELATION:g}"
        )
    if found.shift_mm > MAX_SHIFT_MM or found.angle_degrees > MAX_DEGREES:
        return (
            f"it would have to be moved by {found.shift_mm:.0f} mm and {found.angle_degrees:.0f}"
            f" degrees, above the limits of {MAX_SHIFT_MM:g} mm and {MAX_DEGREES:g} degrees: check"
            " its header"
        )
    return None


def _exam(scans: Sequence[Scan], placements: Sequence[Placement]) -> Exam:
    used = [placement for placement in placements if placement.left_out is None]
    moved = tuple(_moved(scans[p.index], p.first_to_scan) if p.index else scans[0] for p in used)
    doubts = tuple(
        f"{in_words(p.index, scans[p.index])} is left out: {p.left_out}."
        for p in placements
        if p.left_out is not None
    )
    return Exam(moved, tuple(placements), doubts)


def _moved(scan: Scan, first_to_scan: Affine) -> Scan:
    """A scan in the space of the first one."""
    if np.array_equal(first_to_scan, np.eye(4)):
        return scan
    return replace(scan, affine=np.linalg.inv(first_to_scan) @ scan.affine)


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
