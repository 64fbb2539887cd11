"""Means around each voxel of those voxels that count, such as the head or the brain."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from synthsr_transforms.functional.cache import cached
from synthsr_transforms.functional.operators import along_axes, axis_operator
from synthsr_transforms.functional.resample import centred_coordinates

WIDTH_MM = 10.0
"""Standard deviation of the Gaussian that weights the voxels of a neighbourhood."""
_STEP = 4  # most voxels between the places at which neighbourhoods are measured
_SIGMAS = 0.5  # most standard deviations between them, for they are interpolated
_LEAST_WEIGHT = 1e-3


class Neighbourhoods:
    """Weighted means in Gaussian neighbourhoods, on a coarser grid.

    Args:
        counts: `(X, Y, Z)` bool, voxels that count.
        spacing_mm: Voxel spacing, of all axes or of each.
    """

    def __init__(self, counts: Tensor, spacing_mm: float | Sequence[float]) -> None:
        self.weight = counts.float()
        if isinstance(spacing_mm, (float, int)):
            spacing_mm = [spacing_mm] * 3
        operators = [
            _to_and_from(size, WIDTH_MM / mm, counts.device)
            for size, mm in zip(counts.shape, spacing_mm, strict=True)
        ]
        self._down, self._up = zip(*operators, strict=True)
        self._total = along_axes(self.weight, self._down).clamp(min=_LEAST_WEIGHT)

    def mean(self, volume: Tensor) -> Tensor:
        """Means of the neighbourhoods of a volume `(X, Y, Z)`."""
        return self.mean_of(self.weight * volume)

    def mean_of(self, shown: Tensor) -> Tensor:
        """Means of the neighbourhoods of a volume that is 0 where nothing counts."""
        return along_axes(shown, self._down) / self._total

    def everywhere(self, means: Tensor) -> Tensor:
        """Means interpolated to all voxels."""
        return along_axes(means, self._up)

    def centred(self, volume: Tensor) -> Tensor:
        """A volume minus its mean nearby."""
        return volume - self.everywhere(self.mean(volume))


@cached(16)
def _to_and_from(size: int, sigma: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Axis operators to the places of neighbourhoods, as their Gaussians weight, and back."""
    step = min(max(math.floor(_SIGMAS * sigma), 1), _STEP)
    number = -(-size // step)
    where = centred_coordinates(torch.arange(number), step)
    back = centred_coordinates(torch.arange(size), 1 / step)
    down, up = axis_operator(size, where, sigma), axis_operator(number, back)
    return down.to(device), up.to(device)
