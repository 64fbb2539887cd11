"""Rows of lists: label values and classes as the original SynthSR keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from synthsr_transforms.support.messages import integers

from .files import ready_rows
from .rows import LabelRow, Tissue, side_of


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
        name, tissue = _name_and_tissue(value)
        side = side_of(value) if sort else "neutral"
        rows.append(LabelRow(value, name, side, given[value] if given else k, tissue))
    return tuple(rows)


def _classes_by_value(values: Sequence[int], classes: Iterable[int]) -> dict[int, int]:
    """Pair values with classes; a value may be repeated if its class is."""
    given = integers(classes, "classes")
    if len(given) != len(values):
        msg = f"classes must be as many as values ({len(values)}), got {len(given)}."
        raise ValueError(f"{msg} Give one class per value.")
    by_value: dict[int, int] = {}
    for value, label_class in zip(values, given, strict=True):
        if by_value.setdefault(value, label_class) != label_class:
            msg = f"a value must have one class, got {by_value[value]} and {label_class}"
            raise ValueError(f"{msg} (value {value}). Remove one of the two.")
    return by_value


def _name_and_tissue(value: int) -> tuple[str, Tissue]:
    known = _known_rows().get(value)
    return (known.name, known.tissue) if known else (f"label {value}", "brain_other")


@cache
def _known_rows() -> dict[int, LabelRow]:
    """Return rows of the ready tables that keep left and right apart, by value."""
    names = ("synthseg", "freesurfer_aparc_aseg")
    return {row.value: row for name in names for row in ready_rows(name)}
