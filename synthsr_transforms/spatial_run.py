"""Deformation, crop and flip in one sampling of the patch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torchio.data.batch import SubjectsBatch

from .base import SynthTransform, remember
from .transforms import HemisphereFlip, PatchCrop, SpatialDeformation
from .transforms.hemisphere_flip import left_right_axis


class SpatialRun:
    """A `SpatialDeformation` with the `PatchCrop` and `HemisphereFlip` that follow it.

    The result is that of the steps one after the other, but only the voxels of the patch are
    computed, and every volume is read once.

    Args:
        steps: The deformation, then at most one crop and one flip, in any order.
    """

    def __init__(self, steps: Sequence[Any]) -> None:
        self.steps: list[SynthTransform] = list(steps)
        self.deformation = self.steps[0]
        self.crop = _only(self.steps, PatchCrop)
        self.flip = _only(self.steps, HemisphereFlip)

    @staticmethod
    def length(transforms: Sequence[Any]) -> int:
        """How many of the first transforms can run as one; 0 or 1 if that gains nothing."""
        if not transforms or not _can_start(transforms[0]):
            return 0
        length, seen = 1, set()
        for transform in transforms[1:]:
            kind = type(transform)
            if kind not in (PatchCrop, HemisphereFlip) or kind in seen or _limited(transform):
                break
            if kind is PatchCrop and transform.p < 1:
                break
            seen.add(kind)
            length += 1
        return length

    def draw_params(
        self, batch: SubjectsBatch, generator: Generator | None
    ) -> list[dict[str, Any]]:
        """Draw the parameters of every step, in order."""
        return [step.draw_params(batch, generator) for step in self.steps]

    def apply(self, batch: SubjectsBatch, recorded: Sequence[dict[str, Any]]) -> None:
        """Act with recorded parameters and remember the steps."""
        size = batch.batch_size
        of_step = dict(zip(map(id, self.steps), recorded, strict=True))
        deformation = self.deformation
        assert isinstance(deformation, SpatialDeformation)
        grid = deformation.grid(batch)
        indices = [torch.arange(n).expand(size, n) for n in grid.shape]
        crop_draws, plan = {}, None
        if self.crop is not None:
            plan = self.crop.plan(grid)
            crop_draws = self.crop._to_draws(of_step[id(self.crop)], size)
            indices = _cropped(crop_draws["start"], plan.crop_shape)
        flipped = self._flipped(of_step, size)
        if self.flip is not None and bool(flipped.any()):
            axis = left_right_axis(grid)
            backwards = indices[axis].flip(-1)
            indices[axis] = torch.where(flipped[:, None], backwards, indices[axis])
        on_device = [index.to(batch.device, non_blocking=True) for index in indices]
        draws = deformation._to_draws(of_step[id(deformation)], size)
        deformation.sample(batch, draws, on_device)
        if self.crop is not None and plan is not None:
            self.crop.note(batch, crop_draws, plan)
        if self.flip is not None:
            self.flip.exchange(batch, flipped)
        for step in self.steps:
            remember(batch, step, of_step[id(step)])

    def _flipped(self, of_step: dict[int, dict[str, Any]], size: int) -> Tensor:
        if self.flip is None:
            return torch.zeros(size, dtype=torch.bool)
        return torch.tensor(of_step[id(self.flip)].get("_keep", [True] * size))


def _cropped(start: Tensor, shape: Sequence[int]) -> list[Tensor]:
    return [start[:, axis, None] + torch.arange(n) for axis, n in enumerate(shape)]


def _only(steps: Sequence[SynthTransform], kind: type[Any]) -> Any:
    return next((step for step in steps if isinstance(step, kind)), None)


def _can_start(transform: Any) -> bool:
    whole = type(transform) is SpatialDeformation and transform.p >= 1
    return whole and not _limited(transform)


def _limited(transform: Any) -> bool:
    return transform.include is not None or transform.exclude is not None
