"""What a model is evaluated on, and how much is simulated."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .held_out import HeldOutPlan
from .network import EvaluationError
from .scans import DEGRADED_MM

PathLike = str | os.PathLike[str]

NO_REGISTRATION = "-"
"""Stands for a scan that lies in the common world already."""


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """What a model is evaluated on; each part runs if its data are given.

    Raises:
        EvaluationError: If data do not go together, or there are none.
    """

    labels: Sequence[PathLike] = ()
    """Held-out label maps, or folders of them."""
    images: PathLike | None = None
    """Real T1-weighted scans, or one."""
    image_labels: PathLike | None = None
    """Their label maps, see `synthsr_transforms.subjects.files.find_subjects` for names."""
    scans: Sequence[PathLike] = ()
    """Real scans, or folders of them."""
    patient: Sequence[PathLike] = ()
    """Co-registered scans of one person."""
    registrations: Sequence[PathLike] = ()
    """For each of these an affine transform of ITK, or `NO_REGISTRATION`; none: all agree."""
    lesions: PathLike | None = None
    """Mask of the person's lesions, in the common world."""
    bright_lesions: PathLike | None = None
    """The one of these scans that shows them bright, such as a FLAIR: they are found in it."""
    ct: PathLike | None = None
    """Head CT in Hounsfield units."""

    def __post_init__(self) -> None:
        if (self.images is None) != (self.image_labels is None):
            raise EvaluationError(
                "images and image labels go together, got one of them. Give both."
            )
        if self.registrations and len(self.registrations) != len(self.patient):
            raise EvaluationError(
                f"registrations must be as many as the patient's scans, {len(self.patient)}, got"
                f" {len(self.registrations)}. Give - for a scan that needs none."
            )
        sought = self.lesions is not None or self.bright_lesions is not None
        if len(self.patient) == 1 or (sought and not self.patient):
            raise EvaluationError(
                "the patient must have at least two scans, also to look for lesions, got"
                f" {len(self.patient)}."
            )
        if self.lesions is not None and self.bright_lesions is not None:
            raise EvaluationError(
                "lesions must come from a mask or from a scan that shows them bright, got both."
                " Give one of them."
            )
        if self.bright_lesions is not None and _whole(self.bright_lesions) not in {
            _whole(scan) for scan in self.patient
        }:
            raise EvaluationError(
                "the scan with bright lesions must be one of the patient's, got"
                f" {self.bright_lesions}. Name it among them as well."
            )
        if not any((self.labels, self.images, self.scans, self.patient, self.ct)):
            raise EvaluationError("there must be data to evaluate on, got none. Give some.")

    def check_files(self) -> None:
        """Tell a path that does not exist, before hours of work on the others.

        Raises:
            EvaluationError: If there is one.
        """
        alone = (self.images, self.image_labels, self.lesions, self.ct)
        named = (path for path in self.registrations if str(path) != NO_REGISTRATION)
        for path in (*self.labels, *self.scans, *self.patient, *named, *alone):
            if path is not None and not Path(path).exists():
                raise EvaluationError(
                    f"{path} must be a file or folder, but does not exist. Check the path."
                )


def _whole(path: PathLike) -> Path:
    return Path(path).resolve()


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How much is simulated."""

    held_out: HeldOutPlan = field(default_factory=HeldOutPlan)
    """Scans of held-out label maps; its spacings and axes hold for real pairs as well."""
    degraded_mm: Sequence[float] = DEGRADED_MM
    """Slice spacings that real scans are degraded to."""
    lesion_scans: int | None = None
    """How many of the real scans are given synthetic lesions; None: all."""
