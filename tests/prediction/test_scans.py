"""Promises of reading scans: one clear error for what cannot be used, a warning for what is odd."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import torchio as tio
from nibabel.imageglobals import logger

from synthsr_transforms.io.extents import ScanError
from synthsr_transforms.io.file_checks import check_file
from synthsr_transforms.io.scans import Scan, read_scan, scan_of
from synthsr_transforms.io.volumes import VolumeError

AFFINE = np.array(
    [[0.0, 0, 6, -90], [-6, 0, 0, 80], [0, 6, 0, -70], [0, 0, 0, 1]], dtype=np.float64
)
SHAPE = (20, 24, 22)


@pytest.fixture(scope="module")
def voxels() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 100, SHAPE).astype(np.float32)


Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writer of a NIfTI or MGH file; gives its path."""

    def write(data: Any, name: str = "scan.nii.gz", affine: Any = AFFINE, **fields: Any) -> Path:
        kind = nib.MGHImage if name.endswith(".mgz") else nib.Nifti1Image
        image = kind(data, affine)
        for field, value in fields.items():
            image.header[field] = value
        nib.save(image, tmp_path / name)
        return tmp_path / name

    return write


def error_of(path: Path) -> str:
    """The message of the error, of one line and about the file."""
    with pytest.raises(ScanError) as caught:
        read_scan(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    assert text.endswith(".")
    return text


class TestReading:
    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz", "A.NII.GZ"])
    def test_gives_voxels_and_affine_as_stored(self, save: Save, voxels: np.ndarray, name: str):
        lower = save(voxels, name.lower())
        path = lower.rename(lower.with_name(name))
        scan = read_scan(path)
        np.testing.assert_array_equal(scan.data, voxels)
        np.testing.assert_allclose(scan.affine, AFFINE)
        assert scan.data.dtype == np.float32
        assert (scan.name, scan.warnings) == (str(path), ())

    @pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "u2", "f8", ">i2", ">f4"])
    def test_of_any_type_comes_as_float32(self, save: Save, voxels: np.ndarray, dtype: str):
        stored = voxels.astype(dtype)
        scan = read_scan(save(stored, "a.nii"))
        assert scan.data.dtype == np.float32
        assert scan.data.dtype.isnative
        np.testing.assert_array_equal(scan.data, stored.astype(np.float32))

    def test_applies_the_scaling_of_the_header(self, tmp_path: Path, voxels: np.ndarray):
        image = nib.Nifti1Image(voxels.astype(np.int16), AFFINE)
        image.header.set_slope_inter(2.5, -1024)
        path = tmp_path / "ct.nii.gz"
        nib.save(image, path)
        raw = np.asarray(nib.load(path).dataobj)
        np.testing.assert_allclose(read_scan(path).data, raw, rtol=1e-6)

    def test_takes_few_slices_for_slices(self, save: Save, voxels: np.ndarray):
        affine = AFFINE @ np.diag([1, 1, 2, 1])
        scan = read_scan(save(voxels[:, :, :8], affine=affine))
        assert scan.data.shape == (20, 24, 8)
        assert scan.warnings == ()

    def test_npz_has_no_affine_which_is_told(self, tmp_path: Path, voxels: np.ndarray):
        np.savez(tmp_path / "a.npz", vol_data=np.tile(voxels, (5, 5, 5)))
        scan = read_scan(tmp_path / "a.npz")
        np.testing.assert_array_equal(scan.affine, np.eye(4))
        (text,) = scan.warnings
        assert "no affine" in text

    def test_result_can_be_changed_without_changing_file_or_image(
        self, save: Save, voxels: np.ndarray
    ):
        path = save(voxels, "a.nii")
        scan = read_scan(path)
        scan.data[:] = 0
        np.testing.assert_array_equal(read_scan(path).data, voxels)


class TestRefusedFiles:
    def test_missing(self, tmp_path: Path):
        assert "does not exist" in error_of(tmp_path / "a.nii")

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz", "a.npz"])
    def test_empty(self, tmp_path: Path, name: str):
        (tmp_path / name).touch()
        assert "0 bytes" in error_of(tmp_path / name)

    @pytest.mark.parametrize("name", ["a.nii", "a.npz"])
    def test_not_an_image(self, tmp_path: Path, name: str):
        (tmp_path / name).write_text("hello " * 200)
        assert "cannot be read as a scan" in error_of(tmp_path / name)

    @pytest.mark.parametrize("name", ["a.nii.gz", "a.mgz"])
    def test_not_zipped(self, tmp_path: Path, name: str):
        (tmp_path / name).write_text("hello " * 200)
        assert "must be a gzip file" in error_of(tmp_path / name)

    def test_unknown_ending(self, tmp_path: Path):
        (tmp_path / "a.jpg").write_bytes(b"1" * 500)
        assert "ending in .nii.gz, .nii, .mgz, .npz" in error_of(tmp_path / "a.jpg")

    @pytest.mark.parametrize("kept", [0.01, 0.5, 0.95])
    @pytest.mark.parametrize("name", ["a.nii.gz", "a.mgz"])
    def test_truncated_gzip(self, save: Save, voxels: np.ndarray, name: str, kept: float):
        path = save(voxels, name)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(kept * len(whole))])
        assert "ends early" in error_of(path)

    @pytest.mark.parametrize("name", ["a.nii.gz", "a.mgz"])
    def test_gzip_without_its_end(self, save: Save, voxels: np.ndarray, name: str):
        path = save(voxels, name)
        path.write_bytes(path.read_bytes()[:-4])
        assert "ends early" in error_of(path)

    @pytest.mark.parametrize("name", ["a.nii.gz", "a.mgz"])
    def test_gzip_of_a_wrong_checksum(self, save: Save, voxels: np.ndarray, name: str):
        path = save(voxels, name)
        content = bytearray(path.read_bytes())
        content[-8] ^= 1
        path.write_bytes(content)
        assert "CRC check failed" in error_of(path)

    def test_truncated_file(self, save: Save, voxels: np.ndarray):
        path = save(voxels, "a.nii")
        path.write_bytes(path.read_bytes()[:-1000])
        assert "cut short" in error_of(path)

    def test_damaged_gzip(self, save: Save, voxels: np.ndarray):
        path = save(voxels)
        content = bytearray(path.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
        path.write_bytes(content)
        assert "cannot be read as a scan" in error_of(path) or "ends early" in error_of(path)

    @pytest.mark.parametrize("name", ["a.dcm", "a.IMA", "a", "a.nii"])
    def test_dicom_is_to_be_converted(self, tmp_path: Path, name: str):
        content = bytes(128) + b"DICM" + bytes(500)
        (tmp_path / name).write_bytes(content)
        assert "dcm2niix" in error_of(tmp_path / name)

    def test_folder_of_dicom_is_to_be_converted(self, tmp_path: Path):
        (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM" + bytes(500))
        assert "dcm2niix" in error_of(tmp_path)

    def test_other_folder(self, tmp_path: Path):
        with pytest.raises(ScanError, match="got a folder") as caught:
            check_file(tmp_path)
        assert "dcm2niix" not in str(caught.value)

    def test_npz_without_vol_data(self, tmp_path: Path):
        np.savez(tmp_path / "a.npz", image=np.zeros(3))
        assert "vol_data, got image" in error_of(tmp_path / "a.npz")

    def test_npz_with_objects_is_not_unpickled(self, tmp_path: Path):
        np.savez(tmp_path / "a.npz", vol_data=np.array([{}], dtype=object))
        assert "cannot be read" in error_of(tmp_path / "a.npz")

    def test_errors_are_those_of_volumes(self, tmp_path: Path):
        with pytest.raises(VolumeError):
            read_scan(tmp_path / "a.nii")


class TestRefusedContent:
    def test_2d(self, save: Save, voxels: np.ndarray):
        assert "2-D" in error_of(save(voxels[:, :, 0], "a.nii"))

    def test_single_slice(self, save: Save, voxels: np.ndarray):
        assert "single slice" in error_of(save(voxels[:, :, :1]))

    def test_colours(self, save: Save):
        colours = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
        assert "colours (R, G, B)" in error_of(save(colours))

    def test_complex(self, save: Save, voxels: np.ndarray):
        assert "magnitude" in error_of(save(voxels.astype(np.complex64)))

    def test_nan_only(self, save: Save):
        assert "only NaN" in error_of(save(np.full(SHAPE, np.nan, np.float32)))

    @pytest.mark.parametrize("value", [0, 7])
    def test_constant(self, save: Save, value: int):
        assert f"all voxels are {value}" in error_of(save(np.full(SHAPE, value, np.int16)))

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
    def test_0_mm(self, save: Save, voxels: np.ndarray, name: str, capfd: Any):
        path = save(voxels, name, pixdim=[1, 0, 0, 0, 1, 1, 1, 1])
        assert "above 0 mm" in error_of(path)
        assert capfd.readouterr().err == ""

    def test_what_nibabel_corrects_is_told_by_us_alone(
        self, save: Save, voxels: np.ndarray, caplog: pytest.LogCaptureFixture
    ):
        handlers = list(logger.handlers)
        assert "above 0 mm" in error_of(save(voxels, "a.nii", pixdim=[1] + 7 * [0]))
        assert caplog.records == []
        assert logger.handlers == handlers
        logger.warning("later")
        assert [record.message for record in caplog.records] == ["later"]

    def test_zero_affine(self, tmp_path: Path, voxels: np.ndarray):
        image = nib.Nifti1Image(voxels, None)
        image.header.set_sform(np.diag([0, 0, 0, 1.0]), 2)
        nib.save(image, tmp_path / "a.nii")
        assert "invertible affine, got all zeros" in error_of(tmp_path / "a.nii")

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
        assert "54,000,000,000,000 bytes" in error_of(tmp_path / name)

    def test_a_true_matrix_of_impossible_extent(self, save: Save):
        path = save(np.zeros((100, 100, 100), np.uint8), affine=np.diag([20, 20, 20, 1]))
        assert "at most 1,000,000,000 voxels" in error_of(path)


class TestDoubts:
    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz"])
    def test_of_many_volumes_the_first_is_used(self, save: Save, voxels: np.ndarray, name: str):
        scan = read_scan(save(np.stack([voxels, 2 * voxels, 3 * voxels], -1), name))
        np.testing.assert_array_equal(scan.data, voxels)
        (text,) = scan.warnings
        assert "3 volumes" in text

    def test_4d_with_one_volume_is_silent(self, save: Save, voxels: np.ndarray):
        scan = read_scan(save(voxels[..., None]))
        np.testing.assert_array_equal(scan.data, voxels)
        assert scan.warnings == ()

    def test_few_nan_become_the_minimum_and_are_counted(self, save: Save, voxels: np.ndarray):
        odd = voxels + 5
        odd[0, :3, 0] = np.nan, np.inf, -np.inf
        scan = read_scan(save(odd))
        (text,) = scan.warnings
        assert text.startswith(f"3 voxels of {odd.size}")
        lowest = odd[np.isfinite(odd)].min()
        np.testing.assert_array_equal(scan.data[0, :3, 0], lowest)
        np.testing.assert_array_equal(scan.data[1:], odd[1:])

    def test_numbers_beyond_float32_count_as_infinite(self, save: Save, voxels: np.ndarray):
        odd = voxels.astype(np.float64)
        odd[0, 0, 0] = 1e300
        scan = read_scan(save(odd, "a.nii"))
        assert np.isfinite(scan.data).all()
        assert scan.warnings[0].startswith("1 voxels")

    def test_two_values_are_a_mask(self, save: Save, voxels: np.ndarray):
        (text,) = read_scan(save((voxels > 50).astype(np.uint8))).warnings
        assert "as in a mask" in text
        three = (voxels > 50).astype(np.uint8) + (voxels > 99)
        assert read_scan(save(three)).warnings == ()

    def test_odd_header_is_told(self, save: Save, voxels: np.ndarray):
        tilted = AFFINE.copy()
        tilted[:3, 1] += tilted[:3, 0] * 0.3
        assert "gantry tilt" in read_scan(save(voxels, affine=tilted)).warnings[-1]
        small = AFFINE @ np.diag([0.1 / 6, 0.1 / 6, 0.1 / 6, 1])
        assert any("unusual voxels" in t for t in read_scan(save(voxels, affine=small)).warnings)

    def test_each_is_one_line(self, save: Save, voxels: np.ndarray):
        odd = np.stack([voxels, voxels], -1)
        odd[0, 0, 0, 0] = np.nan
        tilted = np.diag([0.1, 0.1, 0.1, 1])
        tilted[0, 1] = 0.05
        scan = read_scan(save(odd, affine=tilted))
        assert len(scan.warnings) == 5
        assert not any("\n" in text for text in scan.warnings)


class TestImages:
    def test_nibabel_image_gives_what_its_file_gives(self, save: Save, voxels: np.ndarray):
        path = save(voxels)
        fresh = nib.Nifti1Image(voxels, AFFINE)
        for image in (nib.load(path), fresh):
            scan = scan_of(image)
            np.testing.assert_array_equal(scan.data, voxels)
            np.testing.assert_allclose(scan.affine, AFFINE)
            assert scan.warnings == ()
        assert scan_of(nib.load(path)).name == str(path)

    def test_torchio_image_gives_what_its_file_gives(self, save: Save, voxels: np.ndarray):
        path = save(voxels)
        in_memory = tio.ScalarImage(torch.from_numpy(voxels)[None], affine=AFFINE)
        for image in (tio.ScalarImage(path), in_memory):
            scan = scan_of(image)
            np.testing.assert_array_equal(scan.data, voxels)
            np.testing.assert_allclose(scan.affine, AFFINE)
            assert scan.warnings == ()

    def test_of_several_channels_the_first_is_used(self, voxels: np.ndarray):
        both = torch.from_numpy(np.stack([voxels, 2 * voxels]))
        scan = scan_of(tio.ScalarImage(both, affine=AFFINE))
        np.testing.assert_array_equal(scan.data, voxels)
        assert "2 volumes" in scan.warnings[0]

    def test_torchio_image_without_affine_is_told(self, voxels: np.ndarray):
        scan = scan_of(tio.ScalarImage(torch.from_numpy(np.tile(voxels, (5, 5, 5)))[None]))
        (text,) = scan.warnings
        assert "unit affine" in text

    def test_images_are_left_as_they_are(self, voxels: np.ndarray):
        odd = voxels.copy()
        odd[0, 0, 0] = np.nan
        image = nib.Nifti1Image(odd, AFFINE)
        scan = scan_of(image)
        assert np.isnan(image.get_fdata()[0, 0, 0])
        assert not np.isnan(scan.data).any()

    def test_0_mm_in_memory_is_refused(self, voxels: np.ndarray):
        image = nib.Nifti1Image(voxels, AFFINE)
        image.header["pixdim"][1:4] = 0
        with pytest.raises(ScanError, match="above 0 mm"):
            scan_of(image)

    @pytest.mark.parametrize("image", [None, "a.nii", np.zeros((3, 3, 3))])
    def test_other_things_are_refused(self, image: Any):
        with pytest.raises(ScanError, match="NiBabel images or torchio"):
            scan_of(image)

    def test_read_only_arrays_are_accepted(self, voxels: np.ndarray):
        frozen = voxels.copy()
        frozen.setflags(write=False)
        scan = scan_of(nib.Nifti1Image(frozen, AFFINE))
        assert isinstance(scan, Scan)
        assert scan.data.flags.writeable
