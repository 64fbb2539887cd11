"""Patients in DICOM headers: which words name them, and words that do not in their place."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

NAMES = ("PatientName", "OtherPatientNames", "ReferringPhysicianName", "PerformingPhysicianName")
"""Fields with names of people; the first is that of the patient."""
NUMBERS = ("PatientID", "AccessionNumber", "PatientBirthDate", "OtherPatientIDs")
"""Fields with numbers that belong to one person."""
PERSONAL = (*NAMES, *NUMBERS)
REMOVED = "xxx"
"""What stands in the place of a name."""


def exam_of(facts: Mapping[str, Any], *, keep_names: bool = False) -> str:
    """Name of an exam, always the same for a study and no hint at the patient.

    Args:
        facts: Fields of its header, as dcm2niix names them.
        keep_names: Whether name and number of the patient come first.

    Examples:
        >>> exam_of({"StudyInstanceUID": "1.2.3", "PatientName": "Doe^Jane"})
        'exam-c47f5b18'
        >>> exam_of({"StudyInstanceUID": "1.2.3", "PatientName": "Doe^Jane"}, keep_names=True)
        'Doe_Jane_exam-c47f5b18'
    """
    study = str(facts.get("StudyInstanceUID", ""))
    word = f"exam-{hashlib.sha256(study.encode()).hexdigest()[:8]}"
    if not keep_names:
        return word
    known = (plain(str(facts.get(field) or "")) for field in ("PatientName", "PatientID"))
    return "_".join([*(text for text in known if text), word])


def plain(text: str) -> str:
    """Letters, digits and hyphens of a text, as a part of a file name.

    Examples:
        >>> plain("T1 MPRAGE (sag) +C"), plain("../..")
        ('T1_MPRAGE_sag_C', '')
    """
    return re.sub(r"[^A-Za-z0-9-]+", "_", text)[:60].strip("_-")


class Redaction:
    """Takes the words that name people out of texts.

    Args:
        headers: Fields of headers, as dcm2niix names them.

    Examples:
        >>> Redaction([{"PatientName": "Doe^Jane"}])("t1_DOE, jane: does it")
        't1_xxx, xxx: does it'
    """

    def __init__(self, headers: Iterable[Mapping[str, Any]]) -> None:
        words: set[str] = set()
        for facts in headers:
            for field in NAMES:
                words |= set(re.split(r"[\s^=,;]+", str(facts.get(field) or "")))
            words |= {str(facts.get(field) or "") for field in NUMBERS}
        found = sorted((w for w in words if len(w) > 1 and re.search(r"\w", w)), key=len)
        parts = "|".join(map(re.escape, reversed(found)))
        around = r"[^\W_]"  # a letter or digit
        self._names = re.compile(rf"(?<!{around})(?:{parts})(?!{around})", re.I) if parts else None

    def __call__(self, text: str) -> str:
        """The text without them."""
        return text if self._names is None else self._names.sub(REMOVED, text)
