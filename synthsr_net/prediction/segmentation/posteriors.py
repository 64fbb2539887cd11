"""Probabilities of structures, summed up in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from synthsr_net.inference.slabs import Box

PLANES = 8
"""Planes that are read at a time, so that they stay in the caches of the processor."""


class Summary(NamedTuple):
    """What posteriors of S structures come to.

    Attributes:
        best: `(X, Y, Z)` uint8 or int16: the most probable structure, the first of equal ones.
        certain: `(S,)` float64: sum of the probabilities of a structure where it is that.
        total: `(S,)` float64: sum of all its probabilities.
    """

    best: Tensor
    certain: Tensor
    total: Tensor

    def placed(self, shape: Sequence[int], box: Box, outside: int) -> Summary:
        """The summary of a larger volume that is surely one structure outside a box.

        Args:
            shape: Of the larger volume.
            box: Place of this one.
            outside: Number of that structure.
        """
        best = self.best.new_full(tuple(shape), outside)
        best[box] = self.best
        more = torch.zeros_like(self.total)
        more[outside] = best.numel() - self.best.numel()
        return Summary(best, self.certain + more, self.total + more)


def summary_of(posteriors: Tensor) -> Summary:
    """Sum up posteriors, on their device.

    Args:
        posteriors: `(S, X, Y, Z)` probabilities.

    Examples:
        >>> posteriors = torch.tensor([[0.25, 1.0], [0.75, 0.0]]).view(2, 2, 1, 1)
        >>> best, certain, total = summary_of(posteriors)
        >>> best.flatten().tolist(), certain.tolist(), total.tolist()
        ([1, 0], [1.0, 0.75], [1.25, 0.75])
    """
    count, shape, device = len(posteriors), posteriors.shape[1:], posteriors.device
    number = torch.uint8 if count <= 256 else torch.int16
    best = torch.empty(shape, dtype=number, device=device)
    certain = torch.zeros(count, dtype=torch.float64, device=device)
    total = torch.zeros_like(certain)
    for first in range(0, shape[0], PLANES):
        slab = posteriors[:, first : first + PLANES].float()
        highest, which = slab.max(dim=0)
        best[first : first + PLANES] = which
        certain += torch.bincount(which.flatten(), highest.flatten().double(), minlength=count)
        total += slab.sum(dim=(2, 3)).sum(1, dtype=torch.float64)
    return Summary(best, certain, total)
