"""Matrices of Gaussian weights from widths on the GPU, by one kernel for three axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .choice import on_device, usable

LONGEST = 4096
"""Most columns that a program holds."""


def can_make(sizes: Sequence[int], sigma: Tensor, *others: Tensor) -> bool:
    """Whether `gaussian_rows` takes widths `(B, C, 3)` and what belongs to them."""
    if not usable(sigma, *others) or sigma.ndim != 3 or not sigma.numel():
        return False
    batch, channels, axes = sigma.shape
    few = max(sizes) <= LONGEST and 3 * batch * channels < 2**16
    return few and axes == 3 and all(tensor.dtype == torch.float32 for tensor in (sigma, *others))


def gaussian_rows(
    sizes: Sequence[int],
    sigma: Tensor,
    width: Tensor,
    *,
    factor: float | None = None,
    positions: Tensor | None = None,
) -> Tensor:
    """Rows of unit sum, see `operators.gaussian_rows`.

    Args:
        sizes: Number of samples of each axis.
        sigma: Standard deviations in voxels, `(B, C, 3)`; see `can_make`.
        width: Half widths of the window in voxels, or what gives them by a factor, `(B, C, 3)`.
        factor: Twice the standard deviations that a window reaches, see `gaussian_radius`.
        positions: Where to read, `(B, C, 3, M)`; None reads every sample.

    Returns:
        `(B, C, 3, M, largest size)`.
    """
    from .gaussians_program import gaussian_rows as program

    (batch, channels), size = sigma.shape[:2], max(sizes)
    count = size if positions is None else positions.shape[-1]
    made = sigma.new_empty(batch, channels, 3, count, size)
    steps = (0, 0, 0, 0) if positions is None else positions.stride()
    with on_device(sigma):
        program[(count, 3 * batch * channels)](
            *(sigma, width, sigma if positions is None else positions, made),
            *(channels, size, *sizes, 0.0 if factor is None else float(factor)),
            *sigma.stride(),
            *width.stride(),
            *steps,
            rounded=factor is not None,
            own=positions is None,
            block=max(16, 1 << (size - 1).bit_length()),
            num_warps=1 if size <= 256 else 4,
        )
    return made
