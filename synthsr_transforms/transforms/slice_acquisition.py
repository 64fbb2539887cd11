"""Acquisition in slices: thickness, spacing, noise, and interpolation back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor
from torchio.data.batch import ImagesBatch, SubjectsBatch

from ..base import Draws, Grid, SynthTransform, grid_of, set_affines
from ..functional.acquisition import (
    ALIGNMENTS,
    SlicePlan,
    acquire_slices,
    plan_slices,
    thousandths,
)
from ..functional.blur import acquisition_sigma
from ..functional.intensity import add_noise
from ..laws import Law, LawSpec, law
from ..randomness import draw_seeds, normal_field
from ._arguments import optional_triple, positive, probability
from .acquisition_resolution import SPACING, THICKNESS
from .copy_image import named_image
from .gaussian_smoothing import checked_boundary

SLICES = "slices"


class SliceAcquisition(SynthTransform):
    """Simulate a scan with thick or sparse slices, interpolated back to the fine grid.

    Each channel is blurred by the slice profile, sampled at the acquired spacing, given the noise
    of the scanner, and interpolated linearly to the output grid. What was acquired is kept in the
    metadata of the subject (`slices`), where `ReliabilityMap` finds it.

    Args:
        spacing_mm: Law of the distance between slice centres along each axis, in mm, a triple, or
            one triple per channel. None reads what `AcquisitionResolution` drew.
        thickness_mm: Law of the slice thickness, likewise. None means the spacing, or what
            `AcquisitionResolution` drew.
        blur_multiplier: Law of a factor on the width of the slice profile, per axis.
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
        noise_std: Law of the noise of a slice, in the unit of the image, per channel.
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
        spacing_mm: LawSpec | None = None,
        thickness_mm: LawSpec | None = None,
        blur_multiplier: LawSpec = 1.0,
        blur_coefficient: float = 0.42,
        max_spacing_mm: float | Sequence[float] | None = None,
        truncate: float = 2.0,
        boundary: str = "renormalise",
        alignment: str = "centre",
        downsample: bool | Sequence[bool] = True,
        noise_std: LawSpec = 0.0,
        rician_probability: float = 0.0,
        output_shape: int | Sequence[int] | None = None,
        image: str = "image",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.spacing_mm = positive_law(spacing_mm, "spacing_mm")
        self.thickness_mm = positive_law(thickness_mm, "thickness_mm")
        self.blur_multiplier = law(blur_multiplier, name="blur_multiplier", minimum=0)
        self.blur_coefficient = positive(blur_coefficient, "blur_coefficient")
        self.max_spacing_mm = optional_triple(max_spacing_mm, "max_spacing_mm", float)
        self.truncate, self.boundary = positive(truncate, "truncate"), checked_boundary(boundary)
        self.alignment = checked_alignment(alignment)
        self.downsample = downsample if isinstance(downsample, bool) else list(downsample)
        self.noise_std = law(noise_std, name="noise_std", minimum=0)
        self.rician_probability = probability(rician_probability, "rician_probability")
        self.output_shape = optional_triple(output_shape, "output_shape", int)
        self.image = image

    def draw(self, batch: SubjectsBatch, generator: Generator | None) -> Draws:
        """Draw whatever is not given by the subject."""
        grid = grid_of(named_image(batch, self.image))
        size = (grid.batch_size, grid.channels)
        draws = {"blur_multiplier": self.blur_multiplier.sample((*size, 3), generator)}
        for name, chosen in (("spacing_mm", self.spacing_mm), ("thickness_mm", self.thickness_mm)):
            if chosen is not None:
                draws[name] = sample_axes(chosen, name, size, generator)
        draws["noise_std"] = self.noise_std.sample(size, generator)
        draws["noise_seed"] = draw_seeds(grid.batch_size, generator)
        coins = torch.rand(grid.batch_size, generator=generator)
        draws["rician"] = coins < self.rician_probability
        return draws

    def act(self, batch: SubjectsBatch, draws: Draws) -> None:
        """Acquire, and note what was acquired."""
        image = named_image(batch, self.image)
        grid = grid_of(image)
        spacing, thickness = self._resolution(batch, draws)
        plan = self._plan(grid, spacing)
        fine = grid.spacing_mm[:, None, :]
        width = acquisition_sigma(fine, spacing, thickness, self.blur_coefficient)
        window = width
        if self.max_spacing_mm is not None:
            coarsest = torch.tensor(self.max_spacing_mm, dtype=torch.float64)
            window = (0.75 * coarsest / fine).expand_as(width)
        output = self._output_shape(batch, grid)
        image.data = acquire_slices(
            image.data.float(),
            plan,
            width * draws["blur_multiplier"],
            output,
            window_sigma=window,
            truncate=self.truncate,
            boundary=self.boundary,
            at_low_resolution=self._noise(draws, plan),
        ).to(image.data.dtype if image.data.is_floating_point() else torch.float32)
        rescale_affines(image, grid.shape, output, centred=self.alignment == "centre")
        batch.metadata[SLICES] = [
            {"low_shape": low, "shape": grid.shape, "spacing_mm": mm, "alignment": self.alignment}
            for low, mm in zip(plan.low_shape.tolist(), spacing.tolist(), strict=True)
        ]

    def _resolution(self, batch: SubjectsBatch, draws: Draws) -> tuple[Tensor, Tensor]:
        if "spacing_mm" in draws:
            spacing = thousandths(draws["spacing_mm"])
            return spacing, thousandths(draws.get("thickness_mm", spacing))
        if SPACING not in batch.metadata:
            raise ValueError(
                "spacing_mm must be given where no resolution was drawn, got None."
                " Give spacing_mm or put AcquisitionResolution before SliceAcquisition."
            )
        drawn = [torch.tensor(batch.metadata[key]) for key in (SPACING, THICKNESS)]
        return drawn[0], draws.get("thickness_mm", drawn[1])

    def _plan(self, grid: Grid, spacing: Tensor) -> SlicePlan:
        fine = grid.spacing_mm[:, None, :]
        plan = plan_slices(grid.shape, fine, spacing, self.alignment)
        wanted = torch.tensor(self.downsample).expand(grid.channels)[None, :, None]
        full = torch.tensor(grid.shape).expand_as(plan.low_shape)
        return plan._replace(low_shape=torch.where(wanted, plan.low_shape, full))

    def _output_shape(self, batch: SubjectsBatch, grid: Grid) -> tuple[int, int, int]:
        if self.output_shape is not None:
            return self.output_shape
        return noted_output_shape(batch) or grid.shape

    def _noise(self, draws: Draws, plan: SlicePlan) -> Callable[[Tensor], Tensor] | None:
        if not bool(draws["noise_std"].any()):
            return None
        return partial(_add_slice_noise, draws=draws, low_shape=plan.low_shape)


def _add_slice_noise(slices: Tensor, draws: Draws, low_shape: Tensor) -> Tensor:
    """Noise on the acquired samples of each channel, the same whatever else is in the batch."""
    noisy = slices.clone()
    stds, kinds = draws["noise_std"].tolist(), draws["rician"].tolist()
    for b, (element, rician) in enumerate(zip(noisy, kinds, strict=True)):
        for c, channel in enumerate(element):
            box = tuple(slice(n) for n in low_shape[b, c].tolist())
            acquired = channel[box][None, None]
            seed = draws["noise_seed"][b : b + 1] + c
            noise = normal_field(seed, (1 + rician, *acquired.shape[2:]), slices.device)
            acquired.copy_(add_noise(acquired, noise, stds[b][c], rician=rician))
    return noisy


def noted_output_shape(batch: SubjectsBatch) -> tuple[int, int, int] | None:
    """Size on the target grid that `PatchCrop` noted, if it did."""
    noted = batch.metadata.get("output_shape")
    if not noted:
        return None
    x, y, z = (int(n) for n in noted[0])
    return x, y, z


def rescale_affines(
    image: ImagesBatch, before: Sequence[int], after: Sequence[int], *, centred: bool = False
) -> None:
    """Affines of a resized image, whose spacing changes by `before / after`.

    Index 0 stays where it is, or, if `centred`, the field of view does.
    """
    if tuple(before) == tuple(after):
        return
    ratio = torch.tensor([n / m for n, m in zip(before, after, strict=True)], dtype=torch.float64)
    matrices = []
    for affine in image.affines:
        matrix = affine.data.clone()
        if centred:
            matrix[:3, 3] += matrix[:3, :3] @ ((ratio - 1) / 2).to(matrix.device)
        matrix[:3, :3] *= ratio.to(matrix.device)
        matrices.append(matrix)
    set_affines(image, matrices)


def sample_axes(
    chosen: Law, name: str, size: tuple[int, int], generator: Generator | None
) -> Tensor:
    """Draw one number per element, channel and axis, `(B, C, 3)`.

    Raises:
        ValueError: If the law has numbers for another number of channels.
    """
    try:
        return chosen.sample((*size, 3), generator)
    except ValueError:
        raise ValueError(
            f"{name} must be given for each of the {size[1]} channels of the image,"
            f" got {chosen.to_spec()!r}. Give one triple, or one per channel."
        ) from None


def checked_alignment(alignment: str) -> str:
    """Refuse an alignment that does not exist."""
    if alignment not in ALIGNMENTS:
        raise ValueError(f"alignment must be one of {ALIGNMENTS}, got {alignment!r}.")
    return alignment


def positive_law(spec: LawSpec | None, name: str) -> Any:
    """Read a law that draws numbers above 0; None stays None."""
    if spec is None:
        return None
    chosen = law(spec, name=name)
    if chosen.bounds[0] <= 0:
        raise ValueError(
            f"{name} must be positive, got {chosen.to_spec()!r}. Give millimetres above 0."
        )
    return chosen
