"""A level of a `UNet3d` as streams need it: its weights rearranged, its steps on slabs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn

from synthsr_net.networks.normalisation import GroupNorm, InstanceNorm, Statistics, of_groups
from synthsr_net.networks.phase_convolution import phase_weight
from synthsr_net.networks.unet import ACTIVATIONS, Level

from .fused import activate_, can_fuse
from .slabs import (
    Convolution,
    Slabs,
    added,
    channels_first,
    channels_last,
    convolve,
    convolved,
    convolved_phases,
    cut,
    first_of,
    mapped,
    measured,
    packed,
    pooled,
    upsampled,
)

IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": F.elu_,
    "relu": F.relu_,
    "leaky_relu": F.leaky_relu_,
    "silu": partial(F.silu, inplace=True),
}
Norm = nn.BatchNorm3d | InstanceNorm


class Volume(NamedTuple):
    """A whole volume that is normalised when it is read.

    Attributes:
        data: `(X, Y, Z, C)`.
        normalise: Function of slabs, or None.
    """

    data: Tensor
    normalise: Callable[[Tensor], Tensor] | None = None

    def slabs(self, thickness: int) -> Slabs:
        """Normalised slabs."""
        slabs = cut(self.data, thickness)
        return slabs if self.normalise is None else mapped(self.normalise, slabs)


@dataclass(frozen=True)
class Stage:
    """A level of the network as streams need it.

    Attributes:
        convs: Convolutions; the first of a decoder level is that of the skip connection.
        low: Convolution of the small volume in a decoder level, else None.
        norm: Normalisation that follows, or None.
        affine: Its weight and bias.
        signs: -1 where the normalisation reverses the order of numbers, else 1: `(C,)`. None if
            it never does.
        activation: Follows each convolution, in place where it can.
    """

    convs: tuple[Convolution, ...]
    low: Convolution | None
    norm: Norm | None
    affine: tuple[Tensor, Tensor] | None
    signs: Tensor | None
    activation: Callable[[Tensor], Tensor]

    @property
    def features(self) -> int:
        """Number of channels of the result."""
        return int(self.convs[-1].weight.shape[0])

    @property
    def measures(self) -> bool:
        """Whether the normalisation needs statistics of the whole result."""
        return isinstance(self.norm, InstanceNorm)

    def encoded(self, slabs: Slabs, statistics: Statistics | None = None) -> Iterator[Tensor]:
        """The skip connection of an encoder level, from the input of the level.

        Args:
            slabs: Slabs of the input.
            statistics: Take the result into account.
        """
        return self._through(slabs, self.convs, statistics)

    def decoded(
        self, skip: Slabs, small: Slabs, statistics: Statistics | None = None
    ) -> Iterator[Tensor]:
        """The result of a decoder level, before its normalisation.

        Args:
            skip: Slabs of the skip connection.
            small: Slabs of the small volume, from which a slab comes for each of these.
            statistics: Take the result into account.
        """
        last = None if len(self.convs) > 1 else statistics
        return self._through(self._joined(skip, small, last), self.convs[1:], statistics)

    def _joined(self, skip: Slabs, small: Slabs, statistics: Statistics | None) -> Iterator[Tensor]:
        """The first convolution of a decoder level, activated."""
        assert self.low is not None
        conv, features = self.convs[0], self.convs[0].weight.shape[0]
        phased = self.low.weight.shape[2] == 2
        if phased and can_fuse(self.activation, conv.weight) and conv.bias is not None:
            first, skip = first_of(skip)
            first_small, small = first_of(small)
            if first is not None and first_small is not None:
                yield self._joined_at_once(first, first_small, statistics)
                return
        if phased:
            from_small = convolved_phases(small, self.low, features)
        else:
            from_small = convolved(upsampled(small), self.low)
        made = mapped(self.activation, added(convolved(skip, conv), from_small))
        yield from made if statistics is None else measured(made, statistics)

    def _joined_at_once(self, skip: Tensor, small: Tensor, statistics: Statistics | None) -> Tensor:
        """The same of whole volumes, by one kernel after both convolutions."""
        conv, low = self.convs[0], self.low
        assert low is not None
        assert conv.bias is not None
        made = Convolution(conv.weight, None)(skip, alone=True)
        phases = convolve(small, low.weight, None, (1, 1, 1))
        return activate_(made, conv.bias, phases=phases, statistics=statistics)

    def _through(
        self, slabs: Slabs, convolutions: Sequence[Convolution], statistics: Statistics | None
    ) -> Iterator[Tensor]:
        """Slabs after convolutions, each of which is activated."""
        for convolution in convolutions:
            last = statistics if convolution is convolutions[-1] else None
            if convolution.bias is not None and can_fuse(self.activation, convolution.weight):
                bare = convolved(slabs, Convolution(convolution.weight, None))
                slabs = mapped(partial(activate_, bias=convolution.bias, statistics=last), bare)
            else:
                slabs = mapped(self.activation, convolved(slabs, convolution))
                slabs = slabs if last is None else measured(slabs, last)
        yield from slabs

    def halved(self, slabs: Slabs) -> Iterator[Tensor]:
        """Maxima over 2x2x2 voxels, with the signs of `signs`, for `normaliser(halved=True)`."""
        if self.signs is not None:
            slabs = mapped(partial(torch.mul, self.signs), slabs)
        return pooled(slabs)

    def normaliser(
        self, statistics: Statistics, *, halved: bool = False
    ) -> Callable[[Tensor], Tensor] | None:
        """The normalisation as a function of slabs, or None if there is none.

        Args:
            statistics: Those of the result, if `measures`.
            halved: Whether the slabs come from `halved`.
        """
        if self.norm is None or self.affine is None:
            return None
        mean, variance = self._moments(statistics)
        weight, bias = self.affine
        if halved and self.signs is not None:
            mean, weight = mean * self.signs, weight * self.signs
        eps = self.norm.eps
        return partial(_normalised, mean=mean, variance=variance, weight=weight, bias=bias, eps=eps)

    def folded(self, head: Convolution, statistics: Statistics) -> Convolution:
        """A 1x1x1 convolution that applies the normalisation on its way."""
        if self.norm is None or self.affine is None:
            return head
        assert head.bias is not None
        mean, variance = self._moments(statistics)
        weight, bias = self.affine
        scale = weight.float() / torch.sqrt(variance + self.norm.eps)
        shift = bias.float() - mean * scale
        bias = head.bias + head.weight[:, :, 0, 0, 0] @ shift
        return Convolution(head.weight * scale.view(-1, 1, 1, 1), bias)

    def _moments(self, statistics: Statistics) -> tuple[Tensor, Tensor]:
        """Mean and variance by which each channel is normalised."""
        if isinstance(self.norm, nn.BatchNorm3d):
            assert self.norm.running_mean is not None
            assert self.norm.running_var is not None
            return self.norm.running_mean.float(), self.norm.running_var.float()
        if isinstance(self.norm, GroupNorm):
            return of_groups(statistics.mean, statistics.variance, self.norm.num_groups)
        return statistics.mean, statistics.variance


def _normalised(
    slab: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    return channels_last(F.batch_norm(channels_first(slab), mean, variance, weight, bias, eps=eps))


def stage_of(
    level: nn.Module,
    dtype: torch.dtype,
    activation: str,
    *,
    joins: bool,
    multiple: int = 1,
    multiple_in: int | None = None,
) -> Stage:
    """Rearrange the weights of a level.

    Args:
        level: A `Level`, in inference.
        dtype: Precision of the products.
        activation: One of `ACTIVATIONS`.
        joins: Whether the level is one of the decoder.
        multiple: Features are padded with zeros to multiples of this, if the normalisation is one
            of `unet.WIDENED`.
        multiple_in: The same for the input of the level; None: as features.
    """
    assert isinstance(level, Level)
    first, *others = [weights(conv) for conv in level.convs]
    entry = multiple if multiple_in is None else multiple_in
    low = None
    if joins:
        own = level.skip_channels
        small = widened(Convolution(first.weight[:, own:], None), multiple, entry)
        low = _cast(_of_upsampled(small.weight), dtype)
        first = Convolution(first.weight[:, :own], first.bias)
    first = widened(first, multiple, entry)
    wide = (first, *(widened(convolution, multiple, multiple) for convolution in others))
    convolutions = tuple(_cast(convolution, dtype) for convolution in wide)
    norm, affine, signs = None, None, None
    if not isinstance(level.norm, nn.Identity):
        assert isinstance(level.norm, Norm)
        norm = level.norm
        more = len(first.weight) - norm.weight.numel()
        affine = F.pad(norm.weight, (0, more)), F.pad(norm.bias, (0, more))
        negative = affine[0] < 0
        signs = torch.where(negative, -1, 1).to(dtype) if bool(negative.any()) else None
    function = IN_PLACE.get(activation) or ACTIVATIONS[activation]
    return Stage(convolutions, low, norm, affine, signs, function)


def exact_at_the_end(stage: Stage, level: nn.Module) -> Stage:
    """The last stage with its last convolution in float32, as the head is.

    The features before the head are large and cancel in it: rounding them to bf16 makes most of
    the error of the whole network.
    """
    assert isinstance(level, Level)
    if stage.low is not None and len(stage.convs) == 1:
        return stage  # what it is added to has the lower precision
    features, channels = stage.convs[-1].weight.shape[:2]
    exact = widened(weights(level.convs[-1]), features, channels)
    return replace(stage, convs=(*stage.convs[:-1], _cast(exact, torch.float32)))


def widened(convolution: Convolution, multiple: int, multiple_in: int = 1) -> Convolution:
    """A convolution with further features of zeros, for inputs with such.

    Args:
        convolution: The convolution.
        multiple: Of which the number of its features becomes a multiple.
        multiple_in: Of which the number of its input channels becomes one.
    """
    weight, bias = convolution.weight, convolution.bias
    more, more_in = -len(weight) % multiple, -weight.shape[1] % multiple_in
    if not more and not more_in:
        return convolution
    weight = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, more_in, 0, more))
    return Convolution(weight, None if bias is None else F.pad(bias, (0, more)))


def weights(conv: nn.Module) -> Convolution:
    """Kernel and bias of a layer in float32."""
    assert isinstance(conv, nn.Conv3d)
    assert conv.bias is not None
    return Convolution(conv.weight.detach().float(), conv.bias.detach().float())


def _cast(convolution: Convolution, dtype: torch.dtype) -> Convolution:
    bias = None if convolution.bias is None else convolution.bias.to(dtype)
    return Convolution(packed(convolution.weight.to(dtype)), bias)


def _of_upsampled(weight: Tensor) -> Convolution:
    return Convolution(phase_weight(weight) if weight.shape[2] == 3 else weight, None)
