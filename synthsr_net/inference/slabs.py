"""Layers that work on slabs, one after the other, and never see the whole volume.

A slab is a few neighbouring planes across the first axis, `(planes, Y, Z, C)` with channels last.
Layers take slabs as they come and give slabs on, holding back only the planes that they will need
again. Nothing is computed twice, and what lies between two layers stays in the caches of the
processor instead of filling memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from synthsr_net.networks.normalisation import Statistics
from synthsr_net.networks.phase_convolution import interleave

Slabs = Iterable[Tensor]
Box = tuple[slice, slice, slice]
"""Part of a volume `(X, Y, Z)`: its first voxel and that behind its last, along each axis."""


@dataclass(frozen=True)
class Convolution:
    """Kernel `(O, C, k, k, k)`, channels last in memory, and bias `(O,)` or None."""

    weight: Tensor
    bias: Tensor | None

    @property
    def radius(self) -> int:
        """Number of planes on each side that a plane of the result depends on."""
        return int(self.weight.shape[2]) // 2

    def __call__(self, planes: Tensor, *, alone: bool = False) -> Tensor:
        """Convolve planes that bring their neighbours along; beyond Y and Z lie zeros.

        Args:
            planes: `(X, Y, Z, C)`.
            alone: Whether they are all there are, without neighbours, so that zeros lie beyond X
                as well.
        """
        if planes.shape[-1] == 1 and self.radius == 1 and self.weight.dtype == torch.float32:
            return self._of_one_channel(_with_zeros(planes, 1, 1) if alone else planes)
        around = (self.radius if alone else 0, self.radius, self.radius)
        return convolve(planes, self.weight, self.bias, around)

    def _of_one_channel(self, planes: Tensor) -> Tensor:
        """The same with the 9 neighbours in a plane as channels: twice as fast on CPUs."""
        _, height, width, _ = planes.shape
        padded = F.pad(planes[..., 0], (1, 1, 1, 1))
        neighbours = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        weight = self.weight.reshape(-1, 1, 3, 9).permute(0, 3, 2, 1)[..., None]
        return convolve(torch.stack(neighbours, dim=-1), packed(weight), self.bias, (0, 0, 0))


def convolve(
    planes: Tensor, weight: Tensor, bias: Tensor | None, around: tuple[int, int, int]
) -> Tensor:
    """Convolution with zeros beyond the borders.

    Args:
        planes: `(X, Y, Z, C)`.
        weight: `(O, C, k, k, k)`.
        bias: `(O,)` or None.
        around: Number of zeros at the borders of X, Y and Z.
    """
    x = channels_first(planes.to(weight.dtype))
    if x.device.type == "cpu" and torch.backends.mkldnn.is_available():
        # conv3d would take a slow path for thin slabs
        once = (1, 1, 1)
        return channels_last(torch.mkldnn_convolution(x, weight, bias, around, once, once, 1))
    return channels_last(F.conv3d(x, weight, bias, padding=around))


def packed(weight: Tensor) -> Tensor:
    """A kernel with channels last in memory."""
    return weight.contiguous(memory_format=torch.channels_last_3d)


def channels_first(planes: Tensor) -> Tensor:
    """`(X, Y, Z, C)` planes as `(1, C, X, Y, Z)`, without a copy."""
    return planes.permute(3, 0, 1, 2)[None]


def channels_last(volume: Tensor) -> Tensor:
    """`(1, C, X, Y, Z)` as contiguous `(X, Y, Z, C)` planes, without a copy where they are."""
    return volume[0].permute(1, 2, 3, 0).contiguous()


def cut(volume: Tensor, thickness: int) -> Iterator[Tensor]:
    """Slabs of a whole volume `(X, Y, Z, C)`."""
    yield from volume.split(thickness)


def convolved(slabs: Slabs, convolution: Convolution) -> Iterator[Tensor]:
    """Slabs of the convolution of a volume, with zeros beyond it."""
    radius = convolution.radius
    whole, slabs = first_of(slabs)
    if whole is not None:
        yield convolution(whole, alone=True)
        return
    waiting: Tensor | None = None  # planes whose results follow, with their neighbours before
    for slab in slabs:
        if waiting is None:
            waiting = _with_zeros(slab, before=radius)
        elif waiting.shape[0] <= 2 * radius:
            waiting = torch.cat([waiting, slab])
        else:
            yield convolution(waiting)
            waiting = torch.cat([waiting[waiting.shape[0] - 2 * radius :], slab])
    assert waiting is not None
    yield convolution(_with_zeros(waiting, after=radius))


def convolved_phases(slabs: Slabs, convolution: Convolution, channels: int) -> Iterator[Tensor]:
    """Slabs of a convolution of the upsampled volume, from slabs of the small one.

    Args:
        slabs: Slabs of the small volume.
        convolution: With a kernel of `phase_convolution.phase_weight`.
        channels: Number of channels of the result.
    """
    whole, slabs = first_of(slabs)
    if whole is not None:
        yield _phases(whole, convolution, channels, alone=True)[1:-1]
        return
    waiting: Tensor | None = None
    first = 1  # the first plane of all lies outside
    for slab in slabs:
        if waiting is None:
            waiting = _with_zeros(slab, before=1)
            continue
        yield _phases(waiting, convolution, channels)[first:]
        waiting, first = torch.cat([waiting[-1:], slab]), 0
    assert waiting is not None
    yield _phases(_with_zeros(waiting, after=1), convolution, channels)[first:-1]


def first_of(slabs: Slabs) -> tuple[Tensor | None, Slabs]:
    """The only slab of a volume, None if there are several; and all slabs again."""
    rest = iter(slabs)
    begin = deque(islice(rest, 2))
    return begin[0] if len(begin) == 1 else None, _followed(begin, rest)


def _followed(begin: deque[Tensor], rest: Slabs) -> Iterator[Tensor]:
    """Some slabs, which are not kept, and others."""
    while begin:
        yield begin.popleft()
    yield from rest


def _phases(
    planes: Tensor, convolution: Convolution, channels: int, *, alone: bool = False
) -> Tensor:
    around = (int(alone), 1, 1)
    return interleave(convolve(planes, convolution.weight, convolution.bias, around), channels)


def _with_zeros(slab: Tensor, before: int = 0, after: int = 0) -> Tensor:
    return F.pad(slab, (0, 0, 0, 0, 0, 0, before, after))


def upsampled(slabs: Slabs) -> Iterator[Tensor]:
    """Slabs with each voxel repeated twice along each axis."""
    for slab in slabs:
        yield channels_last(F.interpolate(channels_first(slab), scale_factor=2, mode="nearest"))


def pooled(slabs: Slabs) -> Iterator[Tensor]:
    """Slabs of the maxima over 2x2x2 voxels."""
    rest: Tensor | None = None
    for slab in slabs:
        joined = slab if rest is None else torch.cat([rest, slab])
        even = joined.shape[0] // 2 * 2
        rest = joined[even:] if even < joined.shape[0] else None
        if even:
            yield _maxima(joined[:even])


def _maxima(planes: Tensor) -> Tensor:
    """Maxima over 2x2x2 voxels; on CPUs faster than `max_pool3d` with channels last."""
    planes = torch.maximum(planes[::2], planes[1::2])
    planes = torch.maximum(planes[:, ::2], planes[:, 1::2])
    return torch.maximum(planes[:, :, ::2], planes[:, :, 1::2])


def added(first: Slabs, second: Slabs) -> Iterator[Tensor]:
    """Sum of two volumes, in the memory and the slabs of the first."""
    others = iter(second)
    rest: Tensor | None = None
    for slab in first:
        while rest is None or rest.shape[0] < slab.shape[0]:
            fresh = next(others)
            rest = fresh if rest is None or not rest.shape[0] else torch.cat([rest, fresh])
        yield slab.add_(rest[: slab.shape[0]])
        rest = rest[slab.shape[0] :]


def mapped(function: Callable[[Tensor], Tensor], slabs: Slabs) -> Iterator[Tensor]:
    """A function of each voxel applied to each slab."""
    for slab in slabs:
        yield function(slab)


def measured(slabs: Slabs, statistics: Statistics) -> Iterator[Tensor]:
    """Pass slabs on, and take them into account in statistics."""
    for slab in slabs:
        statistics.add(slab)
        yield slab


def copied(slabs: Slabs, into: Tensor) -> Iterator[Tensor]:
    """Pass slabs on, and copy them into a whole volume `(X, Y, Z, C)`."""
    at = 0
    for slab in slabs:
        into[at : at + slab.shape[0]] = slab
        at += slab.shape[0]
        yield slab


def fill(volume: Tensor, slabs: Slabs) -> Tensor:
    """Collect slabs into a volume `(X, Y, Z, C)`, which is returned."""
    for _ in copied(slabs, volume):
        pass
    return volume


def gathered(slabs: Slabs, room: Tensor | Callable[[], Tensor]) -> Tensor:
    """A whole volume `(X, Y, Z, C)` of slabs.

    Args:
        slabs: Slabs, the only one of which is the volume.
        room: Where several go, or what makes room for them.
    """
    whole, slabs = first_of(slabs)
    if whole is not None:
        return whole
    return fill(room if isinstance(room, Tensor) else room(), slabs)
