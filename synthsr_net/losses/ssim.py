"""Structural similarity of planes and of volumes, with local means under a Gaussian window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from .base import ImageLoss

STABILISERS = (0.01**2, 0.03**2)
"""Constants c1 and c2 of the index for intensities within 0 and 1."""

WINDOW_SIZE, WINDOW_SIGMA = 11, 1.5
"""Usual size and standard deviation of the window, in voxels."""
Window = tuple[float, ...]
"""Weights of a symmetric window along one axis, which sum to 1."""
PLANES = {"xy": (2, 3), "xz": (2, 4), "yz": (3, 4)}
"""The two axes of each family of planes in `(B, C, X, Y, Z)`."""


class SSIMLoss(ImageLoss):
    """Minus the mean structural similarity of all xy, xz and yz planes.

    Planes are compared as images with intensities within 0 and 1, under a Gaussian window of 11
    voxels (standard deviation 1.5), where it lies inside the plane. The loss is -1 for a perfect
    prediction. Channels are compared one by one and averaged.

    Args:
        legacy: Whether yz planes count twice and xy planes never, as in the original SynthSR.

    References:
        Wang et al., Image quality assessment: from error visibility to structural similarity,
        IEEE Transactions on Image Processing 13 (2004).

    Examples:
        >>> volume = torch.rand(1, 1, 11, 12, 13)
        >>> round(SSIMLoss()(volume, volume).item(), 4)
        -1.0
    """

    def __init__(self, legacy: bool = False) -> None:
        super().__init__()
        if not isinstance(legacy, bool):
            raise ValueError(f"legacy must be true or false, got {legacy!r}.")
        self.legacy = legacy

    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """See `ImageLoss.measure`."""
        planes = ("xz", "yz", "yz") if self.legacy else ("xy", "xz", "yz")
        means = plane_similarity(prediction, target, tuple(dict.fromkeys(planes)))
        return -torch.stack([means[name] for name in planes]).mean()


def plane_similarity(a: Tensor, b: Tensor, planes: tuple[str, ...]) -> dict[str, Tensor]:
    """Mean structural similarity of families of planes.

    Args:
        a: `(B, C, X, Y, Z)` float32 or float64, within 0 and 1.
        b: Same shape and type.
        planes: Names of families, of `PLANES`.

    Returns:
        One number for each family, by name.

    Raises:
        ValueError: If the window does not fit into the planes.
    """
    window, pair = gaussian_window(), products(a, b)
    check_window_fits(a, window)
    return {name: similarity(pair, window, PLANES[name]).mean() for name in planes}


class SSIM3dLoss(ImageLoss):
    """Minus the mean structural similarity under a window in three dimensions.

    Intensities are taken to lie within 0 and 1. Only places count where the window lies inside the
    volume. The loss is -1 for a perfect prediction. Channels are compared one by one and averaged.

    Args:
        window_size: Size of the Gaussian window in voxels along each axis, odd.
        sigma: Standard deviation of the window in voxels.

    References:
        Wang et al., Image quality assessment: from error visibility to structural similarity,
        IEEE Transactions on Image Processing 13 (2004).

    Examples:
        >>> volume = torch.rand(1, 1, 11, 12, 13)
        >>> round(SSIM3dLoss()(volume, volume).item(), 4)
        -1.0
    """

    def __init__(self, window_size: int = WINDOW_SIZE, sigma: float = WINDOW_SIGMA) -> None:
        super().__init__()
        self.window = gaussian_window(window_size, sigma)

    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """See `ImageLoss.measure`."""
        check_window_fits(prediction, self.window)
        return -similarity(products(prediction, target), self.window, (2, 3, 4)).mean()


class L1SSIM3dLoss(ImageLoss):
    r"""\((1 - w)\,\mathrm{L1} + w\,(1 - \mathrm{SSIM})\), with the similarity of `SSIM3dLoss`.

    L1 alone is content with blurred borders; similarity alone with shifted intensities.

    Args:
        weight: w, in [0, 1].
        window_size: Size of the Gaussian window in voxels along each axis, odd.
        sigma: Standard deviation of the window in voxels.

    References:
        Zhao et al., Loss functions for image restoration with neural networks, IEEE Transactions
        on Computational Imaging 3 (2017).

    Examples:
        >>> volume = torch.rand(1, 1, 11, 12, 13)
        >>> round(L1SSIM3dLoss()(volume, volume).item(), 4)
        0.0
    """

    def __init__(
        self, weight: float = 0.2, window_size: int = WINDOW_SIZE, sigma: float = WINDOW_SIGMA
    ) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise ValueError(f"weight must be within 0 and 1, got {weight}.")
        self.weight = weight
        self.ssim = SSIM3dLoss(window_size, sigma)

    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """See `ImageLoss.measure`."""
        dissimilarity = 1 + self.ssim.measure(prediction, target)
        l1 = F.l1_loss(prediction, target)
        return (1 - self.weight) * l1 + self.weight * dissimilarity


def products(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """Two images and their products: a, b, a², b² and ab."""
    return a, b, a * a, b * b, a * b


def similarity(pair: Sequence[Tensor], window: Window, axes: Sequence[int]) -> Tensor:
    r"""Structural similarity at each place from the local means \(E\) of `products`.

    \[\frac{2 E[a] E[b] + c_1}{E[a]^2 + E[b]^2 + c_1} \cdot \frac{2 (E[ab] - E[a] E[b]) + c_2}
    {E[a^2] + E[b^2] - E[a]^2 - E[b]^2 + c_2}\]

    Args:
        pair: From `products`.
        window: Weights of neighbours along an axis.
        axes: Axes along which local means are taken.

    Returns:
        Same shape, but shorter along these axes, see `local_mean`; 1 where the images are equal.

    References:
        Wang et al., Image quality assessment: from error visibility to structural similarity,
        IEEE Transactions on Image Processing 13 (2004).
    """
    a, b, aa, bb, ab = (
        reduce(lambda moment, axis: local_mean(moment, window, axis), axes, each) for each in pair
    )
    c1, c2 = STABILISERS
    across, within = a * b, a * a + b * b
    luminance = (2 * across + c1) / (within + c1)
    return luminance * (2 * (ab - across) + c2) / (aa + bb - within + c2)


def gaussian_window(size: int = WINDOW_SIZE, sigma: float = WINDOW_SIGMA) -> Window:
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
