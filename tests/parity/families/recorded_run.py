"""Settings and draws of a recorded run of the generative model, as the original reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..vectors import Vector, decimals
from .tables import sided_table


@dataclass(frozen=True)
class Group:
    """Input channels that are acquired alike.

    Attributes:
        channels: Their indices among the synthetic channels.
        random: Whether their resolution is random.
        resampled_first: Whether they are targets too and lie on the target grid already (B15).
    """

    channels: tuple[int, ...]
    random: bool
    resampled_first: bool


class RecordedRun:
    """A `gen` vector: settings with their defaults, and draws."""

    def __init__(self, vector: Vector) -> None:
        self.vector = vector
        self.table = sided_table(
            vector["generation_labels"].tolist(), vector.given("n_neutral_labels")
        )
        atlas = np.broadcast_to(self.setting("atlas_res", 1.0), 3)
        self.spacing = decimals(atlas)
        self.header_spacing = np.round(atlas, 3).astype(np.float32).astype(float).tolist()
        """Spacing as the original reads it: 0.8 is 0.800000012 there."""
        target = vector.given("param_target_res")
        self.target_spacing = self.spacing if target is None else decimals(np.resize(target, 3))
        self.count = vector["means"].shape[-1]
        flags = np.broadcast_to(self.setting("input_channels", 1), self.count)
        self.inputs = np.flatnonzero(flags).tolist()
        outputs = vector.given("param_output_channel")
        self.outputs = [] if outputs is None else sorted(np.atleast_1d(outputs).tolist())
        self.real = "real_image" in vector
        self.maps = bool(self.setting("build_reliability_maps", 0))

    def setting(self, name: str, default: Any) -> Any:
        """A setting of the original, or its default."""
        array = self.vector.given(f"param_{name}")
        return default if array is None else array

    def per_channel(self, name: str, default: Any) -> list[bool]:
        """A flag, or a list of flags, for each synthetic channel."""
        return np.broadcast_to(self.setting(name, default), self.count).astype(bool).tolist()

    @property
    def size(self) -> int:
        """Number of elements of the batch."""
        return len(self.vector["labels"])

    def draw(self, name: str) -> Tensor | None:
        """A recorded draw, or None where its step was off."""
        array = self.vector.given(f"draw_{name}")
        return None if array is None else torch.from_numpy(array)

    def draws_of(self, channels: Sequence[int], name: str, neutral: float) -> Tensor:
        """Three numbers per element and channel, `(B, C, 3)`."""
        drawn = [self.draw(f"ch{c}_{name}") for c in channels]
        rows = [torch.full((3,), float(neutral)) if d is None else d for d in drawn]
        return torch.stack([row.expand(self.size, 3) for row in rows], dim=1)

    def moves(self, channel: int) -> bool:
        """Whether a channel was misaligned."""
        return self.draw(f"ch{channel}_reg_rotation_deg") is not None

    @cached_property
    def changes_grid(self) -> bool:
        """Whether the output has another shape than the crop."""
        labels = self.vector["segmentation_target"].shape[1:4]
        return labels != self.vector["image_out"].shape[1:4]

    def groups(self) -> list[Group]:
        """Input channels by how they are acquired, which the original decides one by one."""
        random = self.per_channel("randomise_res", 0)
        found: dict[tuple[bool, bool], list[int]] = {}
        for c in self.inputs:
            found.setdefault((random[c], self.changes_grid and c in self.outputs), []).append(c)
        return [Group(tuple(channels), *key) for key, channels in found.items()]

    def resolutions(self) -> tuple[Tensor, Tensor]:
        """Spacing and thickness of every synthetic channel, `(C, 3)` each."""
        spacing = self._per_input("data_res", self.spacing.expand(self.count, 3))
        return spacing, self._per_input("thickness", spacing)

    def _per_input(self, name: str, default: Tensor) -> Tensor:
        """Rows of a setting: one for all, one per input channel, or one per synthetic channel."""
        array = self.vector.given(f"param_{name}")
        if array is None:
            return default
        values = torch.round(decimals(array), decimals=3)
        if values.ndim < 2 or len(values) == 1 or len(values) == self.count:
            return values.expand(self.count, 3)
        rows = torch.ones(self.count, 3, dtype=torch.float64)
        rows[self.inputs] = values
        return rows

    def downsampled(self) -> list[bool]:
        """Channels whose slices are sampled: as told, or those with gaps inside slices (2.6)."""
        flags = self.setting("downsample", np.array(0))
        if flags.ndim > 0 or flags:
            return self.per_channel("downsample", 0)
        spacing, thickness = self.resolutions()
        return ((thickness - spacing).min(dim=1).values < 0).tolist()
