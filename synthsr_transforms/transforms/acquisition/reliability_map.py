"""Maps of acquired and interpolated voxels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor
from torchio.data.batch import SubjectsBatch

from synthsr_transforms.distributions import DistributionSpec
from synthsr_transforms.functional.acquisition import (
    ALIGNMENTS,
    SlicePlan,
    plan_slices,
    thousandths,
)
from synthsr_transforms.functional.reliability import distance_map, reliability_map
from synthsr_transforms.support.messages import check_choice
from synthsr_transforms.transforms.arguments import positive_distribution, sample_axes
from synthsr_transforms.transforms.base import Params, SynthTransform, grid_of
from synthsr_transforms.transforms.images import SLICES, add_made_image, named_image

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
