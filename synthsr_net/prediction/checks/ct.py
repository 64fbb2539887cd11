"""Whether a scan is CT in Hounsfield units, as its values tell.

In these units air is -1000, fat -100, soft tissue lies within 0 and 80, and bone above 200.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from synthsr_transforms.io.grids import Volume
from synthsr_transforms.io.kinds import commonest, runs

from ..intensities import CT_WINDOW_HU
from .voxels import Voxels, percentile_of, place_of

AIR_HU, HEAD_HU, BONE_HU = -500.0, -200.0, 200.0
"""Air lies below, the head above, and bone above."""
MRI_BAND = (80.0, 200.0)
"""Without contrast agent, CT has little here; MRI stored as bytes has much."""
STORED_WATER = (1000.0, 1024.0)
"""Stored values of water where the rescale intercept was lost."""
OFFSET = "correct its offset, so that air is -1000 and water 0"

Array = npt.NDArray[Any]


class _Sample:
    """Voxels of a scan, about 100 along each axis, perhaps mapped to Hounsfield units.

    Nearly all that is asked of them is how many lie within limits, which sorted values tell.

    Args:
        voxels: The scan.
        spacing_mm: Its spacing.
        function: Maps values and keeps their order; None: as they are.
    """

    def __init__(
        self,
        voxels: Voxels,
        spacing_mm: Sequence[float],
        function: Callable[[Array], Array] | None = None,
    ) -> None:
        self._voxels, self._spacing_mm, self._function = voxels, spacing_mm, function
        self._steps = sampling(voxels.shape)
        ordered = voxels.ordered(self._steps)
        self.ordered: Array = ordered if function is None else function(ordered)
        """The values, sorted."""

    @cached_property
    def values(self) -> Array:
        """The values in place, `(X, Y, Z)`."""
        values = self._voxels.sample(self._steps)
        return values if self._function is None else self._function(values)

    @property
    def size(self) -> int:
        """Number of voxels."""
        return self.ordered.size

    def above(self, value: float) -> Array:
        """Values above one, sorted."""
        return _within(self.ordered, value, np.inf)

    def below(self, value: float) -> Array:
        """Values below one, sorted."""
        return self.ordered[: place_of(self.ordered, value)]

    def distance_mm(self, mask: Array, centre: Array) -> float:
        """Median distance of the voxels of a mask from a point in voxels."""
        offsets = (np.argwhere(mask) - centre) * (np.array(self._steps) * self._spacing_mm)
        return float(np.median(np.linalg.norm(offsets, axis=1)))

    def mapped(self, air: float, tissue: float, tissue_hu: float = 0.0) -> _Sample:
        """With the values of air and of a tissue mapped to Hounsfield units."""
        unit = (tissue_hu + 1000) / (tissue - air)

        def function(values: Array) -> Array:
            return (values - air) * unit - 1000

        return _Sample(self._voxels, self._spacing_mm, function)


def sampling(shape: Sequence[int]) -> list[int]:
    """Steps along each axis from one voxel of the sample to the next."""
    return [-(-n // 100) for n in shape]


def decide_ct(
    scan: Volume,
    ct: bool | None = None,
    *,
    automatic: bool = True,
    voxels: Voxels | None = None,
) -> tuple[bool, list[str]]:
    """Whether a scan is to be clipped as CT, with what should be said about it.

    Args:
        scan: The scan.
        ct: What the user says; None: decide by the values.
        automatic: Whether CT is clipped if the user says nothing, rather than told to the user.
        voxels: Its voxels where they are measured; None: here.

    Examples:
        >>> decide_ct(Volume(np.arange(27.0).reshape(3, 3, 3), np.eye(4)))
        (False, [])
    """
    if ct is False:
        return False, []
    sample = _sample(scan, voxels)
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


def is_ct(scan: Volume, voxels: Voxels | None = None) -> bool:
    """Whether the values of a scan are Hounsfield units of a head.

    There is a peak of air near -1000, whatever constant surrounds the field of view; most of the
    head lies within the window of soft tissue, and bone lies farther out. MRI that was padded with
    -1000 has its noise where soft tissue would be, and the head in place of bone, farther in. A
    scan without air or skull does not count as CT, as it may just as well be MRI.

    Args:
        scan: The scan.
        voxels: Its voxels where they are measured; None: here.

    Examples:
        >>> place = np.indices((40, 40, 40)) - 19.5
        >>> radius = np.linalg.norm(place, axis=0)
        >>> head = np.select([radius < 14, radius < 16], [35.0, 900.0], -1000.0)
        >>> is_ct(Volume(head, np.eye(4))), is_ct(Volume(head + 1000, np.eye(4)))
        (True, False)
    """
    return _in_hu(_sample(scan, voxels))


def _sample(scan: Volume, voxels: Voxels | None) -> _Sample:
    return _Sample(Voxels(scan.data) if voxels is None else voxels, scan.spacing_mm)


def _in_hu(sample: _Sample) -> bool:
    air, shown = sample.below(AIR_HU), sample.above(HEAD_HU)
    between = sample.size - air.size - shown.size
    if air.size / sample.size < 0.01 or between > 4 * shown.size or not _has_peak_of_air(air):
        return False
    soft, denser = (_share(shown, *band) for band in (CT_WINDOW_HU, MRI_BAND))
    bone = sample.above(BONE_HU).size
    hard = bone / max(shown.size, 1)
    if hard < 0.002 or sample.above(500).size < 0.15 * bone:
        return False
    if soft >= 0.3:
        return denser < soft / 3 and hard < 0.5 and _is_outside(sample, HEAD_HU)
    skull = 0.25 <= hard <= 0.8 and _is_skull_in_air(air, shown)
    return skull and _is_outside(sample, HEAD_HU)


def _has_peak_of_air(air: Array) -> bool:
    """Whether much of it is near -1000, but for a constant around the field of view."""
    lowest = air[0]
    measured = _within(air, lowest, np.inf) if lowest < -1100 else air
    return measured.size > 0 and _share(measured, -1100, -900) >= 0.2


def _is_outside(sample: _Sample, above: float) -> bool:
    """Whether bone lies farther out than what is soft of the head, which lies above a value."""
    values = sample.values
    head, bone = values > above, values > BONE_HU
    centre = np.argwhere(head).mean(0)
    soft = head & (values > 0) & ~bone
    return sample.distance_mm(bone, centre) > 0.85 * sample.distance_mm(soft, centre)


def _is_skull_in_air(air: Array, shown: Array) -> bool:
    """Whether air is no padding, and partial volumes of air and a narrow peak are in the head."""
    _, counts = runs(air)
    levels = np.histogram(shown, np.arange(-40, 161, 10))[0] / shown.size
    peak = np.convolve(levels, np.ones(8), "valid").max()
    partial = place_of(shown, -20) / shown.size
    return bool(counts.max() < 0.97 * air.size and partial >= 0.05 and peak >= 0.2)


def _other_ct(sample: _Sample) -> str | None:
    """What CT a scan seems to be that is not in Hounsfield units, or cannot be told from MRI."""
    lowest = sample.ordered[0]
    if lowest > AIR_HU and any(_in_hu(sample.mapped(w - 1000, w)) for w in STORED_WATER):
        return f"CT without its rescale intercept (-1000 or -1024): {OFFSET}"
    background, share = commonest(sample.ordered)
    if share >= 0.2 and background == lowest > AIR_HU and _has_skull(sample):
        return "CT whose air was cut off: add --ct if it is"
    air = sample.below(AIR_HU)
    soft = _share(sample.ordered[air.size :], *CT_WINDOW_HU)
    if air.size / sample.size >= 0.05 and _has_peak_of_air(air) and soft >= 0.9:
        return "CT without a skull: add --ct if it is"
    if _is_rescaled(sample):
        return f"CT that was rescaled: {OFFSET}"
    return None


def _has_skull(sample: _Sample) -> bool:
    """Whether values are of soft tissue and of bone around it, with little between them."""
    lowest = float(sample.ordered[0])
    shown = sample.above(lowest)
    soft, denser = (_share(shown, *band) for band in (CT_WINDOW_HU, MRI_BAND))
    hard = sample.above(BONE_HU).size / max(shown.size, 1)
    return soft >= 0.5 and denser < 0.1 and hard >= 0.02 and _is_outside(sample, lowest)


def _is_rescaled(sample: _Sample) -> bool:
    """Whether the values of CT appear once air and the commonest tissue are where they belong."""
    values = sample.ordered
    low, top = float(values[0]), percentile_of(values, 99.9)
    if not top > low:
        return False
    dark = sample.below(low + (top - low) / 4)
    edges = np.linspace(low + (top - low) / 4, top, 201)
    ends = np.searchsorted(values, edges)
    ends[-1] = place_of(values, top, "right")
    counts = np.diff(ends)
    tissue = float(edges[counts.argmax()] + edges[counts.argmax() + 1]) / 2
    air = float(np.median(dark))
    mapped = sample.mapped(air, tissue, 35.0)
    return _in_hu(mapped) and _share(mapped.above(HEAD_HU), -5, 85) >= 0.5


def _doubts_of_ct(sample: _Sample) -> list[str]:
    """Doubts whether values are Hounsfield units, as the user says.

    CT has air near -1000, or, where air was cut off, one value in its place and most others within
    the window of soft tissue.
    """
    values = sample.ordered
    low, high = CT_WINDOW_HU
    if sample.below(AIR_HU).size / sample.size >= 0.01:
        soft = _share(values, low, high)
        if soft >= 0.005:
            return []
        return [
            f"only {soft:.2%} of the voxels lie within {low:g} and {high:g}, where CT shows the"
            f" brain: {OFFSET}."
        ]
    background, share = commonest(values)
    highest = float(values[-1])
    shown = values[(values != background) & (values < highest)]
    soft, brighter = (_share(shown, *band) for band in (CT_WINDOW_HU, MRI_BAND))
    dense = _share(shown, 50, high)  # blood and little else
    if share >= 0.2 and soft >= 0.5 and max(brighter, dense) <= 0.2 and highest > 5:
        return []
    if kind := _other_ct(sample):
        return [f"values look like {kind}."]
    return [
        f"values do not look like CT in Hounsfield units (no air near -1000, {soft:.0%} of the"
        f" head within {low:g} and {high:g}): leave out --ct if it is MRI; if it is CT,"
        f" {OFFSET}."
    ]


def _within(ordered: Array, low: float, high: float) -> Array:
    """Sorted values within `(low, high]`."""
    return ordered[place_of(ordered, low, "right") : place_of(ordered, high, "right")]


def _share(ordered: Array, low: float, high: float) -> float:
    """Share of sorted values within `(low, high]`."""
    return _within(ordered, low, high).size / ordered.size if ordered.size else 0.0
