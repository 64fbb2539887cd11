"""Series of a study: what they show, which can be brains, and what they are called.

A header says what a scanner was set to, not what a volume shows, and vendors fill it in each in
their own way. So the rules below leave out what is certainly no head, and keep the rest: a scan
that is predicted for nothing costs a minute, one that is missing may never be missed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib

from .conversion import Volume
from .patients import PERSONAL, Redaction, exam_of, plain

MR, CT = "MR", "CT"
FEWEST_SLICES, LEAST_MM = 8, 50.0
"""Volumes of fewer slices, or of less extent along any axis, show no brain."""
CONTRASTS = ("T1", "T1+C", "T2", "FLAIR", "PD", "T2*", "CT", "DWI", "?")
"""Guesses of the contrast, in the order in which scans lead an exam."""
TOLD = (
    *("Modality", "Manufacturer", "ManufacturersModelName", "MagneticFieldStrength", "BodyPart"),
    *("SeriesNumber", "SeriesDescription", "ProtocolName", "ImageType", "MRAcquisitionType"),
    *("EchoTime", "RepetitionTime", "InversionTime", "FlipAngle", "SliceThickness"),
    *("SpacingBetweenSlices", "ConvolutionKernel", "ConversionSoftware"),
    "ConversionSoftwareVersion",
)
"""Fields that sidecars repeat: none of a person, a place or a time."""
KEPT = (*PERSONAL, "StudyInstanceUID", "SeriesInstanceUID", "AcquisitionDateTime", "StudyID")
"""Fields that they repeat where names are kept."""

_LOCALISER = "localizer localiser localizador loc scout survey surview topogram scanogram planscan"
_LOCALISER += " smartbrain 3plane triplane calibration calib shim refscan"
_MAP = "adc eadc dadc trace tracew colfa cbf cbv mtt ttp tmax relcbf relcbv mip minip t1map t2map"
_MAP += " b0map b1map fieldmap fmap tensor perfmap subtraction"
_DOSE = "dose report bolus premonitoring monitoring screensave"
_IMAGE_TYPES = {
    "a localiser": "LOCALIZER SCOUT",
    "a map that was computed, or a projection": "ADC EADC FA TRACEW CBF CBV RCBF RCBV MTT TTP TMAX"
    " PBP GBP MIP MINIP PROJECTION SUBTRACTION SUBTRACT MAP COLFA",
    "diffusion-weighted": "DIFFUSION",
    "a map of phase": "P PHASE IMAGINARY REAL",
    "a page of text": "SCREEN DOSE",
}
"""Reasons, and the words of `ImageType` that give them."""
_DESCRIPTIONS = {
    "a localiser": _LOCALISER,
    "a map that was computed, or a projection": _MAP,
    "a page of text, or made while contrast agent arrives": _DOSE,
    "diffusion-weighted": "dwi dti diff diffusion",
}
_OTHER_PARTS = "spine cspine tspine lspine sspine chest thorax abdomen pelvis heart breast liver"
_OTHER_PARTS += " knee shoulder hip ankle wrist elbow hand foot prostate kidney neck extremity leg"
_OTHER_PARTS += " arm lung cardiac lumbar thoracic"


@dataclass(frozen=True)
class Series:
    """A volume of a study.

    Attributes:
        path: NIfTI file.
        exam: Name of the exam, which all scans of a study share.
        name: Name in messages and of files, another for each volume of an exam.
        number: Number of the series.
        description: What the scanner was told.
        modality: Such as MR.
        contrast: One of `CONTRASTS`.
        num_slices: Slices.
        spacing_mm: Voxel spacing, that of slices last.
        left_out: Why it cannot be a brain; None if it can.
        warnings: What dcm2niix said about it.
        facts: Fields of the header that may be told.
    """

    path: Path
    exam: str
    name: str
    number: int
    description: str
    modality: str
    contrast: str
    num_slices: int
    spacing_mm: tuple[float, ...]
    left_out: str | None
    warnings: tuple[str, ...]
    facts: Mapping[str, Any]

    @property
    def is_ct(self) -> bool:
        """Whether it is CT."""
        return self.modality == CT


def series_of(volumes: Sequence[Volume], *, keep_names: bool = False) -> list[Series]:
    """Series of the volumes that dcm2niix made, by exam, number and echo.

    Args:
        volumes: From `convert`.
        keep_names: Whether texts may name patients.
    """
    redacted = Redaction([] if keep_names else [volume.facts for volume in volumes])
    found = [_series(volume, redacted, keep_names) for volume in volumes]
    found.sort(key=lambda each: (each.exam, each.number, each.path.name))
    return _with_own_names(found)


def _series(volume: Volume, redacted: Redaction, keep_names: bool) -> Series:
    facts = volume.facts
    image: Any = nib.load(volume.path)
    description = str(facts.get("SeriesDescription") or facts.get("ProtocolName") or "")
    shape, zooms = image.shape, [float(mm) for mm in image.header.get_zooms()[:3]]
    across = max(range(len(zooms)), key=lambda axis: (round(zooms[axis], 2), -shape[axis]))
    told = {field: facts[field] for field in (*TOLD, *(KEPT * keep_names)) if field in facts}
    texts = {k: redacted(v) if isinstance(v, str) else v for k, v in told.items()}
    number = int(facts.get("SeriesNumber") or 0)
    word = plain(redacted(description)) or plain(str(facts.get("Modality") or ""))
    return Series(
        path=volume.path,
        exam=exam_of(facts, keep_names=keep_names),
        name=f"{number:03d}_{word or 'series'}{_kind_of_echo(volume)}",
        number=number,
        description=" ".join(redacted(description).split()),
        modality=str(facts.get("Modality", "")),
        contrast=guess_contrast(facts),
        num_slices=shape[across],
        spacing_mm=(*(mm for k, mm in enumerate(zooms) if k != across), zooms[across]),
        left_out=why_no_brain(facts, image),
        warnings=tuple(redacted(text) for text in volume.warnings),
        facts=texts,
    )


def _kind_of_echo(volume: Volume) -> str:
    """What dcm2niix adds to the names of the volumes of one series, such as `_e2`."""
    uid = str(volume.facts.get("SeriesInstanceUID", ""))
    _, _, more = volume.path.stem.partition(uid) if uid else ("", "", "")
    return re.sub(r"_(?:Tilt|Eq)(?:_\d+)?", "", more)


def _with_own_names(found: Sequence[Series]) -> list[Series]:
    """Number series of one exam that would share a name."""
    seen: Counter[tuple[str, str]] = Counter()
    made = []
    for each in found:
        seen[each.exam, each.name] += 1
        number = seen[each.exam, each.name]
        made.append(each if number == 1 else replace(each, name=f"{each.name}-{number}"))
    return made


# What cannot be a brain --------------------------------------------------------------------------


def why_no_brain(facts: Mapping[str, Any], image: Any) -> str | None:
    """Why a volume cannot be a scan of a brain; None if it can.

    Args:
        facts: Fields of its header.
        image: NiBabel image.
    """
    modality, shape = facts.get("Modality"), image.shape
    if modality not in (MR, CT):
        return f"of modality {plain(str(modality or 'unknown'))}, neither MR nor CT"
    if image.get_data_dtype().names:
        return "in colours"
    reason = _by_words(facts)
    if reason is not None:
        return reason
    if len(shape) > 3:
        return f"4-D, {shape[3]} volumes"
    if len(shape) < 3 or min(shape) == 1:
        return "one slice: for one of a series, give its folder"
    zooms = image.header.get_zooms()[:3]
    extent = min(n * float(mm) for n, mm in zip(shape, zooms, strict=True))
    if min(shape) < FEWEST_SLICES or extent < LEAST_MM:
        return f"{min(shape)} slices, {extent:.0f} mm: not a whole head"
    return None


def _by_words(facts: Mapping[str, Any]) -> str | None:
    types = _words(facts.get("ImageType") or [])
    for reason, known in _IMAGE_TYPES.items():
        if types & set(known.lower().split()):
            return reason
    words = _words([facts.get("SeriesDescription"), facts.get("ProtocolName")])
    for reason, known in _DESCRIPTIONS.items():
        if words & set(known.split()):
            return reason
    parts = _words([facts.get("BodyPart")]) | words
    if (part := parts & set(_OTHER_PARTS.split())) and not parts & {"head", "brain", "skull"}:
        return f"of another part of the body ({min(part)})"
    return None


def _words(texts: Iterable[object]) -> set[str]:
    """Words in lower case; numbers in front of letters stay with them, as in `3plane`.

    Examples:
        >>> sorted(_words(["AAHead_Scout", "3-plane loc"]))
        ['3', 'aahead', 'loc', 'plane', 'scout']
    """
    return {word for text in texts for word in re.split(r"[^a-z0-9]+", str(text or "").lower())}


# Contrast ----------------------------------------------------------------------------------------


def guess_contrast(facts: Mapping[str, Any]) -> str:
    """Contrast of a scan by its description, or else by its times; a guess, for the eye.

    Args:
        facts: Fields of its header.

    Returns:
        One of `CONTRASTS`.

    Examples:
        >>> guess_contrast({"Modality": "MR", "SeriesDescription": "Ax T2 FLAIR"})
        'FLAIR'
        >>> guess_contrast({"Modality": "MR", "EchoTime": 0.1, "RepetitionTime": 4.0})
        'T2'
    """
    if facts.get("Modality") == CT:
        return "CT"
    fields = ("SeriesDescription", "ProtocolName", "SequenceName")
    text = " ".join(str(facts.get(field) or "") for field in fields).lower()
    found = _by_description(text) or _by_times(facts)
    agent = any(field.startswith("ContrastBolus") for field in facts) or re.search(
        r"\+\s?(c|gd)\b|\bgad|\bpost\b|_gd\b", text
    )
    return "T1+C" if found == "T1" and agent else found


def _by_description(text: str) -> str | None:
    patterns = {
        "T1": r"t1.{0,8}flair",
        "FLAIR": r"flair|tirm|dark.?fluid",
        "DWI": r"dwi|dti|\bdiff|ep2d|\bepi\b",
        "T2*": r"t2\s?\*|t2.?star|swi|swan|hemo|gre.?t2|venbold",
        "T1 ": r"t1|mp2?rage|spgr|bravo|fspgr|tfe|flash|vibe|cube.?t1",
        "T2": r"t2|space|ciss|fiesta",
        "PD": r"\bpd|proton",
    }
    found = (name for name, words in patterns.items() if re.search(words, text))
    return next(found, "").strip() or None


def _by_times(facts: Mapping[str, Any]) -> str:
    """Guess by echo, repetition and inversion times in seconds."""
    times = (facts.get(f"{name}Time") for name in ("Echo", "Repetition", "Inversion"))
    echo, repetition, inversion = (float(t) if isinstance(t, (int, float)) else 0.0 for t in times)
    if not echo:
        return "?"
    if inversion > 1.5 and echo > 0.06:
        return "FLAIR"
    if echo > 0.06:
        return "T2"
    if echo > 0.03:
        return "?"
    return "T1" if repetition < 1.5 or inversion else "PD"
