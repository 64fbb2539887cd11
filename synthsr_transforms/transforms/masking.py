"""Parts of a head that images do not show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torchio.data.batch import ImagesBatch, SubjectsBatch

from synthsr_transforms.distributions import DistributionSpec, as_distribution
from synthsr_transforms.functional.blur import gaussian_blur
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.support import devices

from .base import Params, SynthTransform, grid_of, is_label_map
from .common.images import outside
from .common.labels_on_grid import LabelSet
from .common.random_fields import per_element
from .kinds import SynthLabelTransform
from .prepared import Prepared


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

    def prepare(self, batch: SubjectsBatch, params: Params) -> Prepared:
        """Width of the Gaussian in voxels, and the threshold; nothing where all margins are 0."""
        _, labels = self.label_image(batch)
        margin_mm = params["margin_mm"]
        if not devices.computes_all(labels.device) and not bool(margin_mm.any()):
            return {}
        threshold = torch.special.ndtr(-margin_mm / max(self.smoothness_mm, 1e-9))
        threshold = torch.where(margin_mm == math.inf, -1.0, threshold)
        sigma = (self.smoothness_mm / grid_of(labels).spacing_mm[:, None, :]).float()
        return {"sigma": sigma, "margin_mm": margin_mm, "threshold": threshold}

    def compute(self, batch: SubjectsBatch, prepared: Prepared) -> None:
        """Mask every chosen image."""
        mask = self._brain_mask(self.label_image(batch)[1].data, prepared)
        for image in self.scalar_images(batch).values():
            image.data = torch.where(mask, image.data, outside(image, self.value))

    def repeats(self) -> bool:
        """Always."""
        return True

    def neutral(self, params: Params, keep: Tensor) -> Params:
        """Infinite margins."""
        return {"margin_mm": torch.where(keep, params["margin_mm"], math.inf)}

    def _brain_mask(self, labels: Tensor, prepared: Prepared) -> Tensor:
        """Voxels that stay, `(B, 1, X, Y, Z)` booleans.

        A Gaussian turns a plane border into the normal distribution function, so a margin is a
        threshold. An infinite margin keeps all.
        """
        brain = self._brain.mask(labels)
        exact = brain > 0.5
        if not prepared:
            return exact
        smooth = gaussian_blur(brain, prepared["sigma"], truncate=4.0)
        within = smooth > per_element(prepared["threshold"])
        return torch.where(per_element(prepared["margin_mm"] == 0), exact, within)


class PartialFieldOfView(SynthTransform):
    """Keep a slab of the images and set the rest to a constant.

    Args:
        fraction: Distribution of the share of the axis that is kept, within 0 and 1.
        value: Intensity outside.
        **kwargs: See `SynthTransform`; all chosen images get the same slab, label maps only if
            `include` names them.

    Examples:
        >>> import torch
        >>> half = PartialFieldOfView(fraction=0.5)(torch.ones(1, 8, 8, 8))
        >>> half.mean().item()
        0.5
    """

    def __init__(
        self, *, fraction: DistributionSpec = 1.0, value: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.fraction = as_distribution(fraction, name="fraction", minimum=0, single=True)
        if self.fraction.bounds[1] > 1:
            raise ValueError(f"fraction must be at most 1, got {self.fraction.to_spec()!r}.")
        self.value = float(value)

    def sample_params(self, batch: SubjectsBatch, generator: Generator | None) -> Params:
        """Sample an axis, a share and where the slab begins (as a share of the room left)."""
        size = batch.batch_size
        return {
            "axis": torch.randint(3, (size,), generator=generator),
            "fraction": self.fraction.sample((size,), generator),
            "start": torch.rand(size, generator=generator),
        }

    def neutral(self, params: Params, keep: Tensor) -> Params:
        """The whole axis."""
        return {**params, "fraction": torch.where(keep, params["fraction"], 1.0)}

    def prepare(self, batch: SubjectsBatch, params: Params) -> Prepared:
        """Masks of the slab along the axes of each image."""
        own = self._masked(batch)
        shapes = {tuple(image.data.shape[2:]) for image in own.values()}
        masks = {shape: torch.cat(slab(shape, params), 1) for shape in shapes}
        return {name: masks[tuple(image.data.shape[2:])] for name, image in own.items()}

    def compute(self, batch: SubjectsBatch, prepared: Prepared) -> None:
        """Blank what lies outside the slab."""
        for name, image in self._masked(batch).items():
            x, y, z = prepared[name].split(list(image.data.shape[2:]), 1)
            mask = x[:, None, :, None, None] & y[:, None, None, :, None]
            mask = mask & z[:, None, None, None, :]
            image.data = torch.where(mask, image.data, outside(image, self.value))

    def repeats(self) -> bool:
        """Always."""
        return True

    def _masked(self, batch: SubjectsBatch) -> dict[str, ImagesBatch]:
        """Images that show the slab alone: label maps only where they are named."""
        return {
            name: image
            for name, image in self.chosen_images(batch).items()
            if not is_label_map(image) or name in (self.include or ())
        }


def slab(shape: Sequence[int], params: Params) -> list[Tensor]:
    """Masks of the slab along each axis, three tensors `(B, n)` of booleans."""
    inside = []
    for axis, size in enumerate(shape):
        width = torch.round(size * params["fraction"]).clamp(min=1)
        begin = torch.floor((size - width + 1) * params["start"]).minimum(size - width)
        index = torch.arange(size)
        within = (index >= begin[:, None]) & (index < (begin + width)[:, None])
        inside.append(within | (params["axis"] != axis)[:, None])
    return inside
