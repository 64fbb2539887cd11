"""Label tables: what every value of a label map is called, where it lies and how it is drawn.

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

import difflib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import InitVar, dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .atomic import replacing

Side = Literal["neutral", "left", "right"]
Tissue = Literal[
    "background",
    "grey_matter",
    "deep_grey",
    "white_matter",
    "csf",
    "brain_other",
    "vessel",
    "lesion",
    "extracerebral",
]

SIDES: tuple[Side, ...] = get_args(Side)

TISSUES: Mapping[Tissue, str] = {
    "background": "outside the head, or not labelled",
    "grey_matter": "cortex of the cerebrum and the cerebellum",
    "deep_grey": "grey structures below the cortex, hippocampus and amygdala included",
    "white_matter": "white matter of the cerebrum and the cerebellum, corpus callosum included",
    "csf": "ventricles and the fluid around the brain",
    "brain_other": "brain stem, ventral diencephalon, choroid plexus, optic chiasm, ...",
    "vessel": "vessels and perivascular spaces inside the brain",
    "lesion": "white-matter lesions and other abnormal tissue inside the brain",
    "extracerebral": "everything that skull stripping removes: skull, skin, eyes, neck, ...",
}
"""The tissues a label can belong to, with their meaning."""

COLUMNS = ("value", "name", "side", "class", "tissue")
"""Columns of a label table file, in the order in which they are written."""

MAX_VALUE = 2**24
"""Largest label value: the largest integer up to which 32-bit floats hold every integer."""

_FREESURFER_RANGES: Mapping[Side, tuple[tuple[int, int], ...]] = {
    "neutral": (
        *((value, value) for value in (0, 14, 15, 16, 21, 22, 23, 24, 72, 77, 80, 85, 165)),
        *((100, 109), (200, 210), (251, 255), (258, 260), (331, 340)),
        *((502, 502), (506, 509), (511, 512), (514, 517), (530, 537)),
    ),
    "left": ((1, 13), (17, 20), (25, 39), (136, 138), (865, 865), (1000, 1035), (20101, 20109)),
    "right": ((40, 71), (139, 139), (163, 164), (866, 866), (2000, 2035), (20001, 20009)),
}


class LabelRow(NamedTuple):
    """One label of a `LabelTable`."""

    value: int
    """Integer stored in the voxels of the label map."""
    name: str
    """Readable name, such as `left thalamus`."""
    side: Side
    """`neutral`, `left` or `right`."""
    label_class: int
    """Class whose Gaussian the label is drawn from."""
    tissue: Tissue
    """One of `TISSUES`."""


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
        rows = [_checked_row(row) for row in self.rows]
        if not keep_order:
            rows.sort(key=lambda row: (SIDES.index(row.side), row.value))
        _check_values([row.value for row in rows])
        _check_classes([row.label_class for row in rows])
        object.__setattr__(self, "rows", tuple(rows))

    def __repr__(self) -> str:
        number = Counter(self.sides)
        sides = ", ".join(f"{number[side]} {side}" for side in SIDES if number[side])
        return f"LabelTable({len(self)} labels: {sides}; {self.num_classes} classes)"

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
    def names(self) -> tuple[str, ...]:
        """Label names, in row order."""
        return tuple(row.name for row in self.rows)

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
    def num_neutral(self) -> int:
        """Number of labels that a flip leaves alone, as the original SynthSR counts them.

        It is the number of neutral labels; if only one of the two sides is present nothing can be
        exchanged, and it is the number of all labels.
        """
        number = Counter(self.sides)
        one_sided = bool(number["left"]) != bool(number["right"])
        return len(self) if one_sided else number["neutral"]

    @property
    def class_names(self) -> tuple[str, ...]:
        """A readable name for each class, made from the names or the tissues of its labels.

        Examples:
            >>> LabelTable.ready("synthsr").class_names[:4]
            ('background', 'white matter + brain other', 'cerebral cortex + cerebellar cortex', 'csf')
        """  # noqa: E501
        names = [_class_name(self._rows_of_class(k)) for k in range(self.num_classes)]
        number = Counter(names)
        return tuple(
            name if number[name] == 1 else f"{name} (class {k})" for k, name in enumerate(names)
        )

    # Questions about labels ----------------------------------------------------------------------

    def row(self, value: int) -> LabelRow:
        """Return the row of a label value.

        Examples:
            >>> LabelTable.ready("synthseg").row(506).name
            'eyes'
        """
        if value not in self:
            msg = f"value must be in the label table, got {value}. Add a row for it."
            raise ValueError(msg)
        return self._row_of_value[value]

    def values_of(self, tissue: str) -> tuple[int, ...]:
        """Return the values of all labels of one tissue, in row order.

        Examples:
            >>> LabelTable.ready("synthseg").values_of("white_matter")
            (2, 7, 41, 46)
        """
        _check_choice("tissue", tissue, TISSUES)
        return tuple(row.value for row in self.rows if row.tissue == tissue)

    @property
    def brain_values(self) -> tuple[int, ...]:
        """Values that survive skull stripping: neither background nor extracerebral."""
        outside = ("background", "extracerebral")
        return tuple(row.value for row in self.rows if row.tissue not in outside)

    @property
    def cerebral_white_matter_values(self) -> tuple[int, ...]:
        """Values of white matter that is not part of the cerebellum, as told by the names.

        Examples:
            >>> LabelTable.ready("synthseg").cerebral_white_matter_values
            (2, 41)
        """
        white_matter = (row for row in self.rows if row.tissue == "white_matter")
        return tuple(row.value for row in white_matter if "cerebell" not in row.name.lower())

    def unknown_values(self, values: Iterable[int]) -> tuple[int, ...]:
        """Return the values that are not in the table, sorted, each once.

        Examples:
            >>> LabelTable.ready("synthsr").unknown_values([0, 2, 41, 999, 41])
            (41, 999)
        """
        return tuple(sorted(set(_integers(values, "values")) - self._row_of_value.keys()))

    def subset(self, values: Iterable[int]) -> LabelTable:
        """Return a table of these values only, with the classes renumbered without gaps.

        Renumbering keeps the order of the classes. Priors made for the whole table fit the new one
        after `priors.select_classes(kept)`, with `kept` the sorted old classes that remain.

        Examples:
            >>> LabelTable.ready("synthseg").subset([0, 16, 2, 41]).classes
            (0, 2, 1, 1)
        """
        wanted = set(_integers(values, "values"))
        unknown = self.unknown_values(wanted)
        if unknown:
            msg = f"values must be in the label table, got {listed(unknown)}. Add rows for them."
            raise ValueError(msg)
        rows = [row for row in self.rows if row.value in wanted]
        new_class = {old: new for new, old in enumerate(sorted({row.label_class for row in rows}))}
        renumbered = (row._replace(label_class=new_class[row.label_class]) for row in rows)
        return LabelTable(tuple(renumbered), keep_order=True)

    # Look-up tables ------------------------------------------------------------------------------

    def swapped_values(self) -> dict[int, int]:
        """Return the value that each label value takes when left and right are exchanged.

        Neutral labels map to themselves; so do all labels if only one side is present.

        Raises:
            ValueError: If the numbers of left and right labels differ and neither is zero, for
                then partners cannot be told by rank.

        Examples:
            >>> LabelTable.from_values([0, 2, 3, 41, 42]).swapped_values()
            {0: 0, 2: 41, 3: 42, 41: 2, 42: 3}
        """
        swapped = {value: value for value in self.values}
        for left, right in self._partners():
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
        listed = _integers(values, "values")
        given = None if classes is None else _classes_by_value(listed, classes)
        unique = list(dict.fromkeys(listed)) if sort else listed
        rows = []
        for k, value in enumerate(unique):
            name, tissue = _name_and_tissue(value)
            side = side_of(value) if sort else "neutral"
            rows.append(LabelRow(value, name, side, given[value] if given else k, tissue))
        table = cls(tuple(rows), keep_order=not sort)
        return table if given else table._with_shared_classes()

    @classmethod
    def ready_names(cls) -> tuple[str, ...]:
        """Return the names of the tables that come with the library.

        Examples:
            >>> LabelTable.ready_names()
            ('freesurfer_aparc_aseg', 'freesurfer_aseg', 'synthseg', 'synthsr')
        """
        files = resources.files("synthsr_transforms.tables").iterdir()
        return tuple(sorted(f.name[:-4] for f in files if f.name.endswith(".tsv")))

    @classmethod
    def ready(cls, name: str) -> LabelTable:
        """Return one of the tables that come with the library, see `ready_names`."""
        _check_choice("name of a ready table", name, cls.ready_names())
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
            values = _load_integers(path)
            given = None if classes is None else _load_integers(Path(classes))
            with _naming(path):
                return cls.from_values(values, given)
        if path.suffix.lower() != ".tsv":
            msg = f"label table must be a .tsv or .npy file, got {path}. Save it as one of the two."
            raise ValueError(msg)
        if classes is not None:
            msg = f"classes must be None for a .tsv table, got {classes}. Edit its class column."
            raise ValueError(msg)
        return _parse_table(_read_text(path), path)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the table as a `.tsv` file, complete or not at all.

        `read` gives the same table back, in FreeSurfer order.
        """
        path = Path(path)
        if path.suffix.lower() != ".tsv":
            msg = f"path must end in .tsv, got {path}. Choose a name that does."
            raise ValueError(msg)
        lines = ["\t".join(str(cell) for cell in row) for row in (COLUMNS, *self.rows)]
        with replacing(path) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")

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
            ValueError: label table must be a file or one of freesurfer_aparc_aseg, freesurfer_aseg, synthseg, synthsr, got 'synthsegg'. Did you mean 'synthseg'?
        """  # noqa: E501
        if isinstance(spec, LabelTable):
            return spec
        if isinstance(spec, Sequence) and not isinstance(spec, str):
            return cls(tuple(LabelRow(*row) for row in spec), keep_order=True)
        if spec in cls.ready_names():
            return cls.ready(str(spec))
        if Path(spec).exists() or Path(spec).suffix.lower() in (".tsv", ".npy"):
            return cls.read(spec)
        msg = (
            f"label table must be a file or one of {', '.join(cls.ready_names())}, "
            f"got {str(spec)!r}.{_nearest(str(spec), cls.ready_names())}"
        )
        raise ValueError(msg)

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

    def _rows_of_class(self, label_class: int) -> list[LabelRow]:
        return [row for row in self.rows if row.label_class == label_class]

    def _lookup(self, targets: Sequence[int]) -> Tensor:
        lookup = torch.full((max(self.values) + 1,), -1)
        lookup[list(self.values)] = torch.tensor(targets)
        return lookup

    def _partners(self) -> list[tuple[int, int]]:
        left = sorted(row.value for row in self.rows if row.side == "left")
        right = sorted(row.value for row in self.rows if row.side == "right")
        if left and right and len(left) != len(right):
            msg = (
                "numbers of left and right labels must be equal to pair them, "
                f"got {len(left)} left ({listed(left)}) and {len(right)} right "
                f"({listed(right)}). Add the missing labels, or make them neutral."
            )
            raise ValueError(msg)
        return list(zip(left, right, strict=False))

    def _with_shared_classes(self) -> LabelTable:
        """Return the table with one class per label, partners sharing theirs."""
        first_partner = {right: left for left, right in self._partners()}
        owners = [first_partner.get(value, value) for value in self.values]
        new_class = {value: k for k, value in enumerate(dict.fromkeys(owners))}
        rows = zip(self.rows, owners, strict=True)
        shared = (row._replace(label_class=new_class[owner]) for row, owner in rows)
        return LabelTable(tuple(shared), keep_order=True)


def side_of(value: int) -> Side:
    """Return the side of a FreeSurfer label value.

    Args:
        value: Label value.

    Returns:
        `neutral`, `left` or `right`, by the intervals of the original SynthSR.

    Raises:
        ValueError: If the value lies in none of the intervals.

    Examples:
        >>> side_of(2), side_of(41), side_of(16)
        ('left', 'right', 'neutral')
    """
    for side, ranges in _FREESURFER_RANGES.items():
        if any(low <= value <= high for low, high in ranges):
            return side
    msg = (
        f"value must be a FreeSurfer label with a known side, got {value}. "
        "Use a .tsv label table, where every label states its side."
    )
    raise ValueError(msg)


def read_npy(path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """Read a `.npy` file of integers or floating-point numbers."""
    msg = f"file must be a .npy array of numbers, got something else ({os.fspath(path)})."
    try:
        with open(path, "rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{msg} Save it with numpy.save.") from error
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{msg} Save numbers, not {array.dtype}.")
    return np.asarray(array)


def listed(items: Sequence[object], limit: int = 12) -> str:
    """Return items as text for a message, only the first few if there are many.

    Examples:
        >>> listed([1, 2, 3]), listed(range(5), limit=2)
        ('1, 2, 3', '0, 1 and 3 more')
    """
    text = ", ".join(str(item) for item in items[:limit])
    return text if len(items) <= limit else f"{text} and {len(items) - limit} more"


# Checks of rows ----------------------------------------------------------------------------------


def _checked_row(row: LabelRow) -> LabelRow:
    """Return the row with plain Python cells, or say which cell is wrong."""
    value, name, side, label_class, tissue = row
    if not 0 <= value <= MAX_VALUE:
        msg = f"value must be between 0 and {MAX_VALUE}, got {value}. Renumber the label."
        raise ValueError(msg)
    if not name.strip() or name.splitlines() != [name] or "\t" in name:
        msg = f"name must be one line of text without tabs, got {name!r} (value {value})."
        raise ValueError(msg)
    _check_choice("side", side, SIDES)
    _check_choice("tissue", tissue, TISSUES)
    return LabelRow(int(value), name, side, int(label_class), tissue)


def _check_values(values: Sequence[int]) -> None:
    if not values:
        msg = "label table must have at least one row, got none. Add a row per label."
        raise ValueError(msg)
    repeated = [value for value, number in Counter(values).items() if number > 1]
    if repeated:
        msg = f"each value must occur once, got {listed(repeated)} repeatedly. Remove the repeats."
        raise ValueError(msg)


def _check_classes(classes: Iterable[int]) -> None:
    present = sorted(set(classes))
    if present != list(range(len(present))):
        msg = (
            f"classes must be 0, 1, ..., K-1 with none left out, got {listed(present)}. "
            "Renumber them without gaps."
        )
        raise ValueError(msg)


def _check_choice(what: str, word: str, choices: Iterable[str]) -> None:
    choices = tuple(choices)
    if word not in choices:
        msg = f"{what} must be one of {', '.join(choices)}, got {word!r}.{_nearest(word, choices)}"
        raise ValueError(msg)


def _nearest(word: str, choices: Iterable[str]) -> str:
    """Return a hint at the choice that is spelt most like the word, or nothing."""
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


# Lists of values and classes ---------------------------------------------------------------------


def _integers(numbers: Iterable[float], what: str) -> list[int]:
    """Return numbers as Python integers; numbers with a fraction are an error."""
    numbers = list(numbers)
    fractions = [number for number in numbers if number != int(number)]
    if fractions:
        msg = f"{what} must be integers, got {fractions[0]}. Round them first."
        raise ValueError(msg)
    return [int(number) for number in numbers]


def _classes_by_value(values: Sequence[int], classes: Iterable[int]) -> dict[int, int]:
    """Pair values with classes; a value may be repeated if its class is."""
    given = _integers(classes, "classes")
    if len(given) != len(values):
        msg = f"classes must be as many as values ({len(values)}), got {len(given)}."
        raise ValueError(f"{msg} Give one class per value.")
    by_value: dict[int, int] = {}
    for value, label_class in zip(values, given, strict=True):
        if by_value.setdefault(value, label_class) != label_class:
            msg = f"a value must have one class, got {by_value[value]} and {label_class}"
            raise ValueError(f"{msg} (value {value}). Remove one of the two.")
    return by_value


def _class_name(rows: Sequence[LabelRow]) -> str:
    """Name a class by its labels if they have at most two names, else by their tissues."""
    names = list(dict.fromkeys(row.name.removeprefix(f"{row.side} ") for row in rows))
    if len(names) <= 2:
        return " + ".join(names)
    tissues = Counter(row.tissue.replace("_", " ") for row in rows)
    return " + ".join(tissue for tissue, _ in tissues.most_common())


# Tables that come with the library ---------------------------------------------------------------


@cache
def _ready_table(name: str) -> LabelTable:
    file = resources.files("synthsr_transforms.tables") / f"{name}.tsv"
    return _parse_table(file.read_text(encoding="utf-8"), Path(f"{name}.tsv"))


@cache
def _known_rows() -> dict[int, LabelRow]:
    """Return rows of the ready tables that keep left and right apart, by value."""
    tables = (_ready_table(name) for name in ("synthseg", "freesurfer_aparc_aseg"))
    return {row.value: row for table in tables for row in table.rows}


def _name_and_tissue(value: int) -> tuple[str, Tissue]:
    known = _known_rows().get(value)
    return (known.name, known.tissue) if known else (f"label {value}", "brain_other")


# Files -------------------------------------------------------------------------------------------


@contextmanager
def _naming(place: object) -> Iterator[None]:
    """Add a place, such as a file and a line, to the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        head, stop, advice = str(error).partition(". ")
        msg = f"{head.removesuffix('.')} ({place}).{' ' if stop else ''}{advice}"
        raise ValueError(msg) from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"label table must be a UTF-8 text file, got other bytes ({path}). Save it as UTF-8."
        raise ValueError(msg) from error


def _load_integers(path: Path) -> list[int]:
    """Load a `.npy` list of integers."""
    array = read_npy(path)
    if array.ndim != 1:
        msg = f"list must be a 1-D array, got shape {array.shape} ({path}). Flatten it."
        raise ValueError(msg)
    with _naming(path):
        return _integers(array.tolist(), "list")


def _parse_table(text: str, path: Path) -> LabelTable:
    """Make a table from the text of a `.tsv` file."""
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1)]
    cells = [(n, line.split("\t")) for n, line in lines if line.strip() and line[0] != "#"]
    if not cells:
        msg = f"label table must start with the columns {', '.join(COLUMNS)}, got an empty file"
        raise ValueError(f"{msg} ({path}).")
    (header_number, header), *body = cells
    columns = [column.strip() for column in header]
    if sorted(columns) != sorted(COLUMNS):
        msg = f"columns must be {', '.join(COLUMNS)}, separated by tabs, got {', '.join(columns)}"
        raise ValueError(f"{msg} ({path}, line {header_number}).")
    rows = {number: _parse_row(row, columns, f"{path}, line {number}") for number, row in body}
    _check_repeats_in_file({number: row.value for number, row in rows.items()}, path)
    with _naming(f"{path}, column 'class'" if rows else path):
        return LabelTable(tuple(rows.values()))


def _check_repeats_in_file(value_of_line: Mapping[int, int], path: Path) -> None:
    first: dict[int, int] = {}
    for line, value in value_of_line.items():
        if first.setdefault(value, line) != line:
            msg = (
                f"each value must occur once, got {value} again "
                f"({path}, line {line}, column 'value'; first in line {first[value]}). "
                "Remove one of the two lines."
            )
            raise ValueError(msg)


def _parse_row(cells: Sequence[str], columns: Sequence[str], place: str) -> LabelRow:
    if len(cells) != len(columns):
        msg = f"row must have {len(columns)} cells, got {len(cells)} ({place})."
        raise ValueError(f"{msg} Separate cells by single tabs.")
    cell = {column: text.strip() for column, text in zip(columns, cells, strict=True)}
    for column in ("value", "class"):
        if not cell[column].isdecimal():
            where = f"{place}, column {column!r}"
            msg = f"{column} must be a whole number, got {cell[column]!r} ({where})."
            raise ValueError(msg)
    for column, choices in (("side", SIDES), ("tissue", tuple(TISSUES))):
        with _naming(f"{place}, column {column!r}"):
            _check_choice(column, cell[column], choices)
    with _naming(place):
        return _checked_row(
            LabelRow(
                value=int(cell["value"]),
                name=cell["name"],
                side=cast("Side", cell["side"]),
                label_class=int(cell["class"]),
                tissue=cast("Tissue", cell["tissue"]),
            )
        )
