"""Random power law."""

from __future__ import annotations

from typing import Any

from torch import Generator, Tensor

from ..base import Draws, Grid
from ..effects import IntensityEffect
from ..functional.intensity import gamma_contrast
from ..laws import LawSpec, law


class GammaContrast(IntensityEffect):
    r"""Change contrast by \(x^{\exp(g)}\), each element and channel with its own g.

    Images should lie within 0 and 1 (see `MinMaxRescale`), which the power law keeps.

    Args:
        log_gamma: Law of g; SynthSR uses `{normal: [0, 0.5]}`.
        **kwargs: See `IntensityEffect`.

    Examples:
        >>> import torch
        >>> GammaContrast(log_gamma=(-0.5, 0.5))(torch.rand(2, 4, 4, 4)).shape
        torch.Size([2, 4, 4, 4])
    """

    def __init__(self, *, log_gamma: LawSpec = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.log_gamma = law(log_gamma, name="log_gamma")

    def draw_for(self, grid: Grid, generator: Generator | None) -> Draws:
        """Draw the logarithms of the exponents."""
        return {"log_gamma": self.log_gamma.sample((grid.batch_size, grid.channels), generator)}

    def act_on(self, image: Tensor, draws: Draws, grid: Grid) -> Tensor:
        """Apply the power law."""
        return gamma_contrast(image, draws["log_gamma"])
