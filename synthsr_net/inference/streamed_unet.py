"""A `UNet3d` computed in slabs: fast on CPUs, and frugal with memory.

Memory holds the skip connections and little else. Three facts make it fast: convolutions read
channels last, slabs stay in the caches of the processor, and upsampled volumes are never built
(see `phase_convolution`). The result is that of `UNet3d.forward` up to the order of sums.

Volumes are normalised when they are read, not when they are made: so normalisations that need
statistics of a whole volume cost no pass of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from synthsr_net.networks.normalisation import Statistics
from synthsr_net.networks.unet import WIDENED, UNet3d
from synthsr_transforms.support.memory import return_freed

from .slabs import (
    Box,
    Convolution,
    Slabs,
    copied,
    cut,
    fill,
    first_of,
    gathered,
    mapped,
    measured,
)
from .stage import Stage, Volume, exact_at_the_end, stage_of, weights, widened


@dataclass(frozen=True)
class StreamedUNet:
    """A network prepared by `prepare`, in one precision."""

    encoder: tuple[Stage, ...]
    decoder: tuple[Stage, ...]
    head: Convolution
    scales: tuple[Stage, Convolution] | None  # last level and last layer of a second head
    softmax: bool
    dtype: torch.dtype

    def __call__(
        self,
        x: Tensor,
        *,
        slab_elements: int,
        keep_first_skip: bool = True,
        box: Box | None = None,
        mirror: bool = False,
    ) -> Tensor:
        """Apply the network.

        Args:
            x: `(C, X, Y, Z)`; sizes must be multiples of the network's divisor.
            slab_elements: About how many numbers a slab holds.
            keep_first_skip: Whether to keep the largest skip connection; else it is computed a
                second time, which saves most of the memory and takes about a seventh longer.
                Where the last normalisation needs statistics of its volume, the last level too is
                computed a second time, and all takes about two thirds longer.
            box: Part of the output to compute, the same as in the whole output: unless the last
                level has statistics of its own, that level is computed there alone.
            mirror: Whether to apply it to the input with its first axis reversed, of which no copy
                is kept where it is not needed any more.

        Returns:
            `(O, X, Y, Z)` float32, of the box if there is one.
        """
        turned = x.flip(1) if mirror else x
        source = Volume(self._source(turned))
        del turned
        shape = source.data.shape
        inner: tuple[slice, ...] = (slice(None), *box) if box else ()
        if not self.decoder:
            whole = partial(_encoded, volume=source, slab_elements=slab_elements)
            return self._outputs(self.encoder[0], whole, None, shape, slab_elements)[inner]
        skips, small = self._descended(source, slab_elements, keep_first_skip)
        for stage in self.decoder[:-1]:
            place = skips.pop()
            assert place is not None
            _return_freed(place)
            result = partial(self._decoded, stage, place, small, source, slab_elements)
            # planes are read before they are overwritten
            small = _kept(stage, result, place)
            del place, result
        stage, skip = self.decoder[-1], skips.pop()
        if skip is not None:
            source = Volume(source.data.new_empty(0, *shape[1:]))  # it is not read again
        _return_freed(x)
        if box and not stage.measures:
            reach = (1 if skip is not None else 2) * sum(conv.radius for conv in stage.convs) + 1
            around = [_around(part, reach, size) for part, size in zip(box, shape, strict=False)]
            inner = (slice(None), *map(_within, box, around))
            skip = None if skip is None else skip[tuple(around)]
            halves = tuple(slice(part.start // 2, part.stop // 2) for part in around)
            small = small._replace(data=small.data[halves])
            source = source._replace(data=source.data[tuple(around)])
            shape = torch.Size([*(part.stop - part.start for part in around), shape[3]])
        reads, ends = (skip, small, source, slab_elements), (skip, shape, slab_elements)
        return self._outputs(stage, lambda level: self._decoded(level, *reads), *ends)[inner]

    def _source(self, x: Tensor) -> Tensor:
        """The input `(X, Y, Z, C)`, with channels of zeros where the first level expects more."""
        last = x.permute(1, 2, 3, 0).contiguous().to(self.dtype)
        more = self.encoder[0].convs[0].weight.shape[1] - last.shape[3]
        return F.pad(last, (0, more)) if more else last

    def _outputs(
        self,
        stage: Stage,
        slabs: Callable[[Stage], Slabs],
        skip: Tensor | None,
        shape: torch.Size,
        slab_elements: int,
    ) -> Tensor:
        """The output of all heads, see `_head`; `slabs` makes the result of a last level.

        The scales come first, while the skip connection is still there.
        """
        number = len(self.head.weight)
        more = len(self.scales[1].weight) if self.scales else 0
        output = self.head.weight.new_empty(number + more, *shape[:3])
        if self.scales:
            own, last = self.scales
            self._head(output[number:], own, partial(slabs, own), last, None, slab_elements)
        self._head(output[:number], stage, partial(slabs, stage), self.head, skip, slab_elements)
        return output

    def _descended(
        self, source: Volume, slab_elements: int, keep_first_skip: bool
    ) -> tuple[list[Tensor | None], Volume]:
        """Skip connections of all levels but the deepest, None for what is not kept, and that."""
        skips: list[Tensor | None] = []
        small = source
        for depth, stage in enumerate(self.encoder[:-1]):
            keeps = keep_first_skip or depth > 0
            room = partial(self._room, small.data.shape, stage) if keeps else None
            skip, small = _descend(stage, small, slab_elements, room)
            skips.append(skip)
        last = self.encoder[-1]
        result = partial(_encoded, last, small, slab_elements)
        return skips, _kept(last, result, partial(self._room, small.data.shape, last))

    def _room(self, shape: torch.Size, stage: Stage) -> Tensor:
        size = (*shape[:3], stage.features)
        return self.head.weight.new_empty(size, dtype=self.dtype)

    def _decoded(
        self,
        stage: Stage,
        skip: Tensor | None,
        small: Volume,
        source: Volume,
        slab_elements: int,
        statistics: Statistics | None = None,
    ) -> Slabs:
        """The result of a decoder level, from the small volume and a skip connection, if stored."""
        if skip is None:
            skip_slabs: Slabs = _encoded(self.encoder[0], source, slab_elements)
        else:
            skip_slabs = cut(skip, _thickness(skip.shape, stage, slab_elements))
        thickness = _thickness(_doubled(small.data.shape), stage, slab_elements) // 2
        return stage.decoded(skip_slabs, small.slabs(thickness), statistics)

    def _head(
        self,
        output: Tensor,
        stage: Stage,
        slabs: Callable[[], Slabs],
        head: Convolution,
        skip: Tensor | None,
        slab_elements: int,
    ) -> None:
        """Compute the output of a head from the result of a last level, perhaps repeatedly.

        Args:
            output: `(O, X, Y, Z)`, where it goes.
            stage: The last level.
            slabs: Makes its result.
            head: The last layer.
            skip: Its skip connection, if stored. Its place is taken by the result, where that is
                needed twice: planes are read before they are overwritten.
            slab_elements: About how many numbers a slab holds.
        """
        statistics = Statistics()
        if not stage.measures:
            result = slabs()
        elif skip is None:
            for _ in measured(slabs(), statistics):
                pass
            result = slabs()
        else:
            exact = stage.convs[-1].weight.dtype == self.dtype
            place = skip if exact else skip.view(torch.float16)  # of more digits than bfloat16
            fits = partial(torch.clamp_, max=torch.finfo(place.dtype).max)
            fill(place, mapped(fits, measured(slabs(), statistics)))
            result = cut(place, _thickness(place.shape, stage, slab_elements))
        head = stage.folded(head, statistics)
        weight, bias = head.weight[:, :, 0, 0, 0], head.bias
        make = partial(_probabilities if self.softmax else F.linear, weight=weight, bias=bias)
        fill(output.permute(1, 2, 3, 0), mapped(make, mapped(torch.Tensor.float, result)))


def _return_freed(volume: Tensor) -> None:
    """Give back what slabs of the levels before have left, in the memory of a CPU."""
    if volume.device.type == "cpu":
        return_freed()


def _probabilities(slab: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Softmax of a linear layer, channels first in memory as the output has them."""
    scores = weight @ slab.flatten(0, 2).T
    scores = scores if bias is None else scores.add_(bias[:, None])
    return scores.softmax(0).T.unflatten(0, slab.shape[:3])


def _encoded(
    stage: Stage, volume: Volume, slab_elements: int, statistics: Statistics | None = None
) -> Iterator[Tensor]:
    thickness = _thickness(volume.data.shape, stage, slab_elements)
    return stage.encoded(volume.slabs(thickness), statistics)


def _kept(
    stage: Stage, slabs: Callable[[Statistics | None], Slabs], room: Tensor | Callable[[], Tensor]
) -> Volume:
    """The result of a level, from a function that makes its slabs and measures them."""
    statistics = Statistics()
    result = gathered(slabs(statistics if stage.measures else None), room)
    return Volume(result, stage.normaliser(statistics))


def _descend(
    stage: Stage, volume: Volume, slab_elements: int, room: Callable[[], Tensor] | None
) -> tuple[Tensor | None, Volume]:
    """The skip connection of a level, if there is room for it, and the input of the next."""
    statistics = Statistics()
    measures = statistics if stage.measures else None
    slabs: Slabs = _encoded(stage, volume, slab_elements, measures)
    skip: Tensor | None = None
    if room is not None:
        skip, slabs = first_of(slabs)
        if skip is None:
            skip = room()
            slabs = copied(slabs, skip)
    x, y, z, _ = volume.data.shape
    shape = x // 2, y // 2, z // 2, stage.features
    half = gathered(stage.halved(slabs), partial(volume.data.new_empty, shape))
    return skip, Volume(half, stage.normaliser(statistics, halved=True))


def _around(part: slice, reach: int, size: int) -> slice:
    """A part of an axis with its neighbours as far as there are any, from and to even planes."""
    return slice(max(0, part.start - reach) // 2 * 2, min(size, -(-(part.stop + reach) // 2) * 2))


def _within(part: slice, around: slice) -> slice:
    return slice(part.start - around.start, part.stop - around.start)


def _doubled(shape: torch.Size) -> torch.Size:
    return torch.Size(2 * size for size in shape[:3])


def _thickness(shape: torch.Size, stage: Stage, slab_elements: int) -> int:
    """Even number of planes of a slab of the result of a level, whose shape is `(X, Y, Z, ...)`."""
    plane = shape[1] * shape[2] * stage.features
    return max(2, slab_elements // plane // 2 * 2)


def prepare(network: UNet3d, dtype: torch.dtype, *, multiple: int = 1) -> StreamedUNet:
    """Rearrange the weights of a network for streaming.

    Args:
        network: In inference.
        dtype: Precision of the products; sums are float32 inside every layer, and so are the last
            convolution and the head.
        multiple: Features are padded with zeros to multiples of this, if the normalisation allows
            it: GPUs take longer to multiply others. The result is the same up to the order of sums.
    """
    kind = network.config.activation
    multiple = multiple if network.config.normalisation in WIDENED else 1
    make = partial(stage_of, dtype=dtype, activation=kind, multiple=multiple)
    first = min(multiple, INPUT_MULTIPLE)
    encoder = [
        make(level, joins=False, multiple_in=None if depth else first)
        for depth, level in enumerate(network.encoder)
    ]
    decoder = [make(level, joins=True) for level in network.decoder]
    last, level = (decoder, network.decoder) if decoder else (encoder, network.encoder)
    last[-1] = exact_at_the_end(last[-1], level[-1])
    scales = None
    if network.scales:
        own, end = network.scales
        stage = make(own, joins=bool(decoder), multiple_in=None if decoder else first)
        scales = exact_at_the_end(stage, own), widened(weights(end), 1, stage.features)
    return StreamedUNet(
        encoder=tuple(encoder),
        decoder=tuple(decoder),
        head=widened(weights(network.head), 1, last[-1].features),
        scales=scales,
        softmax=network.config.softmax,
        dtype=dtype,
    )


INPUT_MULTIPLE = 8
"""Channels of the input are padded to a multiple of this at most."""
_PREPARED: WeakKeyDictionary[UNet3d, dict[Any, tuple[Any, StreamedUNet]]] = WeakKeyDictionary()


def prepared_once(network: UNet3d, dtype: torch.dtype, *, multiple: int = 1) -> StreamedUNet:
    """`prepare`, whose result is kept as long as the weights are not changed.

    Weights that take gradients are expected to change, so that nothing is kept.
    """
    tensors = [*network.parameters(), *network.buffers()]
    if any(tensor.requires_grad or tensor.is_inference() for tensor in tensors):
        return prepare(network, dtype, multiple=multiple)
    made = _PREPARED.setdefault(network, {})
    state = [(tensor.data_ptr(), tensor._version) for tensor in tensors]
    key = dtype, multiple
    if key not in made or made[key][0] != state:
        made[key] = state, prepare(network, dtype, multiple=multiple)
        if tensors[0].is_cuda:  # other threads use it on streams of their own
            torch.cuda.current_stream(tensors[0].device).synchronize()
    return made[key][1]
