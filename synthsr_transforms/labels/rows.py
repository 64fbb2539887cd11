"""Rows of label tables: sides, tissues, valid rows, partners and classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from synthsr_transforms.support.messages import SynthSRError, check_choice, listed

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

MAX_VALUE = 2**24
"""Largest label value: the largest integer up to which 32-bit floats hold every integer."""

_FREESURFER_RANGES: Mapping[Side, tuple[tuple[int, int], ...]] = {
    "neutral": (
        *((value, value) for value in (0, 14, 15, 16, 21, 22, 23, 24, 72, 77, 80, 85, 165)),
        *((100, 109), (200, 210), (251, 255), (258, 260), (331, 340)),
        *((502, 502), (506, 509), (511, 512), (514, 517), (530, 537)),
    ),
    "left": (
        *((1, 13), (17, 20), (25, 39), (136, 138), (865, 865), (1000, 1035)),
        *((11100, 11175), (20101, 20109)),
    ),
    "right": (
        *((40, 71), (139, 139), (163, 164), (866, 866), (2000, 2035)),
        *((12100, 12175), (20001, 20009)),
    ),
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


def side_of(value: int) -> Side:
    """Return the side of a FreeSurfer label value.

    Args:
        value: Label value.

    Returns:
        `neutral`, `left` or `right`, by the intervals of the original SynthSR and those of
        the parcels of aparc.a2009s.

    Raises:
        ValueError: If the value lies in none of the intervals.

    Examples:
        >>> side_of(2), side_of(41), side_of(16)
        ('left', 'right', 'neutral')
    """
    for side, ranges in _FREESURFER_RANGES.items():
        if any(low <= value <= high for low, high in ranges):
            return side
    raise SynthSRError(
        f"value must be a FreeSurfer label with a known side, got {value}. "
        "Use a .tsv label table, where every label states its side."
    )


def valid_rows(rows: Iterable[LabelRow], *, sort: bool) -> tuple[LabelRow, ...]:
    """Return rows as a label table keeps them: checked, and in FreeSurfer order if asked."""
    valid = [valid_row(row) for row in rows]
    if sort:
        valid.sort(key=lambda row: (SIDES.index(row.side), row.value))
    if not valid:
        raise SynthSRError("label table must have at least one row, got none. Add a row per label.")
    numbers = Counter(row.value for row in valid)
    repeated = [value for value, number in numbers.items() if number > 1]
    if repeated:
        raise SynthSRError(
            f"each value must occur once, got {listed(repeated)} repeatedly. Remove the repeats."
        )
    classes = sorted({row.label_class for row in valid})
    if classes != list(range(len(classes))):
        raise SynthSRError(
            f"classes must be 0, 1, ..., K-1 with none left out, got {listed(classes)}. "
            "Renumber them without gaps."
        )
    return tuple(valid)


def valid_row(row: LabelRow) -> LabelRow:
    """Return the row with plain Python cells, or say which cell is wrong."""
    value, name, side, label_class, tissue = row
    if not 0 <= value <= MAX_VALUE:
        raise SynthSRError(
            f"value must be between 0 and {MAX_VALUE}, got {value}. Renumber the label."
        )
    if not name.strip() or name.splitlines() != [name] or "\t" in name:
        raise SynthSRError(
            f"name must be one line of text without tabs, got {name!r} (value {value})."
        )
    check_choice("side", side, SIDES)
    check_choice("tissue", tissue, TISSUES)
    return LabelRow(int(value), name, side, int(label_class), tissue)


# Partners and classes -----------------------------------------------------------------------------


def partners(rows: Sequence[LabelRow]) -> list[tuple[int, int]]:
    """Pair left and right values by rank; no pairs if only one side is present."""
    left = sorted(row.value for row in rows if row.side == "left")
    right = sorted(row.value for row in rows if row.side == "right")
    if left and right and len(left) != len(right):
        raise SynthSRError(
            "numbers of left and right labels must be equal to pair them, "
            f"got {len(left)} left ({listed(left)}) and {len(right)} right "
            f"({listed(right)}). Add the missing labels, or make them neutral."
        )
    return list(zip(left, right, strict=False))


def share_classes(rows: Sequence[LabelRow]) -> tuple[LabelRow, ...]:
    """Return the rows with one class per label, partners sharing theirs."""
    first_partner = {right: left for left, right in partners(rows)}
    owners = [first_partner.get(row.value, row.value) for row in rows]
    return _with_classes(rows, owners, order=dict.fromkeys(owners))


def close_gaps(rows: Sequence[LabelRow]) -> tuple[LabelRow, ...]:
    """Return the rows with their classes renumbered 0, 1, ..., in the same order."""
    owners = [row.label_class for row in rows]
    return _with_classes(rows, owners, order=sorted(set(owners)))


def _with_classes(
    rows: Sequence[LabelRow], owners: Sequence[int], order: Iterable[int]
) -> tuple[LabelRow, ...]:
    """Give each row the rank of its owner in an order as its class."""
    rank = {owner: k for k, owner in enumerate(order)}
    pairs = zip(rows, owners, strict=True)
    return tuple(row._replace(label_class=rank[owner]) for row, owner in pairs)


def name_classes(rows: Sequence[LabelRow]) -> tuple[str, ...]:
    """Name each class by its labels or their tissues, with its number where names repeat."""
    numbers = range(max(row.label_class for row in rows) + 1)
    names = [_class_name([row for row in rows if row.label_class == k]) for k in numbers]
    times = Counter(names)
    return tuple(n if times[n] == 1 else f"{n} (class {k})" for k, n in enumerate(names))


def _class_name(rows: Sequence[LabelRow]) -> str:
    """Name a class by its labels if they have at most two names, else by their tissues."""
    names = list(dict.fromkeys(row.name.removeprefix(f"{row.side} ") for row in rows))
    if len(names) <= 2:
        return " + ".join(names)
    tissues = Counter(row.tissue.replace("_", " ") for row in rows)
    return " + ".join(tissue for tissue, _ in tissues.most_common())
