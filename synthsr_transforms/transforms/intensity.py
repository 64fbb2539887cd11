"""Changes of intensity: contrast, range, blur, bias and noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torchio.data.batch import SubjectsBatch

from synthsr_transforms.distributions import DistributionSpec, as_distribution
from synthsr_transforms.functional.blur import gaussian_blur
from synthsr_transforms.functional.fields import bias_field, coarse_shape
from synthsr_transforms.functional.intensity import add_noise, gamma_contrast, min_max
from synthsr_transforms.seeds import normal_field, sample_seeds

from .base import Grid, Params
from .common.arguments import blur_boundary, grid_ratio, positive
from .common.arguments import probability as checked_probability
from .common.images import has_coil
from .common.random_fields import field_from_params
from .kinds import SynthIntensityTransform
from .prepared import Prepared


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

    def compute_image(self, image: Tensor, prepared: Prepared) -> Tensor:
        """Apply the power law."""
        return gamma_contrast(image, prepared["log_gamma"])


class MinMaxRescale(SynthIntensityTransform):
    """Clip, then map intensities linearly to 0..1, each element and channel by itself.

    Args:
        clip: Pair of bounds to clip to first; None does not clip.
        input_range: Pair of intensities that become 0 and 1; None takes the smallest and the
            largest of the image.
        **kwargs: See `SynthIntensityTransform`.

    Examples:
        >>> import torch
        >>> MinMaxRescale()(torch.tensor([2.0, 4.0]).reshape(1, 2, 1, 1)).flatten().tolist()
        [0.0, 1.0]
    """

    def __init__(
        self,
        *,
        clip: Sequence[float] | None = None,
        input_range: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.clip = _bounds(clip, "clip")
        self.input_range = _bounds(input_range, "input_range")

    def compute_image(self, image: Tensor, prepared: Prepared) -> Tensor:
        """Clip and rescale."""
        if self.input_range is None:
            return min_max(image, clip=self.clip)
        if self.clip is not None:
            image = image.clamp(*self.clip)
        low, high = self.input_range
        return (image - low if low else image) / (high - low)


def _bounds(pair: Sequence[float] | None, name: str) -> tuple[float, float] | None:
    if pair is None:
        return None
    if len(pair) != 2 or not pair[0] < pair[1]:
        raise ValueError(f"{name} must be a pair of increasing numbers, got {pair!r}.")
    return float(pair[0]), float(pair[1])


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
            first: Params = {}
            for name, value in params.items():
                own = first.setdefault(name.rsplit(".", 1)[1], value[:, :1, :1])
                params[name] = own.expand_as(value)
        return params

    def sample_image_params(self, grid: Grid, generator: Generator | None) -> Params:
        """Sample widths and factors."""
        size = (grid.batch_size, grid.channels, 3)
        return {
            "sigma_mm": self.sigma_mm.sample(size, generator),
            "multiplier": self.multiplier.sample(size, generator),
        }

    def prepare_image(self, params: Params, grid: Grid, device: torch.device) -> Prepared:
        """Widths of the Gaussian and of its window, in voxels."""
        spacing = grid.spacing_mm.numpy().astype(np.float32)[:, None, :]
        window = drawn = params["sigma_mm"].numpy() / spacing  # quicker than torch
        if self.max_sigma_mm is not None:
            window = np.full_like(drawn, self.max_sigma_mm) / spacing
        sigma = drawn * params["multiplier"].numpy()
        return {"sigma": torch.from_numpy(sigma), "window": torch.from_numpy(window)}

    def compute_image(self, image: Tensor, prepared: Prepared) -> Tensor:
        """Blur."""
        return gaussian_blur(
            image,
            prepared["sigma"],
            window_sigma=prepared["window"],
            truncate=self.truncate,
            boundary=self.boundary,
        )

    def repeats(self) -> bool:
        """Unless the size of the window matters, which only the host can tell."""
        return super().repeats() and self.boundary != "zero"


class BiasCorruption(SynthIntensityTransform):
    """Multiply by the exponential of a smooth field, as an inhomogeneous receive coil does.

    The logarithm of the field is drawn on a coarse grid, with a width of its own for each element
    and channel, and resized linearly (Billot et al., MIDL 2020). Images that `TissueContrast` made
    without a coil stay as they are.

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

    def sample_params(self, batch: SubjectsBatch, generator: Generator | None) -> Params:
        """Sample for each image in turn, with widths of 0 where no coil made it."""
        params = super().sample_params(batch, generator)
        for name in self.images(batch):
            coil = has_coil(batch, name)
            if not all(coil):
                params[f"{name}.std"] *= torch.tensor(coil)[:, None]
        return params

    def sample_image_params(self, grid: Grid, generator: Generator | None) -> Params:
        """Sample widths, 0 where a channel has no field, and the seed of the coarse grid."""
        size = (grid.batch_size, grid.channels)
        std = self.std.sample(size, generator)
        applied = torch.rand(size, generator=generator) < self.probability
        return {"std": std * applied, "log_field_seed": sample_seeds(grid.batch_size, generator)}

    def neutral(self, params: Params, keep: Tensor) -> Params | None:
        """Widths of 0; None where the fields themselves are given."""
        if any(name.endswith("log_field") for name in params):
            return None
        return _without_std(params, keep)

    def prepare_image(self, params: Params, grid: Grid, device: torch.device) -> Prepared:
        """The coarse field, which is drawn on the CPU and the same on every device."""
        shape = (grid.channels, *coarse_shape(grid.shape, self.shape_factor))
        coarse = field_from_params(params, "log_field", shape, "cpu")
        if "log_field" not in params:
            std = params["std"].numpy()[:, :, None, None, None]
            coarse = torch.from_numpy(coarse.numpy() * std)  # quicker than torch
        return {"coarse": coarse}

    def compute_image(self, image: Tensor, prepared: Prepared) -> Tensor:
        """Multiply by the field."""
        return image * bias_field(prepared["coarse"], image.shape[2:])


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
        self.rician_probability = checked_probability(rician_probability, "rician_probability")

    def sample_image_params(self, grid: Grid, generator: Generator | None) -> Params:
        """Sample widths, kinds and seeds."""
        coins = torch.rand(grid.batch_size, generator=generator)
        return {
            "std": self.std.sample((grid.batch_size, grid.channels), generator),
            "rician": coins < self.rician_probability,
            "noise_seed": sample_seeds(grid.batch_size, generator),
        }

    def neutral(self, params: Params, keep: Tensor) -> Params:
        """Noise of width 0."""
        return _without_std(params, keep)

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


def _without_std(params: Params, keep: Tensor) -> Params:
    """Parameters whose standard deviations are 0 in elements that were not chosen."""
    return {k: v * keep[:, None] if k.endswith(".std") else v for k, v in params.items()}
