"""Gaussian or Rician noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from ..base import Draws, Grid
from ..effects import IntensityEffect, field_from
from ..functional.intensity import add_noise
from ..laws import LawSpec, law
from ..randomness import draw_seeds, normal_field
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
        noise = field_from(draws, "noise", tuple(image.shape[1:]), image.device)
        elements = []
        for b, rician in enumerate(draws["rician"].tolist()):
            one, own = image[b : b + 1], noise[b : b + 1]
            if rician:
                imaginary = normal_field(
                    draws["noise_seed"][b : b + 1] + 1, one.shape[1:], one.device
                )
                own = torch.cat([own, imaginary], dim=1)
            elements.append(add_noise(one, own, draws["std"][b : b + 1], rician=rician))
        return torch.cat(elements)
