"""Intensities of scans: windows of CT, normalisation for the network, sharpening of its output."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .resampling import blurred

CT_WINDOW_HU = (0.0, 80.0)
"""Values of CT are clipped to this, in Hounsfield units."""
SHARPENING_SIGMA = 1.5
"""Width of the Gaussian of the unsharp mask, in voxels."""
MRI_BAND = (80.0, 200.0)
"""Without contrast agent, CT has little here; MRI stored as bytes has much."""
OFFSET = "correct its offset, so that air is -1000 and water 0"
AIR_HU = -500.0
"""Only CT has many voxels below this."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Rescaling:
    """How intensities became input of a network: `(intensity - lowest) / unit`."""

    lowest: float
    unit: float
    """What 1 in the network means; 0 where the scan is constant."""


def rescale_(
    data: Array,
    maximum: float,
    *,
    percentiles: tuple[float, float] | None = None,
    keep_zero: bool = False,
) -> Rescaling:
    """Bring intensities to [0, maximum], in place.

    Args:
        data: float32 array of any shape.
        maximum: What the highest intensity becomes.
        percentiles: Percentiles, in percent, to clip to and to use instead of minimum and maximum.
        keep_zero: Divide without subtracting the minimum, as FreeSurfer does for its two-input
            model.

    Examples:
        >>> data = np.array([2.0, 4.0, 6.0], dtype=np.float32)
        >>> rescale_(data, 1.0)
        Rescaling(lowest=2.0, unit=4.0)
        >>> data.tolist()
        [0.0, 0.5, 1.0]
    """
    if percentiles is not None:
        low, high = (np.float32(p) for p in np.percentile(data, percentiles))
        np.clip(data, low, high, out=data)
    else:
        low, high = data.min(), data.max()
    span = high - low
    if not keep_zero:
        data -= low
    if span == 0:
        data[...] = 0
        return Rescaling(float(low), 0.0)
    unit = span / np.float32(maximum)
    data /= unit
    return Rescaling(float(low), float(unit))


def sharpened(image: Tensor) -> Tensor:
    """Unsharp mask: `x + (x - blurred x)`, with a Gaussian of 1.5 voxels, cut at 4 sigma.

    Args:
        image: `(X, Y, Z)` float32.
    """
    return blurred(image, SHARPENING_SIGMA).neg_().add_(image, alpha=2)


def replace_nonfinite(image: Tensor, value: float) -> tuple[Tensor, int]:
    """Replace NaN and infinity, and count them."""
    wrong = ~torch.isfinite(image)
    count = int(wrong.sum())
    return (image.masked_fill(wrong, value) if count else image), count


def ct_warnings(data: Array, ct: bool) -> list[str]:
    """Doubts whether a scan is CT in Hounsfield units, as said (or not said).

    CT in Hounsfield units has air near -1000, or, where air was cut off, one value in its place and
    most others within the window of soft tissue. A missing rescale intercept moves soft tissue to a
    narrow peak near 1000 or 1024. MRI has noise for air, and its values elsewhere.

    Args:
        data: `(X, Y, Z)` intensities.
        ct: Whether they are said to be CT.

    Examples:
        >>> air_and_brain = np.repeat([-1000.0, 35.0], 500).reshape(10, 10, 10)
        >>> ct_warnings(air_and_brain, ct=True)
        []
        >>> ct_warnings(air_and_brain, ct=False)
        ['50% of the voxels are below -500, as in CT: use --ct if it is.']
    """
    step = tuple(slice(None, None, max(1, n // 100)) for n in data.shape)
    values = np.asarray(data[step]).ravel()
    air = float((values < AIR_HU).mean())
    if not ct:
        text = f"{air:.0%} of the voxels are below {AIR_HU:g}, as in CT: use --ct if it is."
        return [text] if air >= 0.05 else []
    low, high = CT_WINDOW_HU
    if air >= 0.01:
        soft = _share(values, low, high)
        if soft >= 0.005:
            return []
        return [
            f"only {soft:.2%} of the voxels lie within {low:g} and {high:g}, where CT shows the"
            f" brain: {OFFSET}."
        ]
    if values.min() >= 0 and _has_offset(values):
        return [f"values look like CT without its rescale intercept (-1000 or -1024): {OFFSET}."]
    background, share = _commonest(values)
    shown = values[(values != background) & (values < values.max())]
    soft, brighter = (_share(shown, *band) for band in (CT_WINDOW_HU, MRI_BAND))
    dense = _share(shown, 50, high)  # blood and little else
    if share < 0.2 or soft < 0.5 or max(brighter, dense) > 0.2 or values.max() <= 5:
        return [
            f"values do not look like CT in Hounsfield units (no air near -1000, {soft:.0%} of the"
            f" head within {low:g} and {high:g}): leave out --ct if it is MRI; if it is CT,"
            f" {OFFSET}."
        ]
    return []


def _commonest(values: Array) -> tuple[float, float]:
    """The most common value and its share."""
    unique, counts = np.unique(values, return_counts=True)
    return float(unique[counts.argmax()]), float(counts.max() / values.size)


def _has_offset(values: Array) -> bool:
    """Whether soft tissue lies near 1000 or 1024, with little between it and air near 0."""
    head = values[values > 200]
    if head.size < 0.05 * values.size or head.size > 0.99 * values.size:
        return False
    return _share(head, 200, 850) < 0.2 and _share(head, 950, 1150) > 0.3


def _share(values: Array, low: float, high: float) -> float:
    """Share of the values within `(low, high]`."""
    return float(((values > low) & (values <= high)).mean()) if values.size else 0.0


def percentile(values: Tensor, percent: float) -> float:
    """Percentile of all values, with linear interpolation as in NumPy.

    Examples:
        >>> percentile(torch.tensor([3.0, 1.0, 2.0]), 75)
        2.5
    """
    flat = values.flatten()
    place = (flat.numel() - 1) * percent / 100
    around = [math.floor(place), math.ceil(place)]
    if flat.device.type == "cpu":
        low, high = np.partition(flat.numpy(), around)[around].tolist()
    else:
        low, high = flat.sort().values[around].tolist()
    return float(low + (high - low) * (place - around[0]))


def correlation(first: Tensor, second: Tensor, mask: Tensor) -> float:
    """Pearson correlation of two volumes inside a mask, NaN if one is constant.

    Examples:
        >>> x = torch.arange(8.0).view(2, 2, 2)
        >>> round(correlation(x, 3 - 2 * x, x >= 0), 6)
        -1.0
    """
    pair = torch.stack([first[mask], second[mask]]).double().cpu()
    centred = pair - pair.mean(1, keepdim=True)
    length = centred.square().sum(1).sqrt().prod()
    return float((centred[0] @ centred[1]) / length) if float(length) > 0 else math.nan
