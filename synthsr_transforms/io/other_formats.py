"""Formats beside NIfTI, MGH and NumPy: NRRD, MINC, and Analyze pairs.

ITK reads the first, in whose world x runs to the left and y to the back; NiBabel reads the others.
A header that names the file of its voxels may name one beside it, and no other. MetaImage, which
ITK reads as well, is left out: damaged files end the program.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from .files import VolumeError
from .grids import Affine

NRRD = (".nrrd", ".nhdr")
"""Endings of files that ITK reads."""
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_DATA_FILE = ("data file", "datafile")
_SPACE = ("space", "space dimension")
_TYPES = {
    **{f"sitk{name}Int{bits}": f"{kind}{bits // 8}" for name, kind in (("U", "u"), ("", "i"))
       for bits in (8, 16, 32, 64)},
    "sitkFloat32": "f4",
    "sitkFloat64": "f8",
}  # fmt: skip
_MAX_LINES = 1000


class NrrdFields:
    """What a header says beside shape and affine.

    Attributes:
        oriented: Whether it says how axes run in the world.
        spacing: Voxel spacing in mm.
    """

    def __init__(self, oriented: bool, spacing: tuple[float, ...]) -> None:
        self.oriented, self.spacing = oriented, spacing

    def get_zooms(self) -> tuple[float, ...]:
        """Voxel spacing in mm, as headers of NiBabel give it."""
        return self.spacing


class NrrdVoxels:
    """Voxels of a NRRD file, read when they are asked for.

    Attributes:
        shape: Sizes; several values of a voxel come last.
        dtype: Type of a value.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._path, self.shape, self.dtype = path, shape, dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        import SimpleITK as sitk  # noqa: N813 - the customary name

        reader = _reader(self._path)
        with _short_errors():
            image = reader.Execute()
        data = sitk.GetArrayFromImage(image)  # (..., Z, Y, X), or (Z, Y, X, C)
        several = image.GetNumberOfComponentsPerPixel() > 1
        axes = tuple(range(image.GetDimension()))[::-1]
        data = data.transpose(*axes, *((data.ndim - 1,) * several))
        return data if dtype is None else data.astype(dtype)

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        return np.asarray(self)[index]


def read_nrrd_header(path: Path) -> tuple[NrrdVoxels, Affine, NrrdFields]:
    """Voxels, voxel-to-world matrix (RAS) and further fields of a NRRD file.

    Raises:
        VolumeError: If it names another file than one beside it, or voxels are vectors.
        ValueError: If ITK cannot read it.
    """
    fields = _header_fields(path)
    _check_data_file(path, fields)
    reader = _reader(path)
    with _short_errors():
        reader.ReadImageInformation()
    number, several = reader.GetDimension(), reader.GetNumberOfComponents()
    import SimpleITK as sitk  # noqa: N813 - the customary name

    known = {getattr(sitk, name): kind for name, kind in _TYPES.items()}
    known |= {getattr(sitk, name.replace("sitk", "sitkVector")): k for name, k in _TYPES.items()}
    kind = known.get(reader.GetPixelID())
    if kind is None or several == 3:
        raise VolumeError(
            f"{path} must hold one real number per voxel, got"
            f" {sitk.GetPixelIDValueAsString(reader.GetPixelID())}. Give the scan itself, not a"
            " picture or field made from it."
        )
    shape = (*reader.GetSize(), *((several,) * (several > 1)))
    voxels = NrrdVoxels(path, shape, np.dtype(kind))
    axes = min(number, 3)
    matrix = np.array(reader.GetDirection()).reshape(number, number)[:axes, :axes]
    lps = np.eye(4)
    lps[:axes, :axes] = matrix * np.array(reader.GetSpacing()[:axes])
    lps[:axes, 3] = reader.GetOrigin()[:axes]
    oriented = any(key in fields for key in _SPACE)
    return voxels, _LPS_TO_RAS @ lps, NrrdFields(oriented, reader.GetSpacing())


def _reader(path: Path) -> Any:
    import SimpleITK as sitk  # noqa: N813 - the customary name

    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO")
    reader.SetFileName(str(path))
    return reader


class _short_errors:  # noqa: N801 - used as a function
    """Errors of ITK, of which the last line says what is wrong."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, RuntimeError):
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise ValueError(
                lines[-1].rpartition("ERROR: ")[2] if lines else "no reason"
            ) from error


def _header_fields(path: Path) -> dict[str, str]:
    """Fields of a header of text, which an empty line ends."""
    fields = {}
    with path.open("rb") as file:
        for line in islice(iter(lambda: file.readline(10_000), b""), _MAX_LINES):
            text = line.decode("utf-8", "replace").strip()
            if not text:
                break
            key, _, value = text.partition(":")
            fields[key.strip().lower()] = value.lstrip("=").strip()
    return fields


def _check_data_file(path: Path, fields: Mapping[str, str]) -> None:
    for key in _DATA_FILE:
        name = fields.get(key)
        if name is None:
            continue
        if not name or {*name} & set("/\\%") or name.split()[0].upper() == "LIST":
            raise VolumeError(
                f"{path} must hold its voxels, or name one file beside it, got {name[:60]!r}."
                " Convert it to a single .nrrd or .nii.gz file."
            )
        if not (path.parent / name).is_file():
            raise VolumeError(f"{path} needs {name[:60]} beside it. Copy both files.")


# Pairs and MINC ----------------------------------------------------------------------------------


def pair_of(path: Path) -> tuple[Path, Path]:
    """Header and voxels of an Analyze or NIfTI pair, by either.

    Raises:
        VolumeError: If one is missing.
    """
    endings = (".hdr", ".img")
    upper = path.suffix.isupper()
    files = [path.with_suffix(ending.upper() if upper else ending) for ending in endings]
    for file in files:
        if not file.is_file():
            raise VolumeError(f"{path} needs {file.name} beside it. Copy both files.")
    return files[0], files[1]


def has_orientation(fields: Any) -> bool:
    """Whether a header of another format than NIfTI and MGH says how axes run in the world."""
    if isinstance(fields, NrrdFields):
        return fields.oriented
    return not isinstance(fields, nib.AnalyzeHeader) or hasattr(fields, "get_sform")


def check_minc(path: Path, max_bytes: int) -> None:
    """Refuse a MINC file that leads to other files; see `fault_along`.

    Raises:
        ValueError: If it does.
    """
    with path.open("rb") as file:
        if file.read(4) != b"\x89HDF":
            return  # MINC1, which is NetCDF
    import h5py

    from .hdf5 import fault_along

    image, size = "minc-2.0/image/0/image", path.stat().st_size
    with h5py.File(path, "r") as opened:
        fault = fault_along(opened, (image, f"{image}-min", f"{image}-max"), size, max_bytes)
        if not fault:
            order = bytes(opened[image].attrs["dimorder"]).decode("ascii").split(",")
            dimensions = [f"minc-2.0/dimensions/{name}" for name in order]
            fault = fault_along(opened, dimensions, size, max_bytes)
    if fault:
        raise ValueError(fault)
