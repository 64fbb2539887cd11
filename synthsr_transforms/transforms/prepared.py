"""What the host prepares of random parameters before voxels are computed.

A transform in two halves computes matrices, tables and plans of its parameters on the host, and
voxels from these on the device. All that the first half prepares goes to the device by one copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from synthsr_transforms.seeds import Seeds

Prepared = dict[str, Any]
"""By name: tensors, which go to the device; `Seeds`, which stay on the host; and other values,
which depend on the layout alone. Names that begin with `_` are for notes on the host."""
_ALIGNED = 64
"""Tensors begin at multiples of so many bytes, as GPUs read them best."""


def prefixed(prefix: str, prepared: Mapping[str, Any]) -> Prepared:
    """Prepared values under longer names."""
    return {f"{prefix}.{name}": value for name, value in prepared.items()}


def under(prefix: str, prepared: Mapping[str, Any]) -> Prepared:
    """Prepared values whose names begin with a prefix, without it."""
    begin = len(prefix) + 1
    return {name[begin:]: v for name, v in prepared.items() if name.startswith(f"{prefix}.")}


def for_device(prepared: Mapping[str, Any]) -> Prepared:
    """Prepared values without notes."""
    return {name: value for name, value in prepared.items() if not name.startswith("_")}


def tensors_of(prepared: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors among prepared values."""
    return {name: value for name, value in prepared.items() if isinstance(value, Tensor)}


def sent(prepared: Prepared, device: torch.device) -> Prepared:
    """Prepared values with their tensors on a device, by one copy."""
    prepared = for_device(prepared)
    tensors = tensors_of(prepared)
    if device.type == "cpu" or not tensors:
        return prepared
    packing = Packing.of(tensors)
    buffer = torch.empty(packing.num_bytes, dtype=torch.uint8)
    write(tensors, packing.views(buffer))
    return prepared | packing.views(buffer.to(device, non_blocking=True))


def write(tensors: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> None:
    """Copy tensors of the CPU to their places, see `Packing.views`; no threads are woken."""
    for name, place in places.items():
        place.numpy()[...] = tensors[name].numpy()


class Place(NamedTuple):
    """Where a tensor lies in a buffer.

    Attributes:
        dtype: Type of its numbers.
        shape: Its sizes.
        begin: First byte.
        end: Byte after the last.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


class Packing:
    """Places of several tensors in one buffer of bytes.

    Args:
        places: By name.

    Examples:
        >>> numbers = {"a": torch.ones(2), "b": torch.tensor([True])}
        >>> packing = Packing.of(numbers)
        >>> buffer = torch.empty(packing.num_bytes, dtype=torch.uint8)
        >>> write(numbers, packing.views(buffer))
        >>> packing.views(buffer)["a"].tolist()
        [1.0, 1.0]
    """

    def __init__(self, places: Mapping[str, Place]) -> None:
        self.places = dict(places)
        ends = [place.end for place in self.places.values()]
        self.num_bytes = -(-max(ends, default=1) // _ALIGNED) * _ALIGNED

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Packing:
        """Places of tensors one after the other."""
        places, begin = {}, 0
        for name, tensor in tensors.items():
            end = begin + tensor.numel() * tensor.element_size()
            places[name] = Place(tensor.dtype, tuple(tensor.shape), begin, end)
            begin = -(-end // _ALIGNED) * _ALIGNED
        return cls(places)

    def views(self, buffer: Tensor) -> dict[str, Tensor]:
        """The tensors as parts of a buffer, on any device."""
        return {
            name: buffer[place.begin : place.end].view(place.dtype).view(place.shape)
            for name, place in self.places.items()
        }


def signature(prepared: Mapping[str, Any]) -> tuple[Any, ...]:
    """All of prepared values that any random numbers leave as it is: shapes, types, settings."""
    return tuple((name, _form(value)) for name, value in for_device(prepared).items())


def _form(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    return len(value) if isinstance(value, Seeds) else value
