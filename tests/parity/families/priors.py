"""Priors estimated from scans, and T2 cropping."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np

from synthsr_transforms import LabelTable
from synthsr_transforms.estimation import estimate_priors
from synthsr_transforms.estimation.scans import classes_of
from synthsr_transforms.estimation.statistics import (
    class_statistics,
    rescale_intensities,
    t2_cropping_stats,
    t2_extent,
)
from synthsr_transforms.priors.tissue_priors import as_rows

from ..vectors import Agreement, ImageAgreement, Vector, family, near

RELATIVE = 1e-5


def _cases(vector: Vector) -> list[str]:
    return [*vector.numbered(r"prior_means_(\w+)"), "one_scan"]


@family("prior_estimation", _cases)
def prior_estimation(vector: Vector, case: str) -> Iterator[Agreement]:
    """Two data sets and one folder of label maps, with and without classes and rescaling."""
    values = vector["labels_list"].tolist()
    own = list(range(len(values)))
    classes = own if "noclasses" in case else vector["classes_list"].tolist()
    table = LabelTable.from_values(values, classes)
    if case == "one_scan":
        yield from _one_scan(vector, table)
        return
    with tempfile.TemporaryDirectory() as folder:
        images = [_write(vector, folder, f"image{letter}") for letter in "AB"]
        labels = _write(vector, folder, "labels")
        # Where a map lacks a class or a class is clipped, the default differs on purpose.
        for legacy in (True,) if _differs(vector, table, case) else (False, True):
            priors = estimate_priors(
                images, labels, table, rescale="rescaled" in case, match="order", legacy=legacy
            )
            for name in ("means", "stds"):
                theirs = vector[f"prior_{name}_{case}"]
                yield _relative(f"{name}, legacy={legacy}", as_rows(getattr(priors, name)), theirs)


def _one_scan(vector: Vector, table: LabelTable) -> Iterator[Agreement]:
    image = vector["imageA_0"][..., 0]
    rescaled = rescale_intensities(image)
    yield _relative("rescaled", rescaled, vector["rescaled_imageA_0_ch0"])
    classes = classes_of(vector["labels_0"], table)
    for name, channel, positive in (("", rescaled, True), ("_keep_all", image, False)):
        found = class_statistics(
            channel, classes, table.num_classes, positive_only=positive, legacy=True
        )
        ours = np.nan_to_num([found.medians, found.stds])  # the original has 0 for absent classes
        yield _relative(f"statistics{name}", ours, vector[f"stats_imageA_0_ch0{name}"])


def _differs(vector: Vector, table: LabelTable, case: str) -> bool:
    """Whether a class of one of the scans has no voxel to measure, or is clipped."""
    for letter, number in product("AB", vector.numbered(r"labels_(\d+)")):
        image = vector[f"image{letter}_{number}"]
        classes = classes_of(vector[f"labels_{number}"], table)
        for channel in np.moveaxis(image.reshape(*classes.shape, -1), -1, 0):
            measured = rescale_intensities(channel) if "rescaled" in case else channel
            found = class_statistics(measured, classes, table.num_classes)
            if found.voxels.min() == 0 or (found.top[1:] > 0.25).any():
                return True
    return False


def _write(vector: Vector, folder: str, kind: str) -> Path:
    """Volumes of a kind as files of one folder, in the order of their numbers."""
    place = Path(folder) / kind
    place.mkdir()
    for number in vector.numbered(rf"{kind}_(\d+)"):
        np.savez(place / f"{number}.npz", vol_data=vector[f"{kind}_{number}"])
    return place


def _relative(what: str, ours: np.ndarray, theirs: np.ndarray) -> Agreement:
    return ImageAgreement(what, ours, theirs, RELATIVE)


@family("t2_cropping")
def t2_cropping(vector: Vector, case: str) -> Iterator[Agreement]:
    """Shares of the field of view; the original counts zeros as covered."""
    images = [vector[f"image_{number}"] for number in vector.numbered(r"image_(\d+)")]
    extents = [t2_extent(image[..., 1], legacy=True) for image in images]
    yield near("statistics", t2_cropping_stats(extents), vector["t2_cropping_stats"])
