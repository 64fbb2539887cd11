"""Subjects: label maps, and the images that go with them, found, recorded and read as files."""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Optional, Protocol, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchio import LabelMap, ScalarImage, Subject

from synthsr_transforms.io.files import (
    FREESURFER_LABELS,
    FREESURFER_SCAN,
    VolumeError,
    file_name,
    list_volumes,
    searched_folder,
    stem,
    subject_folders,
)
from synthsr_transforms.io.grids import (
    MIN_SHEAR_DEGREES,
    Volume,
    ras_axes,
    reorient,
    same_grid,
    shear_degrees,
)
from synthsr_transforms.io.headers import scan_affine
from synthsr_transforms.io.volumes import read_header, read_image, read_labels
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.support.messages import SynthSRError, check_choice, listed

Match = Literal["names", "order"]
MATCHES: tuple[Match, ...] = get_args(Match)
"""Ways to pair label maps with images, see `find_subjects`."""
SubjectRecord = dict[str, Optional[str]]  # noqa: UP045 - read at run time by OmegaConf
"""Paths of `labels` and `image` of a subject, for YAML and JSON."""
PathSpec = str | os.PathLike[str]

PHANTOM = Path("phantom")
"""Stands for the built-in head phantom where a label map is named."""
HIGH = 2**24
"""Labels up to here are looked up in a table, which is quicker than a search."""

_STAND_INS = {25: 2, 30: 2, 136: 31, 137: 31}
_CHANNEL = re.compile(r"_00\d\d$")
"""Channel in names of nnU-Net."""
_ENTITIES = re.compile(r"(?:^|_)(sub|ses)-([^_]+)")
_CONTRAST = re.compile(r"(?:ce)?(?:T1|T2|PD)w?", re.IGNORECASE)
"""Names of contrasts with a number in them."""


class PairingError(VolumeError):
    """Label maps and images that cannot be paired."""


@dataclass(frozen=True)
class SubjectFiles:
    """A label map and the image that goes with it, as files.

    Attributes:
        labels: Label map.
        image: Image on the same grid, if there is one.
    """

    labels: Path
    image: Path | None = None

    @property
    def name(self) -> str:
        """Name of the label map in messages, see `file_name`."""
        return file_name(self.labels)

    @property
    def paths(self) -> list[Path]:
        """The files; none for the built-in head phantom."""
        return [p for p in (self.labels, self.image) if p is not None and p != PHANTOM]

    def is_called(self, name: str) -> bool:
        """Whether a name, or a path, that a user wrote means this subject."""
        return name == self.name or self.labels.match(name)

    def record(self) -> SubjectRecord:
        """The absolute paths, from which `restore_subject` makes the subject again."""
        if self.labels == PHANTOM:
            return {"labels": str(PHANTOM), "image": None}
        image = None if self.image is None else os.path.abspath(self.image)
        return {"labels": os.path.abspath(self.labels), "image": image}


@dataclass(frozen=True)
class PhantomSubject(SubjectFiles):
    """The built-in head phantom in place of files; see `phantom_subject`.

    Attributes:
        table: Label table that the values of the phantom are reduced to.
        spacing_mm: Voxel spacing.
    """

    labels: Path = PHANTOM
    image: Path | None = None
    table: LabelTable | None = None
    spacing_mm: float = 1.0


def restore_subject(record: SubjectRecord, table: LabelTable | str = "auto") -> SubjectFiles:
    """Make a subject from its record.

    Args:
        record: What `SubjectFiles.record` returned.
        table: Label table of the generator, see `phantom_subject`.
    """
    labels, image = record.get("labels"), record.get("image")
    if labels is None:
        raise SynthSRError(f"subject must name its label map under 'labels', got {record}.")
    if labels == str(PHANTOM):
        return phantom_subject(table)
    return SubjectFiles(Path(labels), None if image is None else Path(image))


# Finding -----------------------------------------------------------------------------------------


def find_subjects(
    labels: PathSpec,
    images: PathSpec | None = None,
    *,
    match: Match = "names",
    recursive: bool = False,
    all_images: bool = False,
) -> list[SubjectFiles]:
    """List label maps, each with its image if images are given.

    By name, an image goes with a label map if both have the same name; or the same subject and
    session (`sub-01_ses-1_dseg` and `sub-01_ses-1_T1w`); or the same leading name
    (`brain1_labels` and `brain1_T1w`); or, as nnU-Net names the first of up to 100 channels, the
    label map is `CASE_001` and the image `CASE_001_0000`. Names of subfolders go in front of those
    of files. Label maps among the images are left out. Two single files always go together.

    Args:
        labels: Folder of label maps, or one, or a pattern such as `subjects/*/mri/aseg.mgz`. Of
            FreeSurfer's directory of subjects, `mri/aparc+aseg.mgz` of each is taken.
        images: Folder of images, or one, or a pattern. Of FreeSurfer's directory of subjects,
            which may be that of the label maps, `mri/orig.mgz` of each is taken.
        match: `names` or `order`, which pairs sorted names one to one.
        recursive: Whether subfolders are searched as well.
        all_images: Whether each image must have a label map; otherwise those without are left out.

    Returns:
        Subjects, sorted by the name of the label map.

    Raises:
        VolumeError: If a folder is missing or empty, or a file has no partner or several.
    """
    check_choice("match", match, MATCHES)
    label_maps = list_volumes(labels, recursive=recursive, freesurfer=FREESURFER_LABELS)
    if images is None:
        return [SubjectFiles(path) for path in label_maps]
    candidates = list_volumes(images, recursive=recursive, freesurfer=FREESURFER_SCAN)
    if os.path.realpath(labels) == os.path.realpath(images):
        if not subject_folders(labels):
            raise VolumeError(
                f"label maps and images must be in two folders, got {labels} for both. Move the"
                " images to a folder of their own."
            )
        candidates = [p for p in candidates if p.with_name(FREESURFER_LABELS) in label_maps]
    if match == "order" or (Path(labels).is_file() and Path(images).is_file()):
        if len(label_maps) != len(candidates):
            raise VolumeError(
                "images and label maps must be as many to be paired in order, got"
                f" {len(candidates)} in {images} and {len(label_maps)} in {labels}. Remove those"
                " without partner."
            )
        return [SubjectFiles(*pair) for pair in zip(label_maps, candidates, strict=True)]
    own = {os.path.realpath(path) for path in label_maps}
    candidates = [image for image in candidates if os.path.realpath(image) not in own]
    image_of = match_names(label_maps, candidates, (labels, images))
    left = [file_name(image) for image in candidates if image not in image_of.values()]
    if all_images and left:
        raise PairingError(
            f"each image must have a label map in {labels}, got none for {listed(left, 4)}. Name it"
            " like its image, with the same sub- and ses- or leading name, or move the image away."
        )
    return [SubjectFiles(*pair) for pair in image_of.items()]


def pair_subjects(
    labels: PathSpec, images: PathSpec | None, *, match: Match, **options: bool
) -> list[SubjectFiles]:
    """`find_subjects` for commands with an option `--match`, which errors point out."""
    if match == "order" and images is None:
        raise SynthSRError("--match order pairs label maps with images, got no --images.")
    try:
        return find_subjects(labels, images, match=match, **options)
    except PairingError as error:
        raise PairingError(f"{error} Or pair sorted names with --match order.") from error


def match_names(
    files: Sequence[Path],
    partners: Sequence[Path],
    where: tuple[PathSpec, PathSpec],
    *,
    words: tuple[str, str] = ("label map", "image"),
    all_or_none: bool = False,
    partial: bool = False,
) -> dict[Path, Path]:
    """Find the partner of each file by their names, see `find_subjects`.

    Args:
        files: Such as label maps.
        partners: Such as images.
        where: Where both were found.
        words: What both are, for messages.
        all_or_none: Whether it is well if no file has a partner, so that the result is empty.
        partial: Whether it is well if some have none; the result is without them.

    Raises:
        PairingError: If a file has no partner or several, or two files have the same.
    """
    one, other = words
    partner_of: dict[Path, Path] = {}
    names = {path: _name(path, where[1]) for path in partners}
    chosen = {
        path: _partners_of(path, _name(path, where[0]), names, copies=one != "label map")
        for path in files
    }
    lonely = [file_name(path) for path, found in chosen.items() if not found]
    if all_or_none and len(lonely) == len(files):
        return {}
    if lonely and not (partial and len(lonely) < len(files)):
        article = "an" if other[0] in "aeiou" else "a"
        raise PairingError(
            f"each {one} must have {article} {other} in {where[1]}, got none for"
            f" {listed(lonely, 4)}. Name each {other} like its {one}, with the same sub- and ses-"
            " or leading name."
        )
    for path, found in chosen.items():
        if len(found) > 1:
            raise PairingError(
                f"each {one} must have one {other} in {where[1]}, got"
                f" {listed([partner.name for partner in found], 4)} for {file_name(path)}. Keep"
                f" one of them, name it exactly like the {one}, or choose by a pattern in quotes,"
                f" such as '{where[1]}/*_0000.nii.gz'."
            )
        if found:
            partner_of[path] = found[0]
    file_of: dict[Path, Path] = {}
    for path, partner in partner_of.items():
        if file_of.setdefault(partner, path) != path:
            raise PairingError(
                f"each {other} must go with one {one}, got {file_of[partner].name} and"
                f" {path.name} for {partner.name}. Name each {other} like its {one}."
            )
    return partner_of


def _name(path: Path, where: PathSpec) -> str:
    """Name by which a file is paired: its path below a folder, or its subject of FreeSurfer."""
    if file_name(path) != path.name:
        return file_name(path)
    top = searched_folder(where)
    folders = path.parent.relative_to(top).parts if top in path.parents else ()
    return "_".join([*folders, stem(path)])


def _partners_of(file: Path, name: str, names: Mapping[Path, str], *, copies: bool) -> list[Path]:
    """Files whose names go with that of a file; `copies` of it are left out unless they may be."""
    if not copies:
        names = {path: other for path, other in names.items() if not _is_copy(path, file)}
    same = [path for path, other in names.items() if other == name]
    return same or [path for path, other in names.items() if _belong_together(name, other)]


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
        >>> _belong_together("brain1_T1w", "brain1_flair")
        True
    """
    if _CHANNEL.sub("", image) == labels:
        return True
    entities = [dict(_ENTITIES.findall(name)) for name in (labels, image)]
    if "sub" in entities[0] or "sub" in entities[1]:
        return entities[0] == entities[1]
    words, other = re.split(r"[_.]", labels), re.split(r"[_.]", image)
    if len(words) > 1 and (not re.search(r"\d", words[-1]) or _CONTRAST.fullmatch(words[-1])):
        words = words[:-1]
    rest = other[len(words) :]
    return other[: len(words)] == words and not any(word.isdigit() for word in rest)


class Files(Protocol):
    """Files that something is made from."""

    @property
    def name(self) -> str:
        """Name in messages."""

    @property
    def paths(self) -> list[Path]:
        """The files."""


def refuse_input_folder(folder: PathSpec, subjects: Iterable[Files]) -> None:
    """Refuse to write where label maps or images are.

    Raises:
        SynthSRError: If an output folder holds files of a subject.
    """
    inputs = {os.path.realpath(path.parent) for subject in subjects for path in subject.paths}
    if os.path.realpath(folder) in inputs:
        raise SynthSRError(
            f"output folder must be another than that of label maps and images, got {folder}."
            " Choose another with --out."
        )


# Reading -----------------------------------------------------------------------------------------


def read_subject(subject: SubjectFiles, *, target: str = "target") -> Subject:
    """Read a subject, oriented to right, anterior, superior.

    Args:
        subject: What to read.
        target: Name to give the image.

    Returns:
        Subject with a label map `labels` (int16 or int32) and, if the subject has one, the image
        (float32).

    Raises:
        VolumeError: If a file is not what it should be, or the two are not on one grid.
    """
    if isinstance(subject, PhantomSubject):
        return Subject(labels=_phantom_labels(subject))
    labels = reorient(read_labels(subject.labels))
    if (angle := shear_degrees(labels.affine)) >= MIN_SHEAR_DEGREES:
        raise VolumeError(
            f"{subject.labels} must have axes at right angles, got {angle:.1f} degrees off."
            " Resample it to an upright grid, by nearest neighbour."
        )
    if subject.image is None:
        return Subject(labels=_to_image(LabelMap, labels))
    image = reorient(read_image(subject.image), labels.affine)
    if not same_grid(labels, image):
        raise VolumeError(f"{grids_differ(subject, labels, image)} Resample the image.")
    return Subject(labels=_to_image(LabelMap, labels), **{target: _to_image(ScalarImage, image)})


def _to_image(kind: type[ScalarImage] | type[LabelMap], volume: Volume) -> ScalarImage | LabelMap:
    data = torch.from_numpy(np.ascontiguousarray(volume.data))
    return kind(data[None], affine=volume.affine)


def grids_differ(subject: SubjectFiles, labels: Volume, image: Volume) -> str:
    """Sentence that says how the grids of a label map and its image differ."""
    got = "places in the world that differ"
    shapes = [reorient(volume).data.shape[:3] for volume in (image, labels)]
    if shapes[0] != shapes[1]:
        got = f"shapes {shapes[0]} and {shapes[1]} (right, anterior, superior)"
    return f"{subject.image} must be on the grid of {subject.labels}, got {got}."


def subject_affine(subject: SubjectFiles) -> npt.NDArray[np.float64]:
    """Voxel-to-world matrix of the label map of a subject as stored, `(4, 4)`; reads no voxels."""
    if isinstance(subject, PhantomSubject):
        return np.asarray(_phantom_labels(subject).affine.data, dtype=np.float64)
    return scan_affine(read_header(subject.labels))[0]


def subject_shape(subject: SubjectFiles) -> tuple[int, int, int]:
    """Size of the label map of a subject along right, anterior and superior; reads no voxels."""
    if isinstance(subject, PhantomSubject):
        x, y, z = _phantom_labels(subject).spatial_shape
    else:
        header = read_header(subject.labels)
        x, y, z = (header.shape[axis] for axis in ras_axes(scan_affine(header)[0]))
    return int(x), int(y), int(z)


def check_subjects(
    subjects: Iterable[SubjectFiles],
    on_subject: Callable[[SubjectFiles], object] = lambda subject: None,
) -> set[int]:
    """Read every label map and image once, so that a bad file is found before the work begins.

    Args:
        subjects: What to check.
        on_subject: Called with each subject after it was checked, to show progress.

    Returns:
        All label values that occur.

    Raises:
        VolumeError: If a file is not what it should be; the message names it.
    """
    values: set[int] = set()
    for subject in subjects:
        values |= set(values_of(subject, read_subject(subject).images["labels"].data).tolist())
        on_subject(subject)
    return values


def values_of(subject: SubjectFiles, labels: Tensor) -> npt.NDArray[np.int64]:
    """Values that occur in the label map of a subject, sorted.

    Raises:
        VolumeError: If there is background alone.
    """
    values = _values_in(labels.numpy())
    if values.tolist() == [0]:
        raise VolumeError(f"{subject.labels} must hold labels, got background 0 alone. Replace it.")
    return values


def _values_in(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    high = int(labels.max())
    if high > HIGH:
        return np.unique(labels).astype(np.int64)
    seen = np.zeros(high + 1, dtype=bool)
    seen[labels] = True
    return np.flatnonzero(seen)


# Phantom -----------------------------------------------------------------------------------------


def phantom_subject(table: LabelTable | str = "auto", *, spacing_mm: float = 1.0) -> PhantomSubject:
    """The built-in head phantom, for a first run without label maps.

    Values that the table lacks take their left partner (so that a table without sides works). What
    it lacks then becomes background 0 (so that a table of the brain works), but lesions and
    vessels inside the brain become white matter, and parts of the choroid plexus the whole.

    Args:
        table: Label table of the generator; `auto` means `synthseg`.
        spacing_mm: Voxel spacing.
    """
    resolved = LabelTable.resolve("synthseg" if table == "auto" else table)
    return PhantomSubject(table=resolved, spacing_mm=spacing_mm)


@lru_cache(maxsize=1)
def _phantom_labels(subject: PhantomSubject) -> LabelMap:
    from synthsr_transforms.phantom import head_phantom

    head = head_phantom(spacing_mm=subject.spacing_mm)
    if subject.table is None:
        return head
    data = head.data
    lookup = torch.arange(int(data.max()) + 1)
    known = LabelTable.ready("synthseg")
    for value in subject.table.unknown_values(_values_in(data.numpy())):
        right = value in known and known.row(value).side == "right"
        left = known.swapped_values()[value] if right else value
        stand_ins = (left, _STAND_INS.get(left, 0))
        lookup[value] = next((v for v in stand_ins if v in subject.table), 0)
    merged = lookup[data.long()].to(data.dtype)
    if not merged.any():
        raise VolumeError(
            "label table must hold labels of the head phantom (FreeSurfer values), got"
            f" {listed(subject.table.values)}. Give label maps of your own with --labels."
        )
    return LabelMap(merged, affine=head.affine)
