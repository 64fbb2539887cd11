"""Batches, and steps that act with recorded parameters instead of draws of their own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torchio import LabelMap, ScalarImage, Subject
from torchio.data.batch import SubjectsBatch

from synthsr_transforms import Generator, GeneratorConfig
from synthsr_transforms.generator.config import StepConfig


def batch_of(spacing: Iterable[float] = (1, 1, 1), **images: Tensor) -> SubjectsBatch:
    """A batch of images `(B, C, X, Y, Z)`; whole numbers are label maps."""
    affine = torch.diag(torch.tensor([*map(float, spacing), 1.0], dtype=torch.float64))
    size = len(next(iter(images.values())))
    return SubjectsBatch.from_subjects(
        [
            Subject(**{name: _image(data[b], affine) for name, data in images.items()})
            for b in range(size)
        ]
    )


def _image(data: Tensor, affine: Tensor) -> Any:
    kind = ScalarImage if data.is_floating_point() else LabelMap
    return kind(data, affine=affine.clone())


def recorded(**draws: Any) -> dict[str, Any]:
    """Parameters of a whole batch, in the form that transforms record and replay."""
    return {**draws, "_batched_keys": list(draws)}


def replayed(transform: Any, batch: SubjectsBatch, **draws: Any) -> SubjectsBatch:
    """Let a transform act with given draws; image names may hold dots as `image__key`."""
    named = {name.replace("__", "."): value for name, value in draws.items()}
    return transform.apply_transform(batch, recorded(**named))


@dataclass
class Steps:
    """Steps of a generator and the parameters to replay them with."""

    configs: dict[str, StepConfig] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)

    def add(self, transform: str, params: dict[str, Any], **draws: Any) -> None:
        """Add a step; draws are named as the transform records them, dots written as `__`."""
        name = f"{len(self.configs)}_{transform}"
        self.configs[name] = StepConfig(name=transform, params=params)
        self.record[name] = recorded(**{k.replace("__", "."): v for k, v in draws.items()})
        self.record[name]["global_seed"] = 0  # for steps of TorchIO, which draw nothing here

    def run(self, table: Any, batch: SubjectsBatch) -> SubjectsBatch:
        """Replay all steps on a batch."""
        return Generator(GeneratorConfig(steps=self.configs), table).replay(batch, self.record)
