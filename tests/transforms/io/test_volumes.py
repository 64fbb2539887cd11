"""Promises of reading any volume: one list of what is refused, for scans, label maps and images."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from helpers import python
from nibabel.imageglobals import logger

from synthsr_transforms.io.files import VolumeError, check_file, list_volumes
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.io.scans import read_scan
from synthsr_transforms.io.volumes import (
    read_header,
    read_image,
    read_labels,
    read_volume,
    write_volume,
)

Save = Callable[..., Path]
SHAPE = (20, 24, 22)
ZIPPED = ["a.nii.gz", "a.mgz"]
READERS = [read_scan, read_labels, read_image, read_volume]


def error_of(path: Path, readers: Any = READERS) -> str:
    """The message of the error, the same from every reader: one line about the file."""
    texts = set()
    for read in readers:
        with pytest.raises(VolumeError) as caught:
            read(path)
        texts.add(str(caught.value))
    (text,) = texts
    assert "\n" not in text
    assert str(path) in text
    assert text.endswith(".")
    return text


@pytest.fixture(scope="session")
def labels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 60, SHAPE).astype(np.int16)


class TestFiles:
    def test_missing(self, tmp_path: Path):
        assert "does not exist" in error_of(tmp_path / "a.nii", [*READERS, read_header])

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz", "a.npz"])
    def test_empty(self, tmp_path: Path, name: str):
        (tmp_path / name).touch()
        assert "0 bytes" in error_of(tmp_path / name, [*READERS, read_header])

    @pytest.mark.parametrize("name", ["a.nii", "a.npz"])
    def test_not_an_image(self, tmp_path: Path, name: str):
        (tmp_path / name).write_text("hello " * 200)
        assert "cannot be read as a volume" in error_of(tmp_path / name, [*READERS, read_header])

    @pytest.mark.parametrize("name", ZIPPED)
    def test_not_zipped(self, tmp_path: Path, name: str):
        (tmp_path / name).write_text("hello " * 200)
        assert "must be a gzip file" in error_of(tmp_path / name, [*READERS, read_header])

    def test_unknown_ending(self, tmp_path: Path):
        (tmp_path / "a.jpg").write_bytes(b"1" * 500)
        readers = [*READERS, read_header, list_volumes]
        text = error_of(tmp_path / "a.jpg", readers)
        assert "must end in one of .nii.gz, .nii, .mgz, .npz" in text

    @pytest.mark.parametrize("name", ["a.dcm", "a.IMA", "a", "a.nii"])
    def test_dicom_is_to_be_converted(self, tmp_path: Path, name: str):
        (tmp_path / name).write_bytes(bytes(128) + b"DICM" + bytes(500))
        assert "dcm2niix" in error_of(tmp_path / name)

    def test_folder_of_dicom_is_to_be_converted(self, tmp_path: Path):
        (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM" + bytes(500))
        assert "dcm2niix" in error_of(tmp_path)

    def test_other_folder(self, tmp_path: Path):
        with pytest.raises(VolumeError, match="got a folder") as caught:
            check_file(tmp_path)
        assert "dcm2niix" not in str(caught.value)


class TestDamage:
    @pytest.mark.parametrize("kept", [0.01, 0.5, 0.95])
    @pytest.mark.parametrize("name", ZIPPED)
    def test_truncated_gzip(self, save: Save, labels: np.ndarray, name: str, kept: float):
        path = save(labels, name)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(kept * len(whole))])
        assert "ends early" in error_of(path)

    @pytest.mark.parametrize("name", ZIPPED)
    def test_gzip_without_its_end(self, save: Save, labels: np.ndarray, name: str):
        path = save(labels, name)
        path.write_bytes(path.read_bytes()[:-4])
        assert "ends early" in error_of(path)

    @pytest.mark.parametrize("name", ZIPPED)
    def test_gzip_of_a_wrong_checksum(self, save: Save, labels: np.ndarray, name: str):
        path = save(labels, name)
        content = bytearray(path.read_bytes())
        content[-8] ^= 1
        path.write_bytes(content)
        assert "CRC check failed" in error_of(path)

    @pytest.mark.parametrize("name", ZIPPED)
    def test_gzip_of_several_volumes_and_a_wrong_checksum(
        self, save: Save, labels: np.ndarray, name: str
    ):
        path = save(np.stack([labels, labels], -1), name)
        content = bytearray(path.read_bytes())
        content[-8] ^= 1
        path.write_bytes(content)
        assert "CRC check failed" in error_of(path, [read_scan, read_volume])

    def test_damaged_gzip(self, save: Save, labels: np.ndarray):
        path = save(labels)
        content = bytearray(path.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
        path.write_bytes(content)
        text = error_of(path)
        assert "cannot be read as a volume" in text or "ends early" in text

    def test_npz_of_a_wrong_checksum(self, tmp_path: Path, labels: np.ndarray):
        path = tmp_path / "a.npz"
        np.savez(path, vol_data=labels)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        assert "CRC" in error_of(path)

    def test_reasons_are_short(self, tmp_path: Path, labels: np.ndarray):
        path = tmp_path / "a.npz"
        np.savez(path, vol_data=labels)
        content = bytearray(path.read_bytes())
        content[26] = 255  # length of a name
        path.write_bytes(content)
        assert len(error_of(path)) < 250 + len(str(path))

    def test_truncated_file(self, save: Save, labels: np.ndarray):
        path = save(labels, "a.nii")
        path.write_bytes(path.read_bytes()[:-1000])
        assert "cut short" in error_of(path, [*READERS, read_header])

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
    def test_huge_matrix_is_refused_before_its_voxels_are_read(self, tmp_path: Path, name: str):
        header = nib.Nifti1Header()
        header.set_data_dtype(np.int16)
        header.set_data_shape((30000, 30000, 30000))
        header["vox_offset"] = 352
        opened = gzip.open if name.endswith(".gz") else open
        with opened(tmp_path / name, "wb") as file:
            header.write_to(file)
            file.write(bytes(1000))
        assert "54,000,000,000,000 bytes" in error_of(tmp_path / name, [*READERS, read_header])

    def test_huge_array_is_refused_before_it_is_read(self, tmp_path: Path):
        array = io.BytesIO()
        fields = {"descr": "<i2", "fortran_order": False, "shape": (1400, 1400, 1400)}
        np.lib.format.write_array_header_1_0(array, fields)
        with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("vol_data.npy", array.getvalue() + bytes(1000))
        assert "5,488,000,000 bytes" in error_of(tmp_path / "a.npz", [*READERS, read_header])


class TestContent:
    def test_npz_without_vol_data(self, tmp_path: Path):
        np.savez(tmp_path / "a.npz", image=np.zeros(3))
        assert "vol_data, got image" in error_of(tmp_path / "a.npz")

    @pytest.mark.parametrize(
        "array",
        [
            np.array([{}], dtype=object),
            np.full((4, 4, 4), "text"),
            np.full((4, 4, 4), "2026-01-01", "M8[D]"),
        ],
        ids=["objects", "text", "dates"],
    )
    def test_npz_without_numbers(self, save: Save, array: Any):
        assert "one real number per voxel" in error_of(save(array, "a.npz"))

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
    def test_colours(self, save: Save, name: str):
        colours = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
        assert "colours (R, G, B)" in error_of(save(colours, name))

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.npz"])
    def test_complex(self, save: Save, labels: np.ndarray, name: str):
        assert "magnitude" in error_of(save(labels.astype(np.complex64), name))

    @pytest.mark.parametrize("name", ["a.nii", "a.npz"])
    def test_2d(self, save: Save, labels: np.ndarray, name: str):
        assert "2-D" in error_of(save(labels[:, :, 0], name))

    def test_values_on_a_surface(self, tmp_path: Path):
        axis = nib.cifti2.BrainModelAxis.from_surface(np.arange(9), 9, "CortexLeft")
        header = nib.cifti2.Cifti2Header.from_axes((nib.cifti2.ScalarAxis(["a"]), axis))
        nib.save(nib.Cifti2Image(np.ones((1, 9), np.float32), header), tmp_path / "a.dscalar.nii")
        assert "got values on a surface" in error_of(tmp_path / "a.dscalar.nii")

    def test_single_slice(self, save: Save, labels: np.ndarray):
        assert "single slice" in error_of(save(labels[:, :, :1]))

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz", "a.npz"])
    def test_several_volumes_are_no_label_map_and_no_image(
        self, save: Save, labels: np.ndarray, name: str
    ):
        path = save(np.stack([labels, labels], -1), name)
        assert "got shape (20, 24, 22, 2)" in error_of(path, [read_labels, read_image])
        assert read_volume(path).data.shape == (20, 24, 22, 2)

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
    def test_0_mm(self, save: Save, labels: np.ndarray, name: str, capfd: Any):
        path = save(labels, name, pixdim=[1, 0, 0, 0, 1, 1, 1, 1])
        assert "above 0 mm" in error_of(path)
        assert capfd.readouterr().err == ""

    def test_what_nibabel_corrects_is_reported_by_us_alone(
        self, save: Save, labels: np.ndarray, caplog: pytest.LogCaptureFixture
    ):
        handlers = list(logger.handlers)
        assert "above 0 mm" in error_of(save(labels, "a.nii", pixdim=[1] + 7 * [0]))
        assert caplog.records == []
        assert logger.handlers == handlers
        logger.warning("later")
        assert [record.message for record in caplog.records] == ["later"]

    def test_zero_affine(self, tmp_path: Path, labels: np.ndarray):
        image = nib.Nifti1Image(labels, None)
        image.header.set_sform(np.diag([0, 0, 0, 1.0]), 2)
        nib.save(image, tmp_path / "a.nii")
        assert "invertible affine, got all zeros" in error_of(tmp_path / "a.nii")


class TestKinds:
    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz", "a.npz"])
    def test_label_maps_and_images_come_as_stored(
        self, save: Save, labels: np.ndarray, affine: np.ndarray, name: str
    ):
        path = save(labels if name == "a.mgz" else labels[..., None], name)
        expected = np.eye(4) if name == "a.npz" else affine
        for read, dtype in ((read_labels, np.int16), (read_image, np.float32)):
            volume = read(path)
            np.testing.assert_array_equal(volume.data, labels)
            np.testing.assert_allclose(volume.affine, expected)
            assert volume.data.dtype == dtype
        header = read_header(path)
        assert header.shape == SHAPE
        np.testing.assert_allclose(header.affine, expected)

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz", "a.npz"])
    def test_what_is_written_is_read(
        self, tmp_path: Path, labels: np.ndarray, affine: np.ndarray, name: str
    ):
        write_volume(tmp_path / "new" / name, Volume(labels, affine))
        volume = read_volume(tmp_path / "new" / name)
        np.testing.assert_array_equal(volume.data, labels)
        np.testing.assert_allclose(volume.affine, np.eye(4) if name == "a.npz" else affine)
        assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_reading_loads_neither_torch_nor_torchio():
    code = (
        "import sys, synthsr_transforms.io.scans\n"
        "print([m for m in ('torch', 'torchio') if m in sys.modules])"
    )
    assert python(code, check=True).stdout.strip() == "[]"


class TestTypes:
    """Real numbers in types of whole ones."""

    @pytest.mark.parametrize("dtype", ["int16", "uint8"])
    @pytest.mark.parametrize(("low", "high"), [(0, 130), (-1024, 2000), (1e-7, 3e-7), (5, 5.001)])
    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
    def test_read_back_within_half_a_step(self, tmp_path: Path, affine, dtype, low, high, name):
        data = np.random.default_rng(2).uniform(low, high, SHAPE).astype(np.float32)
        data.flat[:2] = low, high
        write_volume(tmp_path / name, Volume(data, affine), dtype=dtype)
        image = nib.load(tmp_path / name)
        assert image.get_data_dtype() == dtype
        kind = np.iinfo(dtype)
        step = (high - low) / (kind.max - (kind.min if low else 0))
        rounding = 4 * np.finfo(np.float32).eps * max(abs(low), abs(high))
        assert np.abs(image.get_fdata() - data).max() <= 0.5 * step + rounding
        np.testing.assert_allclose(read_scan(tmp_path / name).data, image.get_fdata(), rtol=1e-6)

    def test_a_background_of_zero_stays_zero(self, tmp_path: Path, voxels, affine):
        data = np.where(voxels < 50, np.float32(0), voxels)
        write_volume(tmp_path / "a.nii", Volume(data, affine), dtype="uint8")
        assert np.array_equal(nib.load(tmp_path / "a.nii").get_fdata() == 0, data == 0)

    def test_mgh_has_no_scale_so_that_numbers_are_rounded(self, tmp_path: Path, voxels, affine):
        write_volume(tmp_path / "a.mgz", Volume(voxels, affine), dtype="uint8")
        image = nib.load(tmp_path / "a.mgz")
        assert image.get_data_dtype() == np.uint8
        assert np.array_equal(image.get_fdata(), np.rint(voxels))
        with gzip.open(tmp_path / "a.mgz") as file:
            assert file.read(4) == b"\0\0\0\1"

    @pytest.mark.parametrize("name", ["a.mgz", "a.npz"])
    def test_what_does_not_fit_without_a_scale_is_refused(self, tmp_path: Path, affine, name):
        data = np.full(SHAPE, 300, np.float32)
        with pytest.raises(VolumeError, match=r"fit into uint8 .* Write .nii.gz"):
            write_volume(tmp_path / name, Volume(data, affine), dtype="uint8")
        assert not list(tmp_path.iterdir())

    def test_labels_keep_their_type(self, tmp_path: Path, labels, affine):
        write_volume(tmp_path / "a.nii", Volume(labels, affine), dtype="uint8")
        image = nib.load(tmp_path / "a.nii")
        assert image.get_data_dtype() == np.int16
        assert np.array_equal(np.asanyarray(image.dataobj), labels)

    def test_constant_images(self, tmp_path: Path, affine):
        for value in (0.0, 7.0, -7.0):
            data = np.full(SHAPE, value, np.float32)
            write_volume(tmp_path / "a.nii", Volume(data, affine), dtype="int16")
            assert np.allclose(nib.load(tmp_path / "a.nii").get_fdata(), value)
