"""Values that no tissue has: found, replaced and told before a scan is resampled.

A network sees intensities relative to the lowest and the highest. So one defective voxel, or
padding with a number far away, darkens the whole head. Sound scans are not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from synthsr_transforms.io.kinds import count
from synthsr_transforms.io.scans import Scan
from synthsr_transforms.support.devices import is_on_host, on_host
from synthsr_transforms.support.messages import listed

from .voxels import Voxels, every, percentile_of, place_of

FAR_ABOVE = 5.0
"""Tissue does not reach this, in units from the background to the level of bright tissue; vessels
with contrast agent, eyes in T2 and fat near a coil reach 3."""
ABOVE = 2.5
"""Where something lies far above, all above this is taken for defective too."""
HOT = 3.0
"""A slice is hot if it is so many times as bright as the next sound one,"""
HOT_SHARE = 0.05
"""and more than this share of it, and half of what is head in that one, lies far above."""
BRIGHTER = 0.85
"""Place of the slice whose level counts among all of one axis."""
FAR_BELOW, BELOW = 5.0, 0.5
"""Limits below the background, the second for few voxels below air."""
FEW = 0.01
"""Share of the voxels of the head that few voxels stay below."""
LARGEST = float(np.finfo(np.float32).max)
FILLED_FROM_AROUND = 200_000
"""So many voxels are replaced by their neighbours; where there are more, by the background."""

Array = npt.NDArray[Any]


class _Tissue(NamedTuple):
    """Where the intensities of a scan lie, whatever is wrong with some voxels.

    Attributes:
        low: Lowest value that is no padding.
        high: Highest value that is no padding.
        background: Air, or dark tissue where there is no air.
        level: Bright tissue.
        has_air: Whether many voxels lie near the background.
        levels: Bright tissue of each slice along each axis.
    """

    low: float
    high: float
    background: float
    level: float
    has_air: bool
    levels: tuple[Array, ...]

    def at(self, height: float) -> float:
        """Intensity at a height of 0 (background) to 1 (level) and beyond."""
        value = self.background + height * (self.level - self.background)
        return min(max(value, -LARGEST), LARGEST)


def limited(scan: Scan, voxels: Voxels | None = None) -> Scan:
    """Replace values that no tissue has: padding, defective voxels, numbers with the wrong sign.

    Whole numbers that were read with the wrong sign are mended. Padding is one value, or nearly,
    far from all others. Other values are defective if they lie several times as far from the
    background as bright tissue, whose level comes from the brighter slices and so does not depend
    on single slices, rows or voxels. Both are replaced by the mean of sound voxels around them, or
    by background.

    Args:
        scan: MRI, of any contrast.
        voxels: Its voxels where they are measured; None: here.

    Returns:
        The scan itself if all is sound, else another with a warning for each thing that was done.
    """
    voxels = Voxels(scan.data) if voxels is None else voxels
    data, doubts = _with_sign(scan.data, voxels)
    voxels = Voxels(data) if doubts else voxels
    tissue = _tissue(voxels)
    if tissue.level > tissue.background:
        if voxels.extremes[1] > tissue.at(FAR_ABOVE):
            data, more = _without_hot_slices(data, tissue)
            voxels = Voxels(data) if more else voxels
            doubts += more
        data, more = _without_outliers(data, tissue, voxels)
        doubts += more
    return replace(scan, data=data, warnings=(*scan.warnings, *doubts)) if doubts else scan


def _with_sign(data: Array, voxels: Voxels) -> tuple[Array, list[str]]:
    """Mend whole numbers whose largest were read as negative ones, in 8, 12 or 16 bits and so on.

    Neighbours on both sides of zero are then closer to each other once the sign is right.
    """
    lowest, highest = voxels.extremes
    if not 0 < -lowest <= 2.0**31 >= highest > 0 or not voxels.are_whole:
        return data, []
    period = 2.0 ** np.ceil(np.log2(highest - lowest + 1))
    negative = data < 0
    mended = np.where(negative, data + np.float32(period), data)
    before = after = 0.0
    for axis in range(3):
        across = np.diff(negative, axis=axis)
        before += float(np.abs(np.diff(data, axis=axis))[across].sum(dtype=np.float64))
        after += float(np.abs(np.diff(mended, axis=axis))[across].sum(dtype=np.float64))
    if after > 0.7 * before:
        return data, []
    return mended, [
        f"numbers with the wrong sign in {np.count_nonzero(negative)} of {data.size} voxels:"
        f" {period:.0f} was added to them."
    ]


def _tissue(voxels: Voxels) -> _Tissue:
    steps = sampling(voxels.shape)
    ordered = voxels.ordered(steps)
    low, high = _without_padding(ordered, lambda: voxels.sample(steps))
    sound = ordered[place_of(ordered, low) : place_of(ordered, high, "right")]
    background, quarter = percentile_of(sound, 10), percentile_of(sound, 25)
    all_levels, brighter = _levels(voxels, low, high, background), []
    for levels in all_levels:
        shown = levels[levels > background]
        if len(levels) >= 8 and shown.size:
            brighter.append(float(np.percentile(shown, 100 * BRIGHTER)))
    level = min(brighter) if brighter else float(np.percentile(sound, 99))
    has_air = quarter - background < 0.1 * (level - background)
    return _Tissue(low, high, background, level, has_air, all_levels)


def sampling(shape: Sequence[int]) -> list[int]:
    """Steps along each axis from one voxel of the sample that tissue is found in to the next."""
    return [-(-n // 128) for n in shape]


def _levels(
    voxels: Voxels, low: float, high: float, background: float
) -> tuple[npt.NDArray[np.float64], ...]:
    """Bright tissue of each slice along each axis, where padding counts as background."""
    levels = []
    for axis in range(3):
        steps = [1 if other == axis else -(-n // 64) for other, n in enumerate(voxels.shape)]
        slices = voxels.data[every(steps)].movedim(axis, 0).flatten(1)
        if np.isfinite(low) or np.isfinite(high):
            slices = slices.where((slices >= low) & (slices <= high), background)
        place = int(0.99 * (slices.shape[1] - 1))
        if is_on_host(slices):
            levels.append(torch.from_numpy(np.partition(slices.numpy(), place, axis=1)[:, place]))
        else:
            levels.append(slices.sort(1).values[:, place])
    every_level = on_host(torch.cat(levels)).astype(np.float64)
    return tuple(np.split(every_level, np.cumsum(voxels.shape)[:2]))


def _without_padding(values: Array, sample: Callable[[], Array]) -> tuple[float, float]:
    """Lowest and highest value that is no padding, from sorted values of some voxels.

    Padding takes 1% of them or more, and next to nothing lies between it and the rest. Below, the
    rest must have a background of its own, since a skull-stripped head lies far above its
    background; above, padding is found at the border as much as elsewhere, as these voxels show in
    their places.
    """
    low, high = -np.inf, np.inf
    steps = values[np.linspace(0, values.size - 1, 201).astype(int)][1:-1].astype(np.float64)
    while steps.size >= 12:
        gaps = steps[2:] - steps[:-2]  # 1% of the voxels at most lies between
        last = int(gaps[3:-3].argmax()) + 3
        below, above, gap = steps[: last + 1], steps[last + 2 :], float(gaps[last])
        widths = float(np.ptp(below)), float(np.ptp(above))
        middle = float(below[-1] + above[0]) / 2
        has_air = above[len(above) // 5] - above[0] < 0.1 * widths[1]
        most = 4.0 if has_air else 0.2 if middle < 0 else 0.0
        is_alone = gap > 3 * (above[2:] - above[:-2]).max()
        if 20 * widths[0] < widths[1] < most * gap and is_alone:
            low, steps = middle, above
        elif (
            20 * widths[1] < max(widths[0], gap)
            and 0 < widths[0] < 2 * gap
            and _reaches_border(sample() > middle)
        ):
            high, steps = middle, below
        else:
            break
    return low, high


def _reaches_border(mask: Array) -> bool:
    """Whether a mask covers the faces of a volume as much as the rest of it."""
    inner = mask[1:-1, 1:-1, 1:-1]
    covered = np.count_nonzero(mask) - np.count_nonzero(inner)
    return bool(covered * mask.size >= np.count_nonzero(mask) * (mask.size - inner.size))


def _without_hot_slices(data: Array, tissue: _Tissue) -> tuple[Array, list[str]]:
    """Scale slices that are several times as bright as the next sound ones."""
    doubts = []
    above = (data > tissue.at(ABOVE)) & (data <= tissue.high)
    for axis, levels in enumerate(tissue.levels):
        others = tuple(other for other in range(3) if other != axis)
        share, head = above.mean(others), (data > tissue.at(1 / 4)).mean(others)
        hot = share > HOT_SHARE
        if not 0 < hot.mean() <= 1 - BRIGHTER:
            continue
        sound, ratios = np.flatnonzero(~hot), {}
        heights = levels - tissue.background
        for place in map(int, np.flatnonzero(hot)):
            beside = sound[np.abs(sound - place).argmin()]
            as_a_whole = share[place] > head[beside] / 2
            if as_a_whole and heights[place] > HOT * heights[beside] > 0:
                ratios[place] = float(heights[beside] / heights[place])
        if ratios:
            data = data.copy()
            for place, ratio in ratios.items():
                image = np.moveaxis(data, axis, 0)[place]
                image[...] = tissue.background + ratio * (image - tissue.background)
            doubts.append(
                f"slices {listed(list(ratios))} along axis {axis} (both counted from 0) are up to"
                f" {1 / min(ratios.values()):.2g} times as bright as those beside them: scaled."
            )
    return data, doubts


def _without_outliers(data: Array, tissue: _Tissue, voxels: Voxels) -> tuple[Array, list[str]]:
    """Replace voxels with values that no tissue has."""
    lowest, highest = voxels.extremes
    low, high = tissue.low, tissue.high
    if highest > tissue.at(FAR_ABOVE):
        high = min(high, tissue.at(ABOVE))
    if lowest < tissue.at(-FAR_BELOW):
        low = max(low, tissue.at(-FAR_BELOW))
    if lowest < tissue.at(-BELOW) and tissue.has_air:
        values = voxels.measured
        below = (values < tissue.at(-BELOW)) & (values >= low)
        few, head = count(below, values > tissue.at(0.1))
        if few < FEW * head:
            low = max(low, tissue.at(-BELOW))
    doubts = []
    for limit, extreme, sign, words in (
        (low, lowest, -1, ("below", "down")),
        (high, highest, 1, ("above", "up")),
    ):
        if sign * extreme > sign * limit:
            number = np.count_nonzero(data < low if sign < 0 else data > high)
            doubts.append(
                f"values {words[0]} {limit:.4g} ({words[1]} to {extreme:.6g}), which no tissue has,"
                f" in {number} of {data.size} voxels: replaced by what lies around them."
            )
    if doubts:
        data = _filled(data, (data < low) | (data > high), tissue.background)
    return data, doubts


def _filled(data: Array, outside: Array, background: float) -> Array:
    """A copy in which voxels outside are the mean of 26 neighbours inside, two deep, or background.

    What lies deeper, or many voxels, become background.
    """
    result = data.copy()
    result[outside] = background
    offsets = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
    last = np.array(data.shape) - 1
    places, missing = np.argwhere(outside), outside.copy()
    for _ in range(2 if len(places) <= FILLED_FROM_AROUND else 0):
        number, total = np.zeros(len(places)), np.zeros(len(places))
        for offset in offsets:
            index = tuple((places + offset).clip(0, last).T)
            found = ~missing[index]
            number += found
            total += np.where(found, result[index], 0)
        found = number > 0
        index = tuple(places[found].T)
        result[index] = total[found] / number[found]
        missing[index] = False
        places = places[~found]
    return result
