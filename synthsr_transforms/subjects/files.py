"""Cases: the label maps, and the images that go with them, that samples are made from."""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from torchio import LabelMap, ScalarImage, Subject

from synthsr_transforms.io.files import VolumeError, list_volumes, stem
from synthsr_transforms.io.grids import Volume, reorient, same_grid
from synthsr_transforms.io.volumes import read_image, read_labels, read_volume
from synthsr_transforms.labels.table import LabelTable, listed

PHANTOM = Path("phantom")
"""Stands for the built-in head phantom where a label map is named."""

_STAND_INS = {25: 2, 30: 2, 136: 31, 137: 31}
_ENTITIES = re.compile(r"(?:^|_)(sub|ses)-([^_]+)")


@dataclass(frozen=True)
class Case:
    """A label map and the image that goes with it, as files.

    Attributes:
        labels: Label map.
        image: Image on the same grid, if there is one.
    """

    labels: Path
    image: Path | None = None


@dataclass(frozen=True)
class PhantomCase(Case):
    """The built-in head phantom, as a case; see `phantom_case`.

    Attributes:
        table: Label table that the values of the phantom are reduced to.
        spacing_mm: Voxel spacing.
    """

    labels: Path = PHANTOM
    image: Path | None = None
    table: LabelTable | None = None
    spacing_mm: float = 1.0


# Finding -----------------------------------------------------------------------------------------


def find_cases(
    labels: str | os.PathLike[str], images: str | os.PathLike[str] | None = None
) -> list[Case]:
    """List label maps, each with its image if images are given.

    An image goes with a label map if both have the same name; or the same subject and session
    (`sub-01_ses-1_dseg` and `sub-01_ses-1_T1w`); or the same leading name (`brain1_labels` and
    `brain1_T1w`). Two single files always go together. Images that no label map needs are left
    out, and so are the label maps themselves where they lie among the images.

    Args:
        labels: Folder of label maps, or one.
        images: Folder of images, or one.

    Returns:
        Cases, sorted by the name of the label map.

    Raises:
        VolumeError: If a folder is missing or empty, or a label map has no image or several.
    """
    label_maps = list_volumes(labels)
    if images is None:
        return [Case(path) for path in label_maps]
    if os.path.realpath(labels) == os.path.realpath(images):
        raise VolumeError(
            f"label maps and images must be in two folders, got {labels} for both. Move the"
            " images to a folder of their own."
        )
    candidates = list_volumes(images)
    if Path(labels).is_file() and Path(images).is_file():
        return [Case(label_maps[0], candidates[0])]
    return _match(label_maps, candidates, images)


def _match(
    label_maps: Sequence[Path], images: Sequence[Path], where: str | os.PathLike[str]
) -> list[Case]:
    own = {os.path.realpath(path) for path in label_maps}
    images = [image for image in images if os.path.realpath(image) not in own]
    chosen = {path: _images_of(path, images) for path in label_maps}
    lonely = [path.name for path, found in chosen.items() if not found]
    if lonely:
        raise VolumeError(
            f"each label map must have an image in {where}, got none for {listed(lonely, 4)}."
            " Name each image like its label map, with the same sub- and ses- or leading name."
        )
    for path, found in chosen.items():
        if len(found) > 1:
            raise VolumeError(
                f"each label map must have one image in {where}, got"
                f" {listed([image.name for image in found], 4)} for {path.name}."
                " Keep one of them, or name it exactly like the label map."
            )
    _check_used_once({path: found[0] for path, found in chosen.items()})
    return [Case(path, found[0]) for path, found in chosen.items()]


def _check_used_once(image_of: dict[Path, Path]) -> None:
    user: dict[Path, Path] = {}
    for labels, image in image_of.items():
        if user.setdefault(image, labels) != labels:
            raise VolumeError(
                f"each image must go with one label map, got {user[image].name} and {labels.name}"
                f" for {image.name}. Name each image like its label map."
            )


def _images_of(labels: Path, images: Sequence[Path]) -> list[Path]:
    images = [image for image in images if not _is_copy(image, labels)]
    same = [image for image in images if stem(image) == stem(labels)]
    return same or [image for image in images if _belong_together(stem(labels), stem(image))]


def _is_copy(image: Path, labels: Path) -> bool:
    """Whether a file among the images is a copy of the label map."""
    same_name = image.name == labels.name and image.stat().st_size > 0
    return same_name and filecmp.cmp(image, labels, shallow=False)


def _belong_together(labels: str, image: str) -> bool:
    """Whether two names share subject and session, or else the leading name.

    Examples:
        >>> _belong_together("sub-01_ses-1_dseg", "sub-01_ses-2_T1w")
        False
        >>> _belong_together("brain1_labels", "brain1"), _belong_together("seg_01", "img_01")
        (True, False)
    """
    entities = [dict(_ENTITIES.findall(name)) for name in (labels, image)]
    if "sub" in entities[0] or "sub" in entities[1]:
        return entities[0] == entities[1]
    words, other = re.split(r"[_.]", labels), re.split(r"[_.]", image)
    if len(words) > 1 and not re.search(r"\d", words[-1]):
        words = words[:-1]
    rest = other[len(words) :]
    return other[: len(words)] == words and not any(word.isdigit() for word in rest)


# Reading -----------------------------------------------------------------------------------------


def read_case(case: Case, *, target: str = "target") -> Subject:
    """Read a case, oriented to right, anterior, superior.

    Args:
        case: What to read.
        target: Name to give the image.

    Returns:
        Subject with a label map `labels` (int16 or int32) and, if the case has one, the image
        (float32).

    Raises:
        VolumeError: If a file is not what it should be, or the two are not on one grid.
    """
    if isinstance(case, PhantomCase):
        return Subject(labels=_phantom_labels(case))
    labels = reorient(read_labels(case.labels))
    if case.image is None:
        return Subject(labels=_to_image(LabelMap, labels))
    image = reorient(read_image(case.image))
    _check_grids(case, labels, image)
    return Subject(labels=_to_image(LabelMap, labels), **{target: _to_image(ScalarImage, image)})


def _to_image(kind: type[ScalarImage] | type[LabelMap], volume: Volume) -> ScalarImage | LabelMap:
    data = torch.from_numpy(np.ascontiguousarray(volume.data))
    return kind(data[None], affine=volume.affine)


def _check_grids(case: Case, labels: Volume, image: Volume) -> None:
    if same_grid(labels, image):
        return
    if labels.data.shape == image.data.shape:
        got = "places in the world that differ"
    else:
        got = f"shapes {labels.data.shape} and {image.data.shape} (right, anterior, superior)"
    raise VolumeError(
        f"{case.image} must be on the grid of {case.labels}, got {got}. Resample the image to the"
        " label map."
    )


def case_affine(case: Case) -> npt.NDArray[np.float64]:
    """Voxel-to-world matrix of the label map of a case as stored, `(4, 4)`; reads no voxels."""
    if isinstance(case, PhantomCase):
        return np.asarray(_phantom_labels(case).affine.data, dtype=np.float64)
    return _header(case.labels).affine


def case_shape(case: Case) -> tuple[int, int, int]:
    """Size of the label map of a case along right, anterior and superior; reads no voxels."""
    if isinstance(case, PhantomCase):
        x, y, z = _phantom_labels(case).spatial_shape
    else:
        x, y, z = reorient(_header(case.labels)).data.shape[:3]
    return int(x), int(y), int(z)


def _header(path: Path) -> Volume:
    """A volume of the right shape and affine without its voxels."""
    if path.name.lower().endswith(".npz"):
        return read_volume(path)
    try:
        image: Any = nib.load(path)
    except Exception:
        return read_volume(path)  # says what is wrong
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    affine = np.asarray(image.affine, dtype=np.float64)
    return Volume(np.broadcast_to(np.int8(0), shape), affine)


def check_cases(cases: Iterable[Case], on_case: Callable[[Case], object] | None = None) -> set[int]:
    """Read every label map and image once, so that a bad file is found before the work begins.

    Args:
        cases: What to check.
        on_case: Called with each case after it was checked, to show progress.

    Returns:
        All label values that occur.

    Raises:
        VolumeError: If a file is not what it should be; the message names it.
    """
    values: set[int] = set()
    for case in cases:
        found = _values_in(read_case(case).images["labels"].data.numpy())
        if found == {0}:
            raise VolumeError(
                f"{case.labels} must hold labels, got background 0 alone. Remove or replace it."
            )
        values |= found
        if on_case is not None:
            on_case(case)
    return values


def _values_in(labels: npt.NDArray[np.integer]) -> set[int]:
    high = int(labels.max())
    if high > 2**24:
        return {int(value) for value in np.unique(labels)}
    seen = np.zeros(high + 1, dtype=bool)
    seen[labels] = True
    return {int(value) for value in np.flatnonzero(seen)}


# Phantom -----------------------------------------------------------------------------------------


def phantom_case(table: LabelTable, *, spacing_mm: float = 1.0) -> PhantomCase:
    """The built-in head phantom, for a first run without label maps.

    Values that the table lacks take their left partner (so that a table without sides works). What
    it lacks then becomes background 0 (so that a table of the brain works), but lesions and
    vessels inside the brain become white matter, and parts of the choroid plexus the whole.

    Args:
        table: Label table of the generator.
        spacing_mm: Voxel spacing.
    """
    return PhantomCase(table=table, spacing_mm=spacing_mm)


@lru_cache(maxsize=1)
def _phantom_labels(case: PhantomCase) -> LabelMap:
    from synthsr_transforms.phantom import head_phantom

    head = head_phantom(spacing_mm=case.spacing_mm)
    if case.table is None:
        return head
    data = head.data
    lookup = torch.arange(int(data.max()) + 1)
    known = LabelTable.ready("synthseg")
    for value in case.table.unknown_values(_values_in(data.numpy())):
        right = value in known and known.row(value).side == "right"
        left = known.swapped_values()[value] if right else value
        stand_ins = (left, _STAND_INS.get(left, 0))
        lookup[value] = next((v for v in stand_ins if v in case.table), 0)
    merged = lookup[data.long()].to(data.dtype)
    if not merged.any():
        raise VolumeError(
            "label table must hold labels of the head phantom (FreeSurfer values), got"
            f" {listed(case.table.values)}. Give label maps of your own with --labels."
        )
    return LabelMap(merged, affine=head.affine)
