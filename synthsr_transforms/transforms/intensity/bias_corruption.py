"""Smooth multiplicative bias field."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from synthsr_transforms.distributions import DistributionSpec, as_distribution
from synthsr_transforms.functional.fields import bias_field, coarse_shape
from synthsr_transforms.seeds import sample_seeds
from synthsr_transforms.transforms.arguments import grid_ratio
from synthsr_transforms.transforms.arguments import probability as checked_probability
from synthsr_transforms.transforms.base import Grid, Params
from synthsr_transforms.transforms.kinds import SynthIntensityTransform
from synthsr_transforms.transforms.random_fields import field_from_params


class BiasCorruption(SynthIntensityTransform):
    """Multiply by the exponential of a smooth field, as an inhomogeneous receive coil does.

    The logarithm of the field is drawn on a coarse grid, with a width of its own for each element
    and channel, and resized linearly (Billot et al., MIDL 2020).

    Args:
        std: Distribution of the standard deviation of the logarithm (ratio).
        shape_factor: Ratio of coarse grid points to voxels along an axis.
        probability: Probability that a channel has a field at all.
        **kwargs: See `SynthIntensityTransform`.

    Examples:
        >>> import torch
        >>> BiasCorruption(std=(0, 0.5))(torch.ones(1, 8, 8, 8)).shape
        torch.Size([1, 8, 8, 8])
    """

    def __init__(
        self,
        *,
        std: DistributionSpec = 0.0,
        shape_factor: float = 0.025,
        probability: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.std = as_distribution(std, name="std", minimum=0)
        self.shape_factor = grid_ratio(shape_factor, "shape_factor")
        self.probability = checked_probability(probability, "probability")

    def sample_image_params(self, grid: Grid, generator: Generator | None) -> Params:
        """Sample widths, 0 where a channel has no field, and the seed of the coarse grid."""
        size = (grid.batch_size, grid.channels)
        std = self.std.sample(size, generator)
        applied = torch.rand(size, generator=generator) < self.probability
        return {"std": std * applied, "log_field_seed": sample_seeds(grid.batch_size, generator)}

    def apply_to_image(self, image: Tensor, params: Params, grid: Grid) -> Tensor:
        """Multiply by the field, which is drawn on the CPU and the same on every device."""
        shape = (image.shape[1], *coarse_shape(grid.shape, self.shape_factor))
        coarse = field_from_params(params, "log_field", shape, "cpu")
        if "log_field" not in params:
            coarse = coarse * params["std"][:, :, None, None, None]
        return image * bias_field(coarse.to(image.device, non_blocking=True), grid.shape)
