"""Label tables: name, side, class and tissue of each value of a label map.

Vocabulary used throughout the library:

* a *value* is the integer stored in a voxel of a label map;
* a *side* is `neutral`, `left` or `right`; the k-th left label and the k-th right label,
  each in increasing order of value, are *partners*, exchanged when a label map is mirrored;
* a *class* is a group of labels that share one Gaussian when an image is made from a label map;
  classes are numbered from 0 without gaps, and priors (`synthsr_transforms.priors`) hold one
  column per class;
* a *tissue* (see `TISSUES`) says what the label is made of, for steps such as skull stripping.

*FreeSurfer order* is: neutral labels, left labels, right labels, each in increasing order.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import InitVar, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from synthsr_transforms.support.messages import (
    SynthSRError,
    check_choice,
    integers,
    listed,
    naming,
    suggest,
)

from .files import (
    read_integers,
    read_rows,
    ready_rows,
    rows_of_values,
    write_rows,
)
from .rows import (
    SIDES,
    TISSUES,
    LabelRow,
    Side,
    Tissue,
    close_gaps,
    name_classes,
    partners,
    share_classes,
    valid_rows,
)
from .tables import ready_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class LabelTable:
    """The labels of a label map: value, name, side, class and tissue of each.

    Tables are values: they never change, compare equal when their rows do, can be hashed, pickled
    and shared. Get one with `ready`, `read`, `from_values` or, when the kind of input is up to the
    user, `resolve`.

    Args:
        rows: One `LabelRow` (or tuple in the same order) per label.
        keep_order: Whether to keep the rows in the order given instead of FreeSurfer order.

    Raises:
        ValueError: If there is no row, a cell is invalid, a value occurs twice, or the classes
            are not exactly 0, 1, ..., K-1.

    Examples:
        >>> table = LabelTable.ready("freesurfer_aseg")
        >>> table.values_of("csf")
        (14, 15, 24, 72, 4, 5, 43, 44)
        >>> table.swapped_values()[17]
        53
        >>> table
        LabelTable(54 labels: 14 neutral, 20 left, 20 right; 16 classes)
    """

    rows: tuple[LabelRow, ...]
    keep_order: InitVar[bool] = False

    def __post_init__(self, keep_order: bool) -> None:
        object.__setattr__(self, "rows", valid_rows(self.rows, sort=not keep_order))

    def __repr__(self) -> str:
        number = Counter(self.sides)
        sides = ", ".join(f"{number[side]} {side}" for side in SIDES if number[side])
        return f"LabelTable({len(self)} labels: {sides}; {self.num_classes} classes)"

    def plot(self) -> Figure:
        """Draw a list of the labels in their colours, see `drawing.colours.label_colours`."""
        from synthsr_transforms.drawing.legend import legend_figure

        details = (f"{row.side}, {row.tissue}, class {row.label_class}" for row in self.rows)
        names = [row.name for row in self.rows]
        return legend_figure(self.values, names, list(details))

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, value: object) -> bool:
        return value in self._row_of_value

    # Columns -----------------------------------------------------------------------------------

    @property
    def values(self) -> tuple[int, ...]:
        """Label values, in row order."""
        return tuple(row.value for row in self.rows)

    @property
    def sides(self) -> tuple[Side, ...]:
        """Sides, in row order."""
        return tuple(row.side for row in self.rows)

    @property
    def classes(self) -> tuple[int, ...]:
        """Classes, in row order."""
        return tuple(row.label_class for row in self.rows)

    @property
    def tissues(self) -> tuple[Tissue, ...]:
        """Tissues, in row order."""
        return tuple(row.tissue for row in self.rows)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return max(self.classes) + 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """A readable name for each class, made from the names or the tissues of its labels.

        Examples:
            >>> LabelTable.ready("synthsr").class_names[:4]
            ('background', 'white matter + brain other', 'cerebral cortex + cerebellar cortex', 'csf')
        """  # noqa: E501
        return name_classes(self.rows)

    # Questions about labels ----------------------------------------------------------------------

    def row(self, value: int) -> LabelRow:
        """Return the row of a label value.

        Examples:
            >>> LabelTable.ready("synthseg").row(506).name
            'eyes'
        """
        if value not in self:
            raise SynthSRError(f"value must be in the label table, got {value}. Add a row for it.")
        return self._row_of_value[value]

    def values_of(self, tissue: str) -> tuple[int, ...]:
        """Return the values of all labels of one tissue, in row order.

        Examples:
            >>> LabelTable.ready("synthseg").values_of("white_matter")
            (2, 7, 41, 46)
        """
        check_choice("tissue", tissue, TISSUES)
        return tuple(row.value for row in self.rows if row.tissue == tissue)

    @property
    def brain_values(self) -> tuple[int, ...]:
        """Values that survive skull stripping: neither background nor extracerebral."""
        outside = ("background", "extracerebral")
        return tuple(row.value for row in self.rows if row.tissue not in outside)

    def unknown_values(self, values: Iterable[int]) -> tuple[int, ...]:
        """Return the values that are not in the table, sorted, each once.

        Examples:
            >>> LabelTable.ready("synthsr").unknown_values([0, 2, 41, 999, 41])
            (41, 999)
        """
        return tuple(sorted(set(integers(values, "values")) - self._row_of_value.keys()))

    def subset(self, values: Iterable[int]) -> LabelTable:
        """Return a table of these values only, with the classes renumbered without gaps.

        Renumbering keeps the order of the classes. Priors made for the whole table fit the new one
        after `priors.select_classes(kept)`, with `kept` the sorted old classes that remain.

        Examples:
            >>> LabelTable.ready("synthseg").subset([0, 16, 2, 41]).classes
            (0, 2, 1, 1)
        """
        wanted = set(integers(values, "values"))
        unknown = self.unknown_values(wanted)
        if unknown:
            raise SynthSRError(
                f"values must be in the label table, got {listed(unknown)}. Add rows for them."
            )
        rows = [row for row in self.rows if row.value in wanted]
        return LabelTable(close_gaps(rows), keep_order=True)

    # Look-up tables ------------------------------------------------------------------------------

    def swapped_values(self) -> dict[int, int]:
        """Return the value that each label value takes when left and right are exchanged.

        Neutral labels map to themselves; so do all labels if only one side is present.

        Raises:
            ValueError: If the numbers of left and right labels differ and neither is zero, for
                then partners cannot be found by rank.

        Examples:
            >>> LabelTable.from_values([0, 2, 3, 41, 42]).swapped_values()
            {0: 0, 2: 41, 3: 42, 41: 2, 42: 3}
        """
        swapped = {value: value for value in self.values}
        for left, right in partners(self.rows):
            swapped[left], swapped[right] = right, left
        return swapped

    def swap_lookup(self) -> Tensor:
        """Return `swapped_values` as a look-up table for label maps.

        Returns:
            `(max(values) + 1,)` int64 tensor; values that are not in the table map to themselves.

        Examples:
            >>> LabelTable.from_values([0, 1, 40]).swap_lookup()[[0, 1, 2, 40]]
            tensor([ 0, 40,  2,  1])
        """
        lookup = torch.arange(max(self.values) + 1)
        swapped = self.swapped_values()
        lookup[list(swapped)] = torch.tensor(list(swapped.values()))
        return lookup

    def class_lookup(self) -> Tensor:
        """Return a look-up table from label value to class.

        Returns:
            `(max(values) + 1,)` int64 tensor, -1 for values that are not in the table.

        Examples:
            >>> LabelTable.from_values([0, 2, 4], classes=[0, 1, 1]).class_lookup()
            tensor([ 0, -1,  1, -1,  1])
        """
        return self._lookup(self.classes)

    def index_lookup(self) -> Tensor:
        """Return a look-up table from label value to row index.

        Returns:
            `(max(values) + 1,)` int64 tensor, -1 for values that are not in the table.

        Examples:
            >>> LabelTable.from_values([4, 0, 2]).index_lookup()
            tensor([ 0, -1,  1, -1,  2])
        """
        return self._lookup(range(len(self)))

    # Ways in and out -----------------------------------------------------------------------------

    @classmethod
    def from_values(
        cls, values: Iterable[int], classes: Iterable[int] | None = None, *, sort: bool = True
    ) -> LabelTable:
        """Make a table from a list of FreeSurfer label values.

        Sides follow `side_of`; names and tissues come from the ready tables, and a value they do
        not know is called `label <value>`.

        Args:
            values: Label values, for instance the contents of `generation_labels.npy`.
            classes: One class per value, in the order of `values` and re-ordered with them. By
                default partners share one class and every other label has its own. The original
                SynthSR gave every label its own class: `classes=range(len(values))`.
            sort: Whether to drop repeated values and sort into FreeSurfer order. If not, the list
                is kept as it is, must not repeat a value, and all labels count as neutral, so that
                nothing is exchanged by a flip.

        Raises:
            ValueError: If a value has no known side, the classes do not fit, or classes are to be
                shared by partners and the numbers of left and right labels differ.

        Examples:
            >>> table = LabelTable.from_values([41, 2, 16, 0], classes=[1, 1, 2, 0])
            >>> table.values, table.classes
            ((0, 16, 2, 41), (0, 2, 1, 1))
        """
        table = cls(rows_of_values(values, classes, sort=sort), keep_order=not sort)
        return table if classes is not None else cls(share_classes(table.rows), keep_order=True)

    @classmethod
    def ready_names(cls) -> tuple[str, ...]:
        """Return the names of the tables that come with the library.

        Examples:
            >>> "synthseg" in LabelTable.ready_names()
            True
        """
        return ready_names()

    @classmethod
    def ready(cls, name: str) -> LabelTable:
        """Return one of the tables that come with the library, see `ready_names`."""
        check_choice("name of a ready table", name, cls.ready_names())
        return _ready_table(name)

    @classmethod
    def read(
        cls, path: str | os.PathLike[str], classes: str | os.PathLike[str] | None = None
    ) -> LabelTable:
        """Read a table from a file.

        Args:
            path: Either a `.tsv` file with the columns value, name, side, class and tissue, in
                any order, where empty lines and lines that start with `#` are skipped; or a
                `.npy` list of label values, as made for the original SynthSR.
            classes: `.npy` list of classes, in the order of a `.npy` list of values.

        Raises:
            ValueError: If the file is not a table; the message names the file, line and column.
        """
        path = Path(path)
        if path.suffix.lower() == ".npy":
            values = read_integers(path)
            given = None if classes is None else read_integers(Path(classes))
            with naming(path):
                return cls.from_values(values, given)
        if path.suffix.lower() != ".tsv":
            raise SynthSRError(
                f"label table must be a .tsv or .npy file, got {path}. Save it as one of the two."
            )
        if classes is not None:
            raise SynthSRError(
                f"classes must be None for a .tsv table, got {classes}. Edit its class column."
            )
        return cls(read_rows(path))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the table as a `.tsv` file, complete or not at all.

        `read` gives the same table back, in FreeSurfer order.
        """
        path = Path(path)
        if path.suffix.lower() != ".tsv":
            raise SynthSRError(f"path must end in .tsv, got {path}. Choose a name that does.")
        write_rows(self.rows, path)

    @classmethod
    def resolve(
        cls, spec: LabelTable | str | os.PathLike[str] | Sequence[Sequence[Any]]
    ) -> LabelTable:
        """Return a table from a table, a ready name, the path of a file, or rows (`to_spec`).

        Examples:
            >>> LabelTable.resolve("synthseg") == LabelTable.ready("synthseg")
            True
            >>> LabelTable.resolve("synthsegg")
            Traceback (most recent call last):
            synthsr_transforms.support.messages.SynthSRError: label table must be a file or one of ..., got 'synthsegg' (did you mean 'synthseg'?).
        """  # noqa: E501
        if isinstance(spec, LabelTable):
            return spec
        if isinstance(spec, Sequence) and not isinstance(spec, str):
            return cls(tuple(LabelRow(*row) for row in spec), keep_order=True)
        if spec in cls.ready_names():
            return cls.ready(str(spec))
        if Path(spec).exists() or Path(spec).suffix.lower() in (".tsv", ".npy"):
            return cls.read(spec)
        raise SynthSRError(
            f"label table must be a file or one of {', '.join(cls.ready_names())}, "
            f"got {str(spec)!r}{suggest(str(spec), cls.ready_names())}."
        )

    def to_spec(self) -> str | list[list[Any]]:
        """Return plain data from which `resolve` makes the table: a ready name, or all rows.

        Examples:
            >>> LabelTable.ready("synthseg").to_spec()
            'synthseg'
        """
        for name in self.ready_names():
            if self == self.ready(name):
                return name
        return [list(row) for row in self.rows]

    # Inner workings ------------------------------------------------------------------------------

    @cached_property
    def _row_of_value(self) -> dict[int, LabelRow]:
        return {row.value: row for row in self.rows}

    def _lookup(self, targets: Sequence[int]) -> Tensor:
        lookup = torch.full((max(self.values) + 1,), -1)
        lookup[list(self.values)] = torch.tensor(targets)
        return lookup


@cache
def _ready_table(name: str) -> LabelTable:
    return LabelTable(ready_rows(name))
