"""Label maps as tensors: whole numbers, sets of labels, and numbers per label."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from synthsr_transforms.functional.cache import cached
from synthsr_transforms.functional.mixture import look_up
from synthsr_transforms.labels.table import LabelTable


def whole_labels(labels: Tensor) -> Tensor:
    """Labels as whole numbers, `(B, 1, X, Y, Z)`; floating-point maps are rounded."""
    first = labels[:, :1]
    return first.round().int() if first.is_floating_point() else first.int()


class LabelSet:
    """A set of label values, and where a label map holds them.

    Args:
        values: The label values, from 0 on.

    Examples:
        >>> LabelSet([2, 41]).mask(torch.tensor([0, 2, 99]).reshape(1, 1, 3, 1, 1)).flatten()
        tensor([0., 1., 0.])
    """

    def __init__(self, values: Iterable[int]) -> None:
        self._values = tuple(values)

    @classmethod
    def of_tissues(cls, table: LabelTable, tissues: Iterable[str]) -> LabelSet:
        """All labels of some tissues, see `labels.TISSUES`."""
        return cls(value for tissue in tissues for value in table.values_of(tissue))

    def mask(self, labels: Tensor) -> Tensor:
        """1 where a label is in the set, else 0, `(B, 1, X, Y, Z)` float32."""
        return look_up(whole_labels(labels), self.table(labels.device))

    def table(self, device: torch.device) -> Tensor:
        """1 for each value in the set, else 0, `(1, 1, V)`, for `functional.mixture.look_up`."""
        return _table_of(self._values, device)


@cached(64)
def _table_of(values: tuple[int, ...], device: torch.device) -> Tensor:
    """1 for each of some values, else 0, `(1, 1, V)`; the last entry is for all larger values."""
    table = torch.zeros(max(values, default=0) + 2)
    table[list(values)] = 1
    return table.to(device, non_blocking=True)[None, None]


class ValueIndex:
    """Place of each label value in the rows or classes of a table.

    Args:
        lookup: `(V,)` index for each value, -1 for unknown values.
    """

    def __init__(self, lookup: Tensor) -> None:
        lookup = torch.cat([lookup, torch.tensor([-1])])
        self._index, self.known = lookup.clamp(min=0), lookup >= 0
        self._weight = self.known.float()

    def spread(self, numbers: Tensor) -> Tensor:
        """Numbers per row or class, `(..., K)`, as numbers per value, `(..., V + 1)`.

        Unknown values read 0; the last entry stands for all values above the table.
        """
        spread = numbers.numpy().take(self._index.numpy(), -1)  # quicker than torch
        spread *= self._weight.numpy()
        return torch.from_numpy(spread)
