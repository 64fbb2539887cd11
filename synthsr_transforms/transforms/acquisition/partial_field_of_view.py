"""Scans that cover a part of the head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torchio.data.batch import SubjectsBatch

from synthsr_transforms.distributions import DistributionSpec, as_distribution
from synthsr_transforms.transforms.base import Params, SynthTransform, is_label_map
from synthsr_transforms.transforms.images import outside


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

    def apply_params(self, batch: SubjectsBatch, params: Params) -> None:
        """Blank what lies outside the slab."""
        for name, image in self.chosen_images(batch).items():
            if not is_label_map(image) or name in (self.include or ()):
                x, y, z = (
                    inside.to(image.device, non_blocking=True)
                    for inside in slab(image.data.shape[2:], params)
                )
                mask = x[:, None, :, None, None] & y[:, None, None, :, None]
                mask = mask & z[:, None, None, None, :]
                image.data = torch.where(mask, image.data, outside(image, self.value))


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
