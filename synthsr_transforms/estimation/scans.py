"""One scan of an estimate: read with its label map on one grid, then measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.processing import resample_from_to

from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.grids import Volume, reorient, same_grid
from synthsr_transforms.io.volumes import read_image, read_labels
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.subjects.files import (
    Match,
    PathSpec,
    SubjectFiles,
    grids_differ,
    pair_subjects,
)
from synthsr_transforms.support.messages import listed, naming

from .statistics import ClassStatistics, class_statistics, rescale_intensities, t2_extent

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


@dataclass(frozen=True, kw_only=True)
class EstimationSettings:
    """Settings of the measurement of scans."""

    rescale: bool = True
    """Whether to rescale each channel of each scan, see `rescale_intensities`."""
    resample_labels: bool = False
    """Whether to bring label maps on other grids to those of their scans."""
    t2_cropping: bool = False
    """Whether to measure how much of the field of view the second channel covers."""
    legacy: bool = False
    """Whether to do as the original: a class that a scan lacks counts as 0 in the means over scans,
    labels that the table lacks are passed over, and voxels of 0 count as covered by T2."""


class ScanStatistics(NamedTuple):
    """Statistics of one scan.

    Attributes:
        channels: One entry per channel.
        labelled: `(K,)` numbers of voxels that carry a label of each class, zero or not.
        t2_extent: Begin and end of the second channel, if that was asked for.
    """

    channels: tuple[ClassStatistics, ...]
    labelled: npt.NDArray[np.int64]
    t2_extent: tuple[float, float] | None

    @property
    def clipped(self) -> bool:
        """Whether rescaling left no intensity, or clipped a class so that it looks narrower."""
        return any(
            not channel.voxels[1:].any() or bool((channel.top[1:] > 0.25).any())
            for channel in self.channels
        )


def find_data_sets(
    images: Sequence[PathSpec],
    labels: Sequence[PathSpec],
    match: Match = "names",
    *,
    recursive: bool = False,
) -> list[DataSet]:
    """Pair the scans of every data set with their label maps.

    Args:
        images: One folder of scans (or one scan) per data set.
        labels: One folder of label maps per data set, or one for all.
        match: See `find_subjects`.
        recursive: See `find_subjects`.

    Raises:
        VolumeError: If a folder is missing or empty, or a file has no partner.
    """
    if len(labels) not in (1, len(images)):
        raise VolumeError(
            "folders of label maps must be one for all data sets or one for each, got"
            f" {len(labels)} for {len(images)} folders of images. Give --labels once, or as often"
            " as --images."
        )
    maps = list(labels) * len(images) if len(labels) == 1 else labels
    return [
        DataSet(
            images=Path(scans),
            labels=Path(label_maps),
            subjects=tuple(
                pair_subjects(label_maps, scans, match=match, recursive=recursive, all_images=True)
            ),
        )
        for scans, label_maps in zip(images, maps, strict=True)
    ]


# Reading -----------------------------------------------------------------------------------------


def read_channels(path: PathSpec) -> Volume:
    """Read a scan of one or several channels, as `(X, Y, Z, C)` float32.

    Raises:
        VolumeError: If it has a fifth axis or too many channels, or numbers that are not finite or
            that 32-bit floats cannot hold.
    """
    volume = read_image(path, max_axes=4)
    data = volume.data if volume.data.ndim == 4 else volume.data[..., np.newaxis]
    if data.shape[3] > MAX_CHANNELS:
        raise VolumeError(
            f"{path} must have at most {MAX_CHANNELS} channels, got {data.shape[3]}. Choose some of"
            " them, or their mean."
        )
    return volume._replace(data=data)


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
    image, labels = read_channels(subject.image), read_labels(subject.labels)
    if same_grid(image, labels):
        return image, labels
    turned = reorient(labels, image.affine)
    if same_grid(image, turned):
        return image, turned
    if not resample_labels:
        raise VolumeError(
            f"{grids_differ(subject, labels, image)} Resample one to the other, or add"
            " --resample-labels if they show the same place in the world."
        )
    resampled = labels_on_grid(labels, image)
    if labels.data.any() and not resampled.data.any():
        raise VolumeError(
            f"{subject.labels} must overlap {subject.image}, got places that have nothing in"
            " common. Check the affines of both."
        )
    return image, resampled


def labels_on_grid(labels: Volume, image: Volume) -> Volume:
    """A label map on the grid of a scan, by nearest neighbour; 0 outside its field of view."""
    grid = (image.data.shape[:3], image.affine)
    resampled = resample_from_to(nib.Nifti1Image(labels.data, labels.affine), grid, order=0)
    return Volume(np.asarray(resampled.dataobj), image.affine)


def classes_of(labels: npt.NDArray[np.integer], table: LabelTable) -> npt.NDArray[np.int16]:
    """Class of every voxel, -1 where the table lacks the label."""
    lookup = np.append(table.class_lookup().numpy(), -1).astype(np.int16)
    return lookup[np.minimum(labels, len(lookup) - 1)]


# Measuring ---------------------------------------------------------------------------------------


def measure_scan(
    subject: SubjectFiles,
    *,
    table: LabelTable,
    settings: EstimationSettings,
    num_samples: int = 0,
    by_labels: bool = False,
) -> ScanStatistics:
    """Read a scan and its label map, and measure every class in every channel.

    Args:
        subject: The files.
        table: Labels and their classes.
        settings: How to measure.
        num_samples: Number of intensities of each class to keep, see `class_statistics`.
        by_labels: Whether to rescale by what lies under the labels.

    Raises:
        VolumeError: If a file is not what it should be; the message names it.
    """
    image, labels = read_pair(subject, resample_labels=settings.resample_labels)
    classes = classes_of(labels.data, table)
    unknown = labels.data[classes < 0]
    if unknown.size and not settings.legacy:
        raise VolumeError(
            f"{subject.labels} must hold labels of the label table, got"
            f" {listed(np.unique(unknown).tolist())}. Add rows for them to a table of your own"
            " (synthsr labels --write-table)."
        )
    extent = _extent(subject, image, settings) if settings.t2_cropping else None
    waiting = list(np.moveaxis(image.data, 3, 0))
    del labels, image, unknown
    channels = []
    while waiting:
        channel = np.ascontiguousarray(waiting.pop(0))  # the last one sets the scan free
        if settings.rescale:
            scaled = rescale_intensities(channel, classes if by_labels else None)
            if by_labels and not scaled.any():
                raise VolumeError(
                    f"{subject.image} must have several intensities to be rescaled, got"
                    f" {channel.flat[0]:g}. Check that it is a scan, or add --no-rescale."
                )
            channel = scaled
        found = class_statistics(
            channel, classes, table.num_classes, num_samples=num_samples, legacy=settings.legacy
        )
        channels.append(found)
    labelled = np.bincount(classes[classes >= 0], minlength=table.num_classes)
    return ScanStatistics(tuple(channels), labelled, extent)


def _extent(
    subject: SubjectFiles, image: Volume, settings: EstimationSettings
) -> tuple[float, float]:
    if image.data.shape[3] != 2:
        raise VolumeError(
            f"{subject.image} must have two channels, T1 and T2, to measure T2 cropping, got"
            f" {image.data.shape[3]}. Leave out --t2-cropping, or stack the scans."
        )
    volume = image if settings.legacy else reorient(image)
    with naming(subject.image):
        return t2_extent(volume.data[..., 1], legacy=settings.legacy)
