"""Pairs of real scans of the same heads, found and recorded as files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from synthsr_transforms.io.files import FREESURFER_LABELS, VolumeError, file_name, list_volumes
from synthsr_transforms.support.config import check_literal
from synthsr_transforms.support.messages import SynthSRError, check_choice

from .files import MATCHES, Match, PairingError, PathSpec, SubjectRecord, match_names


@dataclass(frozen=True)
class ScanPair:
    """Two scans of one head in register, as files.

    Attributes:
        input: Scan of any contrast, from which the target is to be predicted.
        target: T1-weighted scan.
        labels: Label map or mask of the brain in the space of the target, if there is one.
    """

    input: Path
    target: Path
    labels: Path | None = None

    @property
    def name(self) -> str:
        """Name of the target in messages, see `file_name`."""
        return file_name(self.target)

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return [p for p in (self.input, self.target, self.labels) if p is not None]

    def is_called(self, name: str) -> bool:
        """Whether a name, or a path, that a user wrote means this pair."""
        return name == self.name or self.target.match(name) or self.input.match(name)

    def record(self) -> SubjectRecord:
        """The absolute paths, from which `restore_pair` makes the pair again."""
        labels = None if self.labels is None else os.path.abspath(self.labels)
        own = {"input": os.path.abspath(self.input), "target": os.path.abspath(self.target)}
        return {**own, "labels": labels}


def restore_pair(record: SubjectRecord) -> ScanPair:
    """Make a pair from what `ScanPair.record` returned.

    Raises:
        SynthSRError: If it is something else.
    """
    first, target, labels = (record.get(name) for name in ("input", "target", "labels"))
    if first is None or target is None:
        raise SynthSRError(f"a pair must name its input and its target, got {record}.")
    return ScanPair(Path(first), Path(target), None if labels is None else Path(labels))


def find_pairs(
    inputs: PathSpec,
    targets: PathSpec,
    labels: PathSpec | None = None,
    *,
    match: Match = "names",
    recursive: bool = False,
    labels_for_all: bool = True,
) -> list[ScanPair]:
    """List pairs of scans, each with its label map if label maps are given.

    Names are matched as in `find_subjects`. A scan may be its own partner, to be degraded. Scans
    without a partner are left out, see `unused`.

    Args:
        inputs: Folder of scans of any contrast, or one, or a pattern.
        targets: Folder of T1-weighted scans, or one, or a pattern.
        labels: Folder of label maps or masks of the brain in the space of the targets.
        match: `names` or `order`, which pairs sorted names of inputs and targets one to one.
        recursive: Whether subfolders are searched as well.
        labels_for_all: Whether each target must have a label map; otherwise all or none of them.

    Returns:
        Pairs, sorted by the name of the target.

    Raises:
        VolumeError: If a folder is missing or empty, no scan has a partner, a target lacks its
            label map, or a file has several partners.
    """
    check_choice("match", match, MATCHES)
    found, others = (list_volumes(path, recursive=recursive) for path in (targets, inputs))
    input_of = _input_of(found, others, (targets, inputs), match)
    own = [path for path in found if path in input_of]
    label_map_of: dict[Path, Path] = {}
    if labels is not None:
        label_maps = list_volumes(labels, recursive=recursive, freesurfer=FREESURFER_LABELS)
        label_map_of = _label_map_of(own, label_maps, (targets, labels), labels_for_all)
    pairs = [ScanPair(input_of[path], path, label_map_of.get(path)) for path in own]
    for path in (path for pair in pairs for path in pair.paths):
        check_literal(os.path.abspath(path), str(targets), "the path of a file")
    return pairs


def unused(
    pairs: Sequence[ScanPair], *folders: PathSpec | None, recursive: bool = False
) -> list[Path]:
    """List volumes that belong to no pair.

    Args:
        pairs: From `find_pairs`.
        folders: Where they were found; None is no folder.
        recursive: Likewise.
    """
    used = {path for pair in pairs for path in pair.paths}
    return [
        path
        for folder in folders
        if folder is not None
        for path in list_volumes(folder, recursive=recursive, freesurfer=FREESURFER_LABELS)
        if path not in used
    ]


def _input_of(
    targets: Sequence[Path],
    inputs: Sequence[Path],
    where: tuple[PathSpec, PathSpec],
    match: Match,
) -> dict[Path, Path]:
    if match == "order" or len(targets) == len(inputs) == 1:
        if len(targets) != len(inputs):
            raise VolumeError(
                "inputs and targets must be as many to be paired in order, got"
                f" {len(inputs)} in {where[1]} and {len(targets)} in {where[0]}. Remove those"
                " without partner."
            )
        return dict(zip(targets, inputs, strict=True))
    try:
        return match_names(targets, inputs, where, words=("target", "input"), partial=True)
    except PairingError as error:
        raise PairingError(f"{error} Or pair sorted names with --match order.") from error


def _label_map_of(
    targets: Sequence[Path],
    label_maps: Sequence[Path],
    where: tuple[PathSpec, PathSpec],
    for_all: bool,
) -> dict[Path, Path]:
    if for_all and len(targets) == len(label_maps) == 1:
        return {targets[0]: label_maps[0]}
    words = ("target", "label map")
    return match_names(targets, label_maps, where, words=words, all_or_none=not for_all)
