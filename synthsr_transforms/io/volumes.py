"""Volumes on disk: one reader for all kinds of them, and one writer.

Every file goes through `check_file` and `check_header` before its voxels are read, and through its
checksum while they are.
"""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.imageglobals import logger

from synthsr_transforms.support.atomic import replacing

from .files import VolumeError, check_file, has_known_extension, is_zipped, naming_damage
from .grids import Volume
from .headers import Header, check_header, spatial_shape

DESCRIPTION_BYTES = 79
"""Room for text in a NIfTI header."""

# Opening -----------------------------------------------------------------------------------------


class Opened(NamedTuple):
    """A volume whose header was read and checked.

    Attributes:
        header: Its header.
        voxels: Reads the voxels as stored, or with `True` those of the first of several volumes as
            float32.
    """

    header: Header
    voxels: Callable[[bool], npt.NDArray[Any]]


def open_volume(path: str | os.PathLike[str]) -> Opened:
    """Read and check the header of a file.

    Args:
        path: File ending in `.nii`, `.nii.gz`, `.mgz` or `.npz` (an array `vol_data`).

    Raises:
        VolumeError: If it is missing, damaged or no volume, or what `check_header` refuses.
    """
    path = Path(path)
    with naming_damage(path):
        check_file(path)
        if path.name.lower().endswith(".npz"):
            with _array_in(path) as file:
                shape, dtype = _array_header(file)
            header = Header(str(path), spatial_shape(shape), dtype, np.eye(4))
            voxels = partial(_voxels_of_array, path)
        else:
            with _without_messages():
                image: Any = nib.load(path)
                header = header_of(image, str(path), _fields_as_stored(image, path))
            voxels = partial(voxels_of_file, path, image.dataobj)
    check_header(header, path)
    return Opened(header, voxels)


def header_of(image: Any, name: str, fields: Any) -> Header:
    """Header of a NiBabel image, with its fields as stored."""
    affine = getattr(image, "affine", None)
    affine = image.header.get_best_affine() if affine is None else affine
    dtype = getattr(image.dataobj, "dtype", None) or image.get_data_dtype()
    return Header(
        name, spatial_shape(image.shape), np.dtype(dtype), np.array(affine, float), fields
    )


@contextmanager
def _without_messages() -> Iterator[None]:
    """Without NiBabel's messages in this thread about headers that it corrects: ours say more."""
    here = threading.get_ident()

    def of_others(record: Any) -> bool:
        return bool(record.thread != here)

    logger.addFilter(of_others)
    try:
        yield
    finally:
        logger.removeFilter(of_others)


def _fields_as_stored(image: Any, path: Path) -> Any:
    """Header fields of a file, without what NiBabel corrects in those of NIfTI."""
    if not hasattr(image.header, "get_sform"):
        return image.header
    with nib.openers.ImageOpener(str(path)) as file:
        return image.header_class.from_fileobj(file, check=False)


@contextmanager
def _array_in(path: Path) -> Iterator[Any]:
    """The array `vol_data` of an `.npz` file, opened."""
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if "vol_data" not in names:
            raise VolumeError(
                f"{path} must hold an array named vol_data, got {', '.join(names) or 'none'}."
                " Save it with numpy.savez(path, vol_data=array)."
            )
        with archive.open("vol_data.npy") as file:
            yield file


def _array_header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array in a `.npy` file."""
    version = np.lib.format.read_magic(file)
    old = version == (1, 0)
    read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


# Voxels ------------------------------------------------------------------------------------------


def voxels_of_file(path: Path, dataobj: Any, first: bool) -> npt.NDArray[Any]:
    """Voxels of a file; where it is zipped, with a look at its checksum."""
    with naming_damage(path):
        if not is_zipped(path):
            return voxels_of(dataobj, first)
        fields = (dataobj.shape, dataobj.dtype, dataobj.offset, dataobj.slope, dataobj.inter)
        with nib.openers.ImageOpener(str(path)) as file:
            data = voxels_of(type(dataobj)(file, fields, mmap=False), first)
            _read_to_end(file)
        return data


def _voxels_of_array(path: Path, first: bool) -> npt.NDArray[Any]:
    with naming_damage(path), _array_in(path) as file:
        data = np.lib.format.read_array(file, allow_pickle=False)
        _read_to_end(file)
    return voxels_of(data, first)


def _read_to_end(file: Any) -> None:
    """Checksums are verified at the end of a file."""
    while file.read(1 << 20):
        pass


def voxels_of(dataobj: Any, first: bool) -> npt.NDArray[Any]:
    """Voxels of an array or a NiBabel proxy, with the scaling of the header."""
    if not first:
        return np.asanyarray(dataobj)
    with np.errstate(over="ignore", invalid="ignore"):
        if len(dataobj.shape) == 3 and hasattr(dataobj, "get_scaled"):
            return np.asarray(dataobj.get_scaled(np.float32), dtype=np.float32)
        volume = dataobj[(..., *(0,) * (len(dataobj.shape) - 3))]
        return np.asarray(volume, dtype=np.float32)


# Kinds -------------------------------------------------------------------------------------------


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read and check the header of a file, but no voxels.

    Raises:
        VolumeError: As for `open_volume`.
    """
    return open_volume(path).header


def read_volume(path: str | os.PathLike[str], *, max_axes: int = 4) -> Volume:
    """Read a volume as stored, with single trailing axes removed.

    `.npz` files hold an array `vol_data` and lie on the identity affine.

    Args:
        path: The file.
        max_axes: 3 for one volume, 4 to allow channels.

    Raises:
        VolumeError: As for `open_volume`, or if it has more axes.
    """
    header, voxels = open_volume(path)
    if len(header.shape) > max_axes:
        raise VolumeError(
            f"{path} must be a 3-D volume, got shape {header.shape}. Split it into 3-D files."
        )
    return Volume(voxels(False).reshape(header.shape), header.affine)


def read_labels(path: str | os.PathLike[str]) -> Volume:
    """Read a label map with whole numbers, as int16 or int32.

    Raises:
        VolumeError: If it is several volumes, or holds NaN, fractions or negative numbers.
    """
    volume = read_volume(path, max_axes=3)
    data = volume.data
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
        VolumeError: If it is several volumes, or holds NaN or infinity.
    """
    volume = read_volume(path, max_axes=3)
    data = np.ascontiguousarray(volume.data, dtype=np.float32)
    if not np.isfinite(data).all():
        raise VolumeError(f"{path} must hold finite numbers, got NaN or infinity. Replace them.")
    return volume._replace(data=data)


# Writing -----------------------------------------------------------------------------------------


def nifti_of(volume: Volume, *, legacy: bool = False, description: str = "") -> nib.Nifti1Image:
    """A NIfTI image of a volume.

    Args:
        volume: Voxels and affine.
        legacy: Whether the header is that of the original: an sform with code 2, no qform and no
            unit. Else both forms have code 1 (scanner) and the unit is mm; a sheared affine, which
            a qform cannot hold, goes into the sform alone.
        description: Text for the header; cut at 79 bytes.
    """
    image = nib.Nifti1Image(volume.data, volume.affine)
    header: Any = image.header
    header["descrip"] = description.encode("ascii", "replace")[:DESCRIPTION_BYTES]
    if legacy:
        return image
    image.set_sform(volume.affine, code="scanner")
    image.set_qform(volume.affine, code="scanner")
    if not np.allclose(image.get_qform(), volume.affine, atol=1e-3):
        image.set_qform(None, code=0)
    header.set_xyzt_units("mm")
    return image


def write_volume(
    path: str | os.PathLike[str], volume: Volume, *, legacy: bool = False, description: str = ""
) -> None:
    """Write a volume atomically; folders that are missing are made.

    `.nii.gz` files are compressed at level 1, as nibabel does by default: higher levels take
    several times as long and save a few percent. `.npz` files hold an array `vol_data` and no
    affine, as those of the original.

    Args:
        path: File ending in `.nii`, `.nii.gz`, `.mgz` or `.npz`.
        volume: Voxels and affine.
        legacy: See `nifti_of`.
        description: See `nifti_of`.

    Raises:
        VolumeError: If the ending is another.
        OSError: If the file cannot be written; nothing is left of it then.
    """
    path = Path(path)
    name = path.name.lower()
    if not has_known_extension(path):
        raise VolumeError(
            f"{path} must end in .nii, .nii.gz, .mgz or .npz. Choose one of these for the output."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        if name.endswith(".npz"):
            np.savez_compressed(temporary, vol_data=volume.data)
        elif name.endswith(".mgz"):
            nib.save(nib.MGHImage(volume.data, volume.affine.astype(np.float32)), temporary)
        else:
            nib.save(nifti_of(volume, legacy=legacy, description=description), temporary)
