"""Promises of reading scans: one clear error for what cannot be used, a warning for what is odd."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import torchio as tio

from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.scans import Scan, read_scan, scan_of

Save = Callable[..., Path]
SHAPE = (20, 24, 22)


class TestReading:
    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz", "A.NII.GZ"])
    def test_gives_voxels_and_affine_as_stored(
        self, save: Save, voxels: np.ndarray, name: str, affine: np.ndarray
    ):
        lower = save(voxels, name.lower())
        path = lower.rename(lower.with_name(name))
        scan = read_scan(path)
        np.testing.assert_array_equal(scan.data, voxels)
        np.testing.assert_allclose(scan.affine, affine)
        assert scan.data.dtype == np.float32
        assert (scan.name, scan.warnings) == (str(path), ())

    @pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "u2", "f8", ">i2", ">f4"])
    def test_of_any_type_comes_as_float32(self, save: Save, voxels: np.ndarray, dtype: str):
        stored = voxels.astype(dtype)
        scan = read_scan(save(stored, "a.nii"))
        assert scan.data.dtype == np.float32
        assert scan.data.dtype.isnative
        np.testing.assert_array_equal(scan.data, stored.astype(np.float32))

    def test_applies_the_scaling_of_the_header(
        self, tmp_path: Path, voxels: np.ndarray, affine: np.ndarray
    ):
        image = nib.Nifti1Image(voxels.astype(np.int16), affine)
        image.header.set_slope_inter(2.5, -1024)
        path = tmp_path / "ct.nii.gz"
        nib.save(image, path)
        raw = np.asarray(nib.load(path).dataobj)
        np.testing.assert_allclose(read_scan(path).data, raw, rtol=1e-6)

    def test_takes_few_slices_for_slices(self, save: Save, voxels: np.ndarray, affine: np.ndarray):
        fewer = affine @ np.diag([1, 1, 2, 1])
        scan = read_scan(save(voxels[:, :, :8], at=fewer))
        assert scan.data.shape == (20, 24, 8)
        assert scan.warnings == ()

    def test_npz_has_no_affine_which_is_said(self, tmp_path: Path, voxels: np.ndarray):
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


class TestRefused:
    @pytest.mark.parametrize(
        ("data", "what"),
        [
            (np.full(SHAPE, np.nan, np.float32), "only NaN"),
            (np.full(SHAPE, 0, np.int16), "all voxels are 0"),
            (np.full(SHAPE, 7, np.int16), "all voxels are 7"),
        ],
    )
    def test_nothing_to_see(self, save: Save, data: np.ndarray, what: str):
        with pytest.raises(VolumeError, match=what):
            read_scan(save(data))

    def test_a_true_matrix_of_impossible_extent(self, save: Save):
        path = save(np.zeros((100, 100, 100), np.uint8), at=np.diag([20, 20, 20, 1]))
        with pytest.raises(VolumeError, match="at most 1,000,000,000 voxels"):
            read_scan(path)


class TestWarnings:
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

    @pytest.mark.parametrize("flag", [0, -1])
    @pytest.mark.parametrize("delta", [(1, 1, 1.5), (0.5, 2, 3)])
    def test_mgz_without_orientation_is_taken_as_freesurfer_takes_it(
        self, save: Save, voxels: np.ndarray, flag: int, delta: Any
    ):
        path = save(voxels, "a.mgz", np.diag([*delta, 1.0]))
        assert not any("orientation" in text for text in read_scan(path).warnings)
        stored = bytearray(gzip.decompress(path.read_bytes()))
        struct.pack_into(">h", stored, 28, flag)
        path.write_bytes(gzip.compress(stored))
        for scan in (read_scan(path), scan_of(nib.load(path))):
            assert "goodRASFlag is 0" in scan.warnings[0]
            assert "left, bottom and front. Check left and right" in scan.warnings[0]
            np.testing.assert_array_equal(scan.data, voxels)
            assert nib.aff2axcodes(scan.affine) == ("L", "I", "A")
            middle = nib.affines.apply_affine(scan.affine, np.array(SHAPE) / 2)
            np.testing.assert_allclose(middle, 0, atol=1e-6)

    @pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
    @pytest.mark.parametrize("dtype", ["u1", "<i2", ">f4"])
    def test_voxels_follow_the_header_if_it_does_not_say_where_they_are(
        self, tmp_path: Path, affine: np.ndarray, kind: Any, name: str, dtype: str
    ):
        voxels = np.random.default_rng(0).integers(0, 200, SHAPE).astype(dtype)
        stored = bytearray(kind(voxels, affine).to_bytes())
        field, place = kind.header_class.template_dtype.fields["vox_offset"]
        stored[place : place + field.itemsize] = bytes(field.itemsize)
        path = tmp_path / name
        path.write_bytes(gzip.compress(stored) if name.endswith("gz") else stored)
        for scan in (read_scan(path), scan_of(nib.load(path))):
            np.testing.assert_array_equal(scan.data, voxels)

    def test_odd_header_is_reported(self, save: Save, voxels: np.ndarray, affine: np.ndarray):
        tilted = affine.copy()
        tilted[:3, 1] += tilted[:3, 0] * 0.3
        assert "gantry tilt" in read_scan(save(voxels, at=tilted)).warnings[-1]
        small = affine @ np.diag([0.1 / 6, 0.1 / 6, 0.1 / 6, 1])
        assert any("unusual voxels" in t for t in read_scan(save(voxels, at=small)).warnings)

    def test_each_is_one_line(self, save: Save, voxels: np.ndarray):
        odd = np.stack([voxels, voxels], -1)
        odd[0, 0, 0, 0] = np.nan
        tilted = np.diag([0.1, 0.1, 0.1, 1])
        tilted[0, 1] = 0.05
        scan = read_scan(save(odd, at=tilted))
        assert len(scan.warnings) == 5
        assert not any("\n" in text for text in scan.warnings)


class TestImages:
    def test_nibabel_image_gives_what_its_file_gives(
        self, save: Save, voxels: np.ndarray, affine: np.ndarray
    ):
        path = save(voxels)
        fresh = nib.Nifti1Image(voxels, affine)
        for image in (nib.load(path), fresh):
            scan = scan_of(image)
            np.testing.assert_array_equal(scan.data, voxels)
            np.testing.assert_allclose(scan.affine, affine)
            assert scan.warnings == ()
        assert scan_of(nib.load(path)).name == str(path)

    def test_torchio_image_gives_what_its_file_gives(
        self, save: Save, voxels: np.ndarray, affine: np.ndarray
    ):
        path = save(voxels)
        in_memory = tio.ScalarImage(torch.from_numpy(voxels)[None], affine=affine)
        for image in (tio.ScalarImage(path), in_memory):
            scan = scan_of(image)
            np.testing.assert_array_equal(scan.data, voxels)
            np.testing.assert_allclose(scan.affine, affine)
            assert scan.warnings == ()

    def test_of_several_channels_the_first_is_used(self, voxels: np.ndarray, affine: np.ndarray):
        both = torch.from_numpy(np.stack([voxels, 2 * voxels]))
        scan = scan_of(tio.ScalarImage(both, affine=affine))
        np.testing.assert_array_equal(scan.data, voxels)
        assert "2 volumes" in scan.warnings[0]

    def test_torchio_image_without_affine_is_reported(self, voxels: np.ndarray):
        scan = scan_of(tio.ScalarImage(torch.from_numpy(np.tile(voxels, (5, 5, 5)))[None]))
        (text,) = scan.warnings
        assert "unit affine" in text

    def test_images_are_left_as_they_are(self, voxels: np.ndarray, affine: np.ndarray):
        odd = voxels.copy()
        odd[0, 0, 0] = np.nan
        image = nib.Nifti1Image(odd, affine)
        scan = scan_of(image)
        assert np.isnan(image.get_fdata()[0, 0, 0])
        assert not np.isnan(scan.data).any()

    def test_0_mm_in_memory_is_refused(self, voxels: np.ndarray, affine: np.ndarray):
        image = nib.Nifti1Image(voxels, affine)
        image.header["pixdim"][1:4] = 0
        with pytest.raises(VolumeError, match="above 0 mm"):
            scan_of(image)

    @pytest.mark.parametrize("image", [None, "a.nii", np.zeros((3, 3, 3))])
    def test_other_things_are_refused(self, image: Any):
        with pytest.raises(VolumeError, match="NiBabel images or torchio"):
            scan_of(image)

    def test_read_only_arrays_are_accepted(self, voxels: np.ndarray, affine: np.ndarray):
        frozen = voxels.copy()
        frozen.setflags(write=False)
        scan = scan_of(nib.Nifti1Image(frozen, affine))
        assert isinstance(scan, Scan)
        assert scan.data.flags.writeable
