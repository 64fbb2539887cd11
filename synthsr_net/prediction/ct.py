"""Doubts whether a scan is CT in Hounsfield units."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .intensities import CT_WINDOW_HU

MRI_BAND = (80.0, 200.0)
"""Without contrast agent, CT has little here; MRI stored as bytes has much."""
OFFSET = "correct its offset, so that air is -1000 and water 0"
AIR_HU = -500.0
"""Only CT has many voxels below this."""

Array = npt.NDArray[Any]


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
