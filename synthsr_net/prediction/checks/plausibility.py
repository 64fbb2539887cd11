"""Whether a volume can be a scan of a head, before it is predicted from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.kinds import (
    commonest,
    looks_like_fractions,
    looks_like_labels,
    thinning,
)
from synthsr_transforms.io.scans import Scan

from .voxels import Voxels

MIN_HEAD_MM = 50.0
"""Objects that are shorter than this along every axis are no heads, nor large parts of one."""
_STRAY = 0.5  # percent of voxels at either end of an axis that do not count


def check_plausible(scan: Scan, force: bool = False, voxels: Voxels | None = None) -> list[str]:
    """Refuse what cannot be a scan of a head.

    Args:
        scan: The scan.
        force: Whether to give the reason as a warning instead.
        voxels: Its voxels where they are measured; None: here.

    Returns:
        Warnings.

    Raises:
        VolumeError: If it is a segmentation, mask, tissue or probability map, or a small object.
    """
    reason = _why_no_head(scan, Voxels(scan.data) if voxels is None else voxels)
    if reason is None:
        return []
    if force:
        return [f"{reason}: predicted all the same."]
    raise VolumeError(
        f"{scan.name} must be a scan of a head, but {reason}. Give the scan itself, or add --force"
        " to predict all the same."
    )


def _why_no_head(scan: Scan, voxels: Voxels) -> str | None:
    ordered = voxels.ordered(thinning(voxels.shape))
    size_mm = _object_mm(scan, voxels, ordered)
    if size_mm.max() < MIN_HEAD_MM:
        size = " x ".join(f"{mm:.0f}" for mm in size_mm)
        return f"it shows an object of {size} mm (check the spacing in the header)"
    if looks_like_labels(voxels.measured, ordered):
        return "its values are few and fill flat regions, as in a segmentation, mask or tissue map"
    if looks_like_fractions(voxels.measured, ordered, voxels.extremes):
        return "most of its values are the lowest or the highest, as in a probability map"
    return None


def _object_mm(
    scan: Scan, voxels: Voxels, ordered: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Size along each axis of what differs from the background, or of the field of view.

    Once an axis is long enough for a head, the others are not measured.
    """
    spacing = scan.volume.spacing_mm
    sizes = np.array(voxels.shape) * spacing
    if sizes.max() < MIN_HEAD_MM:
        return sizes
    background, share = commonest(ordered)
    if share < 0.2:
        return sizes
    for axis in voxels.slowest_first:
        shown = voxels.number_along(axis, background)
        profile = shown.cumsum() / max(shown.sum(), 1)
        first, last = np.searchsorted(profile, (_STRAY / 100, 1 - _STRAY / 100))
        sizes[axis] = (last - first + 1) * spacing[axis]
        if sizes[axis] >= MIN_HEAD_MM:
            break
    return sizes
