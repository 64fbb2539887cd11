"""Edges of an image, as thin lines that can be drawn over another one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

_STRONG, _WEAK = 0.25, 0.1  # of the 99th percentile of gradients in what is drawn


def edges(
    pixels: npt.NDArray[Any], sigma_pixels: float = 2.0, shown: tuple[float, float] | None = None
) -> npt.NDArray[np.bool_]:
    """Edges of a slice: ridges of its gradient that are strong somewhere.

    Canny, A computational approach to edge detection, IEEE PAMI 8, 1986, 679-698.

    Args:
        pixels: `(H, W)` intensities; masked where there are none, where no edge is found.
        sigma_pixels: Standard deviation of the Gaussian that the slice is smoothed with before.
        shown: Intensities shown black and white; what lies outside counts as these.

    Returns:
        `(H, W)`, true on edges, which are about a pixel wide.
    """
    low, high = shown or (float(np.ma.min(pixels)), float(np.ma.max(pixels)))
    image = np.clip(np.nan_to_num(np.ma.filled(pixels, low).astype(np.float64), nan=low), low, high)
    smooth = ndimage.gaussian_filter(image, sigma_pixels, mode="nearest")
    up, across = np.gradient(np.pad(smooth, 1, mode="edge"))
    up, across = up[1:-1, 1:-1], across[1:-1, 1:-1]
    size = np.hypot(up, across)
    rows, columns = np.indices(size.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        step = np.nan_to_num(np.stack([up, across]) / size)
    sides = [
        ndimage.map_coordinates(size, [rows + s * step[0], columns + s * step[1]], order=1)
        for s in (-1, 1)
    ]
    ridge = (size >= sides[0]) & (size > sides[1])
    scale = float(np.percentile(size[size > 0], 99)) if (size > 0).any() else np.inf
    parts, _ = ndimage.label(ridge & (size > _WEAK * scale), np.ones((3, 3)))
    kept = np.unique(parts[ridge & (size > _STRONG * scale)])
    outside = np.ma.getmaskarray(pixels)
    near = ndimage.binary_dilation(outside, iterations=round(2 * sigma_pixels) or 1)
    return np.isin(parts, kept[kept > 0]) & ~near
