"""Random power law."""

from __future__ import annotations

from typing import Any

from torch import Generator, Tensor

from synthsr_transforms.distributions import DistributionSpec, as_distribution
from synthsr_transforms.functional.intensity import gamma_contrast
from synthsr_transforms.transforms.base import Grid, Params
from synthsr_transforms.transforms.kinds import SynthIntensityTransform


class GammaContrast(SynthIntensityTransform):
    r"""Change contrast by \(x^{\exp(g)}\), each element and channel with its own g.

    Images should lie within 0 and 1 (see `MinMaxRescale`), which the power law keeps.

    Args:
        log_gamma: Distribution of g; SynthSR uses `{normal: [0, 0.5]}`.
        **kwargs: See `SynthIntensityTransform`.

    Examples:
        >>> import torch
        >>> GammaContrast(log_gamma=(-0.5, 0.5))(torch.rand(2, 4, 4, 4)).shape
        torch.Size([2, 4, 4, 4])
    """

    def __init__(self, *, log_gamma: DistributionSpec = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.log_gamma = as_distribution(log_gamma, name="log_gamma")

    def sample_image_params(self, grid: Grid, generator: Generator | None) -> Params:
        """Sample the logarithms of the exponents."""
        return {"log_gamma": self.log_gamma.sample((grid.batch_size, grid.channels), generator)}

    def apply_to_image(self, image: Tensor, params: Params, grid: Grid) -> Tensor:
        """Apply the power law."""
        return gamma_contrast(image, params["log_gamma"])
