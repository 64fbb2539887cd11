"""Resolution: sampled, acquired in slices, mapped, and that of targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torchio.data.batch import ImagesBatch, SubjectsBatch

from synthsr_transforms.distributions import DistributionSpec, Uniform, as_distribution
from synthsr_transforms.functional.acquisition import (
    ALIGNMENTS,
    SlicePlan,
    acquire,
    acquisition_rows,
    plan_slices,
    random_resolution,
    thousandths,
)
from synthsr_transforms.functional.blur import acquisition_sigma, gaussian_blur
from synthsr_transforms.functional.intensity import add_noise_by_channel
from synthsr_transforms.functional.layout import plan_patch
from synthsr_transforms.functional.reliability import distance_map, reliability_map
from synthsr_transforms.functional.resample import resize
from synthsr_transforms.seeds import Seeds, normal_field, normal_numbers, sample_seeds
from synthsr_transforms.support import devices
from synthsr_transforms.support.messages import check_choice

from .base import Grid, Params, SynthTransform, grid_of, is_label_map
from .common.arguments import (
    blur_boundary,
    optional_triple,
    positive,
    positive_distribution,
    probability,
    sample_axes,
    triple,
)
from .common.images import (
    ACQUISITION_SPACING,
    ACQUISITION_THICKNESS,
    SLICES,
    add_made_image,
    float_dtype,
    named_image,
    noted_output_shape,
    rescale_affines,
)
from .kinds import SynthSpatialTransform
from .prepared import Prepared


class AcquisitionResolution(SynthTransform):
    """Sample the resolution at which each channel was acquired, for `SliceAcquisition` to simulate.

    As in `SampleResolution` of SynthSeg and SynthSR: with `max_isotropic_mm`, each axis is uniform
    between the minimum and that; with `max_anisotropic_mm`, one axis, chosen at random, is; with
    both, one of the two happens. The thickness lies between minimum and spacing.
    The result is kept in the metadata as `acquisition_spacing_mm` and `acquisition_thickness_mm`.

    Args:
        min_mm: Finest spacing in mm, one number or three; None means the spacing of the image.
        max_isotropic_mm: Coarsest spacing of any axis in mm, one number or three, or None.
        max_anisotropic_mm: Coarsest spacing of the thick axis in mm, one number or three, or None.
        probability_minimum: Probability that a channel is acquired at the finest spacing.
        probability_isotropic: Where both modes are on, probability of the first.
        image: Name of the image.
        **kwargs: See `SynthTransform`.

    Examples:
        >>> import torch, torchio
        >>> subject = torchio.Subject(image=torchio.ScalarImage(torch.rand(1, 4, 4, 4)))
        >>> sampled = AcquisitionResolution(max_isotropic_mm=9)(subject)
        >>> all(1 <= mm <= 9 for mm in sampled.acquisition_spacing_mm[0])
        True
    """

    preserves_layout = False

    def __init__(
        self,
        *,
        min_mm: float | Sequence[float] | None = None,
        max_isotropic_mm: float | Sequence[float] | None = 9.0,
        max_anisotropic_mm: float | Sequence[float] | None = None,
        probability_minimum: float = 0.05,
        probability_isotropic: float = 0.1,
        image: str = "image",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.min_mm = optional_triple(min_mm, "min_mm", float)
        self.max_isotropic_mm = optional_triple(max_isotropic_mm, "max_isotropic_mm", float)
        self.max_anisotropic_mm = optional_triple(max_anisotropic_mm, "max_anisotropic_mm", float)
        if self.max_isotropic_mm is None and self.max_anisotropic_mm is None:
            raise ValueError("max_isotropic_mm or max_anisotropic_mm must be given, got neither.")
        self.probability_minimum = probability(probability_minimum, "probability_minimum")
        self.probability_isotropic = probability(probability_isotropic, "probability_isotropic")
        self.image = image

    def sample_params(self, batch: SubjectsBatch, generator: Generator | None) -> Params:
        """Sample spacing and thickness."""
        grid = grid_of(named_image(batch, self.image))
        size = (grid.batch_size, grid.channels)
        finest = grid.spacing_mm if self.min_mm is None else torch.tensor([self.min_mm])
        finest = finest[:, None, :].float().expand(*size, 3)
        isotropic = self._between(finest, self.max_isotropic_mm, generator)
        anisotropic = self._between(finest, self.max_anisotropic_mm, generator)
        spacing = random_resolution(
            finest,
            isotropic_mm=isotropic,
            anisotropic_mm=anisotropic,
            axis=torch.randint(3, size, generator=generator),
            choose_isotropic=torch.rand(size, generator=generator) < self.probability_isotropic,
            choose_minimum=torch.rand(size, generator=generator) < self.probability_minimum,
        )
        share = Uniform(0.0, 1.0).sample(spacing.shape, generator)
        return {"spacing_mm": spacing, "thickness_mm": finest + (spacing - finest) * share}

    @staticmethod
    def _between(
        finest: torch.Tensor, coarsest: tuple[float, float, float] | None, generator: Any
    ) -> torch.Tensor | None:
        if coarsest is None:
            return None
        least = finest.numpy()
        room = np.maximum(np.array(coarsest, np.float32) - least, 0)
        share = Uniform(0.0, 1.0).sample(finest.shape, generator).numpy()
        return torch.from_numpy(least + room * share)

    def prepare(self, batch: SubjectsBatch, params: Params) -> Prepared:
        """Nothing for voxels."""
        return {"_params": params}

    def note(self, batch: SubjectsBatch, prepared: Prepared) -> None:
        """Note both in the metadata of the subject."""
        batch.metadata[ACQUISITION_SPACING] = prepared["_params"]["spacing_mm"].tolist()
        batch.metadata[ACQUISITION_THICKNESS] = prepared["_params"]["thickness_mm"].tolist()

    def compute(self, batch: SubjectsBatch, prepared: Prepared) -> None:
        """Leave voxels as they are."""

    def repeats(self) -> bool:
        """Always."""
        return True


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

    def prepare(self, batch: SubjectsBatch, params: Params) -> Prepared:
        """Places of the slices, widths of their profiles, and their noise."""
        image = named_image(batch, self.image)
        grid = grid_of(image)
        spacing, thickness = self._resolution(batch, params)
        plan = self._plan(grid, spacing)
        fine = grid.spacing_mm[:, None, :]
        width = acquisition_sigma(fine, spacing, thickness, self.blur_coefficient)
        window = width
        if self.max_spacing_mm is not None:
            coarsest = torch.tensor(self.max_spacing_mm, dtype=torch.float64)
            window = (0.75 * coarsest / fine).expand_as(width)
        repeats = devices.computes_all(image.device) and self.repeats()
        output = self.output_shape or noted_output_shape(batch) or grid.shape
        rows, sizes = acquisition_rows(
            plan,
            width * params["blur_multiplier"],
            output,
            window_sigma=window,
            truncate=self.truncate,
            boundary=self.boundary,
            counts=grid.shape if repeats else None,
        )
        prepared: Prepared = {"rows": rows, "sizes": sizes, "_plan": plan, "_spacing": spacing}
        if repeats and self.noise_std.bounds[1] > 0:
            prepared |= _prepare_noise(params, rician=self.rician_probability > 0)
        elif bool(params["noise_std"].any()):
            prepared["noise"] = partial(_add_slice_noise, params=params, low_shape=plan.low_shape)
        return prepared

    def note(self, batch: SubjectsBatch, prepared: Prepared) -> None:
        """Note the plan of the slices, and the spacing of the output."""
        image = named_image(batch, self.image)
        shape, output = grid_of(image).shape, prepared["sizes"].output_shape
        rescale_affines(image, shape, output, centred=self.alignment == "centre")
        low_shape, spacing = prepared["_plan"].low_shape, prepared["_spacing"]
        batch.metadata[SLICES] = [
            {"low_shape": low, "shape": shape, "spacing_mm": mm, "alignment": self.alignment}
            for low, mm in zip(low_shape.tolist(), spacing.tolist(), strict=True)
        ]

    def compute(self, batch: SubjectsBatch, prepared: Prepared) -> None:
        """Acquire."""
        image = named_image(batch, self.image)
        noisy = prepared.get("noise")
        if isinstance(noisy, Seeds):
            noisy = partial(_add_noise, prepared=prepared)
        image.data = acquire(image.data.float(), prepared["rows"], prepared["sizes"], noisy).to(
            float_dtype(image.data)
        )

    def repeats(self) -> bool:
        """Where no axis has more slices than voxels, and the size of windows does not matter."""
        return self.alignment == "centre" and self.boundary != "zero"

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
        if self.downsample is True:
            return plan
        wanted = torch.tensor(self.downsample).expand(grid.channels)[None, :, None]
        full = torch.tensor(grid.shape).expand_as(plan.low_shape)
        return plan._replace(low_shape=torch.where(wanted, plan.low_shape, full))


def _prepare_noise(params: Params, *, rician: bool) -> Prepared:
    """Noise of the slices of each channel, as `_add_noise` takes it."""
    std = params["noise_std"]
    seeds = params["noise_seed"][:, None]
    if std.shape[1] > 1:
        seeds = seeds + torch.arange(std.shape[1])
    prepared: Prepared = {"noise": Seeds(seeds.flatten()), "noise_std": std}
    if rician:
        prepared["rician"] = params["rician"][:, None] & (std > 0)
    return prepared


def _add_noise(slices: Tensor, prepared: Prepared) -> Tensor:
    """Noise on all samples, whether they are used or not: the same work for any resolution."""
    batch, channels, *shape = slices.shape
    parts = 1 + ("rician" in prepared)
    numbers = normal_field(prepared["noise"], (parts, *shape), slices.device)
    numbers = numbers.view(batch, channels, parts, *shape)
    std = prepared["noise_std"]
    return add_noise_by_channel(slices, numbers, std, prepared.get("rician"))


def _add_slice_noise(slices: Tensor, params: Params, low_shape: Tensor) -> Tensor:
    """Noise on the acquired samples of each channel, the same whatever else is in the batch."""
    kinds = params["rician"].tolist()
    parts = slices.new_zeros(1 + any(kinds), *slices.shape)  # of complex numbers
    boxes = [
        (b, c, (1 + rician, *box))
        for b, (channels, rician) in enumerate(zip(low_shape.tolist(), kinds, strict=True))
        for c, box in enumerate(channels)
    ]
    own = (params["noise_seed"][:, None] + torch.arange(slices.shape[1])).flatten()
    counts = [math.prod(box) for *_, box in boxes]
    numbers = normal_numbers(own, counts, slices.device).split(counts)
    for (b, c, box), part in zip(boxes, numbers, strict=True):
        n, x, y, z = box
        parts[:n, b, c, :x, :y, :z] = part.view(box)
    std = params["noise_std"].to(slices.device, non_blocking=True)[..., None, None, None]
    noisy = parts.mul_(std)[0].add_(slices)
    if not any(kinds):
        return noisy
    magnitude = torch.hypot(noisy, parts[1], out=parts[1])
    return torch.where(_rician_samples(slices.shape, params, low_shape, std), magnitude, noisy)


def _rician_samples(shape: Sequence[int], params: Params, low_shape: Tensor, std: Tensor) -> Tensor:
    """Samples that were acquired with Rician noise, `(B, C, x, y, z)` booleans."""
    within = [torch.arange(n) < low_shape[..., axis, None] for axis, n in enumerate(shape[2:])]
    within[0] = within[0] & params["rician"][:, None, None]
    together = torch.cat(within, -1).to(std.device, non_blocking=True)
    x, y, z = together.split(list(shape[2:]), -1)
    plane = (x[..., None] & y[..., None, :])[..., None] & (std > 0)
    return plane & z[..., None, None, :]


KINDS = ("reliability", "distance_mm")


class ReliabilityMap(SynthTransform):
    """Add a map of acquired and interpolated voxels, one channel per channel.

    It describes what the last `SliceAcquisition` recorded, or a fixed spacing.

    Args:
        kind: `"reliability"`: 1 on a slice, 0 between slices (the original with a fixed
            resolution). `"distance_mm"`: distance to the nearest sample in mm, 0 on a sample
            (the original with a random resolution).
        spacing_mm: Fixed spacing to describe, in mm, where nothing was recorded.
        alignment: Where slices of that fixed spacing lie.
        image: Name of the image to describe.
        destination: Name of the map. A bare tensor, array or image is replaced.
        **kwargs: See `SynthTransform`.

    Examples:
        >>> import torch
        >>> fourth = ReliabilityMap(spacing_mm=(1, 1, 4), alignment="corner")
        >>> fourth(torch.rand(1, 1, 1, 8)).flatten().tolist()
        [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    """

    preserves_layout = False

    def __init__(
        self,
        *,
        kind: str = "reliability",
        spacing_mm: DistributionSpec | None = None,
        alignment: str = "centre",
        image: str = "image",
        destination: str = "reliability",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kind = check_choice("kind", kind, KINDS)
        self.image, self.destination = image, destination
        self.spacing_mm = positive_distribution(spacing_mm, "spacing_mm")
        self.alignment = check_choice("alignment", alignment, ALIGNMENTS)

    def sample_params(self, batch: SubjectsBatch, generator: Generator | None) -> Params:
        """Sample the fixed spacing, if there is one."""
        if self.spacing_mm is None:
            return {}
        grid = grid_of(named_image(batch, self.image))
        size = (grid.batch_size, grid.channels)
        return {"spacing_mm": sample_axes(self.spacing_mm, "spacing_mm", size, generator)}

    def apply_params(self, batch: SubjectsBatch, params: Params) -> None:
        """Add the map."""
        image = named_image(batch, self.image)
        plan, spacing = self._plan(batch, params)
        shape = image.data.shape[2:]
        if self.kind == "reliability":
            made = reliability_map(plan, shape, image.device)
        else:
            made = distance_map(plan, shape, spacing, image.device)
        add_made_image(batch, self.destination, made, image)

    def _plan(self, batch: SubjectsBatch, params: Params) -> tuple[SlicePlan, Tensor]:
        records = batch.metadata.get(SLICES)
        if records and "spacing_mm" not in params:
            low_shape = torch.tensor([record["low_shape"] for record in records])
            spacing = torch.tensor([record["spacing_mm"] for record in records])
            x, y, z = (int(n) for n in records[0]["shape"])
            return SlicePlan(low_shape, (x, y, z), records[0]["alignment"]), spacing
        if "spacing_mm" not in params:
            raise ValueError(
                "spacing_mm must be given where no acquisition was recorded, got None."
                " Give spacing_mm or put SliceAcquisition before ReliabilityMap."
            )
        grid, spacing = grid_of(named_image(batch, self.image)), thousandths(params["spacing_mm"])
        fine = grid.spacing_mm[:, None, :]
        return plan_slices(grid.shape, fine, spacing, self.alignment), spacing


class TargetResolution(SynthSpatialTransform):
    """Resample images to another spacing: blur against aliasing, then interpolate.

    The width of the blur is 0.75 of the new spacing, and half a voxel along axes that stay.
    Images that already have the spacing are left alone. Labels take the nearest value.

    Args:
        spacing_mm: New spacing in mm, one number or three.
        truncate: Half width of the blur window in standard deviations; the original has 1.25.
        boundary: `"renormalise"`, or `"zero"` as in the original (borders darken).
        alignment: `"centre"`: the field of view stays; `"corner"`: the first voxel does, as in the
            original. `SliceAcquisition` has the same argument: give both the same value.
        **kwargs: See `SynthTransform`.

    Examples:
        >>> import torch
        >>> TargetResolution(spacing_mm=2)(torch.rand(1, 16, 16, 16)).shape
        torch.Size([1, 8, 8, 8])
    """

    preserves_layout = False

    def __init__(
        self,
        *,
        spacing_mm: float | Sequence[float] = 1.0,
        truncate: float = 2.0,
        boundary: str = "renormalise",
        alignment: str = "centre",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.alignment = check_choice("alignment", alignment, ("centre", "corner"))
        self.spacing_mm = triple(spacing_mm, "spacing_mm", float)
        self.truncate, self.boundary = positive(truncate, "truncate"), blur_boundary(boundary)

    def apply_params(self, batch: SubjectsBatch, params: Params) -> None:
        """Resample every image whose spacing differs."""
        for image in self.chosen_images(batch).values():
            grid = grid_of(image)
            shape = self._shape(batch, grid)
            if shape != grid.shape:
                image.data = self._resample(image, grid, shape)
                rescale_affines(image, grid.shape, shape, centred=self._centred)

    @property
    def _centred(self) -> bool:
        return self.alignment == "centre"

    def _shape(self, batch: SubjectsBatch, grid: Grid) -> tuple[int, int, int]:
        spacing = grid.common_spacing_mm
        plan = plan_patch(grid.shape, spacing_mm=spacing, target_spacing_mm=self.spacing_mm)
        same = all(abs(a - t) <= 1e-3 for a, t in zip(spacing, self.spacing_mm, strict=True))
        return grid.shape if same else noted_output_shape(batch) or plan.output_shape

    def _resample(self, image: ImagesBatch, grid: Grid, shape: Sequence[int]) -> Tensor:
        if is_label_map(image):
            return resize(image.data, shape, mode="nearest", centred=self._centred)
        fine = grid.spacing_mm[:, None, :]
        coarse = torch.tensor(self.spacing_mm, dtype=torch.float64).expand_as(fine)
        sigma = acquisition_sigma(fine, coarse, coefficient=None)
        blurred = gaussian_blur(
            image.data.float(), sigma, truncate=self.truncate, boundary=self.boundary
        )
        return resize(blurred, shape, centred=self._centred).to(float_dtype(image.data))
