"""Random affine and diffeomorphic deformation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torchio.data.batch import SubjectsBatch

from synthsr_transforms.distributions import DistributionSpec, as_distribution
from synthsr_transforms.functional.fields import coarse_shape, elastic_displacement
from synthsr_transforms.functional.geometry import (
    about_centre,
    affine_matrix,
    millimetres_to_voxels,
)
from synthsr_transforms.functional.warp import (
    patch_coordinates,
    sample_linear,
    sample_nearest,
    whole_grid,
)
from synthsr_transforms.seeds import sample_seeds
from synthsr_transforms.transforms.arguments import grid_ratio
from synthsr_transforms.transforms.base import Grid, Params, is_label_map
from synthsr_transforms.transforms.kinds import SynthSpatialTransform
from synthsr_transforms.transforms.random_fields import field_from_params


class SpatialDeformation(SynthSpatialTransform):
    r"""Deform labels (nearest) and images (linear) with one random transform per element.

    Output voxel x reads the input at \(p(x) = A (x - c + u(x)) + t + c\) about the centre c, where
    A scales, shears and rotates, t translates and u is the integral of a stationary velocity drawn
    on a coarse grid (Arsigny et al., MICCAI 2006). Outside the volume the edge is repeated.
    Affines of the images stay: the anatomy moves within its space.

    Args:
        rotation_degrees: Distribution of the angle about each image axis, in degrees.
        scaling: Distribution of the factor along each axis; above 1 the object shrinks.
        shearing: Distribution of each of the six shears (ratio).
        translation_mm: Distribution of the shift along each axis, in mm.
        velocity_std_mm: Distribution of the standard deviation of the coarse velocity, in mm.
        velocity_shape_factor: Ratio of coarse grid points to voxels along an axis.
        half_grid_units: Integrate in voxels of the half-resolution grid, as the original does,
            which makes the deformation rougher than `velocity_std_mm` says.
        index_grid: Take every voxel as 1 mm wide, as the original does, so that on anisotropic
            label maps a rotation turns the index grid.
        **kwargs: See `SynthTransform`. A scalar is fixed, a pair uniform, see
            `synthsr_transforms.distributions`.

    Examples:
        >>> import torch
        >>> deform = SpatialDeformation(rotation_degrees=(-15, 15), velocity_std_mm=(0, 3))
        >>> deform(torch.rand(1, 16, 16, 16)).shape
        torch.Size([1, 16, 16, 16])
    """

    def __init__(
        self,
        *,
        rotation_degrees: DistributionSpec = 0.0,
        scaling: DistributionSpec = 1.0,
        shearing: DistributionSpec = 0.0,
        translation_mm: DistributionSpec = 0.0,
        velocity_std_mm: DistributionSpec = 0.0,
        velocity_shape_factor: float = 0.0625,
        half_grid_units: bool = False,
        index_grid: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rotation_degrees = as_distribution(rotation_degrees, name="rotation_degrees")
        self.scaling = as_distribution(scaling, name="scaling", minimum=1e-3)
        self.shearing = as_distribution(shearing, name="shearing", single=True)
        self.translation_mm = as_distribution(translation_mm, name="translation_mm")
        self.velocity_std_mm = as_distribution(
            velocity_std_mm, name="velocity_std_mm", minimum=0, single=True
        )
        self.velocity_shape_factor = grid_ratio(velocity_shape_factor, "velocity_shape_factor")
        self.half_grid_units = bool(half_grid_units)
        self.index_grid = bool(index_grid)

    def sample_params(self, batch: SubjectsBatch, generator: Generator | None) -> Params:
        """Sample the affine parameters, and the width and seed of the velocity."""
        size = batch.batch_size
        return {
            "rotation_degrees": self.rotation_degrees.sample((size, 3), generator),
            "shearing": self.shearing.sample((size, 6), generator),
            "scaling": self.scaling.sample((size, 3), generator),
            "translation_mm": self.translation_mm.sample((size, 3), generator),
            "velocity_std_mm": self.velocity_std_mm.sample((size,), generator),
            "velocity_seed": sample_seeds(size, generator),
        }

    def apply_params(self, batch: SubjectsBatch, params: Params) -> None:
        """Sample every image once."""
        grid = self.grid(batch)
        indices = whole_grid(grid.shape, grid.batch_size, "cpu")
        self.sample(batch, params, indices)

    def sample(self, batch: SubjectsBatch, params: Params, indices: Sequence[Tensor]) -> None:
        """Deform and keep only some rows of each axis, so that a crop or flip costs nothing.

        Args:
            batch: The batch to change.
            params: Parameters, see `sample_params`.
            indices: Voxels to keep along each axis, three tensors `(B, n)`, in any order, best on
                the CPU.
        """
        grid = self.grid(batch)
        matrix = about_centre(self._matrix(params, grid), grid.shape)
        displacement = self._displacement(params, grid, batch.device)
        coordinates = patch_coordinates(matrix, grid.shape, indices, displacement, batch.device)
        for image in self.chosen_images(batch).values():
            if is_label_map(image):
                image.data = sample_nearest(image.data, coordinates)
            else:
                data = image.data if image.data.is_floating_point() else image.data.float()
                image.data = sample_linear(data, coordinates)

    def _matrix(self, params: Params, grid: Grid) -> Tensor:
        matrix = affine_matrix(
            params["rotation_degrees"],
            params["shearing"],
            params["scaling"],
            params["translation_mm"],
        )
        return matrix if self.index_grid else millimetres_to_voxels(matrix, grid.spacing_mm)

    def _displacement(
        self, params: Params, grid: Grid, device: torch.device | str
    ) -> Tensor | None:
        """Coarse numbers are drawn on the CPU, so that geometry is the same on every device."""
        if "velocity" not in params and not bool(params["velocity_std_mm"].any()):
            return None
        shape = (3, *coarse_shape(grid.shape, self.velocity_shape_factor))
        coarse = field_from_params(params, "velocity", shape, "cpu")
        if "velocity" not in params:
            coarse = coarse * params["velocity_std_mm"][:, None, None, None, None]
        if not self.index_grid:
            coarse = coarse / grid.spacing_mm.float()[:, :, None, None, None]
        coarse = coarse.to(device, non_blocking=True)
        return elastic_displacement(coarse, grid.shape, half_grid_units=self.half_grid_units)
