"""Sources of rows: `.tsv` tables, those of the library, and lists of FreeSurfer values."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from synthsr_transforms.support.atomic import write_text
from synthsr_transforms.support.messages import SynthSRError, integers, naming
from synthsr_transforms.support.pointers import refuse_pointer
from synthsr_transforms.support.texts import read_text

from .rows import LabelRow, side_of, valid_row, valid_rows
from .tables import FOLDER

COLUMNS = ("value", "name", "side", "class", "tissue")
"""Columns of a label table file, in the order in which they are written."""


def ready_rows(name: str) -> tuple[LabelRow, ...]:
    """Rows of a table that comes with the library."""
    return read_rows(FOLDER / f"{name}.tsv")


def read_rows(path: Path) -> tuple[LabelRow, ...]:
    """Read the rows of a `.tsv` file, valid and in the order of the file."""
    line_of: dict[int, int] = {}
    rows = []
    for line, cell in read_table(path, COLUMNS):
        with naming(f"{path}, line {line}"):
            rows.append(_label_row(cell))
            first = line_of.setdefault(rows[-1].value, line)
            if first != line:
                raise SynthSRError(
                    f"each value must occur once, got {rows[-1].value} again, first in line"
                    f" {first}. Remove one of the two lines."
                )
    with naming(path):
        return valid_rows(rows, sort=False)


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a `.tsv` file; lines that begin with `#` are comments.

    Args:
        path: The file.
        columns: Names of its columns, in any order.

    Returns:
        Number of each line, and its cells by column.

    Raises:
        SynthSRError: If columns differ, or a line has more or fewer cells.
    """
    refuse_pointer(path)
    text = read_text(path)
    lines = [(n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]
    table = [(n, [c.strip() for c in line.split("\t")]) for n, line in lines if line[0] != "#"]
    (header, names), *body = table or [(1, [])]
    if sorted(names) != sorted(columns):
        raise SynthSRError(
            f"columns must be {', '.join(columns)}, separated by tabs, got"
            f" {', '.join(names) or 'an empty file'} ({path}, line {header})."
        )
    for number, cells in body:
        if len(cells) != len(columns):
            raise SynthSRError(
                f"row must have {len(columns)} cells, got {len(cells)} ({path}, line {number})."
                " Separate cells by single tabs."
            )
        yield number, dict(zip(names, cells, strict=True))


def write_rows(rows: Sequence[LabelRow], path: Path) -> None:
    """Write rows as a `.tsv` file, complete or not at all."""
    lines = ["\t".join(str(cell) for cell in row) for row in (COLUMNS, *rows)]
    write_text(path, "\n".join(lines) + "\n")


def read_npy(path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """Read a `.npy` file of integers or floating-point numbers; nothing is ever unpickled."""
    refuse_pointer(path)
    msg = f"file must be a .npy array of numbers, got something else ({os.fspath(path)})."
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # refuses a header that claims more
    except OSError:
        raise
    except Exception as error:  # headers are Python, with all that may be wrong with it
        raise SynthSRError(f"{msg} Save it with numpy.save.") from error
    if array.dtype.kind not in "iuf":
        raise SynthSRError(f"{msg} Save numbers, not {array.dtype}.")
    return np.array(array)


def read_integers(path: Path) -> list[int]:
    """Load a `.npy` list of integers."""
    array = read_npy(path)
    if array.ndim != 1:
        raise SynthSRError(
            f"list must be a 1-D array, got shape {array.shape} ({path}). Flatten it."
        )
    with naming(path):
        return integers(array.tolist(), "list")


def _label_row(cell: Mapping[str, Any]) -> LabelRow:
    numbers = {}
    for column in ("value", "class"):
        if not cell[column].isdecimal():
            raise SynthSRError(f"{column} must be a whole number, got {cell[column]!r}.")
        numbers[column] = int(cell[column])
    return valid_row(LabelRow(*({**cell, **numbers}[column] for column in COLUMNS)))


# Lists of label values and classes, as the original SynthSR keeps them --------------------------


def rows_of_values(
    values: Iterable[int], classes: Iterable[int] | None, *, sort: bool
) -> tuple[LabelRow, ...]:
    """Make rows for FreeSurfer values, see `LabelTable.from_values`.

    Without classes, every row gets its own.
    """
    numbers = integers(values, "values")
    given = None if classes is None else _classes_by_value(numbers, classes)
    unique = list(dict.fromkeys(numbers)) if sort else numbers
    rows = []
    for k, value in enumerate(unique):
        unknown = LabelRow(value, f"label {value}", "neutral", 0, "brain_other")
        row = _known_rows().get(value, unknown)
        side = side_of(value) if sort else "neutral"
        rows.append(row._replace(side=side, label_class=given[value] if given else k))
    return tuple(rows)


def _classes_by_value(values: Sequence[int], classes: Iterable[int]) -> dict[int, int]:
    """Pair values with classes; a value may be repeated if its class is."""
    given = integers(classes, "classes")
    if len(given) != len(values):
        raise SynthSRError(
            f"classes must be as many as values ({len(values)}), got {len(given)}."
            f" Give one class per value."
        )
    by_value: dict[int, int] = {}
    for value, label_class in zip(values, given, strict=True):
        if by_value.setdefault(value, label_class) != label_class:
            raise SynthSRError(
                f"a value must have one class, got {by_value[value]} and {label_class}"
                f" (value {value}). Remove one of the two."
            )
    return by_value


@cache
def _known_rows() -> dict[int, LabelRow]:
    """Return rows of the ready tables that keep left and right apart, by value."""
    names = ("synthseg", "freesurfer_aparc_aseg", "freesurfer_a2009s_aseg")
    return {row.value: row for name in names for row in ready_rows(name)}
