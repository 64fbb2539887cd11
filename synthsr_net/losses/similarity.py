"""The structural similarity index, and local means under a Gaussian window, one axis at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

STABILISERS = (0.01**2, 0.03**2)
"""Constants c1 and c2 of the index for intensities within 0 and 1."""

Window = tuple[float, ...]
"""Weights of a symmetric window along one axis, which sum to 1."""
Moments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def products(a: Tensor, b: Tensor) -> Moments:
    """Two images and their products, whose local means are the moments of `similarity`."""
    return a, b, a * a, b * b, a * b


def similarity(moments: Sequence[Tensor]) -> Tensor:
    r"""Structural similarity at each place from the local means \(E\) of `products`.

    \[\frac{2 E[a] E[b] + c_1}{E[a]^2 + E[b]^2 + c_1} \cdot \frac{2 (E[ab] - E[a] E[b]) + c_2}
    {E[a^2] + E[b^2] - E[a]^2 - E[b]^2 + c_2}\]

    Args:
        moments: Five tensors of one shape: means of a, b, a², b² and ab.

    Returns:
        Same shape, 1 where the images are equal.

    References:
        Wang et al., Image quality assessment: from error visibility to structural similarity,
        IEEE Transactions on Image Processing 13 (2004).
    """
    a, b, aa, bb, ab = moments
    c1, c2 = STABILISERS
    across, within = a * b, a * a + b * b
    luminance = (2 * across + c1) / (within + c1)
    return luminance * (2 * (ab - across) + c2) / (aa + bb - within + c2)


def gaussian_window(size: int, sigma: float) -> Window:
    """Weights of a Gaussian at whole steps from its centre.

    Args:
        size: Number of weights, odd.
        sigma: Standard deviation in voxels.

    Raises:
        ValueError: If the size is not odd and at least 1, or the deviation not above 0.

    Examples:
        >>> [round(w, 3) for w in gaussian_window(3, 1.0)]
        [0.274, 0.452, 0.274]
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1 or size % 2 == 0:
        raise ValueError(f"window_size must be an odd number of voxels, at least 1, got {size!r}.")
    if not (isinstance(sigma, int | float) and 0 < sigma < math.inf):
        raise ValueError(f"sigma must be a number of voxels above 0, got {sigma!r}.")
    heights = [math.exp(-(((i - size // 2) / sigma) ** 2) / 2) for i in range(size)]
    return tuple(height / sum(heights) for height in heights)


def check_window_fits(volume: Tensor, window: Window) -> None:
    """Raise a ValueError if a volume `(B, C, X, Y, Z)` is smaller than the window."""
    size = tuple(volume.shape[2:])
    if min(size) < len(window):
        raise ValueError(
            f"volumes must have at least {len(window)} voxels along each axis, as the window of"
            f" SSIM has, got {size}. Take larger patches or a larger loss crop."
        )


def local_mean(volume: Tensor, window: Window, axis: int) -> Tensor:
    """Weighted mean of the neighbours along an axis, where the whole window lies inside.

    Sums are done in the precision of the volume on every device; convolutions and matrix products
    may round to 10 bits on GPUs, which is too coarse for variances.

    Args:
        volume: Any shape, floating point.
        window: Weights, as many as voxels in the window.
        axis: Axis along which the mean is taken.

    Returns:
        Same shape, but shorter along the axis by the size of the window less 1.
    """
    if torch.compiler.is_compiling():  # which derives and fuses the sum by itself
        length = volume.shape[axis] - len(window) + 1
        return sum(
            (w * volume.narrow(axis, start, length) for start, w in enumerate(window[1:], start=1)),
            start=window[0] * volume.narrow(axis, 0, length),
        )
    return _LocalMean.apply(volume, window, axis, False)


class _LocalMean(torch.autograd.Function):
    """Local mean along an axis, or the transpose of this linear map, each other's derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: Window, axis: int, transpose: bool) -> Tensor:
        ctx.settings = (window, axis, transpose)
        return _spread(x, window, axis) if transpose else _gather(x, window, axis)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        window, axis, transpose = ctx.settings
        return _LocalMean.apply(gradient, window, axis, not transpose), None, None, None


def _gather(x: Tensor, window: Window, axis: int) -> Tensor:
    length = x.shape[axis] - len(window) + 1
    result = x.narrow(axis, 0, length) * window[0]
    for start, weight in enumerate(window[1:], start=1):
        result.add_(x.narrow(axis, start, length), alpha=weight)
    return result


def _spread(x: Tensor, window: Window, axis: int) -> Tensor:
    length = x.shape[axis]
    shape = list(x.shape)
    shape[axis] = length + len(window) - 1
    result = x.new_zeros(shape)
    for start, weight in enumerate(window):
        result.narrow(axis, start, length).add_(x, alpha=weight)
    return result
