"""Gaussian or Rician noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from ..base import Draws, Grid, IntensityEffect, field_from
from ..functional.intensity import add_noise
from ..laws import LawSpec, law
from ..randomness import draw_seeds
from ._arguments import probability


class ScannerNoise(IntensityEffect):
    """Add noise to every voxel, each element from a seed of its own.

    Noise of a coarser acquisition belongs between sampling and interpolation: see
    `SliceAcquisition`.

    Args:
        std: Law of the standard deviation of each channel, in the unit of the image.
        rician_probability: Probability that the noise of an element is Rician, not Gaussian.
        **kwargs: See `IntensityEffect`.

    Examples:
        >>> import torch
        >>> ScannerNoise(std=(0, 0.1))(torch.rand(1, 4, 4, 4)).shape
        torch.Size([1, 4, 4, 4])
    """

    def __init__(
        self, *, std: LawSpec = 0.0, rician_probability: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.std = law(std, name="std", minimum=0)
        self.rician_probability = probability(rician_probability, "rician_probability")

    def draw_for(self, grid: Grid, generator: Generator | None) -> Draws:
        """Draw widths, kinds and seeds."""
        coins = torch.rand(grid.batch_size, generator=generator)
        return {
            "std": self.std.sample((grid.batch_size, grid.channels), generator),
            "rician": coins < self.rician_probability,
            "noise_seed": draw_seeds(grid.batch_size, generator),
        }

    def act_on(self, image: Tensor, draws: Draws, grid: Grid) -> Tensor:
        """Add the noise."""
        channels = image.shape[1]
        noise = field_from(draws, "noise", (2 * channels, *image.shape[2:]), image.device)
        elements = []
        for b, rician in enumerate(draws["rician"].tolist()):
            own = noise[b : b + 1] if rician else noise[b : b + 1, :channels]
            std = draws["std"][b : b + 1]
            elements.append(add_noise(image[b : b + 1], own, std, rician=rician))
        return torch.cat(elements)
