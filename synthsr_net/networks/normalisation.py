"""Normalisations with statistics of each volume, for channels in any place in memory.

PyTorch's own layers copy volumes with channels last to the other format and back. These do not, and
take one element at a time. Statistics are float32 whatever the precision of the volume, which the
result keeps.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

EPSILON = 1e-3
"""Added to variances, as in the batch normalisation of Keras."""

_SPACE = (0, 2, 3, 4)


class InstanceNorm(nn.Module):
    """Each channel of each element to mean 0 and variance 1, then weight and bias by channel.

    Args:
        features: Number of channels.
        eps: Added to variances.

    References:
        Ulyanov et al., Instance normalization, arXiv:1607.08022 (2016).

    Examples:
        >>> InstanceNorm(2)(torch.rand(3, 2, 4, 4, 4)).mean((2, 3, 4)).abs().max() < 1e-6
        tensor(True)
    """

    def __init__(self, features: int, eps: float = EPSILON) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `(B, C, X, Y, Z)`; the result has the same format in memory."""
        if x.shape[0] == 1:
            return self.normalised(x)
        if torch.compiler.is_compiling() and type(self) is InstanceNorm:
            return self._compiled(x)  # the same code for any number of elements
        return torch.cat([self.normalised(element) for element in x.split(1)])

    def normalised(self, x: Tensor) -> Tensor:
        """Normalise one element `(1, C, X, Y, Z)`."""
        if x.device.type == "cpu":
            # with channels last, PyTorch's kernel adds millions of voxels up one by one in float32,
            # which makes errors of a thousandth
            return self._grouped(x, x.shape[1])
        weight, bias = self._affine_of(x)
        cudnn = torch.backends.cudnn.enabled
        return torch.batch_norm(x, weight, bias, None, None, True, 0.0, self.eps, cudnn)

    def _compiled(self, x: Tensor) -> Tensor:
        """Normalise all elements, as compilers make one kernel of it."""
        weight, bias = (each.view(-1, 1, 1, 1) for each in self._affine_of(x))
        values = x.float()
        variance, mean = torch.var_mean(values, _SPACE[1:], correction=0, keepdim=True)
        return ((values - mean) * torch.rsqrt(variance + self.eps) * weight + bias).to(x.dtype)

    def _affine_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias, 0 for channels that are behind those of the layer."""
        weight, bias = self.affine
        more = x.shape[1] - weight.numel()
        return (F.pad(weight, (0, more)), F.pad(bias, (0, more))) if more else (weight, bias)

    def _grouped(self, x: Tensor, num_groups: int) -> Tensor:
        result: Tensor = _Grouped.apply(x, *self._affine_of(x), num_groups, self.eps)
        return result

    @property
    def affine(self) -> tuple[Tensor, Tensor]:
        """Weight and bias, in float32 if they are less: statistics get their precision."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        return self.weight.to(dtype), self.bias.to(dtype)

    def extra_repr(self) -> str:
        """Arguments, for `print`."""
        return f"{self.weight.numel()}, eps={self.eps}"


class GroupNorm(InstanceNorm):
    """Groups of channels of each element to mean 0 and variance 1, then weight and bias by channel.

    Args:
        features: Number of channels.
        num_groups: Most groups of channels; where channels do not make as many, they make the
            greatest number of groups below that divides them.
        eps: Added to variances.

    References:
        Wu and He, Group normalization, ECCV 2018.

    Examples:
        >>> GroupNorm(12, 8).num_groups
        6
    """

    def __init__(self, features: int, num_groups: int, eps: float = EPSILON) -> None:
        super().__init__(features, eps)
        fitting = (n for n in range(min(num_groups, features), 0, -1) if features % n == 0)
        self.num_groups = next(fitting)

    def normalised(self, x: Tensor) -> Tensor:
        """Normalise one element `(1, C, X, Y, Z)`."""
        return self._grouped(x, self.num_groups)

    def extra_repr(self) -> str:
        """Arguments, for `print`."""
        return f"{self.weight.numel()}, num_groups={self.num_groups}, eps={self.eps}"


def of_groups(mean: Tensor, variance: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of groups of channels of equal size, at each of their channels.

    Args:
        mean: `(C,)` means of the channels.
        variance: `(C,)` variances of the channels, without Bessel's correction.
        num_groups: Number of groups.
    """
    means, variances = mean.view(num_groups, -1), variance.view(num_groups, -1)
    whole = means.mean(1, keepdim=True)
    spread = (variances + (means - whole).square()).mean(1, keepdim=True)
    return whole.expand_as(means).reshape(-1), spread.expand_as(means).reshape(-1)


class Statistics:
    """Means and variances of channels of a volume that comes in parts.

    References:
        Chan, Golub and LeVeque, Algorithms for computing the sample variance, The American
        Statistician 37 (1983).

    Examples:
        >>> statistics = Statistics()
        >>> for part in torch.arange(24.0).view(3, 4, 1, 2):
        ...     statistics.add(part[None])
        >>> statistics.mean, statistics.variance
        (tensor([11., 12.]), tensor([47.6667, 47.6667]))
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._squares = torch.zeros(())

    def add(self, part: Tensor) -> None:
        """Take a part `(X, Y, Z, C)` into account."""
        mean = part.mean((0, 1, 2), dtype=torch.float32)
        squares = (part - mean).square_().sum((0, 1, 2))
        self.join(part[..., 0].numel(), mean, squares)

    def join(self, count: int, mean: Tensor, squares: Tensor) -> None:
        """Take a part into account that was measured.

        Args:
            count: Number of its voxels.
            mean: Means of its channels, `(C,)` float32.
            squares: Sums of the squared differences from them, likewise.
        """
        if not self._count:
            self._count, self._mean, self._squares = count, mean, squares
            return
        total = self._count + count
        change = mean - self._mean
        self._squares = self._squares + squares + change.square() * (self._count * count / total)
        self._mean, self._count = self._mean + change * (count / total), total

    @property
    def mean(self) -> Tensor:
        """Means of the channels, `(C,)` float32."""
        return self._mean

    @property
    def variance(self) -> Tensor:
        """Variances of the channels, `(C,)` float32, without Bessel's correction."""
        return self._squares / self._count


class _Grouped(torch.autograd.Function):
    """Group normalisation of one element; only `x` itself is saved for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float
    ) -> Tensor:
        mean = x.mean(_SPACE, dtype=weight.dtype)
        variance = (x - _channels(mean)).square_().mean(_SPACE)
        mean, variance = of_groups(mean, variance, num_groups)
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(variance + eps))
        ctx.num_groups = num_groups
        cudnn = torch.backends.cudnn.enabled
        return torch.batch_norm(x, weight, bias, mean, variance, False, 0.0, eps, cudnn)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rate = ctx.saved_tensors
        groups = (ctx.num_groups, -1)
        d_bias = grad.sum(_SPACE, dtype=mean.dtype)
        d_weight = (x - _channels(mean)).mul_(grad).sum(_SPACE) * rate
        # the mean and the variance of a group depend on all its voxels
        size = x.numel() // ctx.num_groups
        through_mean = _group_sums(weight * d_bias, groups) / size
        through_variance = _group_sums(weight * d_weight, groups) / size * rate
        slope, level = -rate * through_variance, rate * (mean * through_variance - through_mean)
        d_x = torch.addcmul(_channels(level), x, _channels(slope))
        d_x.addcmul_(grad, _channels(rate * weight))
        return d_x.to(x.dtype), d_weight, d_bias, None, None


def _channels(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1, 1)


def _group_sums(values: Tensor, groups: tuple[int, int]) -> Tensor:
    """Sums over groups of channels, at each channel."""
    grouped = values.view(groups)
    return grouped.sum(1, keepdim=True).expand_as(grouped).reshape(-1)
