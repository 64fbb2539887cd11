"""DICOM files of synthetic scans: classic series of slices, and enhanced files of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CLASSES = {
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
}
ENHANCED = {"MR": "1.2.840.10008.5.1.4.1.1.4.1", "CT": "1.2.840.10008.5.1.4.1.1.2.1"}
NAME, PATIENT_ID = "Doe^Jonathan^Quincy", "MRN-4711-0815"
STUDY = generate_uid(entropy_srcs=["study"])


def head(shape: Sequence[int] = (30, 36, 24), seed: int = 0) -> np.ndarray:
    """A bright ellipsoid with texture, brighter to the right, the front and the top."""
    places = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = sum(p**2 for p in places) < 0.8
    ramp = 200 + 60 * places[0] + 40 * places[1] + 20 * places[2]
    noise = np.random.default_rng(seed).normal(0, 8, shape)
    return np.where(inside, ramp + noise, 5 + noise / 4).clip(0).astype(np.int16)


def affine(shape: Sequence[int], spacing: Sequence[float]) -> np.ndarray:
    """Axes to the right, front and top, the centre of the volume at the origin."""
    matrix = np.diag([*spacing, 1.0])
    matrix[:3, 3] = [-(n - 1) / 2 * mm for n, mm in zip(shape, spacing, strict=True)]
    return matrix


def write_series(
    folder: Path,
    data: np.ndarray | None = None,
    *,
    spacing: Sequence[float] = (6.0, 6.0, 7.0),
    number: int = 1,
    description: str = "t1_mprage",
    modality: str = "MR",
    name: str = NAME,
    patient_id: str = PATIENT_ID,
    study: str = STUDY,
    suffix: str = ".dcm",
    positions: Sequence[float] = (),
    **tags: Any,
) -> Path:
    """Write a classic series: a file per axial slice of `(X, Y, Z)` data on axes RAS.

    Args:
        folder: Where the files go.
        data: Voxels.
        spacing: In mm.
        number: Of the series.
        description: Of the series.
        modality: Such as MR.
        name: Of the patient.
        patient_id: Of the patient.
        study: UID of the study.
        suffix: Ending of the files.
        positions: Heights of the slices in mm, if they are not even.
        tags: Further elements by keyword.
    """
    data = head() if data is None else data
    folder.mkdir(parents=True, exist_ok=True)
    matrix, series = affine(data.shape, spacing), _uid(study, number, description)
    for k in range(data.shape[2]):
        each = _common(modality, name, patient_id, study)
        each.SOPClassUID = CLASSES[modality]
        each.SOPInstanceUID = _uid(series, k)
        each.SeriesInstanceUID, each.SeriesNumber, each.InstanceNumber = series, number, k + 1
        each.SeriesDescription = each.ProtocolName = description
        each.FrameOfReferenceUID = _uid(study, "frame")
        each.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
        height = positions[k] if positions else matrix[2, 3] + k * spacing[2]
        each.ImagePositionPatient = [f"{v:.4f}" for v in (-matrix[0, 3], -(matrix[1, 3]), height)]
        each.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
        each.SliceThickness = spacing[2]
        each.PixelSpacing = [spacing[1], spacing[0]]
        _put_pixels(each, data[:, :, k].T)
        for key, value in tags.items():
            setattr(each, key, value)
        _save(each, folder / f"I{number:03d}{k:04d}{suffix}")
    return folder


def write_enhanced(
    path: Path,
    data: np.ndarray | None = None,
    *,
    spacing: Sequence[float] = (6.0, 6.0, 7.0),
    number: int = 5,
    description: str = "t2_flair",
    modality: str = "MR",
) -> Path:
    """Write an enhanced file, all slices of `(X, Y, Z)` data on axes RAS in one."""
    data = head() if data is None else data
    matrix = affine(data.shape, spacing)
    each = _common(modality, NAME, PATIENT_ID, STUDY)
    each.SOPClassUID, each.SOPInstanceUID = ENHANCED[modality], _uid(STUDY, path.name)
    each.SeriesInstanceUID, each.SeriesNumber, each.InstanceNumber = _uid(STUDY, number), number, 1
    each.SeriesDescription = each.ProtocolName = description
    each.ImageType = ["ORIGINAL", "PRIMARY", "M", "NONE"]
    each.NumberOfFrames = data.shape[2]
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [spacing[1], spacing[0]], spacing[2]
    measures.SpacingBetweenSlices = spacing[2]
    orientation.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
    shared.PixelMeasuresSequence = Items([measures])
    shared.PlaneOrientationSequence = Items([orientation])
    each.SharedFunctionalGroupsSequence = Items([shared])
    each.PerFrameFunctionalGroupsSequence = Items(
        [_frame(k, matrix, spacing[2]) for k in range(data.shape[2])]
    )
    _put_pixels(each, np.moveaxis(data, 2, 0).transpose(0, 2, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(each, path)
    return path


def _frame(k: int, matrix: np.ndarray, spacing: float) -> Dataset:
    frame, place, content = Dataset(), Dataset(), Dataset()
    height = matrix[2, 3] + k * spacing
    place.ImagePositionPatient = [f"{v:.4f}" for v in (-matrix[0, 3], -matrix[1, 3], height)]
    content.StackID, content.InStackPositionNumber = "1", k + 1
    content.DimensionIndexValues = [1, k + 1]
    frame.PlanePositionSequence = Items([place])
    frame.FrameContentSequence = Items([content])
    return frame


def _common(modality: str, name: str, patient_id: str, study: str) -> Dataset:
    each = Dataset()
    each.Modality, each.Manufacturer, each.StudyInstanceUID = modality, "SIEMENS", study
    each.PatientName, each.PatientID, each.PatientBirthDate = name, patient_id, "19700102"
    each.StudyDate, each.StudyTime, each.AccessionNumber = "20240131", "101500", "ACC99"
    each.StudyID, each.InstitutionName = "77", "Royal Infirmary"
    each.ReferringPhysicianName, each.BodyPartExamined = "House^Gregory", "HEAD"
    if modality == "CT":
        each.RescaleIntercept, each.RescaleSlope = -1024, 1
    return each


def _put_pixels(each: Dataset, frames: np.ndarray) -> None:
    """Set the pixels of `(..., rows, columns)` whole numbers."""
    each.Rows, each.Columns = frames.shape[-2:]
    each.SamplesPerPixel, each.PhotometricInterpretation = 1, "MONOCHROME2"
    each.BitsAllocated, each.BitsStored, each.HighBit, each.PixelRepresentation = 16, 16, 15, 1
    each.PixelData = np.ascontiguousarray(frames, dtype="<i2").tobytes()


def _save(each: Dataset, path: Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = each.SOPClassUID
    meta.MediaStorageSOPInstanceUID = each.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    each.file_meta = meta
    pydicom.dcmwrite(path, each, enforce_file_format=True)


def _uid(*sources: object) -> str:
    return generate_uid(entropy_srcs=[str(source) for source in sources])
