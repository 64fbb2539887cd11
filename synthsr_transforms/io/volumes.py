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
from io import BufferedWriter
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal.igzip import IGzipFile
from nibabel.imageglobals import logger

from synthsr_transforms.support.atomic import replacing

from .files import (
    LARGE_BYTES,
    VolumeError,
    array_header,
    check_file,
    is_gzipped,
    is_written,
    naming_damage,
    read_to_end,
)
from .grids import MIN_SHEAR_DEGREES, Affine, Volume, shear_degrees, upright
from .headers import Header, check_header, scan_affine, spatial_shape
from .kinds import looks_like_image
from .other_formats import NRRD, check_minc, pair_of, read_nrrd_header

_LEVEL = 1  # of compression: higher ones take longer and save next to nothing
_BUFFER_BYTES = 2**22  # compressed at a time, in which other threads of Python run
DTYPES = ("float32", "int16", "uint8")
"""Types that images of real numbers are written in."""


class Quantised(NamedTuple):
    """Whole numbers that stand for real ones.

    Attributes:
        whole: The numbers.
        slope: What one step stands for.
        intercept: What zero stands for.
    """

    whole: npt.NDArray[Any]
    slope: float
    intercept: float


# Headers -----------------------------------------------------------------------------------------


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read and check the header of a file, but no voxels.

    Args:
        path: File ending in one of `EXTENSIONS`; `.npz` files hold an array `vol_data`.

    Raises:
        VolumeError: If it is missing, damaged or no volume, or what `check_header` refuses.
    """
    path = Path(path)
    with naming_damage(path):
        check_file(path)
        header = _reader_of(path)(path)
    check_header(header)
    return header


def _reader_of(path: Path) -> Callable[[Path], Header]:
    """Reader of the header of a file, by its ending."""
    ending = path.suffix.lower()
    if ending in NRRD:
        return _header_of_nrrd
    return {".npz": _header_of_array, ".hdr": _header_of_pair, ".img": _header_of_pair}.get(
        ending, _header_of_nibabel
    )


def _header_of_array(path: Path) -> Header:
    with _array_in(path) as file:
        shape, dtype = array_header(file)
    return Header(str(path), spatial_shape(shape), dtype, np.eye(4), path=path)


def _header_of_nrrd(path: Path) -> Header:
    voxels, affine, fields = read_nrrd_header(path)
    shape = spatial_shape(voxels.shape)
    return Header(str(path), shape, voxels.dtype, affine, fields, path, voxels)


def _header_of_pair(path: Path) -> Header:
    first, voxels = pair_of(path)
    header = _header_of_nibabel(first)
    return header._replace(name=str(path), path=voxels)


def _header_of_nibabel(path: Path) -> Header:
    ending = path.suffix.lower()
    if ending == ".mnc":
        check_minc(path, LARGE_BYTES)
    with _without_messages():
        image: Any = _mgh(path) if ending == ".mgh" else nib.load(path)
        fields = image.header
        if hasattr(fields, "get_sform"):
            with nib.openers.ImageOpener(str(path)) as file:
                fields = image.header_class.from_fileobj(file, check=False)
    return header_of(image, str(path), fields, path)


def _mgh(path: Path) -> nib.MGHImage:
    """An MGH file that is not compressed, which NiBabel would leave open."""
    with path.open("rb") as file:
        image = nib.MGHImage.from_stream(file)
    proxy: Any = image.dataobj
    layout = (proxy.shape, proxy.dtype, proxy.offset, proxy.slope, proxy.inter)
    return nib.MGHImage(type(proxy)(str(path), layout), image.affine, image.header)


def header_of(image: Any, name: str, fields: Any, path: Path | None) -> Header:
    """Header of a NiBabel image, with its fields as stored."""
    affine = getattr(image, "affine", None)
    if affine is None:  # headers of surfaces (CIFTI) have none either
        affine = getattr(image.header, "get_best_affine", lambda: np.eye(4))()
    affine, proxy = np.array(affine, dtype=np.float64), image.dataobj
    if path is not None and isinstance(image, nib.MGHImage) and not _is_oriented(path):
        fields, affine = fields.copy(), _coronal(image.shape)
        fields["goodRASFlag"] = 0
    if path is not None and isinstance(image, nib.Nifti1Image) and nib.is_proxy(proxy):
        start = image.header.single_vox_offset  # which a header means that says 0
        layout = (proxy.shape, proxy.dtype, max(proxy.offset, start), proxy.slope, proxy.inter)
        proxy = type(proxy)(str(path), layout)
    dtype = np.dtype(getattr(proxy, "dtype", None) or image.get_data_dtype())
    return Header(name, spatial_shape(image.shape), dtype, affine, fields, path, proxy)


def _is_oriented(path: Path) -> bool:
    """Whether the flag `goodRASFlag` of an MGH file is set; NiBabel does not tell."""
    with nib.openers.ImageOpener(str(path)) as file:
        return bool(np.frombuffer(file.read(30), ">i2")[14] > 0)


def _coronal(shape: tuple[int, ...]) -> Affine:
    """What FreeSurfer takes for MGH files without orientation: 1 mm, to left, bottom and front."""
    axes = np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    return np.asarray(nib.affines.from_matvec(axes, -axes @ (np.array(shape[:3]) / 2)))


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


# Voxels ------------------------------------------------------------------------------------------


def read_voxels(header: Header, *, first: bool = False) -> npt.NDArray[Any]:
    """Read voxels, with the scaling of the header, and verify the checksum of their file.

    Args:
        header: From `read_header`.
        first: Whether to read the first of several volumes alone, as float32.

    Raises:
        VolumeError: If the file is damaged.
    """
    if header.path is None:
        return _voxels_of(header.dataobj, first)
    with naming_damage(header.path):
        if header.dataobj is None:
            with _array_in(header.path) as file:
                data = np.lib.format.read_array(file, allow_pickle=False)
                read_to_end(file)
            return _voxels_of(data, first)
        proxy = header.dataobj
        if not (is_gzipped(header.path) and isinstance(proxy, nib.arrayproxy.ArrayProxy)):
            return _voxels_of(proxy, first)
        layout = (proxy.shape, proxy.dtype, proxy.offset, proxy.slope, proxy.inter)
        with IGzipFile(header.path, "rb") as file:
            data = _voxels_of(type(proxy)(file, layout, mmap=False), first)
            read_to_end(file)
        return data


def _voxels_of(dataobj: Any, first: bool) -> npt.NDArray[Any]:
    if not first:
        return np.asanyarray(dataobj)
    with np.errstate(over="ignore", invalid="ignore"):
        if len(dataobj.shape) == 3 and hasattr(dataobj, "get_scaled"):
            return np.asarray(dataobj.get_scaled(np.float32), dtype=np.float32)
        volume = dataobj[(..., *(0,) * (len(dataobj.shape) - 3))]
        return np.asarray(volume, dtype=np.float32)


# Kinds -------------------------------------------------------------------------------------------


def read_volume(path: str | os.PathLike[str], *, max_axes: int = 4) -> Volume:
    """Read a volume as stored, with single trailing axes removed, on the affine of `scan_affine`.

    `.npz` files hold an array `vol_data` and lie on the identity affine.

    Args:
        path: The file.
        max_axes: 3 for one volume, 4 to allow channels.

    Raises:
        VolumeError: As for `read_header`, or if it is damaged or has more axes.
    """
    header = read_header(path)
    if len(header.shape) > max_axes:
        raise VolumeError(f"{path} must be a 3-D volume, got shape {header.shape}. Split it.")
    return Volume(read_voxels(header).reshape(header.shape), scan_affine(header)[0])


def read_labels(path: str | os.PathLike[str]) -> Volume:
    """Read a label map with whole numbers, as int16 or int32.

    Raises:
        VolumeError: If it is several volumes, holds NaN, fractions or negative numbers, or is an
            image whose values happen to be whole.
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
    if looks_like_image(data):
        raise VolumeError(
            f"{path} must be a label map, but its values are many and change from voxel to voxel,"
            " as in an image. Give the label map that belongs to it."
        )
    kind = np.int16 if high < 2**15 else np.int32
    return volume._replace(data=np.ascontiguousarray(data, dtype=kind))


def read_image(path: str | os.PathLike[str], *, max_axes: int = 3) -> Volume:
    """Read an image as float32.

    Args:
        path: The file.
        max_axes: See `read_volume`.

    Raises:
        VolumeError: If it has more axes, or holds NaN, infinity or more than 32-bit floats can.
    """
    volume = read_volume(path, max_axes=max_axes)
    with np.errstate(over="ignore"):  # infinity is refused
        data = np.ascontiguousarray(volume.data, dtype=np.float32)
    if not np.isfinite(data).all():
        raise VolumeError(
            f"{path} must hold finite numbers below 3.4e38, got NaN, infinity or more. Replace"
            " them, or rescale the image."
        )
    return volume._replace(data=data)


# Writing -----------------------------------------------------------------------------------------


def quantised(data: npt.NDArray[Any], dtype: str, *, scaled: bool = True) -> Quantised:
    """Real numbers as whole numbers of a type; other data as they are.

    From the lowest to the highest value, steps are equal and as small as the type allows. A lowest
    value of zero, as of a background, stays exactly zero.

    Args:
        data: Voxels. Whole numbers, such as labels, stay as they are.
        dtype: One of `DTYPES`.
        scaled: Whether the file can hold a slope; else values are rounded to whole numbers.

    Returns:
        Whole numbers, slope and intercept: `slope * whole + intercept` is half a step from `data`
        at most.

    Raises:
        VolumeError: If the file can hold no slope and the values do not fit into the type.

    Examples:
        >>> whole, slope, intercept = quantised(np.array([0.0, 20.4, 51.0]), "uint8")
        >>> whole.tolist(), round(slope, 6), intercept
        ([0, 102, 255], 0.2, 0.0)
    """
    if dtype == "float32" or not np.issubdtype(data.dtype, np.floating):
        return Quantised(data, 1.0, 0.0)
    kind = np.iinfo(dtype)
    low, high = float(data.min()), float(data.max())
    if not scaled:
        if round(low) < kind.min or round(high) > kind.max:
            raise VolumeError(
                f"values must fit into {dtype} in files without a scale (.mgz, .npz), got"
                f" {low:g} to {high:g}. Write .nii.gz, which has one, or choose float32."
            )
        return Quantised(np.rint(data).astype(dtype), 1.0, 0.0)
    base = 0 if low == 0 else kind.min
    slope = float(np.float32((high - low) / (kind.max - base))) or 1.0
    intercept = float(np.float32(low - slope * base))
    whole = np.rint((data.astype(np.float64) - intercept) / slope)
    return Quantised(whole.clip(kind.min, kind.max).astype(dtype), slope, intercept)


def nifti_of(
    volume: Volume, *, legacy: bool = False, description: str = "", dtype: str = "float32"
) -> nib.Nifti1Image:
    """A NIfTI image of a volume.

    Args:
        volume: Voxels and affine.
        legacy: Whether the header is that of the original: an sform with code 2, no qform and no
            unit. Else both forms have code 1 (scanner) and the unit is mm. A qform cannot hold
            shear: below `MIN_SHEAR_DEGREES`, axes are made `upright`; an affine of more shear goes
            into the sform alone, which ITK refuses.
        description: Text for the header; cut at 79 bytes.
        dtype: Type of real numbers, see `quantised`. Once written, the file has the slope; the
            image in memory has whole numbers.
    """
    sheared = shear_degrees(volume.affine) >= MIN_SHEAR_DEGREES
    affine = volume.affine if legacy or sheared else upright(volume.affine, volume.data.shape)
    data, slope, intercept = quantised(volume.data, dtype)
    image = nib.Nifti1Image(data, affine)
    header: Any = image.header
    if data is not volume.data:
        header.set_slope_inter(slope, intercept)
    header["descrip"] = description.encode("ascii", "replace")[:79]
    if legacy:
        return image
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="unknown" if sheared else "scanner")
    header.set_xyzt_units("mm")
    return image


def write_volume(
    path: str | os.PathLike[str],
    volume: Volume,
    *,
    legacy: bool = False,
    description: str = "",
    dtype: str = "float32",
) -> None:
    """Write a volume atomically; folders that are missing are made.

    `.nii.gz` and `.mgz` files are compressed by Intel's ISA-L, which takes a tenth of the time of
    zlib and makes files of the same size. `.npz` files hold an array `vol_data` and no
    affine, as those of the original.

    Args:
        path: File ending in `.nii`, `.nii.gz`, `.mgz` or `.npz`.
        volume: Voxels and affine.
        legacy: See `nifti_of`.
        description: See `nifti_of`.
        dtype: Type of real numbers, see `quantised`.

    Raises:
        VolumeError: If the ending is another.
        OSError: If the file cannot be written; nothing is left of it then.
    """
    path = Path(path)
    name = path.name.lower()
    if not is_written(path):
        raise VolumeError(f"{path} must end in .nii, .nii.gz, .mgz or .npz. Choose one of these.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        if name.endswith((".nii", ".nii.gz")):
            image = nifti_of(volume, legacy=legacy, description=description, dtype=dtype)
            _save(image, temporary)
            return
        data = quantised(volume.data, dtype, scaled=False).whole
        if name.endswith(".npz"):
            np.savez_compressed(temporary, vol_data=data)
        else:
            _save(nib.MGHImage(data, volume.affine.astype(np.float32)), temporary)


def _save(image: Any, path: Path) -> None:
    """Write a NiBabel image; nothing in the file tells when or under which name."""
    if not is_gzipped(path):
        nib.save(image, path)
        return
    with (
        path.open("wb") as file,
        IGzipFile("", "wb", _LEVEL, file, mtime=0) as zipped,
        BufferedWriter(zipped, _BUFFER_BYTES) as buffered,
    ):
        image.to_stream(buffered)
