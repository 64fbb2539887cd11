"""Lesions that predictions keep.

Networks trained on healthy anatomy fill lesions in. Where a mask says so, the prediction is
rendered from the intensities of the scan instead, and joined to its surroundings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from synthsr_net.prediction.resampling import Grid, reslice
from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.io.scans import Scan

BLEND_MM = 2.0
"""Outside the mask, the rendering fades into the prediction over this distance."""
SHELL_MM = 4.0
"""Each lesion is matched to the prediction in a shell of this thickness."""
SURROUND_MM = 20.0
"""The slope between intensities comes from the tissue within this distance of lesions."""
LOCAL_MM = 10.0
"""Half width of the box of local means that this slope does not see."""
MIN_POINTS = 10
"""Fewest voxels of tissue that a slope is fitted to."""
MIN_CORRELATION = 0.1
"""Weakest correlation, in magnitude, from which a slope is taken."""

Array = npt.NDArray[Any]


def keep_lesion(prediction: Volume, scan: Scan, mask: Volume) -> tuple[Volume, list[str]]:
    """Render the region of a mask from the scan's own intensities.

    In the mask, the result is `a * scan + b`. The slope `a` is fitted by least squares to scan and
    prediction in the tissue within 20 mm of the lesions, leaving out their means over 20 mm (bias
    fields); it may be negative, as from T2 to T1.
    The offset `b` makes the means in a shell of 4 mm around each lesion (connected part of the
    mask) equal. Beyond the mask it fades into the prediction within 2 mm; further away, the
    prediction is not changed at all.

    Limits: one line per lesion cannot turn one contrast into another, so intensities in the lesion
    show its shape and inner structure, but are no T1 values to measure. Thick slices of the scan
    stay visible in it. The mask is read by linear interpolation and cut at one half.

    Args:
        prediction: `(X, Y, Z)` on any grid.
        scan: What the prediction was made from, on any grid.
        mask: `(X, Y, Z)`, above 0.5 in the lesions, on any grid.

    Returns:
        `(X, Y, Z)` float32 on the grid of the prediction, within its range of intensities, and
        warnings: that the mask is empty, or lesions lie partly outside.

    Raises:
        VolumeError: If the mask is not 3-D, or its lesions lie outside the prediction or the scan.
    """
    lesions, warnings = _lesions_on_grid(prediction, scan, mask)
    if not lesions.any():
        return prediction, warnings
    result = np.array(prediction.data, dtype=np.float32)
    before = result.copy()
    spacing = np.linalg.norm(prediction.affine[:3, :3], axis=0)
    part = _box(lesions, SURROUND_MM / spacing)
    values, _ = reslice(scan.volume, _subgrid(part, prediction.affine), outside=None)
    tissue = (before[part] > 0.1 * np.percentile(before, 99)) & ~lesions[part]
    slope = _slope(values, before[part], lesions[part], tissue, spacing)
    low, high = float(before.min()), float(before.max())
    numbers, count = ndimage.label(lesions, np.ones((3, 3, 3)))
    covered = np.zeros(tuple(s.stop - s.start for s in part), np.float32)
    rendered = np.zeros_like(covered)
    for near, inside in _each(numbers[part], count, (SHELL_MM + 1) / spacing):
        distance = ndimage.distance_transform_edt(~inside, sampling=spacing)
        shell = (distance <= SHELL_MM) & tissue[near]
        shell = shell if shell.any() else (distance > 0) | inside.all()
        offset = float((before[part][near][shell] - slope * values[near][shell]).mean())
        weight = (0.5 + 0.5 * np.cos(np.pi * (distance / BLEND_MM).clip(0, 1))).astype(np.float32)
        stronger = weight > covered[near]
        covered[near][stronger] = weight[stronger]
        rendered[near][stronger] = (slope * values[near] + offset)[stronger]
    changed = covered > 0
    blended = before[part] + covered * (rendered.clip(low, high) - before[part])
    result[part][changed] = blended[changed]
    return Volume(result, prediction.affine), warnings


def _lesions_on_grid(prediction: Volume, scan: Scan, mask: Volume) -> tuple[Array, list[str]]:
    """Boolean lesions on the grid of the prediction, and warnings."""
    data = np.asarray(mask.data)
    if data.ndim != 3:
        raise VolumeError(f"the lesion mask must be 3-D, got shape {data.shape}. Split it.")
    marked = np.nan_to_num(data.astype(np.float32)) > 0.5
    if not marked.any():
        nothing = np.zeros(prediction.data.shape, bool)
        return nothing, ["the lesion mask is empty: the prediction is not changed."]
    index = np.argwhere(marked)
    points = index @ mask.affine[:3, :3].T + mask.affine[:3, 3]
    inside = [_is_inside(points, volume) for volume in (prediction, scan.volume)]
    for what, where in zip(("prediction", f"scan {scan.name}"), inside, strict=True):
        if not where.any():
            raise VolumeError(
                f"the lesion mask must overlap with the {what}, but its lesions lie outside. Check"
                " its header: it must lie on the scan in world space."
            )
    usable = inside[0] & inside[1]
    warnings = []
    if usable.mean() < 0.99:
        warnings.append(
            f"only {usable.mean():.0%} of the lesion mask lies on the scan: the rest is left out."
        )
    marked[tuple(index[~usable].T)] = False
    x, y, z = prediction.data.shape
    binary = Volume(marked.astype(np.float32), mask.affine)
    soft, _ = reslice(binary, ((x, y, z), prediction.affine), outside=0.0)
    lesions = np.asarray(soft > 0.5)
    lesions[tuple(_voxels(points[usable], prediction.affine).T)] |= not lesions.any()
    return lesions, warnings


def _voxels(points: Array, affine: Array) -> Array:
    """Nearest voxels of points in the world, `(N, 3)`."""
    inverse = np.linalg.inv(affine)
    return np.rint(points @ inverse[:3, :3].T + inverse[:3, 3]).astype(np.int64)


def _is_inside(points: Array, volume: Volume) -> Array:
    index = _voxels(points, volume.affine)
    return np.asarray(((index >= 0) & (index < volume.data.shape)).all(axis=1))


def _box(lesions: Array, margin: Array) -> tuple[slice, ...]:
    """Slices around all lesions, with a margin in voxels."""
    (found,) = ndimage.find_objects(lesions.astype(np.uint8))
    return _grown(found, margin, lesions.shape)


def _grown(box: Any, margin: Array, shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(
        slice(max(0, s.start - int(np.ceil(m))), min(n, s.stop + int(np.ceil(m))))
        for s, m, n in zip(box, margin, shape, strict=True)
    )


def _subgrid(part: tuple[slice, ...], affine: Array) -> Grid:
    """Grid of a part of a volume."""
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ np.array([s.start for s in part])
    x, y, z = (s.stop - s.start for s in part)
    return (x, y, z), moved


def _each(numbers: Array, count: int, margin: Array) -> Iterator[tuple[tuple[slice, ...], Array]]:
    """Surroundings of each lesion, and where it is in them."""
    for number, box in enumerate(ndimage.find_objects(numbers, count), start=1):
        near = _grown(box, margin, numbers.shape)
        yield near, numbers[near] == number


def _slope(values: Array, predicted: Array, lesions: Array, tissue: Array, spacing: Array) -> float:
    """Slope of a line from the scan to the prediction, in the tissue around lesions.

    Where they are hardly correlated, it is the ratio of their spreads.
    """
    distance = ndimage.distance_transform_edt(~lesions, sampling=spacing)
    tissue = tissue & (distance > 1) & (distance <= SURROUND_MM)
    tissue = tissue if np.count_nonzero(tissue) >= MIN_POINTS else ~lesions
    size = [2 * int(LOCAL_MM / mm) + 1 for mm in spacing]
    x, y = (_detail(v, tissue, size) for v in (values, predicted))
    if x.size < MIN_POINTS or x.std() <= 1e-6 * max(1e-6, float(np.abs(values).max())):
        return _ratio(values, predicted)
    correlation = float(np.corrcoef(x, y)[0, 1]) if y.std() > 0 else 0.0
    if abs(correlation) < MIN_CORRELATION:
        return float(np.copysign(y.std() / x.std(), correlation))
    return correlation * float(y.std() / x.std())


def _detail(values: Array, tissue: Array, size: Sequence[int]) -> Array:
    """Values of the tissue without their local mean, so that slow shading does not count."""
    weights = ndimage.uniform_filter(tissue.astype(np.float32), size)
    means = ndimage.uniform_filter(np.where(tissue, values, 0).astype(np.float32), size)
    return np.asarray(values[tissue] - means[tissue] / weights[tissue], dtype=np.float64)


def _ratio(values: Array, predicted: Array) -> float:
    spread = float(np.ptp(values))
    return float(np.ptp(predicted)) / spread if spread > 0 else 0.0
