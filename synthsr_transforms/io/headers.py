"""Headers of volumes: errors for what cannot be used, warnings for what is questionable.

`check_header` is the one list of what is refused before voxels are read. For scans, `scan_affine`
chooses between the forms of the affine and `check_extent` bounds the extent. Warnings are of one
line: the scan is used, but somebody should look at its header.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from synthsr_transforms.support.memory import available_bytes

from .files import VolumeError, check_holds
from .grids import (
    MIN_SHEAR_DEGREES,
    Affine,
    affine_difference,
    format_spacing,
    shear_degrees,
    spacing_of,
)
from .other_formats import has_orientation

MAX_VOXELS = 10**9
"""Most voxels after resampling: a cube of 1 m at 1 mm."""
HEAD_MM = (80.0, 400.0)
"""Fields of view that are plausible for a head, per axis."""
VOXEL_MM = (0.15, 15.0)
"""Plausible voxel spacings."""
SMALLEST_MM = 0.001
"""Spacing below which a header must be wrong."""
FORMS_MM = 0.5
"""Largest displacement between qform and sform that needs no warning."""
_FIELDS = (1006, 2003, 2004, *range(2006, 2010), *range(2016, 2019))
"""Intent codes of NIfTI for vectors: displacements, colours, and the warps of FSL."""
UNITS_MM = {"meter": 1000.0, "micron": 0.001}
"""Units other than mm that a NIfTI header may name."""


class Header(NamedTuple):
    """Facts about a volume that need no voxels.

    Attributes:
        name: Path or description, for messages.
        shape: All sizes, without single trailing axes.
        dtype: Type of a voxel as stored.
        affine: `(4, 4)` voxel-to-world matrix as NiBabel gives it; the identity for `.npz` files.
        fields: NiBabel header as stored, before NiBabel corrects it; None for `.npz` files and
            arrays.
        path: The file that voxels are read from, if there is one.
        dataobj: Array or NiBabel proxy that gives the voxels; None for `.npz` files.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    affine: Affine
    fields: Any = None
    path: Path | None = None
    dataobj: Any = None


def spatial_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Sizes without single trailing axes behind the third.

    Examples:
        >>> spatial_shape((256, 256, 8, 1)), spatial_shape((64, 64, 30, 120))
        ((256, 256, 8), (64, 64, 30, 120))
    """
    sizes = tuple(int(n) for n in shape)
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes = sizes[:-1]
    return sizes


# Errors ------------------------------------------------------------------------------------------


def check_header(header: Header) -> None:
    """Refuse, by its header, a volume of any kind that cannot be used.

    Raises:
        VolumeError: If voxels are not real numbers, or the volume is not 3-D or larger than its
            file or memory, or has a spacing of 0 mm or an affine without an inverse.
    """
    _check_type(header)
    _check_shape(header)
    num_bytes = math.prod(header.shape) * header.dtype.itemsize
    if header.path is not None:
        check_holds(num_bytes, header.path)
    check_memory(num_bytes, header)
    _check_affine(header)


def _check_type(header: Header) -> None:
    dtype = header.dtype
    if dtype.kind in "fiub":
        return
    kind, advice = f"data of type {dtype}"[:100], "Save it as numbers."
    if dtype.names and {name.lower() for name in dtype.names} >= {"r", "g", "b"}:
        kind = f"colours ({', '.join(dtype.names)})"
        advice = "Give the scan itself, not a picture or colour map made from it."
    elif dtype.kind == "c":
        kind, advice = f"complex numbers ({dtype})", "Give the magnitude image."
    raise VolumeError(f"{header.name} must hold one real number per voxel, got {kind}. {advice}")


def _check_shape(header: Header) -> None:
    sizes, advice = header.shape, "Give the whole stack of slices as one file."
    if min(sizes, default=0) < 1:
        kind = "an empty one"
    elif sizes[3:] == (1, 3) or (len(sizes) > 3 and _intent(header) in _FIELDS):
        kind = "vectors, as of a displacement field,"
        advice = "Give the image or label map that it belongs to."
    elif len(sizes) >= 3 and sorted(sizes[:3])[1] == 1:
        kind = "a row of values, as of a surface or a table,"
        advice = "Give the volume that it was made from."
    elif len(sizes) < 3:
        kind = "a 2-D image"
    elif min(sizes[:3]) < 2:
        kind = "a single slice"
    else:
        return
    raise VolumeError(f"{header.name} must be a 3-D volume, got {kind} of shape {sizes}. {advice}")


def _intent(header: Header) -> int:
    """Code of the intent in a NIfTI header, else 0."""
    is_nifti = hasattr(header.fields, "get_intent")
    return int(header.fields["intent_code"]) if is_nifti else 0


def check_memory(num_bytes: float, header: Header) -> None:
    """Refuse a volume that needs more memory than is free.

    Raises:
        VolumeError: If it does.
    """
    free = available_bytes()
    if num_bytes > free:
        raise VolumeError(
            f"{header.name} must fit into memory, but needs about {num_bytes / 1e9:.1f} GB of"
            f" {free / 1e9:.1f} GB that are free ({_size(header)}). Crop it to the head, or use a"
            " larger machine."
        )


def _check_affine(header: Header) -> None:
    zooms = _zooms(header)
    if zooms.size < 3 or not np.isfinite(zooms).all() or zooms.min() <= 0:
        raise VolumeError(
            f"{header.name} must have a voxel spacing above 0 mm, got {format_spacing(zooms)} in"
            " its header. Correct the header, or convert the file again."
        )
    axes = header.affine[:3, :3]
    if np.isfinite(header.affine).all():
        lengths = spacing_of(header.affine)
        if lengths.min() > 0 and abs(np.linalg.det(axes / lengths)) > 1e-4:
            return
    rows = "all zeros" if not axes.any() else str(axes.round(4).tolist())
    raise VolumeError(
        f"{header.name} must have an invertible affine, got {rows}. Correct the sform or qform of"
        " its header, or convert the file again."
    )


def check_extent(header: Header, affine: Affine) -> None:
    """Refuse a scan that cannot be a head, or does not fit into memory at 1 mm.

    Args:
        header: Its header.
        affine: `(4, 4)` voxel-to-world matrix in mm.

    Raises:
        VolumeError: If its voxels are smaller than any scanner makes them, or if more than
            `MAX_VOXELS` or the free memory would be needed.
    """
    spacing = spacing_of(affine)
    if spacing.min() < SMALLEST_MM:
        raise VolumeError(
            f"{header.name} must have voxels of at least {SMALLEST_MM} mm, got {_size(header)}."
            " Correct the spacing in its header."
        )
    extent = [float(n * mm) for n, mm in zip(header.shape, spacing, strict=False)]
    resampled = math.prod(max(mm, 1.0) for mm in extent)
    if resampled > MAX_VOXELS:
        raise VolumeError(
            f"{header.name} must hold at most {MAX_VOXELS:,} voxels at 1 mm, got {resampled:.2g}"
            f" ({_size(header)}). Correct the spacing in its header, or crop it to the head."
        )
    check_memory(8.0 * math.prod(header.shape[:3]) + 8 * resampled, header)


def _size(header: Header) -> str:
    sizes = "x".join(str(n) for n in header.shape)
    return f"{sizes} voxels of {format_spacing(spacing_of(header.affine))}"


# Warnings ----------------------------------------------------------------------------------------


def geometry_warnings(shape: Sequence[int], affine: Affine) -> list[str]:
    """Warnings about spacing, field of view and angles, one line each.

    Args:
        shape: Three sizes.
        affine: `(4, 4)` voxel-to-world matrix in mm.
    """
    warnings = []
    spacing = spacing_of(affine)
    extent = spacing * np.asarray(shape[:3])
    if extent.min() < HEAD_MM[0] or extent.max() > HEAD_MM[1]:
        size = " x ".join(f"{mm:.0f}" for mm in extent)
        warnings.append(
            f"field of view of {size} mm, heads need {HEAD_MM[0]:.0f} to {HEAD_MM[1]:.0f} mm:"
            " check the spacing in the header."
        )
    if spacing.min() <= VOXEL_MM[0] or spacing.max() >= VOXEL_MM[1]:
        warnings.append(
            f"unusual voxels of {format_spacing(spacing)}: check the spacing in the header."
        )
    if (angle := shear_degrees(affine)) >= MIN_SHEAR_DEGREES:
        warnings.append(
            f"axes are {angle:.1f} degrees off a right angle (gantry tilt of CT): this is allowed"
            " for, but not with --legacy."
        )
    return warnings


def scan_affine(header: Header) -> tuple[Affine, list[str]]:
    """Voxel-to-world matrix of a scan in mm, with warnings.

    The sform counts if its code is above 0, else the qform, as in NiBabel. An sform of unit columns
    beside other voxel spacings gives way to the qform, and a unit matrix without qform to these
    spacings.

    Args:
        header: A header that `check_header` accepts.

    Returns:
        `(4, 4)` matrix and warnings.
    """
    codes = _codes(header.fields)
    affine, zooms = header.affine, _zooms(header)
    qform = _qform(header.fields) if codes is not None and min(codes) > 0 else None
    unit_spacing = np.allclose(spacing_of(affine), 1, atol=1e-3)
    if codes == (0, 0) or not has_orientation(header.fields):
        why = " (qform and sform codes are 0)" if codes is not None else ""
        why = " (goodRASFlag is 0)" if codes and "goodRASFlag" in header.fields else why
        warnings = [
            f"no orientation in the header{why}: {_directions(affine)} Check left and right of"
            " the prediction."
        ]
    elif qform is not None and unit_spacing and not np.allclose(zooms, 1, atol=1e-3):
        warnings = [f"unit sform, but voxels of {format_spacing(zooms)}: the qform is used."]
        if not np.allclose(affine[:3, :3], np.eye(3), atol=1e-6) and _mirrored(affine, qform):
            warnings.append("sform and qform mirror each other: check left and right.")
        affine = qform
    elif np.allclose(affine, np.eye(4), atol=1e-6) and (
        qform is None or np.allclose(qform, np.eye(4), atol=1e-3)
    ):
        affine, warnings = _unit_form(header, zooms)
    else:
        warnings = _form_warnings(header, codes, affine)
    affine, converted = _in_mm(affine, header)
    return affine, warnings + converted


def _unit_form(header: Header, zooms: Affine) -> tuple[Affine, list[str]]:
    """Matrix in place of a unit affine: that of the voxel spacings."""
    if header.name.lower().endswith(".npz"):
        text = (
            "no affine in .npz files: voxels of 1 mm, axes to the right, front and top are taken."
        )
        return np.eye(4), [text]
    where = f"{_directions(np.eye(4))} Check the orientation."
    if np.allclose(zooms, 1, atol=1e-3):
        return np.eye(4), [f"unit affine, as of files without orientation: {where}"]
    text = (
        f"unit affine, but voxels of {format_spacing(zooms)}: these spacings are used, and {where}"
    )
    return np.diag([*zooms, 1.0]), [text]


def _zooms(header: Header) -> Affine:
    """Voxel spacings beside the affine, without their signs."""
    if header.fields is None:
        return spacing_of(header.affine)
    stored = header.fields.get_zooms() if hasattr(header.fields, "get_zooms") else ()
    return np.abs(np.asarray(stored[:3], dtype=np.float64))


def _codes(fields: Any) -> tuple[int, int] | None:
    """Codes of qform and sform, 0 where unknown; None for other formats than NIfTI."""
    if hasattr(fields, "get_sform"):
        codes = int(fields["qform_code"]), int(fields["sform_code"])
        qform, sform = (code if code in nib.nifti1.xform_codes.value_set() else 0 for code in codes)
        return qform, sform
    of_mgh = "goodRASFlag" in getattr(fields, "keys", tuple)()
    return (0, 0) if of_mgh and int(fields["goodRASFlag"]) == 0 else None


def _form_warnings(header: Header, codes: tuple[int, int] | None, affine: Affine) -> list[str]:
    warnings = []
    zooms, spacing = _zooms(header), spacing_of(affine)
    if not np.allclose(spacing, zooms, rtol=0.01):
        warnings.append(
            f"voxels of {format_spacing(spacing)} by the affine, but {format_spacing(zooms)} by the"
            " header: the affine is used."
        )
    if codes is None or min(codes) < 1 or shear_degrees(affine) >= MIN_SHEAR_DEGREES:
        return warnings  # a qform cannot hold shear: nothing to compare
    sform, qform = header.fields.get_sform(), _qform(header.fields)
    if qform is None:
        return [*warnings, "the qform is invalid: the sform is used."]
    apart, turned = affine_difference(qform, sform, header.shape)
    if _mirrored(qform, sform):
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


def _mirrored(first: Affine, second: Affine) -> bool:
    return bool(np.linalg.det(first[:3, :3]) * np.linalg.det(second[:3, :3]) < 0)


def _directions(affine: Affine) -> str:
    words = {"L": "left", "R": "right", "A": "front", "P": "back", "S": "top", "I": "bottom"}
    x, y, z = (words[code] for code in nib.orientations.aff2axcodes(affine))
    return f"axes are taken to run to the {x}, {y} and {z}."


def _qform(fields: Any) -> Affine | None:
    """Matrix of the qform, by spacings without their signs; None if there can be none."""
    fields = fields.copy()
    fields["pixdim"][1:4] = np.abs(fields["pixdim"][1:4])
    try:
        return np.asarray(fields.get_qform(), dtype=np.float64)
    except (HeaderDataError, ValueError):
        return None


def _in_mm(affine: Affine, header: Header) -> tuple[Affine, list[str]]:
    """Convert from the unit that the header names, where the result can be a head."""
    fields = header.fields
    code = int(fields["xyzt_units"]) % 8 if hasattr(fields, "get_xyzt_units") else 0
    if code not in nib.nifti1.unit_codes.value_set():
        return affine, [f"the header's unit has an unknown code, {code}: taken as mm."]
    unit = str(nib.nifti1.unit_codes.label[code])
    factor = UNITS_MM.get(unit)
    if factor is None:
        return affine, []
    extent = spacing_of(affine) * np.asarray(header.shape[:3]) * factor
    if HEAD_MM[0] / 4 <= extent.min() and extent.max() <= 4 * HEAD_MM[1]:
        converted = np.diag([factor, factor, factor, 1.0]) @ affine
        return converted, [f"the header's unit is {unit}: converted to mm."]
    return affine, [f"the header's unit is {unit}, which cannot be true: taken as mm."]
