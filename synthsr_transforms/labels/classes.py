"""Partners and classes: which rows of a label table belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from synthsr_transforms.support.messages import listed

from .rows import LabelRow


def partners(rows: Sequence[LabelRow]) -> list[tuple[int, int]]:
    """Pair left and right values by rank; no pairs if only one side is present."""
    left = sorted(row.value for row in rows if row.side == "left")
    right = sorted(row.value for row in rows if row.side == "right")
    if left and right and len(left) != len(right):
        msg = (
            "numbers of left and right labels must be equal to pair them, "
            f"got {len(left)} left ({listed(left)}) and {len(right)} right "
            f"({listed(right)}). Add the missing labels, or make them neutral."
        )
        raise ValueError(msg)
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
