"""Volumes on disk: reading with checks, orientation, atomic writing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt

from synthsr_transforms.support.atomic import replacing
from synthsr_transforms.support.messages import SynthSRError

EXTENSIONS = (".nii.gz", ".nii", ".mgz", ".npz")
"""Endings of the files that are read, in lower or upper case."""


class Volume(NamedTuple):
    """Voxels and where they lie.

    Attributes:
        data: `(X, Y, Z)` array, or `(X, Y, Z, C)`.
        affine: `(4, 4)` voxel-to-world matrix in mm, float64.
    """

    data: npt.NDArray[Any]
    affine: npt.NDArray[np.float64]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel spacing in mm, rounded to a thousandth."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).round(3).tolist()
        return x, y, z


class VolumeError(SynthSRError):
    """A file that does not hold what it should; the message names it and says what to do."""


def has_known_extension(path: str | os.PathLike[str]) -> bool:
    """Whether a file name ends as those of volumes do.

    Examples:
        >>> has_known_extension("scan.NII.GZ"), has_known_extension("scan.dcm")
        (True, False)
    """
    return Path(path).name.lower().endswith(EXTENSIONS)


def stem(path: str | os.PathLike[str]) -> str:
    """File name without its extension.

    Examples:
        >>> stem("folder.nii/sub-01_T1w.nii.gz")
        'sub-01_T1w'
    """
    name = Path(path).name
    for extension in EXTENSIONS:
        if name.lower().endswith(extension):
            return name[: -len(extension)]
    return name


def list_volumes(path: str | os.PathLike[str]) -> list[Path]:
    """Volumes in a folder, sorted by name, or the one file given.

    Raises:
        VolumeError: If the path does not exist or holds no volume.
    """
    path = Path(path)
    if path.is_file():
        if not has_known_extension(path):
            raise VolumeError(
                f"{path} must end in one of {', '.join(EXTENSIONS)}. Convert it first."
            )
        return [path]
    if not path.is_dir():
        raise VolumeError(f"{path} must be a file or folder, but does not exist. Check the path.")
    found = sorted(
        p for p in path.iterdir() if has_known_extension(p) and not p.name.startswith(".")
    )
    if not found:
        raise VolumeError(
            f"{path} must hold label maps or images ({', '.join(EXTENSIONS)}), but holds none."
        )
    return found


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Read a volume as stored, with single trailing axes removed.

    `.npz` files hold an array `vol_data` and lie on the identity affine.

    Raises:
        VolumeError: If the file cannot be read, is not 3-D, or its affine has no extent.
    """
    path = Path(path)
    try:
        if path.name.lower().endswith(".npz"):
            with np.load(path) as arrays:
                if "vol_data" not in arrays:
                    names = ", ".join(arrays) or "none"
                    raise VolumeError(
                        f"{path} must hold an array named vol_data, got {names}."
                        " Save it with numpy.savez(path, vol_data=array)."
                    )
                data, affine = arrays["vol_data"], np.eye(4)
        else:
            image: Any = nib.load(path)
            data, affine = np.asanyarray(image.dataobj), image.affine
    except FileNotFoundError:
        raise VolumeError(f"{path} does not exist. Check the path.") from None
    except VolumeError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise VolumeError(f"{path} cannot be read as a volume: {reason}.") from error
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim not in (3, 4):
        raise VolumeError(
            f"{path} must be a 3-D volume, got shape {data.shape}. Choose a 3-D file."
        )
    volume = Volume(data, np.asarray(affine, dtype=np.float64))
    _check_affine(volume, path)
    return volume


def _check_affine(volume: Volume, path: Path) -> None:
    spacing = volume.spacing_mm
    flat = abs(np.linalg.det(volume.affine[:3, :3])) < 1e-9
    if not np.isfinite(volume.affine).all() or min(spacing) <= 0 or flat:
        raise VolumeError(
            f"{path} must have a voxel spacing above 0 mm and an invertible affine, got spacing"
            f" {spacing}. Correct its header."
        )


def read_labels(path: str | os.PathLike[str]) -> Volume:
    """Read a label map with whole numbers, as int16 or int32.

    Raises:
        VolumeError: If it is not 3-D, holds NaN, fractions or negative numbers.
    """
    volume = read_volume(path)
    data = volume.data
    if data.ndim != 3:
        raise VolumeError(
            f"{path} must be a 3-D label map, got shape {data.shape}. Split it into 3-D files."
        )
    if min(data.shape) < 2:
        raise VolumeError(
            f"{path} must be a 3-D label map, got a single slice of shape {data.shape}."
        )
    if np.issubdtype(data.dtype, np.floating):
        if not np.isfinite(data).all():
            raise VolumeError(f"{path} must hold whole numbers, got NaN or infinity. Replace them.")
        rounded = np.rint(data)
        if not np.array_equal(rounded, data):
            wrong = float(data[rounded != data][0])
            raise VolumeError(
                f"{path} must hold whole numbers, got {wrong:g}. Resample label maps with nearest"
                " neighbour, and use them, not probabilities."
            )
        data = rounded
    low, high = int(data.min()), int(data.max())
    if low < 0 or high >= 2**31:
        raise VolumeError(f"{path} must hold labels within 0 and 2^31, got {low} to {high}.")
    kind = np.int16 if high < 2**15 else np.int32
    return volume._replace(data=np.ascontiguousarray(data, dtype=kind))


def read_image(path: str | os.PathLike[str]) -> Volume:
    """Read a 3-D image as float32.

    Raises:
        VolumeError: If it is not 3-D or holds NaN or infinity.
    """
    volume = read_volume(path)
    if volume.data.ndim != 3:
        raise VolumeError(
            f"{path} must be a 3-D image, got shape {volume.data.shape}. Split it into 3-D files."
        )
    data = np.ascontiguousarray(volume.data, dtype=np.float32)
    if not np.isfinite(data).all():
        raise VolumeError(f"{path} must hold finite numbers, got NaN or infinity. Replace them.")
    return volume._replace(data=data)


def ras_axes(affine: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Voxel axis closest to each world axis (right, anterior, superior).

    Where two world axes claim one voxel axis, the later claim gives way to the axis left over.

    Args:
        affine: `(4, 4)` voxel-to-world matrix.

    Returns:
        `(3,)` a permutation of 0, 1, 2.

    Examples:
        >>> ras_axes([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]).tolist()
        [2, 0, 1]
    """
    inverse = np.linalg.inv(np.asarray(affine, dtype=np.float64))
    axes = np.abs(inverse[:3, :3]).argmax(axis=0)
    for axis in range(3):
        if axis not in axes:
            values, counts = np.unique(axes, return_counts=True)
            repeated = values[counts.argmax()]
            axes[np.flatnonzero(axes == repeated)[-1]] = axis
    return axes.astype(np.int64)


def reorient(volume: Volume, reference: npt.ArrayLike | None = None) -> Volume:
    """Permute and reverse axes so that they run as those of a reference; nothing is interpolated.

    Args:
        volume: `(X, Y, Z)` or `(X, Y, Z, C)` and its affine.
        reference: `(4, 4)` affine whose axes to follow; None means right, anterior, superior.

    Returns:
        The same voxels at the same places in the world. Oblique parts stay in the affine.
    """
    reference = np.eye(4) if reference is None else np.asarray(reference, dtype=np.float64)
    source, goal = ras_axes(volume.affine), ras_axes(reference)
    order = [0, 0, 0]
    for world in range(3):
        order[goal[world]] = int(source[world])
    data = volume.data.transpose(*order, *range(3, volume.data.ndim))
    affine = volume.affine.copy()
    affine[:, :3] = volume.affine[:, order]
    for axis in range(3):
        if affine[:3, axis] @ reference[:3, axis] < 0:
            affine[:3, 3] += (data.shape[axis] - 1) * affine[:3, axis]
            affine[:3, axis] *= -1
            data = np.flip(data, axis)
    return Volume(data, affine)


def write_volume(path: str | os.PathLike[str], volume: Volume) -> None:
    """Write a volume atomically, with both coordinate forms set and millimetres as unit.

    Args:
        path: File ending in `.nii`, `.nii.gz` or `.mgz`.
        volume: Voxels and affine.
    """
    path = Path(path)
    data = np.ascontiguousarray(volume.data)
    if path.name.lower().endswith(".mgz"):
        image: Any = nib.MGHImage(data, volume.affine.astype(np.float32))
    else:
        image = nib.Nifti1Image(data, volume.affine)
        image.set_sform(volume.affine, code="scanner")
        image.set_qform(volume.affine, code="scanner")
        image.header.set_xyzt_units("mm")
    with replacing(path) as temporary:
        nib.save(image, temporary)


def same_grid(first: Volume, second: Volume, tolerance_mm: float = 1e-2) -> bool:
    """Whether two volumes have one shape and lie on one place, to a hundredth of a mm."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in first.data.shape[:3]])).reshape(3, -1)
    points = np.vstack([corners, np.ones(corners.shape[1])])
    apart = np.abs((first.affine - second.affine) @ points)[:3].max()
    return first.data.shape[:3] == second.data.shape[:3] and bool(apart <= tolerance_mm)
