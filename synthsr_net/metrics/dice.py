"""Dice coefficients of segmentations, as a torchmetrics metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class DiceMetrics(Metric):
    """Dice coefficient of each structure, mean over the volumes that have it, found or true.

    The first structure is the background, which is not measured.

    Args:
        names: Names of the structures, in the order of the masks.
        **kwargs: See `torchmetrics.Metric`.

    References:
        Dice, Measures of the amount of ecologic association between species, Ecology 26:297 (1945).

    Examples:
        >>> metrics = DiceMetrics(["background", "left", "right"])
        >>> found = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]).bool()
        >>> truth = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]).bool()
        >>> metrics.update(found[None, :, :, None, None], truth[None, :, :, None, None])
        >>> {name: round(value, 3) for name, value in metrics.compute().items()}
        {'dice/mean': 0.667, 'dice/left': 0.667}
    """

    is_differentiable = False
    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self, names: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names = list(names)
        for state in ("sums", "counts"):
            self.add_state(state, torch.zeros(len(self.names)), dist_reduce_fx="sum")

    def update(self, found: Tensor, truth: Tensor) -> None:
        """Add a batch.

        Args:
            found: Masks `(B, K, X, Y, Z)`, bool.
            truth: Likewise.
        """
        space = (-3, -2, -1)
        both, size = (found & truth).sum(space), found.sum(space) + truth.sum(space)
        self.sums += torch.where(size > 0, 2 * both / size, 0.0).sum(0)
        self.counts += (size > 0).sum(0)

    def compute(self) -> dict[str, float]:
        """Coefficients by name, `dice/NAME`, of structures that occurred, and `dice/mean`."""
        means = dict(zip(self.names[1:], (self.sums / self.counts)[1:].tolist(), strict=True))
        known = {f"dice/{name}": value for name, value in means.items() if value == value}
        return {"dice/mean": sum(known.values()) / max(len(known), 1), **known}
