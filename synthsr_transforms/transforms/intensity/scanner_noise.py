"""Gaussian or Rician noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from synthsr_transforms.distributions import DistributionSpec, as_distribution
from synthsr_transforms.functional.intensity import add_noise
from synthsr_transforms.seeds import normal_field, sample_seeds
from synthsr_transforms.transforms.arguments import probability
from synthsr_transforms.transforms.base import Grid, Params
from synthsr_transforms.transforms.kinds import SynthIntensityTransform
from synthsr_transforms.transforms.random_fields import field_from_params


class ScannerNoise(SynthIntensityTransform):
    """Add noise to every voxel, each element from a seed of its own.

    Noise of a coarser acquisition belongs between sampling and interpolation: see
    `SliceAcquisition`.

    Args:
        std: Distribution of the standard deviation of each channel, in the unit of the image.
        rician_probability: Probability that the noise of an element is Rician, not Gaussian.
        **kwargs: See `SynthIntensityTransform`.

    Examples:
        >>> import torch
        >>> ScannerNoise(std=(0, 0.1))(torch.rand(1, 4, 4, 4)).shape
        torch.Size([1, 4, 4, 4])
    """

    def __init__(
        self, *, std: DistributionSpec = 0.0, rician_probability: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.std = as_distribution(std, name="std", minimum=0)
        self.rician_probability = probability(rician_probability, "rician_probability")

    def sample_image_params(self, grid: Grid, generator: Generator | None) -> Params:
        """Sample widths, kinds and seeds."""
        coins = torch.rand(grid.batch_size, generator=generator)
        return {
            "std": self.std.sample((grid.batch_size, grid.channels), generator),
            "rician": coins < self.rician_probability,
            "noise_seed": sample_seeds(grid.batch_size, generator),
        }

    def apply_to_image(self, image: Tensor, params: Params, grid: Grid) -> Tensor:
        """Add the noise."""
        noise = field_from_params(params, "noise", tuple(image.shape[1:]), image.device)
        elements = []
        for b, rician in enumerate(params["rician"].tolist()):
            one, own = image[b : b + 1], noise[b : b + 1]
            if rician:
                imaginary = normal_field(
                    params["noise_seed"][b : b + 1] + 1, one.shape[1:], one.device
                )
                own = torch.cat([own, imaginary], dim=1)
            elements.append(add_noise(one, own, params["std"][b : b + 1], rician=rician))
        return torch.cat(elements)
