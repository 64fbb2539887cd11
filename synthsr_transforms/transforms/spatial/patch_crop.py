"""Random crop of a patch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator
from torchio.data.batch import SubjectsBatch

from synthsr_transforms.functional.layout import PatchPlan, crop, crop_start, plan_patch
from synthsr_transforms.transforms.arguments import optional_triple
from synthsr_transforms.transforms.base import Grid, Params
from synthsr_transforms.transforms.images import OUTPUT_SHAPE, move_origins
from synthsr_transforms.transforms.kinds import SynthSpatialTransform


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
