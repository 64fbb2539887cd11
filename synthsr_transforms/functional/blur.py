"""Gaussian blurring and the widths that simulate an acquisition."""

from __future__ import annotations

import torch
from torch import Tensor

from .cache import cached
from .operators import (
    along_axes,
    apply_separable,
    axis_operator,
    blur_operators,
)

SLICE_PROFILE = 0.42
"""Standard deviation of a slice's profile as a share of its thickness, which is then about its full
width at half maximum."""


def gaussian_blur(
    volume: Tensor,
    sigma: Tensor,
    *,
    window_sigma: Tensor | None = None,
    truncate: float = 3.0,
    boundary: str = "renormalise",
) -> Tensor:
    """Blur with one width per element, channel and axis.

    Args:
        volume: `(B, C, X, Y, Z)` floating point.
        sigma: Standard deviations in voxels, `(B or 1, C or 1, 3)`, best on the CPU; 0 leaves an
            axis alone.
        window_sigma: Standard deviations that set the window size instead of `sigma`; the
            original takes the width before its random multiplication, or the largest possible.
        truncate: Half width of the window in standard deviations (1.25 in the original).
        boundary: `"renormalise"`, or `"zero"` as in the original (borders darken).

    Returns:
        Same shape and dtype.

    Examples:
        >>> flat = torch.ones(1, 1, 5, 5, 5)
        >>> bool(torch.allclose(gaussian_blur(flat, torch.ones(1, 1, 3)), flat))
        True
    """
    operators = blur_operators(
        volume.shape[2:],
        sigma,
        volume.device,
        window_sigma=window_sigma,
        truncate=truncate,
        boundary=boundary,
    )
    return apply_separable(volume.float(), operators).to(volume.dtype)


def mirrored_blur(volume: Tensor, sigma: float) -> Tensor:
    """Blur one volume, mirrored at the borders, by a Gaussian that is cut at 4 sigma.

    Args:
        volume: `(X, Y, Z)` float32.
        sigma: Standard deviation in voxels of all axes.
    """
    return along_axes(
        volume, [mirrored_blur_operator(n, sigma, volume.device) for n in volume.shape]
    )


@cached(16)
def mirrored_blur_operator(size: int, sigma: float, device: torch.device) -> Tensor:
    """Axis operator of `mirrored_blur`, `(size, size)`."""
    return axis_operator(size, torch.arange(size), sigma).to(device)


def acquisition_sigma(
    spacing_mm: Tensor,
    acquired_mm: Tensor,
    thickness_mm: Tensor | None = None,
    coefficient: float | None = SLICE_PROFILE,
) -> Tensor:
    r"""Blur that simulates a coarser acquisition, \(\sigma = k \min(r, t) / s\) in voxels.

    With k = 0.42 the full width at half maximum is about the slice thickness t (Billot et al.,
    "A learning strategy for contrast-agnostic MRI segmentation", 2020).

    Args:
        spacing_mm: Spacing s of the grid to blur, in mm.
        acquired_mm: Spacing r to simulate, in mm, same or broadcastable shape.
        thickness_mm: Slice thickness t in mm, where it differs from the spacing.
        coefficient: k; None means 0.75, and 0.5 voxel where nothing changes (the rule for targets).

    Returns:
        Standard deviations in voxels, 0 where the acquired spacing is 0.

    Examples:
        >>> one = torch.ones(3)
        >>> sigma = acquisition_sigma(one, torch.tensor([1.0, 1.0, 5.0]))
        >>> [round(s, 2) for s in sigma.tolist()]
        [0.42, 0.42, 2.1]
    """
    width = acquired_mm if thickness_mm is None else torch.minimum(acquired_mm, thickness_mm)
    if coefficient is not None:
        return coefficient * width / spacing_mm
    sigma = 0.75 * width / spacing_mm
    sigma = torch.where(width == spacing_mm, torch.full_like(sigma, 0.5), sigma)
    return torch.where(width == 0, torch.zeros_like(sigma), sigma)
