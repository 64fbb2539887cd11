"""Structures that a segmentation tells apart, and the labels of label maps that belong to each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from synthsr_transforms.support.messages import SynthSRError, check_choice, listed, naming

from .files import read_table
from .table import LabelTable

FOLDER = Path(__file__).with_name("structure_tables")
COLUMNS = ("value", "name", "labels")
"""Columns of a structure table file."""
AUTO, EACH = "auto", "each"
BACKGROUND, REST_OF_HEAD, FLUID = 0, 258, 24
"""Values of structures: what is no tissue, tissue outside the skull's inside, and fluid between
brain and skull. FreeSurfer's, but for the second."""
LARGEST = 99_999
"""Largest label, so that look-up tables stay small."""


class Structure(NamedTuple):
    """A structure.

    Attributes:
        value: Its value in segmentations.
        name: Its name.
        labels: Values of label maps that belong to it.
    """

    value: int
    name: str
    labels: frozenset[int]


@dataclass(frozen=True)
class StructureTable:
    """The structures of a segmentation, in the order of the channels of a network.

    Args:
        structures: At least two, the first of which is the background, of value 0.

    Raises:
        SynthSRError: If there are fewer, a value or name occurs twice, or a label belongs to two.

    Examples:
        >>> table = StructureTable.ready("freesurfer")
        >>> len(table), table.names[2], table.values[2]
        (34, 'left cerebral white matter', 2)
    """

    structures: tuple[Structure, ...]

    def __post_init__(self) -> None:
        labels = [label for structure in self.structures for label in structure.labels]
        columns: dict[str, list[Any]] = {
            "value": self.values,
            "name": self.names,
            "label": labels,
        }
        for what, items in columns.items():
            twice = [item for item, count in Counter(items).items() if count > 1]
            if twice:
                raise SynthSRError(
                    f"each {what} must belong to one structure, got {listed(twice, 4)} in two."
                    " Remove it from one of them."
                )
        if len(self.structures) < 2 or self.values[0] != BACKGROUND:
            raise SynthSRError(
                "structures must be the background, of value 0, and at least one more, got values"
                f" {listed(self.values, 4) or 'none'}. Put a row of value 0 first."
            )

    def __len__(self) -> int:
        return len(self.structures)

    def __iter__(self) -> Iterator[Structure]:
        return iter(self.structures)

    @property
    def values(self) -> list[int]:
        """Value of each structure."""
        return [structure.value for structure in self.structures]

    @property
    def names(self) -> list[str]:
        """Name of each structure."""
        return [structure.name for structure in self.structures]

    def lookup(self) -> Tensor:
        """Value of the structure that each label belongs to.

        Returns:
            `(largest label + 1,)` int32 tensor; labels of no structure become background.

        Examples:
            >>> StructureTable.ready("freesurfer").lookup()[[2, 1005, 2005]].tolist()
            [2, 3, 42]
        """
        labels = {label: s.value for s in self.structures for label in s.labels}
        table = torch.zeros(max(labels) + 1, dtype=torch.int32)
        table[list(labels)] = torch.tensor(list(labels.values()), dtype=torch.int32)
        return table

    @classmethod
    def ready(cls, name: str) -> StructureTable:
        """Read a table that comes with the library, of `FOLDER`."""
        check_choice("structures", name, (AUTO, EACH, *ready_names()))
        return cls.read(FOLDER / f"{name}.tsv")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> StructureTable:
        """Read a `.tsv` file with the columns value, name and labels.

        Args:
            path: The file. Labels are whole numbers and ranges such as `31 136 1000-1999`, beside
                the value itself, which always belongs to its structure.

        Raises:
            SynthSRError: If the file is not such a table; the message names the line.
        """
        path, structures = Path(path), []
        if not path.is_file():
            raise SynthSRError(f"structures must be a .tsv file that exists, got {path}.")
        for line, row in read_table(path, COLUMNS):
            with naming(f"{path}, line {line}"):
                value = _labels_of(row["value"])
                if len(value) != 1:
                    raise SynthSRError(f"value must be a whole number, got {row['value']!r}.")
                labels = frozenset(value + _labels_of(row["labels"]))
                structures.append(Structure(value[0], row["name"], labels))
        with naming(path):
            return cls(tuple(structures))

    @classmethod
    def of_labels(cls, table: LabelTable) -> StructureTable:
        """Make each label of a label table a structure of its own.

        Examples:
            >>> StructureTable.of_labels(LabelTable.from_values([0, 2, 41])).values
            [0, 2, 41]
        """
        rows = {row.value: row.name for row in table.rows if row.value != BACKGROUND}
        names = list(rows.values())
        unique = {v: n if names.count(n) == 1 else f"{n} ({v})" for v, n in rows.items()}
        background = {BACKGROUND: "background"}
        return cls(tuple(Structure(v, n, frozenset([v])) for v, n in (background | unique).items()))

    @classmethod
    def resolve(cls, source: str, table: LabelTable) -> StructureTable:
        """Find the structures for the label maps of a label table.

        Args:
            source: Name of a ready table, path of a `.tsv` file, `each` for one structure per
                label, or `auto`: the ready table that has all labels, else `each`.
            table: Labels of the label maps.

        Raises:
            SynthSRError: If the structures lack labels of the table.
        """
        if source == EACH:
            return cls.of_labels(table)
        if source == AUTO:
            ready = [cls.ready(name) for name in ready_names()]
            return next((r for r in ready if not r.lacks(table)), cls.of_labels(table))
        found = cls.read(source) if source.endswith(".tsv") else cls.ready(source)
        missing = found.lacks(table)
        if missing:
            raise SynthSRError(
                f"structures {source} must have all labels of the label table, but lack"
                f" {listed(missing)}. Add them to the column labels of a structure."
            )
        return found

    def lacks(self, table: LabelTable) -> list[int]:
        """Return the labels of a label table that belong to no structure."""
        return sorted(set(table.values).difference(*(s.labels for s in self.structures)))


def ready_names() -> tuple[str, ...]:
    """Names of the structure tables that come with the library, sorted."""
    return tuple(sorted(file.stem for file in FOLDER.glob("*.tsv")))


def _labels_of(cell: str) -> list[int]:
    """Read whole numbers and ranges, separated by blanks."""
    labels: list[int] = []
    for word in cell.split():
        first, dash, last = word.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise SynthSRError(
                f"labels must be whole numbers or ranges such as 31 1000-1999, got {word!r}."
            )
        if int(last or first) > LARGEST:
            raise SynthSRError(f"labels must be at most {LARGEST}, got {word}.")
        labels += range(int(first), int(last or first) + 1)
    return labels
