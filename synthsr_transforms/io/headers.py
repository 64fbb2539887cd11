"""What the header of a scan must say, and what of it to doubt.

Errors stop a scan that cannot be used. Doubts become warnings, one line each: the scan is used, but
somebody should look at its header.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError

from .extents import (
    HEAD_MM,
    MIN_SHEAR_DEGREES,
    Affine,
    ScanError,
    check_affine,
    difference,
    shear_degrees,
    spacings,
)

FORMS_MM = 0.5
"""Largest displacement between qform and sform that needs no warning."""
UNITS_MM = {"meter": 1000.0, "micron": 0.001}
"""Units other than mm that a NIfTI header may name."""


def spatial_shape(shape: Sequence[int], name: str) -> tuple[tuple[int, int, int], list[str]]:
    """Shape of the first volume of a scan, by the dimensions of its header.

    Args:
        shape: All dimensions, in the order of the header.
        name: What to call the scan in messages.

    Returns:
        Three sizes, and warnings.

    Raises:
        ScanError: If the scan is not 3-D.

    Examples:
        >>> spatial_shape((256, 256, 8, 1), "a.nii")
        ((256, 256, 8), [])
        >>> spatial_shape((64, 64, 30, 120), "a.nii")[1]
        ['4-D scan with 120 volumes: the first one is used.']
    """
    sizes = tuple(int(n) for n in shape)
    if len(sizes) < 3 or min(sizes[:3]) < 2:
        kind = "a 2-D image" if len(sizes) < 3 else "a single slice"
        kind = "an empty one" if min(sizes, default=0) < 1 else kind
        raise ScanError(
            f"{name} must be a 3-D scan, got {kind} of shape {sizes}. Give the whole stack of"
            " slices as one file."
        )
    volumes = math.prod(sizes[3:])
    if volumes < 1:
        raise ScanError(f"{name} must hold a volume, got shape {sizes}. Get the file again.")
    warnings = []
    if volumes > 1:
        warnings.append(f"{len(sizes)}-D scan with {volumes} volumes: the first one is used.")
    return (sizes[0], sizes[1], sizes[2]), warnings


def check_type(dtype: npt.DTypeLike, name: str) -> None:
    """Refuse voxels that are not real numbers.

    Raises:
        ScanError: For colours, complex numbers and other kinds.
    """
    dtype = np.dtype(dtype)
    if dtype.kind in "fiub":
        return
    kind, advice = f"data of type {dtype}", "Save it as numbers."
    if dtype.names:
        kind = f"colours ({', '.join(dtype.names)})"
        advice = "Give the scan itself, not a picture or colour map made from it."
    elif dtype.kind == "c":
        kind, advice = f"complex numbers ({dtype})", "Give the magnitude image."
    raise ScanError(f"{name} must hold one real number per voxel, got {kind}. {advice}")


def affine_of(image: Any, header: Any, name: str) -> tuple[Affine, list[str]]:
    """Voxel-to-world matrix of a scan in mm, and what to doubt in it.

    The sform counts if its code is above 0, else the qform, as in NiBabel. A unit matrix beside
    other voxel spacings is replaced by these spacings.

    Args:
        image: NiBabel image.
        header: Its header as stored, before NiBabel corrects it.
        name: What to call the scan in messages.

    Returns:
        `(4, 4)` matrix and warnings.

    Raises:
        ScanError: If the header has a spacing of 0 mm, or a matrix without an inverse.
    """
    stored = header.get_zooms() if hasattr(header, "get_zooms") else ()
    zooms = np.abs(np.asarray(stored[:3], dtype=np.float64))
    if zooms.size < 3 or not np.isfinite(zooms).all() or zooms.min() <= 0:
        raise ScanError(
            f"{name} must have a voxel spacing above 0 mm, got {spacings(zooms)} in its header."
            " Correct the header, or convert the scan again."
        )
    affine = image.affine if image.affine is not None else image.header.get_best_affine()
    affine = np.array(affine, dtype=np.float64)
    check_affine(affine, name)
    codes = _codes(header)
    warnings = []
    if codes == (0, 0):
        warnings.append(
            "no orientation in the header (qform and sform codes are 0): axes are taken to run to"
            " the left, front and top. Check left and right of the prediction."
        )
    elif np.allclose(affine, np.eye(4), atol=1e-6):
        affine, warnings = _unit_form(header, codes, zooms)
    else:
        warnings = _doubts_of_forms(header, codes, affine, zooms)
    affine, converted = _in_mm(affine, header, _sizes(image))
    return affine, warnings + converted


def _unit_form(
    header: Any, codes: tuple[int, int] | None, zooms: Affine
) -> tuple[Affine, list[str]]:
    """What a unit affine stands for: beside other spacings, a qform knows better than it."""
    qform = _qform(header) if codes is not None and min(codes) > 0 else None
    if qform is None:
        return without_orientation(zooms)
    if not np.allclose(zooms, 1, atol=1e-3):
        return qform, [f"unit sform, but voxels of {spacings(zooms)}: the qform is used."]
    if not np.allclose(qform, np.eye(4), atol=1e-3):
        return np.eye(4), _doubts_of_forms(header, codes, np.eye(4), zooms)
    return without_orientation(zooms)


def without_orientation(zooms: Affine) -> tuple[Affine, list[str]]:
    """Matrix with which a unit affine is replaced, and what to doubt in it.

    Args:
        zooms: Voxel spacings in mm, as far as they are known besides.
    """
    where = "axes are taken to run to the right, front and top. Check the orientation."
    if np.allclose(zooms, 1, atol=1e-3):
        return np.eye(4), [f"unit affine, as of files without orientation: {where}"]
    text = f"unit affine, but voxels of {spacings(zooms)}: these spacings are used, and {where}"
    return np.diag([*zooms, 1.0]), [text]


def _codes(header: Any) -> tuple[int, int] | None:
    """Codes of qform and sform, or None for other formats than NIfTI."""
    if not hasattr(header, "get_sform"):
        return (0, 0) if _no_ras(header) else None
    return int(header["qform_code"]), int(header["sform_code"])


def _no_ras(header: Any) -> bool:
    """Whether an MGH header says that it holds no orientation."""
    try:
        return int(header["goodRASFlag"]) == 0
    except (KeyError, ValueError, TypeError, IndexError):
        return False


def _doubts_of_forms(
    header: Any, codes: tuple[int, int] | None, affine: Affine, zooms: Affine
) -> list[str]:
    warnings = []
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.allclose(spacing, zooms, rtol=0.01):
        warnings.append(
            f"voxels of {spacings(spacing)} by the affine, but {spacings(zooms)} by the header:"
            " the affine is used."
        )
    if codes is None or min(codes) < 1 or shear_degrees(affine) >= MIN_SHEAR_DEGREES:
        return warnings  # a qform cannot hold shear: nothing to compare
    sform, qform = header.get_sform(), _qform(header)
    if qform is None:
        return [*warnings, "the qform is invalid: the sform is used."]
    apart, turned = difference(qform, sform, header.get_data_shape())
    if np.linalg.det(qform[:3, :3]) * np.linalg.det(sform[:3, :3]) < 0:
        warnings.append(
            f"sform and qform disagree by up to {apart:.1f} mm and mirror each other: the sform is"
            " used. Check left and right of the prediction."
        )
    elif apart > FORMS_MM:
        warnings.append(
            f"sform and qform disagree by up to {apart:.1f} mm and {turned:.1f} degrees: the sform"
            " is used."
        )
    return warnings


def _qform(header: Any) -> Affine | None:
    """Matrix of the qform, by spacings without their signs; None if there can be none."""
    header = header.copy()
    header["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
    try:
        return np.asarray(header.get_qform(), dtype=np.float64)
    except (HeaderDataError, ValueError):
        return None


def _in_mm(affine: Affine, header: Any, shape: Sequence[int]) -> tuple[Affine, list[str]]:
    """Convert from the unit that the header names, where the result can be a head."""
    unit = header.get_xyzt_units()[0] if hasattr(header, "get_xyzt_units") else "mm"
    factor = UNITS_MM.get(unit)
    if factor is None:
        return affine, []
    extent = np.linalg.norm(affine[:3, :3], axis=0) * np.asarray(shape[:3])
    if HEAD_MM[0] / 4 <= (extent * factor).min() and (extent * factor).max() <= 4 * HEAD_MM[1]:
        converted = np.diag([factor, factor, factor, 1.0]) @ affine
        return converted, [f"the header's unit is {unit}: converted to mm."]
    return affine, [f"the header's unit is {unit}, which cannot be true: taken as mm."]


def _sizes(image: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in image.shape[:3])
