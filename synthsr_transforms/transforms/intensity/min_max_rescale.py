"""Clipping and rescaling to 0..1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from synthsr_transforms.functional.intensity import min_max
from synthsr_transforms.transforms.base import Grid, Params
from synthsr_transforms.transforms.kinds import SynthIntensityTransform


class MinMaxRescale(SynthIntensityTransform):
    """Clip, then map intensities linearly to 0..1, each element and channel by itself.

    Args:
        clip: Pair of bounds to clip to first; None does not clip.
        input_range: Pair of intensities that become 0 and 1; None takes the smallest and the
            largest of the image.
        **kwargs: See `SynthIntensityTransform`.

    Examples:
        >>> import torch
        >>> MinMaxRescale()(torch.tensor([2.0, 4.0]).reshape(1, 2, 1, 1)).flatten().tolist()
        [0.0, 1.0]
    """

    def __init__(
        self,
        *,
        clip: Sequence[float] | None = None,
        input_range: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.clip = _bounds(clip, "clip")
        self.input_range = _bounds(input_range, "input_range")

    def apply_to_image(self, image: Tensor, params: Params, grid: Grid) -> Tensor:
        """Clip and rescale."""
        if self.clip is not None:
            image = image.clamp(*self.clip)
        if self.input_range is None:
            return min_max(image)
        low, high = self.input_range
        return (image - low if low else image) / (high - low)


def _bounds(pair: Sequence[float] | None, name: str) -> tuple[float, float] | None:
    if pair is None:
        return None
    if len(pair) != 2 or not pair[0] < pair[1]:
        raise ValueError(f"{name} must be a pair of increasing numbers, got {pair!r}.")
    return float(pair[0]), float(pair[1])
