"""The U-Net of SynthSR, whose weights can be exchanged with the original Keras network."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn

from .normalisation import EPSILON, GroupNorm, InstanceNorm
from .phase_convolution import can_join, convolve_joined

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": F.elu,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "gelu": F.gelu,
    "silu": F.silu,
}
"""Activations by name, with the default constants of PyTorch (`elu`: alpha 1)."""

NORMALISATIONS = ("batch", "instance", "group", "none")
WIDENED = ("instance", "none")
"""Normalisations that features of zeros beside the others do not change."""
MAX_LEVELS = 12
"""Inputs of the deepest network must have thousands of voxels along each axis."""
MAX_COUNT, MAX_CONVS = 10_000, 100
"""Most channels or features of the first level, and most convolutions per level."""
MAX_WEIGHTS = 250_000_000
"""Most weights of a network: 1 GB in float32, 20 times those of the published networks."""


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Architecture of a `UNet3d`; the defaults are those of the published SynthSR networks.

    Examples:
        >>> UNetConfig().features
        (24, 48, 96, 192, 384)
    """

    in_channels: int = 1
    """Number of channels of the input."""
    out_channels: int = 1
    """Number of channels of the output."""
    num_levels: int = 5
    """Number of resolutions, each half the one before."""
    num_features: int = 24
    """Number of feature maps at full resolution."""
    feature_multiplier: float = 2.0
    """Ratio of the features of a level and of the one above; numbers of features are rounded."""
    convs_per_level: int = 2
    """Number of convolutions per level, on the way down as well as up."""
    kernel_size: int = 3
    """Size of the convolution kernels in voxels, odd."""
    activation: str = "elu"
    """Applied after every convolution but the last: one of `ACTIVATIONS`."""
    dropout: float = 0.0
    """Probability that a whole feature map is left out in training, after each convolution."""
    normalisation: str = "batch"
    """Applied at the end of each level: one of `NORMALISATIONS`."""
    num_groups: int = 8
    """Most groups of channels for the normalisation `group`; levels whose features do not make as
    many make the greatest number of groups below that divides them."""
    normalise_last: bool = True
    """Whether the level that the output layer reads is normalised too, as in the original. With
    `instance` or `group` it should not be: the mean of the output would always be the same, however
    little of the volume is head."""
    softmax: bool = False
    """Whether the output is converted to probabilities, as a segmentation network does."""
    scale_features: int = 0
    """Number of features of a second head, which makes the last half of the output channels, the
    scales of the errors of the first half, from a last level of its own; 0: one head makes all
    channels."""

    def __post_init__(self) -> None:
        convs, size = self.convs_per_level, self.kernel_size
        levels, multiplier = self.num_levels, self.feature_multiplier
        for name in ("in_channels", "out_channels", "num_features", "num_groups"):
            count = getattr(self, name)
            _check(1 <= count <= MAX_COUNT, name, f"1 to {MAX_COUNT}", count)
        second, outputs = self.scale_features, self.out_channels
        _check(0 <= second <= MAX_COUNT, "scale_features", f"0 to {MAX_COUNT}", second)
        if second:
            _check(outputs % 2 == 0, "out_channels", "even with scale_features", outputs)
            _check(not self.softmax, "softmax", "false with scale_features", True)
        _check(1 <= convs <= MAX_CONVS, "convs_per_level", f"1 to {MAX_CONVS}", convs)
        _check(1 <= levels <= MAX_LEVELS, "num_levels", f"1 to {MAX_LEVELS}", levels)
        grows = 0 < multiplier <= 100 and min(self.features) >= 1
        bounds = "above 0, at most 100, such that no level is empty"
        _check(grows, "feature_multiplier", bounds, multiplier)
        _check(1 <= size <= 31 and size % 2 == 1, "kernel_size", "odd, 1 to 31", size)
        if self.num_weights > MAX_WEIGHTS:
            raise ValueError(
                f"num_features must be such that the network has at most {MAX_WEIGHTS:,} weights,"
                f" got {self.num_features} for {self.num_weights:.2g} weights. Lower it,"
                " num_levels, feature_multiplier, convs_per_level or kernel_size."
            )
        _check(0 <= self.dropout < 1, "dropout", "in [0, 1)", self.dropout)
        for name, known in (("activation", ACTIVATIONS), ("normalisation", NORMALISATIONS)):
            value = getattr(self, name)
            _check(value in known, name, f"one of {', '.join(known)}", value)

    @property
    def features(self) -> tuple[int, ...]:
        """Number of features of each level."""
        return tuple(
            round(self.num_features * self.feature_multiplier**level)
            for level in range(self.num_levels)
        )

    @property
    def head_channels(self) -> int:
        """Number of output channels of the first head."""
        return self.out_channels // 2 if self.scale_features else self.out_channels

    @property
    def last_inputs(self) -> int:
        """Number of channels that the last level reads."""
        return sum(self.features[:2]) if self.num_levels > 1 else self.in_channels

    @property
    def num_weights(self) -> int:
        """Number of weights of all convolutions."""
        up = self.features
        down = zip((self.in_channels, *up), up, strict=False)
        joined = zip(map(sum, itertools.pairwise(up)), up, strict=False)
        pairs = sum(n * m + (self.convs_per_level - 1) * m * m for n, m in [*down, *joined])
        if self.scale_features:
            n, m = self.last_inputs, self.scale_features
            pairs += n * m + (self.convs_per_level - 1) * m * m
        heads = self.head_channels * (up[0] + self.scale_features)
        return self.kernel_size**3 * pairs + heads

    @property
    def divisor(self) -> int:
        """Sizes that are multiples of this are halved without a remainder."""
        return int(2 ** (self.num_levels - 1))

    def halves(self, shape: Sequence[int]) -> bool:
        """Whether sizes `(X, Y, Z)` are halved without a remainder at every level."""
        return all(size % self.divisor == 0 for size in shape)


def _check(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise ValueError(f"{name} must be {expected}, got {got!r}.")


class Level(nn.Module):
    """Convolutions of one level, each followed by the activation, then a normalisation.

    Args:
        in_channels: Number of channels of the input.
        features: Number of channels of the output.
        config: Architecture.
        skip_channels: How many channels of the input are those of a skip connection, in a level of
            the decoder; as many as the output has, if None.
    """

    def __init__(
        self,
        in_channels: int,
        features: int,
        config: UNetConfig,
        *,
        skip_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.skip_channels = features if skip_channels is None else skip_channels
        size = config.kernel_size
        self.convs = nn.ModuleList(
            nn.Conv3d(features if i else in_channels, features, size, padding=size // 2)
            for i in range(config.convs_per_level)
        )
        self.norm = _normalisation(config, features)
        self.dropout = nn.Dropout3d(config.dropout)
        self.activation = ACTIVATIONS[config.activation]

    def forward(
        self, x: Tensor, small: Tensor | None = None, *, multiple: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Apply the level.

        Args:
            x: `(B, in_channels, X, Y, Z)`.
            small: `(B, C, X / 2, Y / 2, Z / 2)`: what is to be upsampled and concatenated behind
                `x` by `convolve_joined`; `x` then has `in_channels - C` channels.
            multiple: The output gets channels of zeros up to a multiple of this; `x` and `small`
                may have such channels too.

        Returns:
            The output `(B, features, X, Y, Z)`, and what a skip connection carries: the last
            activation, before dropout and normalisation.
        """
        skip = x
        for index, conv in enumerate(self.convs):
            assert isinstance(conv, nn.Conv3d)
            if small is not None and index == 0:
                weight, bias = self._widened(conv, multiple, x, small)
                x = convolve_joined(x, small, weight, bias)
            elif multiple > 1:
                weight, bias = self._widened(conv, multiple, x)
                x = F.conv3d(x, weight, bias, padding=conv.padding)
            else:
                x = conv(x)
            skip = self.activation(x)
            x = self.dropout(skip)
        return self.norm(x), skip

    def _widened(
        self, conv: nn.Conv3d, multiple: int, x: Tensor, small: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Kernel and bias for inputs and outputs with channels of zeros behind their own."""
        weight, bias = conv.weight, conv.bias
        if multiple == 1:
            return weight, bias
        own = self.skip_channels if small is not None else conv.in_channels
        parts = [_zero_padded(weight[:, :own], 1, x.shape[1])]
        if small is not None:
            parts.append(_zero_padded(weight[:, own:], 1, small.shape[1]))
        channels = -(-conv.out_channels // multiple) * multiple
        weight = _zero_padded(torch.cat(parts, 1) if len(parts) > 1 else parts[0], 0, channels)
        return weight, None if bias is None else _zero_padded(bias, 0, channels)


def _applied(head: nn.Module, x: Tensor) -> Tensor:
    """A head applied to features, behind which there may be channels of zeros."""
    assert isinstance(head, nn.Conv3d)
    if x.shape[1] == head.in_channels:
        return head(x)
    return F.conv3d(x, _zero_padded(head.weight, 1, x.shape[1]), head.bias)


def _zero_padded(weight: Tensor, axis: int, size: int) -> Tensor:
    after = [0] * (2 * (weight.ndim - axis) - 1)
    return F.pad(weight, [*after, size - weight.shape[axis]])


def _normalisation(config: UNetConfig, features: int) -> nn.Module:
    if config.normalisation == "batch":
        return nn.BatchNorm3d(features, eps=EPSILON, momentum=0.01)  # as Keras has them
    if config.normalisation == "instance":
        return InstanceNorm(features)
    if config.normalisation == "group":
        return GroupNorm(features, config.num_groups)
    return nn.Identity()


class UNet3d(nn.Module):
    """U-Net for volumes of any size.

    Each level is a few convolutions with activation, then a normalisation. On the way down,
    levels are joined by max pooling, on the way up by repeating each voxel twice per axis and
    concatenating the skip connection in front. A 1x1x1 convolution makes the output. With
    `scale_features`, another last level, which reads what the last level reads and is not
    normalised, and a 1x1x1 convolution, which begins with 0, make its last half.

    Kernels start from the uniform distribution of Glorot and Bengio (2010), biases from 0, as in
    Keras.

    Args:
        config: Architecture.

    Attributes:
        phased: Whether decoder levels with kernels of 3 read the skip connection and the small
            volume apart, where sizes are halved without a remainder. That saves a quarter of the
            products and most of the memory of these levels; the result is the same up to the order
            of sums.
        multiple: Features are padded with zeros to a multiple of this in computing, where `phased`
            applies and normalisation is `instance` or `none`: GPUs multiply 32 channels sooner than
            24. The result is the same up to the order of sums.

    References:
        Ronneberger et al., U-Net: Convolutional networks for biomedical image segmentation,
        MICCAI 2015; Iglesias et al., NeuroImage 237:118206 (2021), for this variant.

    Examples:
        >>> network = UNet3d(UNetConfig(num_levels=2, num_features=4))
        >>> network(torch.zeros(1, 1, 8, 6, 5)).shape
        torch.Size([1, 1, 8, 6, 5])
    """

    phased: bool = False
    multiple: int = 1

    def __init__(self, config: UNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or UNetConfig()
        features = config.features
        inputs = (config.in_channels, *features)
        self.encoder = nn.ModuleList(
            Level(inputs[level], features[level], config) for level in range(config.num_levels)
        )
        self.decoder = nn.ModuleList(
            Level(features[level] + features[level + 1], features[level], config)
            for level in reversed(range(config.num_levels - 1))
        )
        if not config.normalise_last:
            last = (*self.encoder, *self.decoder)[-1]
            last.norm = nn.Identity()
        self.head = nn.Conv3d(features[0], config.head_channels, 1)
        self.scales = nn.ModuleList()
        if config.scale_features:
            count = config.scale_features
            own = Level(config.last_inputs, count, config, skip_channels=features[0])
            own.norm = nn.Identity()
            self.scales.append(own)
            self.scales.append(nn.Conv3d(config.scale_features, config.head_channels, 1))
        self.apply(_initialise)
        if self.scales:
            nn.init.zeros_(self.get_parameter("scales.1.weight"))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the network.

        Args:
            x: `(B, in_channels, X, Y, Z)`, of any size. Sizes that are multiples of
                `config.divisor` are what the original accepts; others are halved rounding up.

        Returns:
            `(B, out_channels, X, Y, Z)`.

        Raises:
            ValueError: If the number of channels is not that of the network.
        """
        if x.ndim != 5 or x.shape[1] != self.config.in_channels:
            raise ValueError(
                f"input must be (B, {self.config.in_channels}, X, Y, Z), got {tuple(x.shape)}."
            )
        multiple = self.multiple if self._can_widen(x) else 1
        skips: list[Tensor] = []
        read: tuple[Tensor, ...] = (x,)
        for depth, level in enumerate(self.encoder):
            if depth:
                x = F.max_pool3d(x, 2, ceil_mode=True)
            x, skip = level(x, multiple=multiple)
            skips.append(skip)
        for level, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            if self.phased and can_join(skip, x, self.config.kernel_size):
                read = (skip, x)
            else:
                read = (torch.cat([skip, upsample(x, skip.shape[2:])], dim=1),)
            x, _ = level(*read, multiple=multiple)
        output = _applied(self.head, x)
        if self.config.scale_features:
            own, last = self.scales
            return torch.cat([output, _applied(last, own(*read, multiple=multiple)[0])], 1)
        return output.softmax(1) if self.config.softmax else output

    def _can_widen(self, x: Tensor) -> bool:
        """Whether features can be padded: not if they are concatenated or batch statistics kept."""
        config, plain = self.config, self.config.normalisation in WIDENED
        return self.phased and config.halves(x.shape[2:]) and plain and config.kernel_size == 3


def upsample(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Repeat each voxel twice along each axis, and crop to a shape.

    Args:
        x: `(B, C, X, Y, Z)`.
        shape: Spatial shape of the result, at most twice that of `x`.
    """
    x = F.interpolate(x, scale_factor=2, mode="nearest")
    return x[:, :, : shape[0], : shape[1], : shape[2]]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
