"""Voxels of a scan where they are measured: on the device that computes, sorted once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from synthsr_transforms.io.kinds import thinning
from synthsr_transforms.support.devices import is_on_host, on_device, on_host

from ..intensities import in_memory_order
from ..resampling import as_tensor

Array = npt.NDArray[Any]


class Voxels:
    """Voxels of a scan on a device, and what several checks ask of them.

    The volume is copied to the device once. Samples of it are sorted there, each once, whatever
    asks for them, and numbers come back in few goes, since each makes the host wait.

    Args:
        data: `(X, Y, Z)` float32, finite.
        device: Where to measure, and to compute from it.
    """

    def __init__(self, data: Array, device: torch.device | str = "cpu") -> None:
        tensor = as_tensor(data)
        self.data: Tensor = on_device(tensor, device)
        """`(X, Y, Z)` float32."""
        self._host = tensor.numpy()
        self._ordered: dict[tuple[int, ...], Array] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the volume."""
        return tuple(self.data.shape)

    @property
    def measured(self) -> Any:
        """The volume as what counts fastest: an array on a CPU, a tensor elsewhere."""
        return self._host if is_on_host(self.data) else self.data

    @cached_property
    def extremes(self) -> tuple[float, float]:
        """The lowest and the highest value."""
        if is_on_host(self.data):
            return float(self._host.min()), float(self._host.max())
        low, high = on_host(torch.stack(in_memory_order(self.data).aminmax())).tolist()
        return low, high

    @property
    def slowest_first(self) -> list[int]:
        """Axes, that first whose planes are each together in memory."""
        return sorted(range(3), key=self.data.stride, reverse=True)

    def number_along(self, axis: int, background: float) -> npt.NDArray[np.int64]:
        """Number of voxels in each plane across an axis that differ from the background."""
        if is_on_host(self.data):
            planes = np.moveaxis(self._host, axis, 0)
            return np.array([np.count_nonzero(plane != background) for plane in planes])
        shown = (self.data != background).movedim(axis, 0).flatten(1)
        return on_host(shown.sum(1))

    @property
    def are_whole(self) -> bool:
        """Whether all values are whole numbers."""
        seen = self.ordered(thinning(self.shape))
        if not np.array_equal(np.rint(seen), seen):
            return False
        if is_on_host(self.data):
            return np.array_equal(np.rint(self._host), self._host)
        return torch.equal(self.data.round(), self.data)

    def sample(self, steps: Sequence[int]) -> Array:
        """Every so many voxels along each axis, on the host."""
        return self._host[every(steps)]

    def ordered(self, steps: Sequence[int]) -> Array:
        """The values of a sample, sorted, on the host."""
        key = tuple(steps)
        if key not in self._ordered and is_on_host(self.data):
            self._ordered[key] = np.sort(self.sample(steps), axis=None)  # far faster than PyTorch
        self.order([key])
        return self._ordered[key]

    def order(self, samples: Iterable[Sequence[int]]) -> None:
        """Sort samples, by their steps, before they are asked for, where one go reads them all."""
        wanted = dict.fromkeys(map(tuple, samples))
        missing = [steps for steps in wanted if steps not in self._ordered]
        if is_on_host(self.data) or not missing:
            return
        parts = [in_memory_order(self.data[every(steps)]).flatten() for steps in missing]
        ends = torch.stack(in_memory_order(self.data).aminmax())
        whole = on_host(torch.cat([*(part.sort().values for part in parts), ends]))
        *found, (low, high) = np.split(whole, np.cumsum([part.numel() for part in parts]))
        self.extremes = float(low), float(high)
        self._ordered.update(zip(missing, found, strict=True))


def place_of(ordered: Array, value: float, side: Literal["left", "right"] = "left") -> int:
    """Number of sorted float32 values below a number, or up to it with `side="right"`."""
    own = np.float32(value)  # with a number of another type, all values would be converted
    return int(np.searchsorted(ordered, own if float(own) == value else np.float64(value), side))


def percentile_of(ordered: Array, percent: float) -> float:
    """Percentile of sorted values, as `numpy.percentile` gives it of some of them.

    Examples:
        >>> percentile_of(np.array([1, 2, 3, 5], np.float32), 50)
        2.5
    """
    place = (ordered.size - 1) * (percent / 100)
    first = math.floor(place)
    share = place - first
    low, high = ordered[first], ordered[min(first + 1, ordered.size - 1)]
    step = float(high - low)
    return float(low) + step * share if share < 0.5 else float(high) - step * (1 - share)


def every(steps: Sequence[int]) -> tuple[slice, ...]:
    """Index of every so many voxels along each axis."""
    return tuple(slice(None, None, step) for step in steps)
