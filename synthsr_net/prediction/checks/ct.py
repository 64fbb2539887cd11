"""Whether a scan is CT in Hounsfield units, as its values tell.

In these units air is -1000, fat -100, soft tissue lies within 0 and 80, and bone above 200.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from synthsr_transforms.io.grids import Volume
from synthsr_transforms.io.kinds import commonest

from ..intensities import CT_WINDOW_HU

AIR_HU, HEAD_HU, BONE_HU = -500.0, -200.0, 200.0
"""Air lies below, the head above, and bone above."""
MRI_BAND = (80.0, 200.0)
"""Without contrast agent, CT has little here; MRI stored as bytes has much."""
STORED_WATER = (1000.0, 1024.0)
"""Stored values of water where the rescale intercept was lost."""
OFFSET = "correct its offset, so that air is -1000 and water 0"

Array = npt.NDArray[Any]


class _Sample(NamedTuple):
    """Voxels of a scan, about 100 along each axis, and their distances from a point."""

    values: Array
    spacing_mm: Array

    def distance_mm(self, mask: Array, centre: Array) -> float:
        """Median distance of the voxels of a mask from a point in voxels."""
        offsets = (np.argwhere(mask) - centre) * self.spacing_mm
        return float(np.median(np.linalg.norm(offsets, axis=1)))

    def mapped(self, air: float, tissue: float, tissue_hu: float = 0.0) -> _Sample:
        """With the values of air and of a tissue mapped to Hounsfield units."""
        unit = (tissue_hu + 1000) / (tissue - air)
        return self._replace(values=(self.values - air) * unit - 1000)


def decide_ct(
    scan: Volume, ct: bool | None = None, *, automatic: bool = True
) -> tuple[bool, list[str]]:
    """Whether a scan is to be clipped as CT, with what should be said about it.

    Args:
        scan: The scan.
        ct: What the user says; None: decide by the values.
        automatic: Whether CT is clipped if the user says nothing, rather than told to the user.

    Examples:
        >>> decide_ct(Volume(np.arange(27.0).reshape(3, 3, 3), np.eye(4)))
        (False, [])
    """
    if ct is False:
        return False, []
    sample = _sample(scan)
    if ct:
        return True, _doubts_of_ct(sample)
    if _in_hu(sample) and not automatic:
        return False, ["values are Hounsfield units, as of CT: add --ct to clip them."]
    if _in_hu(sample):
        low, high = CT_WINDOW_HU
        text = f"values are Hounsfield units: clipped to {low:g} to {high:g} as CT. Add --no-ct if"
        return True, [f"{text} it is MRI."]
    kind = _other_ct(sample)
    return False, [f"values look like {kind}, but it is predicted as MRI."] if kind else []


def is_ct(scan: Volume) -> bool:
    """Whether the values of a scan are Hounsfield units of a head.

    There is a peak of air near -1000, whatever constant surrounds the field of view; most of the
    head lies within the window of soft tissue, and bone lies farther out. MRI that was padded with
    -1000 has its noise where soft tissue would be, and the head in place of bone, farther in. A
    scan without air or skull does not count as CT, as it may just as well be MRI.

    Args:
        scan: The scan.

    Examples:
        >>> place = np.indices((40, 40, 40)) - 19.5
        >>> radius = np.linalg.norm(place, axis=0)
        >>> head = np.select([radius < 14, radius < 16], [35.0, 900.0], -1000.0)
        >>> is_ct(Volume(head, np.eye(4))), is_ct(Volume(head + 1000, np.eye(4)))
        (True, False)
    """
    return _in_hu(_sample(scan))


def _sample(scan: Volume) -> _Sample:
    steps = np.array([-(-n // 100) for n in scan.data.shape])
    values = np.asarray(scan.data[tuple(slice(None, None, step) for step in steps)])
    return _Sample(values.astype(np.float32), steps * scan.spacing_mm)


def _in_hu(sample: _Sample) -> bool:
    values = sample.values
    air, head, bone = values < AIR_HU, values > HEAD_HU, values > BONE_HU
    between = values.size - air.sum() - head.sum()
    if air.mean() < 0.01 or between > 4 * head.sum() or not _has_peak_of_air(values[air]):
        return False
    shown = values[head]
    soft, denser = (_share(shown, *band) for band in (CT_WINDOW_HU, MRI_BAND))
    hard = bone.sum() / max(shown.size, 1)
    if hard < 0.002 or (values > 500).sum() < 0.15 * bone.sum():
        return False
    if soft >= 0.3:
        return denser < soft / 3 and hard < 0.5 and _is_outside(sample, bone, head)
    skull = 0.25 <= hard <= 0.8 and _is_skull_in_air(values[air], shown)
    return skull and _is_outside(sample, bone, head)


def _has_peak_of_air(air: Array) -> bool:
    """Whether much of it is near -1000, but for a constant around the field of view."""
    lowest = air.min()
    measured = air[air != lowest] if lowest < -1100 else air
    return measured.size > 0 and _share(measured, -1100, -900) >= 0.2


def _is_outside(sample: _Sample, bone: Array, head: Array) -> bool:
    centre = np.argwhere(head).mean(0)
    soft = head & (sample.values > 0) & ~bone
    return sample.distance_mm(bone, centre) > 0.85 * sample.distance_mm(soft, centre)


def _is_skull_in_air(air: Array, shown: Array) -> bool:
    """Whether air is no padding, and partial volumes of air and a narrow peak are in the head."""
    counts = np.unique(air, return_counts=True)[1]
    levels = np.histogram(shown, np.arange(-40, 161, 10))[0] / shown.size
    peak = np.convolve(levels, np.ones(8), "valid").max()
    return bool(counts.max() < 0.97 * air.size and (shown < -20).mean() >= 0.05 and peak >= 0.2)


def _other_ct(sample: _Sample) -> str | None:
    """What CT a scan seems to be that is not in Hounsfield units, or cannot be told from MRI."""
    values = sample.values
    if values.min() > AIR_HU and any(_in_hu(sample.mapped(w - 1000, w)) for w in STORED_WATER):
        return f"CT without its rescale intercept (-1000 or -1024): {OFFSET}"
    background, share = commonest(values)
    if share >= 0.2 and background == values.min() > AIR_HU and _has_skull(sample):
        return "CT whose air was cut off: add --ct if it is"
    air = values < AIR_HU
    soft = _share(values[~air], *CT_WINDOW_HU)
    if air.mean() >= 0.05 and _has_peak_of_air(values[air]) and soft >= 0.9:
        return "CT without a skull: add --ct if it is"
    if _is_rescaled(sample):
        return f"CT that was rescaled: {OFFSET}"
    return None


def _has_skull(sample: _Sample) -> bool:
    """Whether values are of soft tissue and of bone around it, with little between them."""
    head, bone = sample.values > sample.values.min(), sample.values > BONE_HU
    soft, denser = (_share(sample.values[head], *band) for band in (CT_WINDOW_HU, MRI_BAND))
    hard = bone.sum() / max(head.sum(), 1)
    return soft >= 0.5 and denser < 0.1 and hard >= 0.02 and _is_outside(sample, bone, head)


def _is_rescaled(sample: _Sample) -> bool:
    """Whether the values of CT appear once air and the commonest tissue are where they belong."""
    values = sample.values
    low, top = np.percentile(values, (0, 99.9))
    if not top > low:
        return False
    dark = values[values < low + (top - low) / 4]
    counts, edges = np.histogram(values, 200, (low + (top - low) / 4, top))
    tissue = float(edges[counts.argmax()] + edges[counts.argmax() + 1]) / 2
    air = float(np.median(dark))
    mapped = sample.mapped(air, tissue, 35.0)
    shown = mapped.values[mapped.values > HEAD_HU]
    return _in_hu(mapped) and _share(shown, -5, 85) >= 0.5


def _doubts_of_ct(sample: _Sample) -> list[str]:
    """Doubts whether values are Hounsfield units, as the user says.

    CT has air near -1000, or, where air was cut off, one value in its place and most others within
    the window of soft tissue.
    """
    values = sample.values
    low, high = CT_WINDOW_HU
    if (values < AIR_HU).mean() >= 0.01:
        soft = _share(values, low, high)
        if soft >= 0.005:
            return []
        return [
            f"only {soft:.2%} of the voxels lie within {low:g} and {high:g}, where CT shows the"
            f" brain: {OFFSET}."
        ]
    background, share = commonest(values)
    shown = values[(values != background) & (values < values.max())]
    soft, brighter = (_share(shown, *band) for band in (CT_WINDOW_HU, MRI_BAND))
    dense = _share(shown, 50, high)  # blood and little else
    if share >= 0.2 and soft >= 0.5 and max(brighter, dense) <= 0.2 and values.max() > 5:
        return []
    if kind := _other_ct(sample):
        return [f"values look like {kind}."]
    return [
        f"values do not look like CT in Hounsfield units (no air near -1000, {soft:.0%} of the"
        f" head within {low:g} and {high:g}): leave out --ct if it is MRI; if it is CT,"
        f" {OFFSET}."
    ]


def _share(values: Array, low: float, high: float) -> float:
    """Share of the values within `(low, high]`."""
    return float(((values > low) & (values <= high)).mean()) if values.size else 0.0
