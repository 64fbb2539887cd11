"""Skull-stripped images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor
from torchio.data.batch import SubjectsBatch

from synthsr_transforms.distributions import DistributionSpec, as_distribution
from synthsr_transforms.functional.blur import gaussian_blur
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.transforms.base import Params, grid_of
from synthsr_transforms.transforms.images import outside
from synthsr_transforms.transforms.kinds import SynthLabelTransform
from synthsr_transforms.transforms.labels_on_grid import LabelSet
from synthsr_transforms.transforms.random_fields import per_element


class SkullStripping(SynthLabelTransform):
    """Set everything outside the brain to a constant, as brain extraction does.

    The border of the mask lies some millimetres outside (or inside) that of the brain labels, for
    brain extraction is never exact.

    Args:
        label_table: Which labels belong to the brain.
        margin_mm: Distribution of the distance from the brain to the border of the mask, in mm;
            negative cuts into the brain.
        smoothness_mm: Width over which the border of the mask is smoothed, in mm, at least a third
            of the margin.
        value: Intensity outside.
        **kwargs: See `SynthLabelTransform`; label maps are masked only if `include` names them.

    Examples:
        >>> import torch
        >>> subject = {"labels": torch.tensor([0, 2]).reshape(1, 2, 1, 1),
        ...            "image": torch.ones(1, 2, 1, 1)}
        >>> stripped = SkullStripping(label_table="freesurfer_aseg")(subject)
        >>> stripped["image"].flatten().tolist()
        [0.0, 1.0]
    """

    def __init__(
        self,
        *,
        label_table: LabelTable | str,
        margin_mm: DistributionSpec = 0.0,
        smoothness_mm: float = 2.0,
        value: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.label_table = LabelTable.resolve(label_table)
        self.margin_mm = as_distribution(margin_mm, name="margin_mm", single=True)
        reach = max(abs(bound) for bound in self.margin_mm.bounds)
        if reach > 3 * smoothness_mm:
            raise ValueError(
                f"smoothness_mm must be at least a third of the largest margin ({reach:g} mm),"
                f" got {smoothness_mm}. Raise it or narrow margin_mm."
            )
        self.smoothness_mm, self.value = float(smoothness_mm), float(value)
        self._brain = LabelSet(self.label_table.brain_values)

    def sample_params(self, batch: SubjectsBatch, generator: Generator | None) -> Params:
        """Sample the margin."""
        return {"margin_mm": self.margin_mm.sample((batch.batch_size,), generator)}

    def apply_params(self, batch: SubjectsBatch, params: Params) -> None:
        """Mask every chosen image."""
        _, labels = self.label_image(batch)
        mask = self.brain_mask(labels.data, params["margin_mm"], grid_of(labels).spacing_mm)
        for image in self.scalar_images(batch).values():
            image.data = torch.where(mask, image.data, outside(image, self.value))

    def brain_mask(self, labels: Tensor, margin_mm: Tensor, spacing_mm: Tensor) -> Tensor:
        """Voxels that stay, `(B, 1, X, Y, Z)` booleans.

        A Gaussian turns a plane border into the normal distribution function, so a margin is a
        threshold.
        """
        brain = self._brain.mask(labels)
        exact = brain > 0.5
        if self.smoothness_mm == 0 or not bool(margin_mm.any()):
            return exact
        sigma = (self.smoothness_mm / spacing_mm[:, None, :]).float()
        smooth = gaussian_blur(brain, sigma, truncate=4.0)
        margin_mm = per_element(margin_mm, labels.device)
        threshold = torch.special.ndtr(-margin_mm / self.smoothness_mm)
        return torch.where(margin_mm == 0, exact, smooth > threshold)
