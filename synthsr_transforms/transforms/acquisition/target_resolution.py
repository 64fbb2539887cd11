"""Resampling to a target resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchio.data.batch import ImagesBatch, SubjectsBatch

from synthsr_transforms.functional.blur import acquisition_sigma, gaussian_blur
from synthsr_transforms.functional.layout import plan_patch
from synthsr_transforms.functional.resample import resize
from synthsr_transforms.support.messages import check_choice
from synthsr_transforms.transforms.arguments import blur_boundary, positive, triple
from synthsr_transforms.transforms.base import Grid, Params, grid_of, is_label_map
from synthsr_transforms.transforms.images import (
    float_dtype,
    noted_output_shape,
    rescale_affines,
)
from synthsr_transforms.transforms.kinds import SynthSpatialTransform


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
