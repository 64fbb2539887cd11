"""Stages of a generator: a step, or several that run as one.

Deformation, crop and flip are one sampling of the patch; images painted from a label map are one
look-up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torchio.data.batch import SubjectsBatch
from torchio.transforms import Transform

from synthsr_transforms.functional.warp import whole_grid
from synthsr_transforms.seeds import sample_seeds
from synthsr_transforms.support import devices
from synthsr_transforms.transforms import HemisphereFlip, PatchCrop, SpatialDeformation
from synthsr_transforms.transforms.base import (
    Drawn,
    Params,
    SynthTransform,
    append_history,
    grid_of,
)
from synthsr_transforms.transforms.prepared import Prepared, sent
from synthsr_transforms.transforms.spatial import left_right_axis

from .painting import (
    can_paint,
    note_painting,
    paint,
    painting_length,
    paints_alike,
    prepare_painting,
)


def in_stages(transforms: Mapping[str, Transform]) -> list[tuple[list[str], Stage]]:
    """Stages in order, with the names of their steps."""
    names, steps = list(transforms), list(transforms.values())
    stages = []
    while names:
        length = Stage.length(steps)
        stages.append((names[:length], Stage(steps[:length])))
        names, steps = names[length:], steps[length:]
    return stages


class Stage:
    """One step, or several with the result of the steps one after the other.

    Of a `SpatialDeformation` and the `PatchCrop` and `HemisphereFlip` that follow it, only the
    voxels of the patch are computed, and every volume is read once. Steps that paint a label map
    (`generator.painting`) paint every voxel once.

    Args:
        steps: Any transform; or the deformation, then at most one crop and one flip, in any order;
            or steps that paint.
    """

    def __init__(self, steps: Sequence[Any]) -> None:
        self.steps = list(steps)
        self._paints = painting_length(self.steps) == len(self.steps)
        self._alone = len(self.steps) == 1 and not self._paints
        self._idle: tuple[Any, Prepared | None] | None = None

    @staticmethod
    def length(transforms: Sequence[Any]) -> int:
        """Number of the first transforms that can run as one, from 1."""
        painting = painting_length(transforms)
        if painting:
            return painting
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
        """Sample the parameters of every step, in order; those of TorchIO are a seed."""
        return [drawn.record for drawn in self.draw(batch, generator)]

    def draw(self, batch: SubjectsBatch, generator: Generator | None) -> list[Drawn]:
        """Like `sample_record`, with the parameters as tensors too."""
        drawn = []
        for number, step in enumerate(self.steps):
            if not isinstance(step, SynthTransform):
                drawn.append(Drawn({"global_seed": int(sample_seeds(1, generator))}))
                continue
            if number == 0 or not self._paints:  # the first makes the image that others replace
                step.check_possible(batch)
            drawn.append(step.draw(batch, generator))
        return drawn

    def apply(
        self,
        batch: SubjectsBatch,
        recorded: Sequence[dict[str, Any]],
        tensors: Sequence[Params | None] | None = None,
    ) -> None:
        """Transform with recorded parameters and record the steps.

        Args:
            batch: The batch to change.
            recorded: Parameters of each step.
            tensors: The same as tensors, where they are at hand.
        """
        tensors = [None] * len(recorded) if tensors is None else tensors
        first = self.steps[0]
        if not isinstance(first, SynthTransform):
            _run_foreign(first, batch, recorded[0]["global_seed"])
            return
        if self._alone:
            first.apply_transform(batch, recorded[0], tensors[0])
        else:
            self._together(batch, recorded, tensors)
        self.append_history(batch, recorded)

    def append_history(self, batch: SubjectsBatch, recorded: Sequence[dict[str, Any]]) -> None:
        """Append the steps to the history of a batch."""
        for step, params in zip(self.steps, recorded, strict=True):
            append_history(batch, step, params)

    def _together(
        self,
        batch: SubjectsBatch,
        recorded: Sequence[dict[str, Any]],
        tensors: Sequence[Params | None],
    ) -> None:
        size = batch.batch_size
        sampled = [
            SynthTransform.to_params(params, size) if own is None else own
            for params, own in zip(recorded, tensors, strict=True)
        ]
        keep = [params.get("_keep", [True] * size) for params in recorded]
        if self._paints and not can_paint(batch, sampled):
            for step, params, own in zip(self.steps, recorded, sampled, strict=True):
                step.apply_transform(batch, params, own)
            return
        prepared = self._prepare_together(batch, sampled, keep)
        self.note(batch, prepared)
        self.compute(batch, sent(prepared, batch.device))

    def repeats(self) -> bool:
        """Whether `compute` is the same work for all random numbers, see `SynthTransform`."""
        first = self.steps[0]
        if self._paints:
            return paints_alike(self.steps)
        if not isinstance(first, SynthTransform):
            return False
        kind = type(first)
        whole = kind.apply_transform is SynthTransform.apply_transform
        together = first.p >= 1 or kind.neutral is not SynthTransform.neutral
        return not first.may_happen() or (whole and together and first.repeats())

    def prepare(self, batch: SubjectsBatch, drawn: Sequence[Drawn]) -> Prepared | None:
        """What the host has to compute before voxels are, for all elements of a batch.

        Args:
            batch: The batch to be transformed; only its layout is read.
            drawn: Parameters of each step.

        Returns:
            The same for all random numbers but for numbers; None where elements that were not
            chosen cannot be computed with the others.
        """
        size, first = batch.batch_size, self.steps[0]
        if not first.may_happen():
            return {}
        keep = [own.record.get("_keep", [True] * size) for own in drawn]
        sampled = [own.tensors or {} for own in drawn]
        if not self._alone:
            return self._prepare_together(batch, sampled, keep)
        params: Params | None = sampled[0]
        if not any(keep[0]):
            return self._prepare_idle(batch)
        if first.p < 1:
            params = first.neutral(params, torch.tensor(keep[0]))
        return None if params is None else first.prepare(batch, params)

    def _prepare_idle(self, batch: SubjectsBatch) -> Prepared | None:
        """What is prepared where a step leaves all elements alone: the same for each layout."""
        images = {name: image.data.shape for name, image in batch.images.items()}
        spacing = grid_of(next(iter(batch.images.values()))).spacing_mm
        key = batch.device, tuple(images.items()), tuple(spacing.flatten().tolist())
        if self._idle is None or self._idle[0] != key:
            first, keep = self.steps[0], torch.zeros(batch.batch_size, dtype=torch.bool)
            params = first.sample_params(batch, torch.Generator().manual_seed(0))
            params = first.neutral(params, keep)
            self._idle = key, None if params is None else first.prepare(batch, params)
        return self._idle[1]

    def _prepare_together(
        self, batch: SubjectsBatch, sampled: Sequence[Params], keep: Sequence[Sequence[bool]]
    ) -> Prepared:
        if self._paints:
            return prepare_painting(batch, self.steps, sampled, keep)
        deformation = self.steps[0]
        grid = deformation.grid(batch)
        indices: Sequence[Tensor] = whole_grid(grid.shape, grid.batch_size, "cpu")
        prepared: Prepared = {}
        for step, params, chosen in zip(self.steps, sampled, keep, strict=True):
            if isinstance(step, PatchCrop):
                plan = step.plan(grid)
                prepared["_crop"] = params, plan
                indices = _cropped(indices, params["start"], plan.crop_shape)
            elif isinstance(step, HemisphereFlip):
                swap = None
                if any(chosen):
                    indices = _mirrored(indices, left_right_axis(grid), chosen)
                if any(chosen) or devices.computes_all(batch.device):
                    swap = step.prepare_swap(torch.tensor(chosen))
                if swap is not None:
                    prepared["swap"] = swap
        return {**prepared, **deformation.prepare_patch(batch, sampled[0], indices)}

    def note(self, batch: SubjectsBatch, prepared: Prepared) -> None:
        """Change affines and metadata of a batch whose voxels are as before."""
        first = self.steps[0]
        if self._alone:
            if first.may_happen():
                first.note(batch, prepared)
        elif self._paints:
            note_painting(batch, self.steps, prepared)
        else:
            for step in self.steps:
                if isinstance(step, PatchCrop):
                    step.update_metadata(batch, *prepared["_crop"])

    def compute(self, batch: SubjectsBatch, prepared: Prepared) -> None:
        """Compute voxels with what was prepared, on the device."""
        first = self.steps[0]
        if self._alone:
            if first.may_happen():
                first.compute(batch, prepared)
        elif self._paints:
            paint(batch, self.steps, prepared)
        else:
            first.compute(batch, prepared)
            for step in self.steps:
                if isinstance(step, HemisphereFlip) and "swap" in prepared:
                    step.swap_sides(batch, prepared["swap"])


def _cropped(indices: Sequence[Tensor], start: Tensor, shape: Sequence[int]) -> list[Tensor]:
    begin, element = start.numpy()[:, :, None], np.arange(len(start))[:, None]
    windows = [begin[:, axis] + np.arange(n) for axis, n in enumerate(shape)]
    return [
        torch.from_numpy(index.numpy()[element, window])
        for index, window in zip(indices, windows, strict=True)
    ]


def _mirrored(indices: Sequence[Tensor], axis: int, flipped: Sequence[bool]) -> list[Tensor]:
    result = list(indices)
    rows = result[axis].numpy()
    result[axis] = torch.from_numpy(np.where(np.array(flipped)[:, None], rows[:, ::-1], rows))
    return result


def _fits(transform: Any, kind: type[Any]) -> bool:
    """Whether a transform is of a kind and acts on all images, and always unless it is a flip."""
    if type(transform) is not kind or (kind is not HemisphereFlip and transform.p < 1):
        return False
    return transform.include is None and transform.exclude is None


def _run_foreign(stage: Transform, batch: SubjectsBatch, seed: int) -> None:
    """Run a transform of TorchIO, some of which write into the tensors that they are given."""
    for image in batch.images.values():
        image.data = image.data.clone()
    with _global_seed(seed, batch.device):
        stage(batch)


@contextmanager
def _global_seed(seed: int, device: torch.device) -> Iterator[None]:
    """TorchIO's own transforms read torch's global generators: lend them one, then restore it."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    states = [generator.get_state() for generator in generators]
    for generator in generators:
        generator.manual_seed(seed)
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
