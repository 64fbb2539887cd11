"""Scans with their label maps: finding pairs of files, and reading one pair on one grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.ndimage import affine_transform

from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.grids import Volume, reorient, same_grid
from synthsr_transforms.io.volumes import read_labels, read_volume
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.subjects.files import (
    Match,
    PairingError,
    PathSpec,
    SubjectFiles,
    find_subjects,
)

MAX_CHANNELS = 10
"""Largest number of channels of a scan; a longer fourth axis is a time series."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Scans of one kind, each with its label map.

    Attributes:
        images: Folder of the scans, or one scan.
        labels: Folder of the label maps, or one.
        subjects: The pairs of files.
    """

    images: Path
    labels: Path
    subjects: tuple[SubjectFiles, ...]


def find_data_sets(
    images: Sequence[PathSpec], labels: Sequence[PathSpec], match: Match = "names"
) -> list[DataSet]:
    """Pair the scans of every data set with their label maps.

    Args:
        images: One folder of scans (or one scan) per data set.
        labels: One folder of label maps per data set, or one for all.
        match: See `find_subjects`.

    Raises:
        VolumeError: If a folder is missing or empty, or a file has no partner.
    """
    if len(labels) not in (1, len(images)):
        raise VolumeError(
            "folders of label maps must be one for all data sets or one for each, got"
            f" {len(labels)} for {len(images)} folders of images. Give --labels once, or as often"
            " as --images."
        )
    everywhere = list(labels) * len(images) if len(labels) == 1 else labels
    try:
        return [
            DataSet(
                images=Path(i),
                labels=Path(m),
                subjects=tuple(find_subjects(m, i, match=match, all_images=True)),
            )
            for i, m in zip(images, everywhere, strict=True)
        ]
    except PairingError as error:
        raise PairingError(f"{error} Or pair sorted names with --match order.") from error


# Reading -----------------------------------------------------------------------------------------


def read_scan(path: PathSpec) -> Volume:
    """Read a scan of one or several channels, as `(X, Y, Z, C)` float32.

    Raises:
        VolumeError: If it has a fifth axis or too many channels, or numbers that are not finite or
            that 32-bit floats cannot hold.
    """
    volume = read_volume(path)
    data = volume.data if volume.data.ndim == 4 else volume.data[..., np.newaxis]
    if data.shape[3] > MAX_CHANNELS:
        raise VolumeError(
            f"{path} must have at most {MAX_CHANNELS} channels, got {data.shape[3]}. Choose some of"
            " them, or their mean."
        )
    with np.errstate(over="ignore"):
        numbers = np.asarray(data, dtype=np.float32)
    if not np.isfinite(numbers).all():
        if np.isfinite(data).all():
            raise VolumeError(
                f"{path} must hold numbers below 3.4e38, got {np.abs(data).max():g}. Rescale it."
            )
        raise VolumeError(f"{path} must hold finite numbers, got NaN or infinity. Replace them.")
    return volume._replace(data=numbers)


def read_pair(subject: SubjectFiles, *, resample_labels: bool = False) -> tuple[Volume, Volume]:
    """Read a scan and its label map on one grid.

    Args:
        subject: The files.
        resample_labels: Whether to bring a label map on another grid to that of its scan, by
            nearest neighbour.

    Returns:
        Scan `(X, Y, Z, C)` and label map `(X, Y, Z)`.

    Raises:
        VolumeError: If a file is not what it should be, or the grids differ.
    """
    assert subject.image is not None
    image, labels = read_scan(subject.image), read_labels(subject.labels)
    if same_grid(image, labels):
        return image, labels
    turned, turned_labels = reorient(image), reorient(labels)
    if same_grid(turned, turned_labels):
        return turned, turned_labels
    if not resample_labels:
        raise VolumeError(_grids_differ(subject, turned, turned_labels))
    resampled = labels_on_grid(labels, image)
    if labels.data.any() and not resampled.data.any():
        raise VolumeError(
            f"{subject.labels} must overlap {subject.image}, got places that have nothing in"
            " common. Check the affines of both."
        )
    return image, resampled


def _grids_differ(subject: SubjectFiles, image: Volume, labels: Volume) -> str:
    shapes = image.data.shape[:3], labels.data.shape
    got = "places in the world that differ"
    if shapes[0] != shapes[1]:
        got = f"shapes {shapes[0]} and {shapes[1]} (right, anterior, superior)"
    return (
        f"{subject.image} must be on the grid of {subject.labels}, got {got}. Resample one to the"
        " other, or add --resample-labels if they show the same place in the world."
    )


def labels_on_grid(labels: Volume, image: Volume) -> Volume:
    """A label map on the grid of a scan, by nearest neighbour; 0 outside its field of view."""
    matrix = np.linalg.inv(labels.affine) @ image.affine
    data = affine_transform(
        labels.data,
        matrix[:3, :3],
        offset=matrix[:3, 3],
        output_shape=image.data.shape[:3],
        order=0,
        mode="constant",
        cval=0,
    )
    return Volume(data, image.affine)


def classes_of(labels: npt.NDArray[np.integer], table: LabelTable) -> npt.NDArray[np.int16]:
    """Class of every voxel, -1 where the table lacks the label."""
    lookup = np.append(table.class_lookup().numpy(), -1).astype(np.int16)
    return lookup[np.minimum(labels, len(lookup) - 1)]
