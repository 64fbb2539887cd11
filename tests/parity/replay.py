"""Batches, and steps with recorded parameters."""

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


def recorded(**params: Any) -> dict[str, Any]:
    """Parameters of a whole batch, in the form that transforms record and replay."""
    return {**params, "_batched_keys": list(params)}


def replayed(transform: Any, batch: SubjectsBatch, **params: Any) -> SubjectsBatch:
    """Transform with given parameters; names of parameters have dots written as `__`."""
    named = {name.replace("__", "."): value for name, value in params.items()}
    return transform.apply_transform(batch, recorded(**named))


@dataclass
class Steps:
    """Steps of a generator and the parameters to replay them with."""

    configs: dict[str, StepConfig] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)

    def add(self, transform: str, settings: dict[str, Any], **params: Any) -> None:
        """Add a step; parameters are named as the transform records them, dots written as `__`."""
        name = f"{len(self.configs)}_{transform}"
        self.configs[name] = StepConfig(name=transform, params=settings)
        self.record[name] = recorded(**{k.replace("__", "."): v for k, v in params.items()})
        self.record[name]["global_seed"] = 0  # for steps of TorchIO, none of which is random here

    def run(self, table: Any, batch: SubjectsBatch) -> SubjectsBatch:
        """Replay all steps on a batch."""
        return Generator(GeneratorConfig(steps=self.configs), table).replay(batch, self.record)
