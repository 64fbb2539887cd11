"""How much of the world a scan covers, and whether that can be a head."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from synthsr_transforms.support.memory import available_bytes

from .volumes import VolumeError

MAX_VOXELS = 10**9
"""Most voxels after resampling: a cube of 1 m at 1 mm."""
HEAD_MM = (80.0, 400.0)
"""Fields of view that are plausible for a head, per axis."""
VOXEL_MM = (0.15, 15.0)
"""Voxel spacings outside this range are doubted."""
MIN_SHEAR_DEGREES = 0.5
"""Axes that are off a right angle by less count as orthogonal."""

Affine = npt.NDArray[np.float64]


class ScanError(VolumeError):
    """A scan that cannot be used; the message names it and says what to do."""


def check_affine(affine: Affine, name: str) -> None:
    """Refuse a matrix without an inverse.

    Raises:
        ScanError: If it holds NaN, or its columns do not span the space.
    """
    axes = affine[:3, :3]
    if np.isfinite(affine).all():
        lengths = np.linalg.norm(axes, axis=0)
        if lengths.min() > 0 and abs(np.linalg.det(axes / lengths)) > 1e-4:
            return
    rows = "all zeros" if not axes.any() else str(axes.round(4).tolist())
    raise ScanError(
        f"{name} must have an invertible affine, got {rows}. Correct the sform or qform of its"
        " header, or convert the scan again."
    )


def difference(first: Affine, second: Affine, shape: Sequence[int]) -> tuple[float, float]:
    """How far apart two affines put a volume.

    Args:
        first: `(4, 4)` voxel-to-world matrix.
        second: Another one.
        shape: Sizes of the volume.

    Returns:
        Largest displacement of a corner in mm, and angle between the axes in degrees.
    """
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in shape[:3]])).reshape(3, -1)
    moved = (first - second) @ np.vstack([corners, np.ones(corners.shape[1])])
    units = [m[:3, :3] / np.linalg.norm(m[:3, :3], axis=0).clip(1e-12) for m in (first, second)]
    cosine = (np.trace(units[0].T @ units[1]) - 1) / 2
    angle = math.degrees(math.acos(float(np.clip(cosine, -1, 1))))
    return float(np.linalg.norm(moved[:3], axis=0).max()), angle


def shear_degrees(affine: Affine) -> float:
    """Largest deviation from a right angle between two axes, in degrees (gantry tilt of CT).

    Examples:
        >>> affine = np.eye(4)
        >>> affine[2, 1] = np.tan(np.deg2rad(20.0))
        >>> round(shear_degrees(affine), 3)
        20.0
    """
    units = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    products = np.abs(units.T @ units - np.diag(np.ones(3)))
    return math.degrees(math.asin(min(1.0, float(products.max()))))


def geometry_warnings(shape: Sequence[int], affine: Affine) -> list[str]:
    """Doubts about spacing, field of view and angles, one line each.

    Args:
        shape: Three sizes.
        affine: `(4, 4)` voxel-to-world matrix in mm.
    """
    warnings = []
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    extent = spacing * np.asarray(shape[:3])
    if extent.min() < HEAD_MM[0] or extent.max() > HEAD_MM[1]:
        size = " x ".join(f"{mm:.0f}" for mm in extent)
        warnings.append(
            f"field of view of {size} mm, heads need {HEAD_MM[0]:.0f} to {HEAD_MM[1]:.0f} mm:"
            " check the spacing in the header."
        )
    if spacing.min() <= VOXEL_MM[0] or spacing.max() >= VOXEL_MM[1]:
        warnings.append(f"unusual voxels of {spacings(spacing)}: check the spacing in the header.")
    if (angle := shear_degrees(affine)) >= MIN_SHEAR_DEGREES:
        warnings.append(
            f"axes are {angle:.1f} degrees off a right angle (gantry tilt of CT): this is allowed"
            " for, but not with --legacy."
        )
    return warnings


def check_extent(shape: Sequence[int], affine: Affine, name: str) -> None:
    """Refuse, before voxels are read, what cannot be a head or does not fit into memory.

    Raises:
        ScanError: If more than `MAX_VOXELS` or the free memory would be needed.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    extent = [float(n * mm) for n, mm in zip(shape, spacing, strict=False)]
    resampled = math.prod(max(mm, 1.0) for mm in extent)
    what = f"{'x'.join(str(n) for n in shape[:3])} voxels of {spacings(spacing)}"
    if resampled > MAX_VOXELS:
        raise ScanError(
            f"{name} must hold at most {MAX_VOXELS:,} voxels at 1 mm, got {resampled:.2g} ({what})."
            " Correct the spacing in its header, or crop it to the head."
        )
    needed, free = 8.0 * math.prod(shape[:3]) + 8 * resampled, available_bytes()
    if needed > free:
        raise ScanError(
            f"{name} must fit into memory, but needs about {needed / 1e9:.1f} GB of"
            f" {free / 1e9:.1f} GB that are free ({what}). Crop it to the head, or use a larger"
            " machine."
        )


def spacings(values: Sequence[float] | Affine) -> str:
    """Voxel spacings as people write them.

    Examples:
        >>> spacings([0.48242188, 1.0, 5.0])
        '0.4824 x 1 x 5 mm'
    """
    return " x ".join(f"{float(mm):.4g}" for mm in values) + " mm"
