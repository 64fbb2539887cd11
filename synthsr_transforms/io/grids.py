"""Volumes in the world: voxels with their affine, orientation, spacing and angles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt

MIN_SHEAR_DEGREES = 0.5
"""Axes that are off a right angle by less count as orthogonal in label maps and warnings."""
NEGLIGIBLE_SHEAR_DEGREES = 0.01
"""Axes that are off a right angle by less are so by rounding: 0.02 mm at the border of a head."""

Affine = npt.NDArray[np.float64]


class Volume(NamedTuple):
    """Voxels and where they lie.

    Attributes:
        data: `(X, Y, Z)` array, or `(X, Y, Z, C)`.
        affine: `(4, 4)` voxel-to-world matrix in mm, float64.
    """

    data: npt.NDArray[Any]
    affine: Affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel spacing in mm, rounded to a thousandth."""
        x, y, z = spacing_of(self.affine).round(3).tolist()
        return x, y, z


def spacing_of(affine: Affine) -> Affine:
    """Voxel spacing of a `(4, 4)` voxel-to-world matrix, `(3,)`."""
    return np.linalg.norm(affine[:3, :3], axis=0)


def directions_of(affine: Affine) -> Affine:
    """Directions of the axes made orthogonal, `(3, 3)`: the nearest rotation (or reflection)."""
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing_of(affine))
    return np.asarray(left @ right)


def upright(affine: Affine, shape: Sequence[int]) -> Affine:
    """The nearest affine with axes at right angles, with the same spacing and centre.

    Args:
        affine: `(4, 4)` voxel-to-world matrix.
        shape: Sizes of the volume.

    Examples:
        >>> sheared = np.array([[1, 0.004, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        >>> upright(sheared, (101, 101, 2))[:2].round(3).tolist()
        [[1.0, 0.002, 0.0, 0.1], [-0.002, 1.0, 0.0, 0.1]]
    """
    result = affine.copy()
    result[:3, :3] = directions_of(affine) * spacing_of(affine)
    result[:3, 3] += (affine - result)[:3, :3] @ ((np.array(shape[:3]) - 1) / 2)
    return result


def format_spacing(values: Sequence[float] | Affine) -> str:
    """Voxel spacings as text.

    Examples:
        >>> format_spacing([0.48242188, 1.0, 5.0])
        '0.4824 x 1 x 5 mm'
    """
    return " x ".join(f"{float(mm):.4g}" for mm in values) + " mm"


def ras_axes(affine: npt.ArrayLike, *, legacy: bool = False) -> npt.NDArray[np.int64]:
    """Voxel axis closest to each world axis (right, anterior, superior), as NiBabel finds it.

    Args:
        affine: `(4, 4)` voxel-to-world matrix.
        legacy: Whether to take the largest entries of the inverse, as the original does: oblique
            axes of unequal spacing are confused then. Where two world axes claim one voxel axis,
            the later claim gives way to the axis left over.

    Returns:
        `(3,)` a permutation of 0, 1, 2.

    Examples:
        >>> ras_axes([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]).tolist()
        [2, 0, 1]
    """
    affine = np.asarray(affine, dtype=np.float64)
    if not legacy:
        return np.argsort(nib.orientations.io_orientation(affine)[:, 0])
    axes = np.abs(np.linalg.inv(affine)[:3, :3]).argmax(axis=0)
    for axis in range(3):
        if axis not in axes:
            values, counts = np.unique(axes, return_counts=True)
            repeated = values[counts.argmax()]
            axes[np.flatnonzero(axes == repeated)[-1]] = axis
    return axes.astype(np.int64)


def reorient(
    volume: Volume, reference: npt.ArrayLike | None = None, *, legacy: bool = False
) -> Volume:
    """Permute and reverse axes so that they run as those of a reference; nothing is interpolated.

    Args:
        volume: `(X, Y, Z)` or `(X, Y, Z, C)` and its affine.
        reference: `(4, 4)` affine whose axes to follow; None means right, anterior, superior.
        legacy: Whether to choose the axes as the original does, see `ras_axes`.

    Returns:
        The same voxels at the same places in the world. Oblique parts stay in the affine.
    """
    turn, affine = turn_between(volume.affine, volume.data.shape, reference, legacy=legacy)
    return Volume(nib.orientations.apply_orientation(volume.data, turn), affine)


def turn_between(
    affine: Affine,
    shape: Sequence[int],
    reference: npt.ArrayLike | None = None,
    *,
    legacy: bool = False,
) -> tuple[Affine, Affine]:
    """How `reorient` permutes and reverses the axes of a volume.

    Args:
        affine: Of the volume.
        shape: Its sizes.
        reference: See `reorient`.
        legacy: See `reorient`.

    Returns:
        For each axis, which axis it becomes and 1 or -1, `(3, 2)`, as NiBabel has it; and the
        affine of the volume that is turned.
    """
    reference = np.eye(4) if reference is None else np.asarray(reference, dtype=np.float64)
    if legacy:
        turn = _original_turn(affine, reference)
    else:
        directions = nib.affines.from_matvec(reference[:3, :3] / spacing_of(reference))
        turn = nib.orientations.io_orientation(np.linalg.inv(directions) @ affine)
    return turn, affine @ nib.orientations.inv_ornt_aff(turn, tuple(shape[:3]))


def _original_turn(affine: Affine, reference: Affine) -> Affine:
    """Axis of the reference that every axis follows, and its direction there, `(3, 2)`."""
    turn = np.ones((3, 2))
    for own, other in zip(
        ras_axes(affine, legacy=True), ras_axes(reference, legacy=True), strict=True
    ):
        opposed = affine[:3, own] @ reference[:3, other] < 0
        turn[own] = other, -1 if opposed else 1
    return turn


def same_grid(first: Volume, second: Volume, tolerance_mm: float = 1e-2) -> bool:
    """Whether two volumes have one shape and lie on one place, to a hundredth of a mm."""
    shape = first.data.shape[:3]
    apart = np.abs(_displacements(first.affine, second.affine, shape)).max()
    return shape == second.data.shape[:3] and bool(apart <= tolerance_mm)


def affine_difference(first: Affine, second: Affine, shape: Sequence[int]) -> tuple[float, float]:
    """Displacement and angle between two affines of a volume.

    Args:
        first: `(4, 4)` voxel-to-world matrix.
        second: Another one.
        shape: Sizes of the volume.

    Returns:
        Largest displacement of a corner in mm, and angle between the axes in degrees.
    """
    moved = _displacements(first, second, shape, margin=0.5)
    units = [m[:3, :3] / spacing_of(m).clip(1e-12) for m in (first, second)]
    cosine = (np.trace(units[0].T @ units[1]) - 1) / 2
    angle = math.degrees(math.acos(float(np.clip(cosine, -1, 1))))
    return float(np.linalg.norm(moved, axis=0).max()), angle


def _displacements(
    first: Affine, second: Affine, shape: Sequence[int], margin: float = 0.0
) -> Affine:
    """Displacement of the eight corners in mm, `(3, 8)`; `margin` voxels outside the outer ones."""
    ends = [(-margin, n - 1 + margin) for n in shape[:3]]
    corners = np.array(np.meshgrid(*ends)).reshape(3, -1)
    moved: Affine = (first - second) @ np.vstack([corners, np.ones(corners.shape[1])])
    return moved[:3]


def shear_degrees(affine: Affine) -> float:
    """Largest deviation from a right angle between two axes, in degrees (gantry tilt of CT).

    Examples:
        >>> affine = np.eye(4)
        >>> affine[2, 1] = np.tan(np.deg2rad(20.0))
        >>> round(shear_degrees(affine), 3)
        20.0
    """
    units = affine[:3, :3] / spacing_of(affine)
    products = np.abs(units.T @ units - np.diag(np.ones(3)))
    return math.degrees(math.asin(min(1.0, float(products.max()))))
