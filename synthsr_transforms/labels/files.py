"""Files of label tables: `.tsv` tables, `.npy` lists, and the tables of the library."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from synthsr_transforms.support.atomic import replacing
from synthsr_transforms.support.messages import check_choice, integers, naming

from .rows import SIDES, TISSUES, LabelRow, Side, Tissue, valid_row, valid_rows

COLUMNS = ("value", "name", "side", "class", "tissue")
"""Columns of a label table file, in the order in which they are written."""


def ready_names() -> tuple[str, ...]:
    """Names of the tables that come with the library, sorted."""
    files = resources.files("synthsr_transforms.labels.tables").iterdir()
    return tuple(sorted(f.name[:-4] for f in files if f.name.endswith(".tsv")))


def ready_rows(name: str) -> tuple[LabelRow, ...]:
    """Rows of a table that comes with the library."""
    file = resources.files("synthsr_transforms.labels.tables") / f"{name}.tsv"
    return _parse_rows(file.read_text(encoding="utf-8"), Path(f"{name}.tsv"))


def read_rows(path: Path) -> tuple[LabelRow, ...]:
    """Read the rows of a `.tsv` file, valid and in the order of the file."""
    return _parse_rows(_read_text(path), path)


def write_rows(rows: Sequence[LabelRow], path: Path) -> None:
    """Write rows as a `.tsv` file, complete or not at all."""
    lines = ["\t".join(str(cell) for cell in row) for row in (COLUMNS, *rows)]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


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


def read_integers(path: Path) -> list[int]:
    """Load a `.npy` list of integers."""
    array = read_npy(path)
    if array.ndim != 1:
        msg = f"list must be a 1-D array, got shape {array.shape} ({path}). Flatten it."
        raise ValueError(msg)
    with naming(path):
        return integers(array.tolist(), "list")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"label table must be a UTF-8 text file, got other bytes ({path}). Save it as UTF-8."
        raise ValueError(msg) from error


def _parse_rows(text: str, path: Path) -> tuple[LabelRow, ...]:
    """Make rows from the text of a `.tsv` file."""
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
    with naming(f"{path}, column 'class'" if rows else path):
        return valid_rows(rows.values(), sort=False)


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
        with naming(f"{place}, column {column!r}"):
            check_choice(column, cell[column], choices)
    with naming(place):
        return valid_row(
            LabelRow(
                value=int(cell["value"]),
                name=cell["name"],
                side=cast("Side", cell["side"]),
                label_class=int(cell["class"]),
                tissue=cast("Tissue", cell["tissue"]),
            )
        )
