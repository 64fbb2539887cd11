"""A box of voxels to be painted, and its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from .individuals import WARP_MARGIN_MM, Person
from .lattice import HEAD_CENTRE_MM, Fields
from .organs import Label


@dataclass(frozen=True)
class Brick:
    """A box of voxels of one side of the head, to be painted."""

    axes: tuple[Tensor, ...]
    """World positions: `|x|`, y and z, each ascending."""
    fields: Fields
    labels: Tensor
    side: int
    person: Person

    def put(self, where: Tensor, label: Label) -> None:
        """Give these voxels a label."""
        self.labels[where] = label[self.side]

    def has(self, labels: Sequence[Label]) -> Tensor:
        """Which voxels have one of these labels."""
        return reduce(torch.logical_or, (self.labels == label[self.side] for label in labels))

    def crop(self, low_mm: Sequence[float], high_mm: Sequence[float]) -> Brick | None:
        """The part of the brick that can meet a box of head space: a view, or `None`."""
        slices = []
        bounds = zip(self.axes, HEAD_CENTRE_MM, self.person.scale, low_mm, high_mm, strict=True)
        for a, centre, scale, low, high in bounds:
            ends = torch.tensor([low - WARP_MARGIN_MM, high + WARP_MARGIN_MM]) * scale - centre
            first, stop = torch.searchsorted(a, ends).tolist()
            if first == stop:
                return None
            slices.append(slice(first, stop))
        part = tuple(slices)
        return Brick(
            axes=tuple(a[s] for a, s in zip(self.axes, slices, strict=True)),
            fields=Fields(*(f[part] for f in self.fields)),
            labels=self.labels[part],
            side=self.side,
            person=self.person,
        )
