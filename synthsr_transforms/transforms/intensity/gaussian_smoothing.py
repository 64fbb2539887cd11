"""Gaussian blur, fixed or random."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor
from torchio.data.batch import SubjectsBatch

from synthsr_transforms.distributions import DistributionSpec, as_distribution
from synthsr_transforms.functional.blur import gaussian_blur
from synthsr_transforms.transforms.arguments import blur_boundary, positive
from synthsr_transforms.transforms.base import Grid, Params
from synthsr_transforms.transforms.kinds import SynthIntensityTransform


class GaussianSmoothing(SynthIntensityTransform):
    """Blur with a Gaussian whose width is drawn for each element, channel and axis.

    Args:
        sigma_mm: Distribution of the standard deviation along each axis, in mm.
        multiplier: Distribution of a factor on each width, drawn after the window size is set,
            which is how the original varies its blur.
        max_sigma_mm: Width that sets the window size, in mm; None takes `sigma_mm` as drawn.
        truncate: Half width of the window in standard deviations; the original has 1.25.
        boundary: `"renormalise"`, or `"zero"` as in the original (borders darken).
        shared: Draw one width for all axes, channels and images of an element, as if the tissues
            themselves had soft borders, instead of one for each.
        **kwargs: See `SynthIntensityTransform`.

    Examples:
        >>> import torch
        >>> GaussianSmoothing(sigma_mm=(0, 2))(torch.rand(1, 8, 8, 8)).shape
        torch.Size([1, 8, 8, 8])
    """

    def __init__(
        self,
        *,
        sigma_mm: DistributionSpec = 0.0,
        multiplier: DistributionSpec = 1.0,
        max_sigma_mm: float | None = None,
        truncate: float = 3.0,
        boundary: str = "renormalise",
        shared: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sigma_mm = as_distribution(sigma_mm, name="sigma_mm", minimum=0)
        self.multiplier = as_distribution(multiplier, name="multiplier", minimum=0)
        self.max_sigma_mm = None if max_sigma_mm is None else positive(max_sigma_mm, "max_sigma_mm")
        self.truncate = positive(truncate, "truncate")
        self.boundary = blur_boundary(boundary)
        self.shared = bool(shared)

    def sample_params(self, batch: SubjectsBatch, generator: Generator | None) -> Params:
        """Sample for each image in turn; shared widths are those of the first."""
        params = super().sample_params(batch, generator)
        if self.shared:
            first = {name.rsplit(".", 1)[1]: value for name, value in reversed(params.items())}
            for name, value in params.items():
                own = first[name.rsplit(".", 1)[1]][:, :1, :1]
                params[name] = own.expand_as(value).clone()
        return params

    def sample_image_params(self, grid: Grid, generator: Generator | None) -> Params:
        """Sample widths and factors."""
        size = (grid.batch_size, grid.channels, 3)
        return {
            "sigma_mm": self.sigma_mm.sample(size, generator),
            "multiplier": self.multiplier.sample(size, generator),
        }

    def apply_to_image(self, image: Tensor, params: Params, grid: Grid) -> Tensor:
        """Blur."""
        spacing = grid.spacing_mm[:, None, :].float()
        drawn = params["sigma_mm"] / spacing
        window = drawn
        if self.max_sigma_mm is not None:
            window = torch.full_like(drawn, self.max_sigma_mm) / spacing
        return gaussian_blur(
            image,
            drawn * params["multiplier"],
            window_sigma=window,
            truncate=self.truncate,
            boundary=self.boundary,
        )
