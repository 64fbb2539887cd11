"""Summaries of label maps: labels, volumes, and likely mistakes.

`report_label_maps` reads label maps one at a time and counts their voxels; the result is a
`LabelReport`, plain data that the command line prints.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.volumes import read_labels
from synthsr_transforms.support.messages import SynthSRError, listed

from .rows import LabelRow, Side, Tissue, side_of
from .table import LabelTable


@dataclass(frozen=True, kw_only=True)
class LabelVolume:
    """Size of one label over a set of label maps."""

    value: int
    """Label value."""
    num_files: int
    """Number of label maps that hold the label."""
    mean_voxels: float
    """Mean number of voxels, over the label maps that hold the label."""
    mean_volume_mm3: float
    """Mean volume, over the label maps that hold the label."""


@dataclass(frozen=True, kw_only=True)
class LabelReport:
    """Labels of a set of label maps, described by a label table."""

    table: LabelTable
    """Table that the labels are looked up in."""
    table_name: str
    """Name of a ready table, or path of a file."""
    num_files: int
    """Number of label maps that were counted."""
    volumes: tuple[LabelVolume, ...]
    """One entry per label that occurs: those of the table in its order, then the unknown ones."""
    rejected: tuple[str, ...]
    """For each file that is not a label map, why not."""

    @property
    def unknown_values(self) -> tuple[int, ...]:
        """Values that occur but are not in the table."""
        return self.table.unknown_values(volume.value for volume in self.volumes)

    @cached_property
    def present_table(self) -> LabelTable:
        """Table of the labels that occur and of their partners, classes renumbered without gaps.

        A partner that occurs in no map is kept, since flips exchange left and right labels.
        Unknown labels are given the side of their FreeSurfer value (neutral if it has none), a
        class each, the tissue `brain_other` (`background` for 0), and a name that asks to be
        edited.
        """
        unknown = self.unknown_values
        known = [volume.value for volume in self.volumes if volume.value not in unknown]
        kept = [*known, *self._absent_partners(known)]
        rows = list(self.table.subset(kept).rows) if kept else []
        next_class = 1 + max((row.label_class for row in rows), default=-1)
        rows += [_row_of_unknown(value, next_class + k) for k, value in enumerate(unknown)]
        return LabelTable(tuple(rows))

    def _absent_partners(self, known: Sequence[int]) -> list[int]:
        try:
            partner = self.table.swapped_values()
        except ValueError:  # a table of unequal sides has no partners
            return []
        return sorted({partner[value] for value in known} - set(known))

    @property
    def dropped_classes(self) -> tuple[int, ...]:
        """Classes of the table none of whose labels occurs."""
        present = {volume.value for volume in self.volumes}
        used = {row.label_class for row in self.table.rows if row.value in present}
        return tuple(sorted(set(self.table.classes) - used))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Everything that is likely to go wrong with these label maps, one sentence each."""
        sentences = list(self.rejected)
        if self.unknown_values:
            sentences.append(
                f"labels must be in the table {self.table_name}, got"
                f" {listed(self.unknown_values)}. Add rows for them to a table of your own."
            )
        return (*sentences, *self._one_sided_warnings())

    def _one_sided_warnings(self) -> list[str]:
        try:
            partner_of = self.table.swapped_values()
        except ValueError as error:
            return [str(error)]
        present = {volume.value for volume in self.volumes}
        lonely: dict[str, list[str]] = {"left": [], "right": []}
        for row in self.table.rows:
            if row.value in present and partner_of[row.value] not in present:
                lonely[row.side].append(f"{row.value} without {partner_of[row.value]}")
        return [
            f"{side} labels must have partners on the other side, got {listed(pairs)}. Keep the"
            " partners in the table, or make the labels neutral."
            for side, pairs in lonely.items()
            if pairs
        ]


def report_label_maps(
    paths: Iterable[Path], table: LabelTable | None = None, table_name: str = "given table"
) -> LabelReport:
    """Count the labels of label maps.

    Args:
        paths: Label map files.
        table: Table to look the labels up in; by default the ready table that fits best, see
            `best_ready_table`.
        table_name: What to call the table, if one is given.

    Returns:
        The report. Files that are not label maps are not counted, and listed in it.

    Raises:
        ValueError: If a file cannot be read, or none of them is a label map.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "map.npz"
        ...     np.savez(file, vol_data=np.array([[[0, 2], [41, 41]]] * 2))
        ...     report = report_label_maps([file])
        >>> report.table_name, [volume.mean_voxels for volume in report.volumes]
        ('freesurfer_aseg', [2.0, 2.0, 4.0])
    """
    sizes: dict[int, list[tuple[int, float]]] = defaultdict(list)  # voxels, mm3 in each label map
    num_files, rejected = 0, []
    for path in paths:
        try:
            volume = read_labels(path)
        except VolumeError as error:
            if error.__cause__ is not None or not path.exists():  # reading failed
                raise
            rejected.append(str(error))
            continue
        num_files += 1
        voxel_mm3 = float(abs(np.linalg.det(volume.affine[:3, :3])))
        for value, number in zip(*np.unique(volume.data, return_counts=True), strict=True):
            sizes[int(value)].append((int(number), int(number) * voxel_mm3))
    if not num_files:
        raise SynthSRError(
            rejected[0] if rejected else "label maps must be at least one, got none."
        )
    if table is None:
        table_name = best_ready_table(sizes)
        table = LabelTable.ready(table_name)
    order = [*(value for value in table.values if value in sizes), *table.unknown_values(sizes)]
    return LabelReport(
        table=table,
        table_name=table_name,
        num_files=num_files,
        volumes=tuple(_mean_volume(value, sizes[value]) for value in order),
        rejected=tuple(rejected),
    )


def _mean_volume(value: int, sizes: Sequence[tuple[int, float]]) -> LabelVolume:
    number = len(sizes)
    voxels, mm3 = (sum(column) / number for column in zip(*sizes, strict=True))
    return LabelVolume(value=value, num_files=number, mean_voxels=voxels, mean_volume_mm3=mm3)


def best_ready_table(values: Iterable[int]) -> str:
    """Return the name of the ready table that knows most of the values, the shortest of equals.

    Examples:
        >>> best_ready_table([0, 2, 3, 4]), best_ready_table([0, 2, 41, 77])
        ('synthsr', 'freesurfer_aseg')
    """
    wanted = list(values)
    tables = {name: LabelTable.ready(name) for name in LabelTable.ready_names()}
    unfitness = {name: (len(t.unknown_values(wanted)), len(t)) for name, t in tables.items()}
    return min(tables, key=unfitness.__getitem__)


def _row_of_unknown(value: int, label_class: int) -> LabelRow:
    try:
        side: Side = side_of(value)
    except ValueError:
        side = "neutral"
    tissue: Tissue = "background" if value == 0 else "brain_other"
    return LabelRow(value, f"label {value} (edit me)", side, label_class, tissue)
