"""Scans as people have them: files, NiBabel images and TorchIO images, checked while reading."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.imageglobals import logger

from .extents import ScanError, check_affine, check_extent, geometry_warnings
from .file_checks import check_file, check_size, damage, is_zipped
from .headers import affine_of, check_type, spatial_shape, without_orientation
from .volumes import Volume


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan in memory, fit for use."""

    data: npt.NDArray[np.float32]
    """`(X, Y, Z)` finite intensities, not all equal."""
    affine: npt.NDArray[np.float64]
    """`(4, 4)` voxel-to-world matrix in mm."""
    name: str = "scan"
    """Path or description, for messages."""
    warnings: tuple[str, ...] = ()
    """Doubts about the scan, one line each."""

    @property
    def volume(self) -> Volume:
        """Voxels and affine."""
        return Volume(self.data, self.affine)


def read_scan(path: str | os.PathLike[str]) -> Scan:
    """Read a scan and check it.

    Args:
        path: File ending in `.nii`, `.nii.gz`, `.mgz` or `.npz` (an array `vol_data`).

    Returns:
        The scan, or its first volume if it has several, as float32.

    Raises:
        ScanError: If it is missing, damaged, a DICOM file, not 3-D, not of real numbers, without a
            valid affine, too large, constant, or holds no finite number.
    """
    path = Path(path)
    check_file(path)
    if path.name.lower().endswith(".npz"):
        return _read_arrays(path)
    try:
        with _quiet():
            image: Any = nib.load(path)
            header = _header_as_stored(image, path)
    except Exception as error:
        raise damage(path, error) from error
    return _from_nibabel(image, header, str(path), path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what NiBabel tells this thread of headers that it corrects: we tell more."""
    here = threading.get_ident()

    def of_others(record: Any) -> bool:
        return bool(record.thread != here)

    logger.addFilter(of_others)
    try:
        yield
    finally:
        logger.removeFilter(of_others)


def _header_as_stored(image: Any, path: Path) -> Any:
    """Header of a file, without what NiBabel corrects in those of NIfTI."""
    if not hasattr(image.header, "get_sform"):
        return image.header
    with nib.openers.ImageOpener(str(path)) as file:
        return image.header_class.from_fileobj(file, check=False)


def scan_of(image: Any) -> Scan:
    """Take a scan from an image in memory and check it like a file.

    Args:
        image: NiBabel image, or `torchio.ScalarImage`, of which the first channel is used.

    Raises:
        ScanError: As for `read_scan`.

    Examples:
        >>> voxels = np.arange(1000.0).reshape(10, 10, 10)
        >>> scan = scan_of(nib.Nifti1Image(voxels, np.diag([10.0, 10.0, 10.0, 1.0])))
        >>> scan.data.dtype, scan.warnings
        (dtype('float32'), ())
    """
    if hasattr(image, "dataobj") and hasattr(image, "header"):
        return _from_nibabel(image, image.header, image.get_filename() or "the image", None)
    if not (hasattr(image, "data") and hasattr(image, "affine")):
        raise ScanError(
            "scans must be NiBabel images or torchio.ScalarImage, got"
            f" {type(image).__name__}. Wrap the array with its affine."
        )
    name = str(getattr(image, "path", None) or "the image")
    data, matrix = image.data, image.affine  # of TorchIO: (C, X, Y, Z) and an AffineMatrix
    affine = np.array(getattr(matrix, "numpy", lambda: matrix)(), dtype=np.float64)
    channels = np.moveaxis(np.asarray(data.detach().cpu()), 0, -1)
    doubts = without_orientation(np.ones(3))[1] if np.array_equal(affine, np.eye(4)) else []
    return _from_array(channels, affine, name, doubts)


def _read_arrays(path: Path) -> Scan:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "vol_data" not in arrays:
                raise ScanError(
                    f"{path} must hold an array named vol_data, got {', '.join(arrays) or 'none'}."
                    " Save it with numpy.savez(path, vol_data=array)."
                )
            data = arrays["vol_data"]
    except ScanError:
        raise
    except Exception as error:
        raise damage(path, error) from error
    doubt = "no affine in .npz files: voxels of 1 mm, axes to the right, front and top are taken."
    return _from_array(data, np.eye(4), str(path), [doubt])


def _from_array(
    data: npt.NDArray[Any], affine: npt.NDArray[np.float64], name: str, doubts: list[str]
) -> Scan:
    """Scan from `(X, Y, Z)` or `(X, Y, Z, C)` voxels."""
    check_type(data.dtype, name)
    shape, more = spatial_shape(data.shape, name)
    check_affine(affine, name)
    check_extent(shape, affine, name)
    doubts = [*doubts, *more, *geometry_warnings(shape, affine)]
    return _scan(_first(data), affine, name, doubts)


def _from_nibabel(image: Any, header: Any, name: str, path: Path | None) -> Scan:
    """Scan from a NiBabel image; everything that the header tells is checked before the voxels."""
    shape, doubts = spatial_shape(image.shape, name)
    dtype = image.dataobj.dtype if hasattr(image.dataobj, "dtype") else image.get_data_dtype()
    check_type(dtype, name)
    if path is not None:
        check_size(image.shape, image.get_data_dtype().itemsize, path)
    affine, more = affine_of(image, header, name)
    doubts += more
    check_extent(shape, affine, name)
    doubts += geometry_warnings(shape, affine)
    try:
        data = _voxels(image.dataobj) if path is None else _voxels_in(path, image.dataobj)
    except MemoryError:
        raise
    except Exception as error:
        if path is None:
            raise ScanError(f"{name} cannot be read as a scan ({error}).") from error
        raise damage(path, error) from error
    return _scan(data, affine, name, doubts)


def _voxels_in(path: Path, dataobj: Any) -> npt.NDArray[np.float32]:
    """First volume of a file; where it is zipped and 3-D, with a look at its checksum."""
    if not is_zipped(path) or len(dataobj.shape) > 3:
        return _voxels(dataobj)
    fields = (dataobj.shape, dataobj.dtype, dataobj.offset, dataobj.slope, dataobj.inter)
    with nib.openers.ImageOpener(str(path)) as file:
        data = _voxels(type(dataobj)(file, fields, mmap=False))
        while file.read(1 << 20):  # the checksum is at the end
            pass
    return data


def _voxels(dataobj: Any) -> npt.NDArray[np.float32]:
    """First volume in float32, with the scaling of the header."""
    with np.errstate(over="ignore", invalid="ignore"):
        if len(dataobj.shape) == 3 and hasattr(dataobj, "get_scaled"):
            return np.asarray(dataobj.get_scaled(np.float32), dtype=np.float32)
        return np.asarray(_first(dataobj), dtype=np.float32)


def _first(data: Any) -> npt.NDArray[Any]:
    """First volume of `(X, Y, Z, ...)` data."""
    return np.asarray(data[(..., *(0,) * (len(data.shape) - 3))])


def _scan(
    data: npt.NDArray[Any], affine: npt.NDArray[np.float64], name: str, doubts: list[str]
) -> Scan:
    """Check the voxels, and replace those that are not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        data = np.asarray(data, dtype=np.float32)
    if isinstance(data, np.memmap) or not data.flags.writeable:
        data = np.array(data)
    finite = np.isfinite(data)
    wrong = int(data.size - np.count_nonzero(finite))
    if wrong == data.size:
        raise ScanError(f"{name} must hold finite numbers, got only NaN or infinity. Export again.")
    if wrong:
        lowest = data[finite].min()
        data = np.where(finite, data, lowest)
        doubts = [
            *doubts,
            f"{wrong} voxels of {data.size} are NaN or infinite: replaced by the minimum"
            f" {lowest:g}.",
        ]
    if data.min() == data.max():
        raise ScanError(
            f"{name} must show something, but all voxels are {data.flat[0]:g}. Check how it was"
            " exported."
        )
    if _is_mask(data):
        doubts = [*doubts, "two values only, as in a mask: give the scan itself."]
    return Scan(data, affine, name, tuple(doubts))


def _is_mask(data: npt.NDArray[np.float32]) -> bool:
    """Whether all voxels are either the lowest or the highest; few are looked at in most scans."""
    ends = (data.min(), data.max())
    return all(bool(np.isin(part, ends).all()) for part in (data[len(data) // 2], data))
