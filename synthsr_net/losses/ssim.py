"""Structural similarity of planes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .base import ImageLoss
from .similarity import (
    check_window_fits,
    gaussian_window,
    local_mean,
    products,
    similarity,
)

WINDOW = gaussian_window(11, 1.5)
"""Weights along both axes of a plane."""
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
    check_window_fits(a, WINDOW)
    moments = products(a, b)
    return {name: similarity(list(_means(moments, *PLANES[name]))).mean() for name in planes}


def _means(moments: tuple[Tensor, ...], *axes: int) -> Iterator[Tensor]:
    for moment in moments:
        for axis in axes:
            moment = local_mean(moment, WINDOW, axis)
        yield moment
