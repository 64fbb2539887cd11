"""Label lists and orientation."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from synthsr_transforms import LabelTable
from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.grids import Volume, ras_axes, reorient
from synthsr_transforms.io.volumes import read_labels, read_volume
from synthsr_transforms.labels.rows import side_of

from ..vectors import Agreement, Vector, family, near, numbered

SIDES = ("neutral", "left", "right")


def _list_cases(vector: Vector) -> list[str]:
    sides = [f"all_{side}" for side in SIDES if f"all_{side}" in vector]
    return vector.numbered(r"in_(\d+)") + sides


PARCELS_OF_2009 = range(11_100, 12_200)
"""Values of `aparc.a2009s`, which the original does not know."""


@family("label_lists", _list_cases)
def label_lists(vector: Vector, case: str) -> Iterator[Agreement]:
    """FreeSurfer order, neutral labels, left-right exchange, and the side of every value."""
    if case.startswith("all_"):
        side = case.removeprefix("all_")
        found = [v for v in _values_of_side(side, 21000) if v not in PARCELS_OF_2009]
        yield near(case, found, np.sort(vector[case]), 0)
        return
    values = vector[f"in_{case}"].tolist()
    table = LabelTable.from_values(values, classes=[0] * len(values))
    yield near("sorted", table.values, vector[f"out_{case}"], 0)
    one_sided = len({"left", "right"} & set(table.sides)) == 1  # nothing is exchanged then
    neutral = len(table) if one_sided else table.sides.count("neutral")
    yield near("neutral", neutral, vector[f"n_neutral_{case}"], 0)
    if f"swap_src_{case}" in vector:
        swapped = table.swapped_values()
        source = vector[f"swap_src_{case}"].tolist()
        yield near("swapped", [swapped[v] for v in source], vector[f"swap_dst_{case}"], 0)
    if f"out_nosort_{case}" in vector:
        yield from _unsorted(values, vector[f"out_nosort_{case}"])


def _unsorted(values: list[int], expected: np.ndarray) -> Iterator[Agreement]:
    if len(set(values)) < len(values):  # the original keeps repeats and adds up their parameters
        with pytest.raises(ValueError, match="once"):
            LabelTable.from_values(values, classes=[0] * len(values), sort=False)
        return
    table = LabelTable.from_values(values, classes=[0] * len(values), sort=False)
    yield near("unsorted", table.values, expected, 0)


def _values_of_side(side: str, end: int) -> list[int]:
    found = []
    for value in range(end):
        try:
            if side_of(value) == side:
                found.append(value)
        except ValueError:
            continue
    return found


@family("load_labels_ras", numbered(r"stored_(\d+)"))
def load_labels_ras(vector: Vector, case: str) -> Iterator[Agreement]:
    """Label maps through a file; the original rounds fractions, the library refuses them."""
    stored = vector[f"stored_{case}"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.nii.gz"
        nib.save(nib.Nifti1Image(stored, vector[f"affine_{case}"]), path)
        as_stored = read_volume(path)
        if not np.array_equal(stored, np.rint(stored)):
            with pytest.raises(VolumeError, match="whole numbers"):
                read_labels(path)
            return
        loaded = reorient(read_labels(path), legacy=True)
    yield near("labels", loaded.data, vector[f"loaded_{case}"], 0)
    yield near("affine", loaded.affine, vector[f"loaded_affine_{case}"])
    yield near("shape", loaded.data.shape, vector[f"info_shape_{case}"], 0)
    yield near("stored affine", as_stored.affine, vector[f"info_affine_{case}"])
    # spacings are rounded to a thousandth here, as the original does after reading them (2.1)
    expected = np.round(vector[f"info_res_{case}"].astype(float), 3)
    yield near("spacing", loaded.spacing_mm, expected)


@family("orientation", numbered(r"volume_(\d+)"))
def orientation(vector: Vector, case: str) -> Iterator[Agreement]:
    """To right, anterior, superior and back.

    The way back starts from axes that are those of the world: the original does not look for the
    axes of the aligned affine, which differ where two are equally close.
    """
    affine = vector[f"affine_{case}"]
    volume = Volume(vector[f"volume_{case}"], affine)
    yield near("axes", ras_axes(affine, legacy=True), vector[f"ras_axes_{case}"], 0)
    aligned = reorient(volume, legacy=True)
    yield near("aligned", aligned.data, vector[f"aligned_{case}"], 0)
    yield near("affine", aligned.affine, vector[f"aligned_affine_{case}"])
    back = reorient(Volume(aligned.data, np.eye(4)), affine, legacy=True)
    yield near("back", back.data, vector[f"back_{case}"], 0)
