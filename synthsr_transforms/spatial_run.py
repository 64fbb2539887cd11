"""Deformation, crop and flip in one sampling of the patch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torchio.data.batch import SubjectsBatch

from .base import Draws, SynthTransform, remember
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
        drawn = [step.to_draws(p, size) for step, p in zip(self.steps, recorded, strict=True)]
        self._act(batch, drawn, [params.get("_keep", [True] * size) for params in recorded])
        for step, params in zip(self.steps, recorded, strict=True):
            remember(batch, step, params)

    def run_unrecorded(self, batch: SubjectsBatch, generator: Generator | None) -> None:
        """Draw and act without keeping a record."""
        keep, drawn = [], []
        for step in self.steps:
            keep.append(step.draw_keep(batch.batch_size, generator))
            drawn.append(step.draw(batch, generator) if any(keep[-1]) else {})
        self._act(batch, drawn, keep)

    def _act(
        self, batch: SubjectsBatch, drawn: Sequence[Draws], keep: Sequence[Sequence[bool]]
    ) -> None:
        deformation = self.deformation
        assert isinstance(deformation, SpatialDeformation)
        grid = deformation.grid(batch)
        indices = [torch.arange(n).expand(grid.batch_size, n) for n in grid.shape]
        draws, plan = self._of(self.crop, drawn), None
        if self.crop is not None and draws is not None:
            plan = self.crop.plan(grid)
            indices = _cropped(draws["start"], plan.crop_shape)
        flipped = torch.tensor(self._of(self.flip, keep) or [False] * grid.batch_size)
        if bool(flipped.any()):
            axis = left_right_axis(grid)
            backwards = indices[axis].flip(-1)
            indices[axis] = torch.where(flipped[:, None], backwards, indices[axis])
        on_device = [index.to(batch.device, non_blocking=True) for index in indices]
        deformation.sample(batch, drawn[0], on_device)
        if self.crop is not None and plan is not None and draws is not None:
            self.crop.note(batch, draws, plan)
        if self.flip is not None:
            self.flip.exchange(batch, flipped)

    def _of(self, step: SynthTransform | None, values: Sequence[Any]) -> Any:
        """The entry of a list that belongs to a step, or None."""
        return None if step is None else values[self.steps.index(step)]


def _cropped(start: Tensor, shape: Sequence[int]) -> list[Tensor]:
    return [start[:, axis, None] + torch.arange(n) for axis, n in enumerate(shape)]


def _only(steps: Sequence[SynthTransform], kind: type[Any]) -> Any:
    return next((step for step in steps if isinstance(step, kind)), None)


def _can_start(transform: Any) -> bool:
    whole = type(transform) is SpatialDeformation and transform.p >= 1
    return whole and not _limited(transform)


def _limited(transform: Any) -> bool:
    return transform.include is not None or transform.exclude is not None
