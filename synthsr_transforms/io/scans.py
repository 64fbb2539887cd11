"""Scans as people have them: files, NiBabel images and TorchIO images, checked while reading."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from .files import VolumeError
from .grids import Affine, Volume
from .headers import (
    Header,
    check_extent,
    check_header,
    geometry_warnings,
    scan_affine,
    spatial_shape,
)
from .volumes import header_of, read_header, read_voxels


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan in memory, fit for use."""

    data: npt.NDArray[np.float32]
    """`(X, Y, Z)` finite intensities, not all equal."""
    affine: Affine
    """`(4, 4)` voxel-to-world matrix in mm."""
    name: str = "scan"
    """Path or description, for messages."""
    warnings: tuple[str, ...] = ()
    """Warnings about the scan, one line each."""

    @property
    def volume(self) -> Volume:
        """Voxels and affine."""
        return Volume(self.data, self.affine)


def read_scan(path: str | os.PathLike[str]) -> Scan:
    """Read a scan and check it.

    Args:
        path: File ending in one of `EXTENSIONS`; `.npz` files hold an array `vol_data`.

    Returns:
        The scan, or its first volume if it has several, as float32.

    Raises:
        VolumeError: If it is missing, damaged, a DICOM file, not 3-D, not of real numbers, without
            a valid affine, too large, constant, or holds no finite number.
    """
    return _scan(read_header(path))


def scan_of(image: Any) -> Scan:
    """Take a scan from an image in memory and check it like a file.

    Args:
        image: NiBabel image, or `torchio.ScalarImage`, of which the first channel is used.

    Raises:
        VolumeError: As for `read_scan`.

    Examples:
        >>> voxels = np.arange(1000.0).reshape(10, 10, 10)
        >>> scan = scan_of(nib.Nifti1Image(voxels, np.diag([10.0, 10.0, 10.0, 1.0])))
        >>> scan.data.dtype, scan.warnings
        (dtype('float32'), ())
    """
    if hasattr(image, "dataobj") and hasattr(image, "header"):
        file = image.get_filename()
        in_file = file is not None and nib.is_proxy(image.dataobj) and Path(file).is_file()
        path = Path(file) if in_file else None
        header = header_of(image, file or "the image", image.header, path)
    elif hasattr(image, "data") and hasattr(image, "affine"):
        name = str(getattr(image, "path", None) or "the image")
        data, matrix = image.data, image.affine  # of TorchIO: (C, X, Y, Z) and an AffineMatrix
        affine = np.array(getattr(matrix, "numpy", lambda: matrix)(), dtype=np.float64)
        channels = np.moveaxis(np.asarray(data.detach().cpu()), 0, -1)
        shape = spatial_shape(channels.shape)
        header = Header(name, shape, channels.dtype, affine, dataobj=channels)
    else:
        raise VolumeError(
            "scans must be NiBabel images or torchio.ScalarImage, got"
            f" {type(image).__name__}. Wrap the array with its affine."
        )
    check_header(header)
    return _scan(header)


def _scan(header: Header) -> Scan:
    """Read the first volume, check it, and replace voxels that are not finite."""
    name, num_volumes = header.name, math.prod(header.shape[3:])
    affine, warnings = scan_affine(header)
    check_extent(header, affine)
    warnings += geometry_warnings(header.shape, affine)
    if num_volumes > 1:
        kind = f"{len(header.shape)}-D scan with {num_volumes} volumes"
        warnings.insert(0, f"{kind}: the first one is used.")
    data = read_voxels(header, first=True)
    if isinstance(data, np.memmap) or not data.flags.writeable:
        data = np.array(data)
    lowest, highest = data.min(), data.max()  # NaN if there is one
    if not np.isfinite(lowest) or not np.isfinite(highest):
        finite = np.isfinite(data)
        wrong = int(data.size - np.count_nonzero(finite))
        if wrong == data.size:
            raise VolumeError(
                f"{name} must hold finite numbers, got only NaN or infinity. Export again."
            )
        lowest, highest = data[finite].min(), data[finite].max()
        data = np.where(finite, data, lowest)
        warnings.append(
            f"{wrong} voxels of {data.size} are NaN or infinite: replaced by the minimum"
            f" {lowest:g}."
        )
    if lowest == highest:
        raise VolumeError(
            f"{name} must show something, but all voxels are {data.flat[0]:g}. Check its export."
        )
    return Scan(data, affine, name, tuple(warnings))
