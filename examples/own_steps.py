"""A transform and a loss of your own, for `synthsr generate` and `synthsr train`.

Usage: synthsr train CONFIG.yaml --import examples/own_steps.py ...

where CONFIG.yaml has `name: GibbsRinging` among its steps, or `loss: {name: CharbonnierLoss}` in
its section `training`. docs/own_steps.md explains both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from synthsr_net.losses import ImageLoss
from synthsr_transforms.distributions import DistributionSpec, as_distribution
from synthsr_transforms.transforms.base import Grid, Params
from synthsr_transforms.transforms.kinds import SynthIntensityTransform


class GibbsRinging(SynthIntensityTransform):
    """Ringing at edges, as of a scan whose k-space was cut off and filled up with zeros.

    Args:
        kept: Distribution of the ratio of k-space that stays along each axis, in (0, 1].
        **kwargs: See `SynthIntensityTransform`.
    """

    def __init__(self, *, kept: DistributionSpec = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kept = as_distribution(kept, name="kept")

    def sample_image_params(self, grid: Grid, generator: Generator | None) -> Params:
        """Sample three ratios for each element and channel."""
        return {"kept": self.kept.sample((grid.batch_size, grid.channels, 3), generator)}

    def apply_to_image(self, image: Tensor, params: Params, grid: Grid) -> Tensor:
        """Remove the high frequencies along one axis after the other."""
        kept = params["kept"].to(image)
        for axis in (-3, -2, -1):
            size = image.shape[axis]
            frequencies = torch.fft.rfftfreq(size, d=0.5, device=image.device)  # 1: the highest
            passes = frequencies <= kept[..., axis, None]
            shape = [*kept.shape[:2], 1, 1, 1]
            shape[axis] = len(frequencies)
            spectrum = torch.fft.rfft(image, dim=axis) * passes.reshape(shape)
            image = torch.fft.irfft(spectrum, n=size, dim=axis)
        return image


class CharbonnierLoss(ImageLoss):
    """Mean of sqrt(difference^2 + width^2) - width: quadratic near 0, absolute far from it.

    Args:
        width: Difference at which one becomes the other.
    """

    def __init__(self, width: float = 0.01) -> None:
        super().__init__()
        self.width = width

    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compare tensors of one shape."""
        square = (prediction - target).square()
        return ((square + self.width**2).sqrt() - self.width).mean()
