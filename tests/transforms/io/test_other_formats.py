"""Promises of other formats than NIfTI: the same voxels at the same places in the world."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from synthsr_transforms.io.files import VolumeError, list_volumes
from synthsr_transforms.io.scans import read_scan
from synthsr_transforms.io.volumes import read_header, read_labels, read_volume

SHAPE = (20, 24, 22)
OBLIQUE = np.array(
    [[5.8, -0.6, 0.9, -60], [0.7, 5.9, -0.4, -75], [-0.8, 0.5, 6.4, -66], [0, 0, 0, 1.0]]
)


def oblique() -> np.ndarray:
    """Right-angled axes, oblique, of voxels of 6 x 6 x 7 mm."""
    affine = np.eye(4)
    q, r = np.linalg.qr(OBLIQUE[:3, :3])
    affine[:3, :3] = (q * np.sign(np.diag(r))) * [6, 6, 7]
    affine[:3, 3] = -60, -75, -66
    return affine


def write_nrrd(path: Path, data: np.ndarray, affine: np.ndarray, space: str, **more: str) -> Path:
    """A NRRD file by hand; the space says which way its axes run."""
    signs = {"right-anterior-superior": [1, 1, 1], "left-posterior-superior": [-1, -1, 1]}[space]
    axes = (affine[:3, :3].T * signs).tolist()
    vectors = " ".join("(" + ",".join(f"{v:.9f}" for v in axis) + ")" for axis in axes)
    origin = ",".join(f"{v:.9f}" for v in affine[:3, 3] * signs)
    kind = {"int16": "short", "float32": "float"}[str(data.dtype)]
    fields = {
        "type": kind, "dimension": "3", "space": space,
        "sizes": " ".join(map(str, data.shape)), "space directions": vectors,
        "space origin": f"({origin})", "endian": "little", "encoding": "raw", **more,
    }  # fmt: skip
    head = "NRRD0004\n" + "".join(f"{k}: {v}\n" for k, v in fields.items())
    voxels = data.tobytes(order="F")
    if "data file" in more:
        path.with_name(more["data file"]).write_bytes(voxels)
        path.write_text(head)
    else:
        path.write_bytes(head.encode() + b"\n" + voxels)
    return path


def write_itk(path: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    """What ITK writes, whose world is LPS."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    flip = np.diag([-1.0, -1.0, 1.0])
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((flip @ affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin((flip @ affine[:3, 3]).tolist())
    sitk.WriteImage(image, str(path))
    return path


def write_minc(path: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    """A MINC2 file of numbers from 0 to 1000 as unsigned 16-bit ones, axes stored z, y, x."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    directions = affine[:3, :3] / spacing
    starts = np.linalg.solve(directions, affine[:3, 3])
    with h5py.File(path, "w") as file:
        for k, name in enumerate(("xspace", "yspace", "zspace")):
            dimension = file.create_dataset(f"minc-2.0/dimensions/{name}", data=0)
            attributes = {"start": starts[k], "step": spacing[k], "spacing": np.bytes_("regular__")}
            attributes |= {"direction_cosines": directions[:, k], "length": data.shape[k]}
            dimension.attrs.update(attributes)
        stored = np.rint(data.T / 1000 * 65535).astype(np.uint16)
        image = file.create_dataset("minc-2.0/image/0/image", data=stored, compression="gzip")
        image.attrs["dimorder"] = np.bytes_("zspace,yspace,xspace")
        image.attrs["valid_range"] = np.array([0.0, 65535.0])
        for name, value in (("image-min", 0.0), ("image-max", 1000.0)):
            file.create_dataset(f"minc-2.0/image/0/{name}", data=value)
    return path


def write_nibabel(kind: Any) -> Callable[[Path, np.ndarray, np.ndarray], Path]:
    def write(path: Path, data: np.ndarray, affine: np.ndarray) -> Path:
        nib.save(kind(data, affine.astype(np.float32)), path)
        return path

    return write


def write_detached(path: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    more = {"data file": "voxels.raw"}
    return write_nrrd(path, data, affine, "left-posterior-superior", **more)


WRITERS: dict[str, Callable[..., Path]] = {
    "a.nrrd": lambda *a: write_nrrd(*a, "right-anterior-superior"),
    "b.nrrd": lambda *a: write_nrrd(*a, "left-posterior-superior"),
    "c.nrrd": write_itk,
    "d.nhdr": write_detached,
    "g.mnc": write_minc,
    "h.mgh": write_nibabel(nib.MGHImage),
    "i.hdr": write_nibabel(nib.Nifti1Pair),
    "J.NRRD": lambda *a: write_nrrd(*a, "right-anterior-superior"),
}


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 1000, SHAPE).astype(np.float32)


class TestWorld:
    @pytest.mark.parametrize("name", WRITERS)
    def test_values_are_where_they_were(self, tmp_path: Path, data, name):
        """Each value at its point in mm, whatever the order of axes in the file."""
        affine = oblique()
        scan = read_scan(WRITERS[name](tmp_path / name, data, affine))
        assert scan.warnings == ()
        for index in [(0, 0, 0), (19, 0, 0), (0, 23, 0), (0, 0, 21), (4, 11, 17)]:
            point = affine @ [*index, 1]
            found = np.linalg.solve(scan.affine, point)[:3]
            np.testing.assert_allclose(found, found.round(), atol=2e-3)
            value = scan.data[tuple(found.round().astype(int))]
            assert value == pytest.approx(data[index], abs=0.02)

    @pytest.mark.parametrize("name", ["a.nrrd", "d.nhdr", "h.mgh", "i.hdr"])
    def test_labels(self, tmp_path: Path, data, name):
        labels = (data // 40).astype(np.int16)
        found = read_labels(WRITERS[name](tmp_path / name, labels, oblique()))
        assert np.array_equal(found.data, labels)

    def test_either_of_a_pair(self, tmp_path: Path, data):
        WRITERS["i.hdr"](tmp_path / "i.hdr", data, oblique())
        first, second = (read_volume(tmp_path / f"i.{end}") for end in ("hdr", "img"))
        assert np.array_equal(first.data, second.data)
        assert [path.name for path in list_volumes(tmp_path)] == ["i.hdr"]

    def test_what_says_nothing_of_left_and_right_is_told(self, tmp_path: Path, data):
        nib.save(nib.AnalyzeImage(data, np.diag([-6.0, 6, 7, 1])), tmp_path / "a.hdr")
        plain = "NRRD0004\ntype: float\ndimension: 3\nsizes: 20 24 22\nspacings: 6 6 7\n"
        plain += "endian: little\nencoding: raw\n\n"
        (tmp_path / "b.nrrd").write_bytes(plain.encode() + data.tobytes(order="F"))
        for name in ("a.hdr", "b.nrrd"):
            scan = read_scan(tmp_path / name)
            assert any("no orientation in the header" in text for text in scan.warnings)
            np.testing.assert_allclose(scan.volume.spacing_mm, (6, 6, 7))
            np.testing.assert_allclose(scan.data, data)

    def test_several_volumes(self, tmp_path: Path, data):
        image = sitk.GetImageFromArray(np.stack([data.T, data.T + 1], -1), isVector=True)
        image.SetSpacing([6, 6, 7])
        sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
        scan = read_scan(tmp_path / "a.nrrd")
        assert any("2 volumes: the first one is used" in text for text in scan.warnings)
        np.testing.assert_allclose(scan.data, data)


def error_of(path: Path) -> str:
    with pytest.raises(VolumeError) as caught:
        read_scan(path)
    text = str(caught.value)
    assert "\n" not in text
    return text


class TestFaults:
    @pytest.mark.parametrize("name", WRITERS)
    @pytest.mark.parametrize("kept", [0.02, 0.6])
    def test_cut_short(self, tmp_path: Path, data, name, kept):
        path = WRITERS[name](tmp_path / name, data, oblique())
        voxels = max(tmp_path.iterdir(), key=lambda file: file.stat().st_size)
        voxels.write_bytes(voxels.read_bytes()[: int(kept * voxels.stat().st_size)])
        assert len(error_of(path)) < 400

    @pytest.mark.parametrize("name", ["/etc/hostname", "../secret.raw", "LIST", "a%d.raw", "c\\d"])
    @pytest.mark.parametrize("ending", ["nrrd", "nhdr"])
    def test_headers_that_name_files_elsewhere(self, tmp_path: Path, data, name, ending):
        (tmp_path / "secret.raw").write_bytes(data.tobytes())
        (tmp_path / "below").mkdir()
        path = tmp_path / "below" / f"a.{ending}"
        sizes = "sizes: 20 24 22\nendian: little\nencoding: raw\n"
        path.write_text(f"NRRD0004\ntype: float\ndimension: 3\n{sizes}data file: {name}\n")
        assert "or name one file beside it" in error_of(path)

    def test_links_in_minc(self, tmp_path: Path, data):
        path = WRITERS["g.mnc"](tmp_path / "a.mnc", data, oblique())
        shutil.copy(path, tmp_path / "b.mnc")
        with h5py.File(path, "a") as file:
            del file["minc-2.0/image/0/image"]
            file["minc-2.0/image/0/image"] = h5py.ExternalLink("b.mnc", "minc-2.0/image/0/image")
        assert "is a link" in error_of(path)

    def test_a_pair_without_its_other_half(self, tmp_path: Path, data):
        for name, other in (("i.hdr", "i.img"), ("i.img", "i.hdr")):
            WRITERS["i.hdr"](tmp_path / "i.hdr", data, oblique())
            (tmp_path / other).unlink()
            assert f"needs {other} beside it" in error_of(tmp_path / name)

    def test_colours(self, tmp_path: Path, data):
        image = sitk.GetImageFromArray(np.zeros((*SHAPE, 3), np.uint8), isVector=True)
        sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
        assert "one real number per voxel" in error_of(tmp_path / "a.nrrd")

    def test_huge_sizes_are_refused_before_voxels_are_read(self, tmp_path: Path):
        text = "NRRD0004\ntype: short\ndimension: 3\nsizes: 9000 9000 9000\nendian: little\n"
        text += "encoding: gzip\n\n"
        (tmp_path / "a.nrrd").write_bytes(text.encode() + b"\x1f\x8b" + bytes(100))
        with pytest.raises(VolumeError, match="damaged or cut short"):
            read_header(tmp_path / "a.nrrd")
