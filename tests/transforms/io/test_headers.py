"""Promises of header checks: what is refused, what is warned of, and which affine counts."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.grids import affine_difference, shear_degrees
from synthsr_transforms.io.headers import (
    Header,
    check_extent,
    check_header,
    geometry_warnings,
    scan_affine,
    spatial_shape,
)

SHAPE = (100, 110, 90)


def header_image(
    sform: Any = None, qform: Any = None, zooms: Any = None, unit: str = "mm"
) -> nib.Nifti1Image:
    """Image with the forms given; a form of None has code 0."""
    header = nib.Nifti1Header()
    header.set_data_shape(SHAPE)
    header.set_xyzt_units(unit)
    if qform is not None:
        header.set_qform(qform, 1)
    if sform is not None:
        header.set_sform(sform, 1)
    if zooms is not None:
        header["pixdim"][1:4] = zooms
    image = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), None, header)
    return nib.Nifti1Image.from_bytes(image.to_bytes())


def matrix(spacing: Any = (2.0, 2.0, 2.0), degrees: Any = (0, 0, 0), at: Any = (0, 0, 0)) -> Any:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ np.diag(
        spacing
    )
    affine[:3, 3] = at
    return affine


def header(
    shape: tuple[int, ...] = SHAPE, dtype: Any = "f4", affine: Any = None, fields: Any = None
) -> Header:
    affine = np.eye(4) if affine is None else affine
    return Header("a.nii", spatial_shape(shape), np.dtype(dtype), affine, fields)


def affine_and_warnings(image: nib.Nifti1Image, fields: Any = None) -> tuple[np.ndarray, str]:
    affine, warnings = scan_affine(header(affine=image.affine, fields=fields or image.header))
    return affine, " ".join(warnings)


class TestRefused:
    @pytest.mark.parametrize(
        "shape", [(2, 2, 2), (256, 256, 8), (256, 256, 3), (7, 8, 9, 1, 1), (5, 6, 7, 1, 4)]
    )
    def test_3d_and_more_is_accepted_whatever_the_last_size(self, shape: tuple[int, ...]):
        check_header(header(shape))

    @pytest.mark.parametrize(
        ("shape", "what"),
        [
            ((256, 256), "2-D"),
            ((256, 256, 1), "single slice"),
            ((1, 256, 256), "single slice"),
            ((256, 256, 1, 20), "single slice"),
            ((5, 0, 5), "empty"),
            ((5, 5, 5, 0), "empty"),
            ((), "empty"),
        ],
    )
    def test_other_shapes_are_refused(self, shape: tuple[int, ...], what: str):
        with pytest.raises(VolumeError, match=what):
            check_header(header(shape))

    @pytest.mark.parametrize("dtype", ["u1", "i2", ">i4", "f4", ">f8", "f2", "?"])
    def test_real_numbers_are_accepted(self, dtype: str):
        check_header(header(dtype=dtype))

    @pytest.mark.parametrize(
        ("dtype", "what"),
        [
            ([("R", "u1"), ("G", "u1"), ("B", "u1")], "colours"),
            ("c8", "complex"),
            ("U3", "one real number"),
            ("M8[s]", "one real number"),
            ("O", "one real number"),
        ],
    )
    def test_other_types_are_refused(self, dtype: Any, what: str):
        with pytest.raises(VolumeError, match=what):
            check_header(header(dtype=dtype))

    def test_what_is_larger_than_memory_is_refused(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("synthsr_transforms.io.headers.available_bytes", lambda: 10**6)
        with pytest.raises(VolumeError, match="must fit into memory"):
            check_header(header())


class TestAffine:
    @pytest.mark.parametrize(
        "affine",
        [
            np.diag([0.0, 0, 0, 1]),
            np.diag([1.0, 1, 0, 1]),
            np.full((4, 4), np.nan),
            np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        ],
        ids=["zeros", "flat", "nan", "dependent"],
    )
    def test_without_an_inverse_is_refused(self, affine: np.ndarray):
        fields = header_image(matrix(), matrix()).header
        with pytest.raises(VolumeError, match="invertible affine"):
            check_header(header(affine=affine, fields=fields))

    @given(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(-180, 180))
    def test_any_spacing_and_rotation_is_accepted(self, x: float, z: float, angle: float):
        check_header(header(affine=matrix((x, 1, z), (angle, 20, 0))))

    @pytest.mark.parametrize("spacing", [1e-30, 1e-9, 5e-4])
    def test_spacing_that_no_scanner_has_is_refused(self, spacing: float):
        with pytest.raises(VolumeError, match=r"at least 0.001 mm"):
            check_extent(header(affine=matrix()), matrix((1, spacing, 1)))

    @pytest.mark.parametrize("zooms", [(0, 0, 0), (1, 0, 1), (1, 1, np.nan)])
    def test_spacing_of_0_mm_is_refused(self, zooms: tuple[float, ...]):
        image = header_image(matrix(), matrix())
        fields = image.header.copy()
        fields["pixdim"][1:4] = zooms
        with pytest.raises(VolumeError, match="above 0 mm"):
            check_header(header(affine=matrix(), fields=fields))

    def test_sform_counts_and_agreement_is_silent(self):
        sform = matrix((1.5, 2, 2.5), (5, -4, 3), (-80, -90, -100))
        affine, warnings = affine_and_warnings(header_image(sform, sform))
        np.testing.assert_allclose(affine, sform, atol=1e-4)
        assert warnings == ""

    def test_disagreeing_forms_are_reported_with_mm_and_degrees(self):
        sform, qform = matrix(), matrix(degrees=(0, 0, 7), at=(3, 0, 0))
        affine, warnings = affine_and_warnings(header_image(sform, qform))
        np.testing.assert_allclose(affine, sform, atol=1e-5)
        assert "sform and qform disagree" in warnings
        assert "7.0 degrees" in warnings

    def test_forms_that_mirror_each_other_make_left_and_right_uncertain(self):
        affine, warnings = affine_and_warnings(header_image(matrix(), matrix((-2, 2, 2))))
        np.testing.assert_allclose(affine, matrix())
        assert "mirror each other" in warnings
        assert "Check left and right" in warnings

    def test_signs_of_spacings_do_not_count(self):
        image = header_image(matrix(), matrix())
        fields = image.header.copy()
        fields["pixdim"][2:4] *= -1
        assert affine_and_warnings(image, fields)[1] == ""

    def test_an_invalid_qform_is_reported_and_not_used(self):
        image = header_image(matrix(), matrix())
        fields = image.header.copy()
        fields["quatern_b"] = fields["quatern_c"] = 0.9
        affine, warnings = affine_and_warnings(image, fields)
        np.testing.assert_allclose(affine, matrix())
        assert warnings == "the qform is invalid: the sform is used."

    def test_a_difference_below_half_a_mm_is_not_reported(self):
        assert affine_and_warnings(header_image(matrix(), matrix(at=(0.3, 0, 0))))[1] == ""

    def test_qform_counts_alone(self):
        qform = matrix((1.5, 2, 2.5), (5, -4, 3), (-80, -90, -100))
        affine, warnings = affine_and_warnings(header_image(None, qform))
        np.testing.assert_allclose(affine, qform, atol=1e-4)
        assert warnings == ""

    @pytest.mark.parametrize("codes", [(0, 0), (-1, 0), (0, -2), (6, 100)])
    def test_codes_that_do_not_exist_are_none(self, codes: tuple[int, int]):
        image = header_image(matrix(), matrix())
        image.header["qform_code"], image.header["sform_code"] = codes
        image = nib.Nifti1Image.from_bytes(image.to_bytes())
        fields = image.header.copy()
        fields["qform_code"], fields["sform_code"] = codes  # as stored
        assert "codes are 0" in affine_and_warnings(image, fields)[1]

    def test_no_form_at_all_is_reported(self):
        affine, warnings = affine_and_warnings(header_image(zooms=(2, 3, 4)))
        assert "codes are 0" in warnings
        np.testing.assert_allclose(np.abs(np.diag(affine)[:3]), (2, 3, 4))

    def test_unit_matrix_gives_way_to_the_spacings_of_the_header(self):
        affine, warnings = affine_and_warnings(header_image(np.eye(4), zooms=(0.5, 0.5, 4)))
        np.testing.assert_allclose(affine, np.diag([0.5, 0.5, 4, 1]))
        assert "0.5 x 0.5 x 4 mm" in warnings

    def test_unit_matrix_of_1_mm_voxels_is_reported(self):
        affine, warnings = affine_and_warnings(header_image(np.eye(4)))
        np.testing.assert_allclose(affine, np.eye(4))
        assert "unit affine" in warnings

    def test_unit_sform_gives_way_to_a_qform_of_other_spacing(self):
        qform = matrix((1.5, 2, 2.5), (5, -4, 3), (-80, -90, -100))
        affine, warnings = affine_and_warnings(header_image(np.eye(4), qform))
        np.testing.assert_allclose(affine, qform, atol=1e-4)
        assert "unit sform, but voxels of 1.5 x 2 x 2.5 mm: the qform is used" in warnings

    @pytest.mark.parametrize("shift", [(0, 0, 0), (90, -110, -40)])
    @pytest.mark.parametrize(
        ("sform", "qform"),
        [
            (matrix((-1, -1, 1)), matrix((-2, -2, 6))),
            (matrix((-1, 1, 1)), matrix((-2, 2, 6))),
            (matrix((1, 1, -1)), matrix((0.5, 0.5, -5))),
            (matrix((-1, -1, -1)), matrix((-1, -1, -3))),
            (matrix((1, 1, 1), (0, 0, 90)), matrix((0.9, 0.9, 4), (0, 0, 90))),
            (matrix((1, -1, 1), (5, -8, 13)), matrix((0.9, -0.9, 4), (5, -8, 13))),
            (matrix((-1, 1, 1), (30, 0, 10)), matrix((-3, 1, 1), (30, 0, 10))),
            (matrix((1, 1, 1), (0, 0, 40)), matrix((2, 2, 2), (0, 0, 41))),
            (matrix((1, 1, 1), (90, 0, 90)), matrix((1, 1, 5), (90, 0, 90))),
            (matrix((1, 1, 1), (0, 180, 0)), matrix((0.4, 0.4, 2), (0, 180, 0))),
        ],
    )
    def test_any_sform_of_unit_columns_does_so(self, sform: Any, qform: Any, shift: Any):
        sform, qform = sform.copy(), qform.copy()
        sform[:3, 3] = shift
        affine, warnings = affine_and_warnings(header_image(sform, qform))
        np.testing.assert_allclose(affine, qform, atol=2e-3)
        assert warnings.startswith("unit sform, but voxels of ")
        assert warnings.endswith(": the qform is used.")

    def test_a_unit_sform_that_mirrors_the_qform_makes_left_and_right_uncertain(self):
        sform, qform = matrix((-1, 1, 1)), matrix((2, 2, 6))
        affine, warnings = affine_and_warnings(header_image(sform, qform))
        np.testing.assert_allclose(affine, qform, atol=1e-5)
        assert "check left and right" in warnings

    @pytest.mark.parametrize("spacing", [(1, 1, 1.2), (0.9, 1, 1), (2, 2, 6), (1, 1, 1)])
    def test_a_right_sform_stays(self, spacing: Any):
        sform = matrix(spacing, (10, 20, 30), (5, 6, 7))
        affine, warnings = affine_and_warnings(header_image(sform, matrix(spacing, (10, 20, 30))))
        np.testing.assert_allclose(affine, sform, atol=1e-5)
        assert "unit" not in warnings

    def test_unit_sform_that_disagrees_with_a_qform_of_1_mm_is_reported(self):
        qform = matrix((1, 1, 1), (0, 0, 30), (-80, -90, -100))
        affine, warnings = affine_and_warnings(header_image(np.eye(4), qform))
        np.testing.assert_allclose(affine, np.eye(4))
        assert "sform and qform disagree" in warnings

    def test_spacing_unlike_that_of_the_affine_is_reported(self):
        affine, warnings = affine_and_warnings(header_image(matrix(), zooms=(2, 2, 5)))
        np.testing.assert_allclose(affine, matrix())
        assert "2 x 2 x 5 mm by the header" in warnings

    def test_shear_is_no_disagreement(self):
        sheared = matrix()
        sheared[2, 1] = 0.6
        warnings = affine_and_warnings(header_image(sheared, matrix()))[1]
        assert "disagree" not in warnings

    @pytest.mark.parametrize(("unit", "factor"), [("meter", 1000.0), ("micron", 0.001)])
    def test_other_units_become_mm(self, unit: str, factor: float):
        stored = np.diag([1 / factor, 1 / factor, 1 / factor, 1]) @ matrix(at=(-90, -90, -90))
        affine, warnings = affine_and_warnings(header_image(stored, stored, unit=unit))
        np.testing.assert_allclose(affine, matrix(at=(-90, -90, -90)), rtol=1e-6)
        assert "converted to mm" in warnings

    @pytest.mark.parametrize("unit", ["meter", "micron"])
    def test_units_that_cannot_be_true_are_taken_as_mm(self, unit: str):
        affine, warnings = affine_and_warnings(header_image(matrix(), matrix(), unit=unit))
        np.testing.assert_allclose(affine, matrix())
        assert "taken as mm" in warnings

    @pytest.mark.parametrize("code", [4, 5, 6, 7, 15, 7 + 16, 255])
    def test_unknown_units_are_taken_as_mm(self, code: int):
        image = header_image(matrix(), matrix())
        image.header["xyzt_units"] = code
        affine, warnings = affine_and_warnings(image)
        np.testing.assert_allclose(affine, matrix())
        assert warnings == f"the header's unit has an unknown code, {code % 8}: taken as mm."

    @pytest.mark.parametrize("code", [0, 2, 2 + 8, 2 + 16, 2 + 48, 2 + 56, 2 + 192])
    def test_units_of_time_do_not_count(self, code: int):
        image = header_image(matrix(), matrix())
        image.header["xyzt_units"] = code
        assert affine_and_warnings(image)[1] == ""


class TestShear:
    @given(st.floats(0, 45), st.floats(0.2, 8), st.floats(-180, 180), st.booleans())
    def test_angle_is_found_whatever_spacing_rotation_and_side(
        self, degrees: float, spacing: float, turn: float, mirrored: bool
    ):
        tilt = np.eye(4)
        tilt[2, 1], tilt[1, 1] = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
        sides = np.diag([-1.0 if mirrored else 1.0, spacing, 3.0, 1.0])
        affine = matrix((1, 1, 1), (turn, 10, -30)) @ tilt @ sides
        assert shear_degrees(affine) == pytest.approx(degrees, abs=1e-5)

    @given(st.floats(-50, 50), st.floats(-90, 90))
    def test_difference_is_the_largest_displacement(self, shift: float, angle: float):
        first = matrix(at=(1, 2, 3))
        moved, turned = first.copy(), matrix(degrees=(0, 0, angle))
        moved[0, 3] += shift
        assert affine_difference(first, moved, SHAPE)[0] == pytest.approx(abs(shift))
        assert affine_difference(matrix(), turned, SHAPE)[1] == pytest.approx(abs(angle), abs=1e-5)


class TestGeometry:
    def test_a_usual_head_raises_no_warning(self):
        assert geometry_warnings((256, 256, 36), matrix((0.9, 0.9, 4), (10, 5, -8))) == []

    @pytest.mark.parametrize(
        ("spacing", "what"),
        [
            ((0.1, 0.1, 0.1), "voxels of 0.1 x"),
            ((0.1, 0.1, 0.1), "field of view of 10 x 11 x 9 mm"),
            ((20, 2, 2), "voxels of 20 x"),
            ((20, 2, 2), "field of view of 2000 x"),
            ((2, 2, 0.5), "field of view"),
        ],
    )
    def test_implausible_spacing_and_extent_are_reported(self, spacing: Any, what: str):
        assert any(what in text for text in geometry_warnings(SHAPE, matrix(spacing)))

    def test_gantry_tilt_is_reported_in_degrees(self):
        affine = matrix()
        affine[2, 1] = 2 * np.tan(np.deg2rad(18))
        (text,) = geometry_warnings(SHAPE, affine)
        assert "18.0 degrees" in text

    def test_a_volume_that_cannot_be_a_head_is_refused_by_its_extent(self):
        with pytest.raises(VolumeError, match="at most 1,000,000,000 voxels at 1 mm"):
            check_extent(header((512, 512, 512)), matrix((20, 20, 20)))

    def test_a_volume_larger_than_memory_is_refused(self, monkeypatch: pytest.MonkeyPatch):
        check_extent(header((256, 256, 256)), np.eye(4))
        monkeypatch.setattr("synthsr_transforms.io.headers.available_bytes", lambda: 10**8)
        with pytest.raises(VolumeError, match=r"0\.1 GB that are free"):
            check_extent(header((256, 256, 256)), np.eye(4))
