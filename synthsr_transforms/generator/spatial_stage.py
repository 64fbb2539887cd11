"""Deformation, crop and flip in one sampling of the patch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torchio.data.batch import SubjectsBatch

from synthsr_transforms.transforms import HemisphereFlip, PatchCrop, SpatialDeformation
from synthsr_transforms.transforms.base import Params, SynthTransform, append_history
from synthsr_transforms.transforms.spatial.hemisphere_flip import left_right_axis


class SpatialStage:
    """A `SpatialDeformation` with the `PatchCrop` and `HemisphereFlip` that follow it.

    The result is that of the steps one after the other, but only the voxels of the patch are
    computed, and every volume is read once.

    Args:
        steps: The deformation, then at most one crop and one flip, in any order.
    """

    def __init__(self, steps: Sequence[Any]) -> None:
        self.steps: list[SynthTransform] = list(steps)
        self.deformation = self.steps[0]

    @staticmethod
    def length(transforms: Sequence[Any]) -> int:
        """Number of the first transforms that can run as one, from 1."""
        left = {PatchCrop, HemisphereFlip} if _fits(transforms[0], SpatialDeformation) else set()
        length = 1
        for transform in transforms[1:]:
            kind = type(transform)
            if kind not in left or not _fits(transform, kind):
                break
            left.remove(kind)
            length += 1
        return length

    def sample_record(
        self, batch: SubjectsBatch, generator: Generator | None
    ) -> list[dict[str, Any]]:
        """Sample the parameters of every step, in order."""
        return [step.sample_record(batch, generator) for step in self.steps]

    def apply(self, batch: SubjectsBatch, recorded: Sequence[dict[str, Any]]) -> None:
        """Transform with recorded parameters and record the steps."""
        size = batch.batch_size
        sampled = [step.to_params(p, size) for step, p in zip(self.steps, recorded, strict=True)]
        self._apply(batch, sampled, [params.get("_keep", [True] * size) for params in recorded])
        for step, params in zip(self.steps, recorded, strict=True):
            append_history(batch, step, params)

    def run_unrecorded(self, batch: SubjectsBatch, generator: Generator | None) -> None:
        """Transform without a record."""
        keep, sampled = [], []
        for step in self.steps:
            keep.append(step.sample_keep(batch.batch_size, generator))
            sampled.append(step.sample_params(batch, generator) if any(keep[-1]) else {})
        self._apply(batch, sampled, keep)

    def _apply(
        self, batch: SubjectsBatch, sampled: Sequence[Params], keep: Sequence[Sequence[bool]]
    ) -> None:
        deformation = self.deformation
        assert isinstance(deformation, SpatialDeformation)
        grid = deformation.grid(batch)
        indices = [torch.arange(n).expand(grid.batch_size, n) for n in grid.shape]
        followers = list(zip(self.steps, sampled, keep, strict=True))[1:]
        for step, params, chosen in followers:
            if isinstance(step, PatchCrop):
                indices = _cropped(indices, params["start"], step.plan(grid).crop_shape)
            elif any(chosen):
                indices = _mirrored(indices, left_right_axis(grid), torch.tensor(chosen))
        deformation.sample(batch, sampled[0], indices)
        for step, params, chosen in followers:
            if isinstance(step, PatchCrop):
                step.update_metadata(batch, params, step.plan(grid))
            elif isinstance(step, HemisphereFlip):
                step.swap_sides(batch, torch.tensor(chosen))


def _cropped(indices: Sequence[Tensor], start: Tensor, shape: Sequence[int]) -> list[Tensor]:
    windows = [start[:, axis, None] + torch.arange(n) for axis, n in enumerate(shape)]
    return [index.gather(1, window) for index, window in zip(indices, windows, strict=True)]


def _mirrored(indices: Sequence[Tensor], axis: int, flipped: Tensor) -> list[Tensor]:
    result = list(indices)
    result[axis] = torch.where(flipped[:, None], result[axis].flip(-1), result[axis])
    return result


def _fits(transform: Any, kind: type[Any]) -> bool:
    """Whether a transform is of a kind and acts on all images, and always unless it is a flip."""
    if type(transform) is not kind or (kind is not HemisphereFlip and transform.p < 1):
        return False
    return transform.include is None and transform.exclude is None
