"""Acquisition in slices: thickness, spacing, noise, and interpolation back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor
from torchio.data.batch import SubjectsBatch

from synthsr_transforms.distributions import DistributionSpec, as_distribution
from synthsr_transforms.functional.acquisition import (
    ALIGNMENTS,
    SlicePlan,
    acquire_slices,
    plan_slices,
    thousandths,
)
from synthsr_transforms.functional.blur import acquisition_sigma
from synthsr_transforms.functional.intensity import add_noise
from synthsr_transforms.seeds import normal_field, sample_seeds
from synthsr_transforms.support.messages import check_choice
from synthsr_transforms.transforms.arguments import (
    blur_boundary,
    optional_triple,
    positive,
    positive_distribution,
    probability,
    sample_axes,
)
from synthsr_transforms.transforms.base import Grid, Params, SynthTransform, grid_of
from synthsr_transforms.transforms.images import (
    ACQUISITION_SPACING,
    ACQUISITION_THICKNESS,
    SLICES,
    float_dtype,
    named_image,
    noted_output_shape,
    rescale_affines,
)


class SliceAcquisition(SynthTransform):
    """Simulate a scan with thick or sparse slices, interpolated back to the fine grid.

    Each channel is blurred by the slice profile, sampled at the acquired spacing, given the noise
    of the scanner, and interpolated linearly to the output grid. What was acquired is kept in the
    metadata of the subject (`slices`), where `ReliabilityMap` finds it.

    Args:
        spacing_mm: Distribution of the distance between slice centres along each axis, in mm, a
            triple, or one triple per channel. None reads what `AcquisitionResolution` drew.
        thickness_mm: Distribution of the slice thickness, likewise. None means the spacing, or what
            `AcquisitionResolution` drew.
        blur_multiplier: Distribution of a factor on the width of the slice profile, per axis.
        blur_coefficient: Standard deviation of the profile per mm of thickness; 0.42 makes its
            full width at half maximum about the thickness.
        max_spacing_mm: Spacing that sets the size of the kernel window, in mm, one number or
            three; None sets it from the width itself. (The original with random resolution: 9.)
        truncate: Half width of the window in standard deviations; the original has 1.25.
        boundary: `"renormalise"`, or `"zero"` as in the original (borders darken).
        alignment: Where slices lie, see `functional.acquisition.SlicePlan`; the original has
            `"corner"` for a fixed and `"corner_open"` for a random resolution.
        downsample: Whether slices are sampled at all, or the channel only blurred; one value or
            one per channel.
        noise_std: Distribution of the noise of a slice, in the unit of the image, per channel.
        rician_probability: Probability that the noise of an element is Rician, not Gaussian.
        output_shape: Three sizes of the output; None means those that `PatchCrop` noted, or those
            of the image.
        image: Name of the image.
        **kwargs: See `SynthTransform`.

    Examples:
        >>> import torch
        >>> thick = SliceAcquisition(spacing_mm=(1, 1, 5), thickness_mm=(1, 1, 4))
        >>> thick(torch.rand(1, 16, 16, 16)).shape
        torch.Size([1, 16, 16, 16])
    """

    preserves_layout = False

    def __init__(  # noqa: PLR0913 - each is one physical property of the acquisition
        self,
        *,
        spacing_mm: DistributionSpec | None = None,
        thickness_mm: DistributionSpec | None = None,
        blur_multiplier: DistributionSpec = 1.0,
        blur_coefficient: float = 0.42,
        max_spacing_mm: float | Sequence[float] | None = None,
        truncate: float = 2.0,
        boundary: str = "renormalise",
        alignment: str = "centre",
        downsample: bool | Sequence[bool] = True,
        noise_std: DistributionSpec = 0.0,
        rician_probability: float = 0.0,
        output_shape: int | Sequence[int] | None = None,
        image: str = "image",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.spacing_mm = positive_distribution(spacing_mm, "spacing_mm")
        self.thickness_mm = positive_distribution(thickness_mm, "thickness_mm")
        self.blur_multiplier = as_distribution(blur_multiplier, name="blur_multiplier", minimum=0)
        self.blur_coefficient = positive(blur_coefficient, "blur_coefficient")
        self.max_spacing_mm = optional_triple(max_spacing_mm, "max_spacing_mm", float)
        self.truncate, self.boundary = positive(truncate, "truncate"), blur_boundary(boundary)
        self.alignment = check_choice("alignment", alignment, ALIGNMENTS)
        self.downsample = downsample if isinstance(downsample, bool) else list(downsample)
        self.noise_std = as_distribution(noise_std, name="noise_std", minimum=0)
        self.rician_probability = probability(rician_probability, "rician_probability")
        self.output_shape = optional_triple(output_shape, "output_shape", int)
        self.image = image

    def sample_params(self, batch: SubjectsBatch, generator: Generator | None) -> Params:
        """Sample what the metadata of the subject do not give."""
        grid = grid_of(named_image(batch, self.image))
        size = (grid.batch_size, grid.channels)
        params = {"blur_multiplier": self.blur_multiplier.sample((*size, 3), generator)}
        for name, chosen in (("spacing_mm", self.spacing_mm), ("thickness_mm", self.thickness_mm)):
            if chosen is not None:
                params[name] = sample_axes(chosen, name, size, generator)
        params["noise_std"] = self.noise_std.sample(size, generator)
        params["noise_seed"] = sample_seeds(grid.batch_size, generator)
        coins = torch.rand(grid.batch_size, generator=generator)
        params["rician"] = coins < self.rician_probability
        return params

    def apply_params(self, batch: SubjectsBatch, params: Params) -> None:
        """Acquire, and note the plan of the slices."""
        image = named_image(batch, self.image)
        grid = grid_of(image)
        spacing, thickness = self._resolution(batch, params)
        plan = self._plan(grid, spacing)
        fine = grid.spacing_mm[:, None, :]
        width = acquisition_sigma(fine, spacing, thickness, self.blur_coefficient)
        noisy = partial(_add_slice_noise, params=params, low_shape=plan.low_shape)
        window = width
        if self.max_spacing_mm is not None:
            coarsest = torch.tensor(self.max_spacing_mm, dtype=torch.float64)
            window = (0.75 * coarsest / fine).expand_as(width)
        output = self.output_shape or noted_output_shape(batch) or grid.shape
        image.data = acquire_slices(
            image.data.float(),
            plan,
            width * params["blur_multiplier"],
            output,
            window_sigma=window,
            truncate=self.truncate,
            boundary=self.boundary,
            at_low_resolution=noisy if bool(params["noise_std"].any()) else None,
        ).to(float_dtype(image.data))
        rescale_affines(image, grid.shape, output, centred=self.alignment == "centre")
        batch.metadata[SLICES] = [
            {"low_shape": low, "shape": grid.shape, "spacing_mm": mm, "alignment": self.alignment}
            for low, mm in zip(plan.low_shape.tolist(), spacing.tolist(), strict=True)
        ]

    def _resolution(self, batch: SubjectsBatch, params: Params) -> tuple[Tensor, Tensor]:
        if "spacing_mm" in params:
            spacing = thousandths(params["spacing_mm"])
            return spacing, thousandths(params.get("thickness_mm", spacing))
        if ACQUISITION_SPACING not in batch.metadata:
            raise ValueError(
                "spacing_mm must be given where no resolution was drawn, got None."
                " Give spacing_mm or put AcquisitionResolution before SliceAcquisition."
            )
        spacing, thickness = (
            torch.tensor(batch.metadata[key])
            for key in (ACQUISITION_SPACING, ACQUISITION_THICKNESS)
        )
        return spacing, params.get("thickness_mm", thickness)

    def _plan(self, grid: Grid, spacing: Tensor) -> SlicePlan:
        fine = grid.spacing_mm[:, None, :]
        plan = plan_slices(grid.shape, fine, spacing, self.alignment)
        wanted = torch.tensor(self.downsample).expand(grid.channels)[None, :, None]
        full = torch.tensor(grid.shape).expand_as(plan.low_shape)
        return plan._replace(low_shape=torch.where(wanted, plan.low_shape, full))


def _add_slice_noise(slices: Tensor, params: Params, low_shape: Tensor) -> Tensor:
    """Noise on the acquired samples of each channel, the same whatever else is in the batch."""
    noisy = slices.clone()
    stds, kinds = params["noise_std"].tolist(), params["rician"].tolist()
    for b, (element, rician) in enumerate(zip(noisy, kinds, strict=True)):
        for c, channel in enumerate(element):
            box = tuple(slice(n) for n in low_shape[b, c].tolist())
            acquired = channel[box][None, None]
            seed = params["noise_seed"][b : b + 1] + c
            noise = normal_field(seed, (1 + rician, *acquired.shape[2:]), slices.device)
            acquired.copy_(add_noise(acquired, noise, stds[b][c], rician=rician))
    return noisy
