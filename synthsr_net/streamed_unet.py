"""A `UNet3d` computed in slabs: fast on CPUs, and frugal with memory.

Memory holds the skip connections and little else. Three facts make it fast: convolutions read
channels last, slabs stay in the caches of the processor, and upsampled volumes are never built
(see `phase_convolution`). The result is that of `UNet3d.forward` up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn

from .phase_convolution import phase_weight
from .streaming import (
    Convolution,
    Slabs,
    added,
    channels_first,
    channels_last,
    convolved,
    convolved_phases,
    cut,
    fill,
    kept,
    mapped,
    packed,
    pooled,
    upsampled,
)
from .unet import ACTIVATIONS, Level, UNet3d

IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": F.elu_,
    "relu": F.relu_,
    "leaky_relu": F.leaky_relu_,
    "silu": partial(F.silu, inplace=True),
}


@dataclass(frozen=True)
class Stage:
    """A level of the network as streams need it.

    Attributes:
        convs: Convolutions; the first of a decoder level is that of the skip connection.
        low: Convolution of the small volume in a decoder level, else None.
        norm: Normalisation that follows, or None.
        rising: Whether the normalisation keeps the order of numbers in every channel.
        activation: Follows each convolution, in place where it can.
    """

    convs: tuple[Convolution, ...]
    low: Convolution | None
    norm: nn.BatchNorm3d | None
    rising: bool
    activation: Callable[[Tensor], Tensor]

    @property
    def features(self) -> int:
        """Number of channels of the result."""
        return int(self.convs[-1].weight.shape[0])

    def encoded(self, slabs: Slabs) -> Iterator[Tensor]:
        """The skip connection of an encoder level, from the input of the level."""
        for convolution in self.convs:
            slabs = mapped(self.activation, convolved(slabs, convolution))
        yield from slabs

    def decoded(self, skip: Slabs, small: Slabs) -> Iterator[Tensor]:
        """The result of a decoder level, before its normalisation."""
        assert self.low is not None
        features = self.convs[0].weight.shape[0]
        if self.low.weight.shape[2] == 2:
            from_small = convolved_phases(small, self.low, features)
        else:
            from_small = convolved(upsampled(small), self.low)
        slabs: Slabs = added(convolved(skip, self.convs[0]), from_small)
        slabs = mapped(self.activation, slabs)
        for convolution in self.convs[1:]:
            slabs = mapped(self.activation, convolved(slabs, convolution))
        yield from slabs

    def normalised(self, slab: Tensor) -> Tensor:
        """Apply the normalisation."""
        if self.norm is None:
            return slab
        norm, x = self.norm, channels_first(slab)
        mean, variance = norm.running_mean, norm.running_var
        result = F.batch_norm(x, mean, variance, norm.weight, norm.bias, eps=norm.eps)
        return channels_last(result)

    def halved(self, slabs: Slabs) -> Iterator[Tensor]:
        """Normalisation and maxima over 2x2x2 voxels, in the cheaper order."""
        if self.rising:
            return mapped(self.normalised, pooled(slabs))
        return pooled(mapped(self.normalised, slabs))


@dataclass(frozen=True)
class StreamedUNet:
    """A network prepared by `prepare`, in one precision."""

    encoder: tuple[Stage, ...]
    decoder: tuple[Stage, ...]
    head: Convolution
    softmax: bool
    dtype: torch.dtype

    def __call__(self, x: Tensor, *, slab_elements: int, keep_first_skip: bool = True) -> Tensor:
        """Apply the network.

        Args:
            x: `(C, X, Y, Z)`; sizes must be multiples of the network's divisor.
            slab_elements: About how many numbers a slab holds.
            keep_first_skip: Whether to keep the largest skip connection; else it is computed a
                second time, which saves most of the memory and takes about a seventh longer.

        Returns:
            `(O, X, Y, Z)` float32.
        """
        source = x.permute(1, 2, 3, 0).contiguous().to(self.dtype)
        skips: list[Tensor | None] = []
        small = source
        for depth, stage in enumerate(self.encoder[:-1]):
            skip = self._room(small.shape, stage) if keep_first_skip or depth else None
            slabs = stage.encoded(_cut(small, stage, slab_elements))
            slabs = slabs if skip is None else kept(slabs, skip)
            half = (small.shape[0] // 2, small.shape[1] // 2, small.shape[2] // 2)
            small = fill(small.new_empty(*half, stage.features), stage.halved(slabs))
            skips.append(skip)
        bottom = self.encoder[-1]
        slabs = mapped(bottom.normalised, bottom.encoded(_cut(small, bottom, slab_elements)))
        if len(self.encoder) > 1:
            small = fill(self._room(small.shape, bottom), slabs)
        for stage in self.decoder:
            skip = skips.pop()
            if skip is None:
                first = self.encoder[0]
                skip_slabs: Slabs = first.encoded(_cut(source, first, slab_elements))
            else:
                skip_slabs = _cut(skip, stage, slab_elements)
            thickness = max(1, _thickness(source.shape, stage, slab_elements, len(skips)) // 2)
            slabs = mapped(stage.normalised, stage.decoded(skip_slabs, cut(small, thickness)))
            if skips:
                assert skip is not None
                small = fill(self._room(skip.shape, stage), slabs)
        return self._headed(slabs, source.shape)

    def _room(self, shape: torch.Size, stage: Stage) -> Tensor:
        size = (*shape[:3], stage.features)
        return self.head.weight.new_empty(size, dtype=self.dtype)

    def _headed(self, slabs: Slabs, shape: torch.Size) -> Tensor:
        weight, bias = self.head.weight[:, :, 0, 0, 0], self.head.bias
        result = weight.new_empty(weight.shape[0], *shape[:3])
        outputs = mapped(lambda slab: F.linear(slab.float(), weight, bias), slabs)
        fill(result.permute(1, 2, 3, 0), outputs)
        return result.softmax(0) if self.softmax else result


def _thickness(shape: torch.Size, stage: Stage, slab_elements: int, depth: int = 0) -> int:
    """Even number of planes of a slab at a level of a volume `(X, Y, Z, C)`."""
    plane = (shape[1] >> depth) * (shape[2] >> depth) * stage.features
    return max(2, slab_elements // plane // 2 * 2)


def _cut(volume: Tensor, stage: Stage, slab_elements: int) -> Iterator[Tensor]:
    return cut(volume, _thickness(volume.shape, stage, slab_elements))


def can_stream(network: UNet3d, shape: tuple[int, ...]) -> bool:
    """Whether a network can be computed in slabs on a volume of a shape `(X, Y, Z)`."""
    whole = all(size % network.config.divisor == 0 for size in shape)
    return whole and network.config.normalisation != "instance"


def prepare(network: UNet3d, dtype: torch.dtype) -> StreamedUNet:
    """Rearrange the weights of a network for streaming.

    Args:
        network: In inference; its normalisation must not be `instance`, which needs whole volumes.
        dtype: Precision of the products; sums are float32 inside every layer, and so are the last
            convolution and the head.
    """
    activation = IN_PLACE.get(network.config.activation) or ACTIVATIONS[network.config.activation]
    encoder, decoder = _levels(network.encoder), _levels(network.decoder)
    norms = [_norm(level) for level in (*encoder, *decoder)]
    head = _weights(network.head)
    last = norms[-1]
    if last is not None:  # nothing but the head follows the last normalisation
        head, norms[-1] = _after(last, head), None
    stages = [
        _stage(level, norm, dtype, activation, joins=index >= len(encoder))
        for index, (level, norm) in enumerate(zip((*encoder, *decoder), norms, strict=True))
    ]
    stages[-1] = _exact_at_the_end(stages[-1], (*encoder, *decoder)[-1])
    return StreamedUNet(
        encoder=tuple(stages[: len(encoder)]),
        decoder=tuple(stages[len(encoder) :]),
        head=head,
        softmax=network.config.softmax,
        dtype=dtype,
    )


def _levels(levels: nn.ModuleList) -> list[Level]:
    return [level for level in levels if isinstance(level, Level)]


def _weights(conv: nn.Module) -> Convolution:
    assert isinstance(conv, nn.Conv3d)
    assert conv.bias is not None
    return Convolution(conv.weight.detach().float(), conv.bias.detach().float())


def _norm(level: Level) -> nn.BatchNorm3d | None:
    if isinstance(level.norm, nn.Identity):
        return None
    if not isinstance(level.norm, nn.BatchNorm3d):
        raise ValueError(f"normalisation must be batch or none, got {type(level.norm).__name__}.")
    return level.norm


def _after(norm: nn.BatchNorm3d, head: Convolution) -> Convolution:
    """A 1x1x1 convolution that applies a normalisation on its way."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert head.bias is not None
    scale = norm.weight.detach().float() / torch.sqrt(norm.running_var.float() + norm.eps)
    shift = norm.bias.detach().float() - norm.running_mean.float() * scale
    bias = head.bias + head.weight[:, :, 0, 0, 0] @ shift
    return Convolution(head.weight * scale.view(-1, 1, 1, 1), bias)


def _cast(convolution: Convolution, dtype: torch.dtype) -> Convolution:
    bias = None if convolution.bias is None else convolution.bias.to(dtype)
    return Convolution(packed(convolution.weight.to(dtype)), bias)


def _stage(
    level: Level,
    norm: nn.BatchNorm3d | None,
    dtype: torch.dtype,
    activation: Callable[[Tensor], Tensor],
    *,
    joins: bool,
) -> Stage:
    first, *others = [_weights(conv) for conv in level.convs]
    low = None
    if joins:
        features = first.weight.shape[0]
        low = _cast(_of_upsampled(first.weight[:, features:]), dtype)
        first = Convolution(first.weight[:, :features], first.bias)
    convolutions = tuple(_cast(convolution, dtype) for convolution in (first, *others))
    rising = norm is None or bool((norm.weight >= 0).all())
    return Stage(convolutions, low, norm, rising, activation)


def _exact_at_the_end(stage: Stage, level: Level) -> Stage:
    """The last stage with its last convolution in float32, as the head is.

    The features before the head are large and cancel in it: rounding them to bf16 makes most of
    the error of the whole network.
    """
    if stage.low is not None and len(stage.convs) == 1:
        return stage  # what it is added to has the lower precision
    last = _cast(_weights(level.convs[-1]), torch.float32)
    return replace(stage, convs=(*stage.convs[:-1], last))


def _of_upsampled(weight: Tensor) -> Convolution:
    return Convolution(phase_weight(weight) if weight.shape[2] == 3 else weight, None)
