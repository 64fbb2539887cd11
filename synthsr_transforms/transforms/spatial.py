"""Transforms of geometry: images and label maps alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torchio.data.batch import SubjectsBatch

from synthsr_transforms.distributions import DistributionSpec, as_distribution
from synthsr_transforms.functional.fields import displacement_shape, elastic_displacement
from synthsr_transforms.functional.geometry import (
    about_centre,
    affine_matrix,
    millimetres_to_voxels,
)
from synthsr_transforms.functional.layout import PatchPlan, crop, crop_start, plan_patch
from synthsr_transforms.functional.mixture import relabel
from synthsr_transforms.functional.warp import (
    patch_rows,
    sample_patch,
    whole_grid,
)
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.seeds import sample_seeds
from synthsr_transforms.support import devices

from .base import Grid, Params, is_label_map
from .common.arguments import grid_ratio, optional_triple
from .common.images import OUTPUT_SHAPE, move_origins
from .common.random_fields import coarse_velocity
from .kinds import SynthSpatialTransform
from .prepared import Prepared


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

    def prepare(self, batch: SubjectsBatch, params: Params) -> Prepared:
        """Coordinates of all voxels, and the velocity."""
        grid = self.grid(batch)
        indices = whole_grid(grid.shape, grid.batch_size, "cpu")
        return self.prepare_patch(batch, params, indices)

    def prepare_patch(
        self, batch: SubjectsBatch, params: Params, indices: Sequence[Tensor]
    ) -> Prepared:
        """Like `prepare`, to keep only some rows of each axis: a crop or flip costs nothing.

        Args:
            batch: The batch to be transformed.
            params: Parameters, see `sample_params`.
            indices: Voxels to keep along each axis, three tensors `(B, n)`, in any order.
        """
        grid = self.grid(batch)
        prepared: Prepared = {"shape": grid.shape}
        velocity, coarse = self._velocity(params, grid, batch.device), None
        if velocity is not None:
            prepared["velocity"] = velocity
            coarse = displacement_shape(
                velocity.shape[2:], grid.shape, half_grid_units=self.half_grid_units
            )
        matrix = about_centre(self._matrix(params, grid), grid.shape)
        prepared["rows"] = patch_rows(matrix, grid.shape, indices, coarse)
        return {**prepared, "lengths": tuple(index.shape[-1] for index in indices)}

    def compute(self, batch: SubjectsBatch, prepared: Prepared) -> None:
        """Sample every image once."""
        displacement = None
        if "velocity" in prepared:
            displacement = elastic_displacement(
                prepared["velocity"], prepared["shape"], half_grid_units=self.half_grid_units
            )
        images = list(self.chosen_images(batch).values())
        nearest = [is_label_map(image) for image in images]
        volumes = [
            image.data if whole or image.data.is_floating_point() else image.data.float()
            for image, whole in zip(images, nearest, strict=True)
        ]
        made = sample_patch(volumes, nearest, prepared["rows"], prepared["lengths"], displacement)
        for image, data in zip(images, made, strict=True):
            image.data = data

    def repeats(self) -> bool:
        """Always."""
        return True

    def _matrix(self, params: Params, grid: Grid) -> Tensor:
        matrix = affine_matrix(
            params["rotation_degrees"],
            params["shearing"],
            params["scaling"],
            params["translation_mm"],
        )
        return matrix if self.index_grid else millimetres_to_voxels(matrix, grid.spacing_mm)

    def _velocity(self, params: Params, grid: Grid, device: torch.device) -> Tensor | None:
        always = devices.computes_all(device) and self.velocity_std_mm.bounds[1] > 0
        coarse = coarse_velocity(params, grid, self.velocity_shape_factor, always=always)
        if coarse is None or self.index_grid:
            return coarse
        spacing = grid.spacing_mm.numpy().astype(np.float32)[:, :, None, None, None]
        return torch.from_numpy(coarse.numpy() / spacing)  # which wakes no threads


class PatchCrop(SynthSpatialTransform):
    """Crop all images of an element at one random place.

    The patch is at most as large as the image. Affines follow, so that world coordinates stay.
    With `target_spacing_mm`, the size on that grid is kept in the metadata of the subject as
    `output_shape`, for the step that resamples.

    Args:
        shape: Sizes of the patch on the target grid, one number or three; None keeps all.
        multiple_of: Round the sizes down to multiples of this number (what the network divides by).
        target_spacing_mm: Spacing of the target grid in mm, one number or three, where a later
            step resamples to it; None means that of the images.
        focus: Name of a metadata entry with a box in voxels, `[[x, y, z], [x, y, z]]` (first voxel
            and voxel after the last), that the patch holds or, where the box is larger, lies
            within. `Generator` notes the `brain_box` of label maps. Without such an entry every
            place is equally likely.
        **kwargs: See `SynthTransform`.

    Examples:
        >>> import torch
        >>> PatchCrop(shape=8)(torch.rand(1, 16, 12, 10)).shape
        torch.Size([1, 8, 8, 8])
    """

    preserves_layout = False

    def __init__(
        self,
        *,
        shape: int | Sequence[int] | None = None,
        multiple_of: int | None = None,
        target_spacing_mm: float | Sequence[float] | None = None,
        focus: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.shape = optional_triple(shape, "shape", int)
        if multiple_of is not None and multiple_of < 1:
            raise ValueError(f"multiple_of must be at least 1, got {multiple_of}.")
        self.multiple_of = multiple_of
        self.target_spacing_mm = optional_triple(target_spacing_mm, "target_spacing_mm", float)
        self.focus = focus

    def sample_params(self, batch: SubjectsBatch, generator: Generator | None) -> Params:
        """Sample the first voxel of each crop."""
        grid = self.grid(batch)
        unit = torch.rand(grid.batch_size, 3, generator=generator, dtype=torch.float64)
        noted = None if self.focus is None else batch.metadata.get(self.focus)
        box = None if noted is None else torch.as_tensor(noted)
        return {"start": crop_start(unit, grid.shape, self.plan(grid).crop_shape, box)}

    def plan(self, grid: Grid) -> PatchPlan:
        """Crop and output sizes for a grid."""
        return plan_patch(
            grid.shape,
            spacing_mm=(1, 1, 1) if self.target_spacing_mm is None else grid.common_spacing_mm,
            target_spacing_mm=self.target_spacing_mm,
            output_shape=self.shape,
            multiple_of=self.multiple_of,
        )

    def apply_params(self, batch: SubjectsBatch, params: Params) -> None:
        """Crop every image and move its origin."""
        plan = self.plan(self.grid(batch))
        for image in self.chosen_images(batch).values():
            image.data = crop(image.data, params["start"], plan.crop_shape)
        self.update_metadata(batch, params, plan)

    def update_metadata(self, batch: SubjectsBatch, params: Params, plan: PatchPlan) -> None:
        """Move the origins of the affines, note the target size and drop the box, now elsewhere."""
        for image in self.chosen_images(batch).values():
            move_origins(image, params["start"])
        for outdated in (OUTPUT_SHAPE, self.focus or ""):
            batch.metadata.pop(outdated, None)
        if self.target_spacing_mm is not None:
            batch.metadata[OUTPUT_SHAPE] = [list(plan.output_shape)] * batch.batch_size


class HemisphereFlip(SynthSpatialTransform):
    """Mirror the head left to right and exchange left and right labels.

    The axis is the one closest to the left-right axis of the world. Affines stay: a mirrored head
    lies where the head was. Applying the flip twice gives the input back.

    Args:
        label_table: Which labels are partners: a `LabelTable`, the name of a ready one or a file.
            None mirrors without an exchange (right for labels without sides).
        **kwargs: See `SynthTransform`; `p` is the probability of a flip.

    Examples:
        >>> import torch
        >>> HemisphereFlip()(torch.arange(2.0).reshape(1, 2, 1, 1)).flatten().tolist()
        [1.0, 0.0]
    """

    def __init__(self, *, label_table: LabelTable | str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.label_table = None if label_table is None else LabelTable.resolve(label_table)
        self._swap = None if self.label_table is None else self.label_table.swap_lookup()

    def apply_params(self, batch: SubjectsBatch, params: Params) -> None:
        """Reverse the axis and exchange labels."""
        axis = left_right_axis(self.grid(batch))
        for image in self.chosen_images(batch).values():
            image.data = image.data.flip(axis + 2)
        table = self.prepare_swap(torch.ones(batch.batch_size, dtype=torch.bool))
        if table is not None:
            self.swap_sides(batch, table.to(batch.device, non_blocking=True))

    def prepare_swap(self, flipped: Tensor) -> Tensor | None:
        """The label that each becomes, `(B, V)`, where left and right are to be exchanged.

        Args:
            flipped: Which elements were mirrored, `(B,)` booleans on the CPU.
        """
        if self._swap is None:
            return None
        same = np.arange(len(self._swap))  # quicker than torch
        return torch.from_numpy(np.where(flipped.numpy()[:, None], self._swap.numpy(), same))

    def swap_sides(self, batch: SubjectsBatch, table: Tensor) -> None:
        """Exchange left and right labels, see `prepare_swap`; the table is on the device."""
        for image in self.chosen_images(batch).values():
            if is_label_map(image):
                image.data = relabel(image.data, table)


def left_right_axis(grid: Grid) -> int:
    """The voxel axis closest to the left-right axis of the world, the same for all elements.

    Raises:
        ValueError: If elements of the batch are oriented differently.
    """
    columns = np.stack([affine.data.numpy()[0, :3] for affine in grid.affines])
    axes = np.abs(columns / grid.spacing_mm.numpy()).argmax(1).tolist()
    if len(set(axes)) > 1:
        raise ValueError(
            "HemisphereFlip needs images of one orientation in a batch, got left-right axes"
            f" {axes}. Reorient them first, for example with torchio.Reorient."
        )
    first: int = axes[0]
    return first
