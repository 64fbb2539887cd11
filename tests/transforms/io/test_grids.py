"""Promises of grids: axes as NiBabel finds them, voxels that keep their places in the world."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from synthsr_transforms.io.grids import (
    Volume,
    ras_axes,
    reorient,
    shear_degrees,
    spacing_of,
    upright,
)

ANGLES = st.tuples(*[st.floats(-180, 180)] * 3)
SPACINGS = st.tuples(*[st.floats(0.1, 12)] * 3)
SIDES = st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3)


def affine_from(angles: Any, spacing: Any, sides: Any = (1, 1, 1), shear: float = 0.0) -> Any:
    """Turned, mirrored and sheared axes."""
    tilt = np.eye(3)
    tilt[0, 1] = np.tan(np.deg2rad(shear))
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    return nib.affines.from_matvec(turn @ tilt * sides * spacing, [-80.0, -100, 60])


affines = st.builds(affine_from, ANGLES, SPACINGS, SIDES, st.floats(-25, 25))


def tilted(base: Any, spacing: Any, degrees: float, axis: str) -> Any:
    """Slices of a plane, turned around a world axis."""
    turn = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
    return nib.affines.from_matvec(turn @ np.array(base, float) * spacing, [0, 0, 0])


SAGITTAL = [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
CORONAL = [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
AXIAL = np.eye(3)


class TestAxes:
    @pytest.mark.parametrize(
        ("base", "spacing", "degrees", "around", "expected"),
        [
            (SAGITTAL, (1, 1, 5), 12, "z", [2, 0, 1]),
            (SAGITTAL, (1, 1, 5), -40, "z", [2, 0, 1]),
            (SAGITTAL, (0.5, 0.5, 6), 30, "y", [2, 0, 1]),
            (SAGITTAL, (-1, 1, -5), 20, "z", [2, 0, 1]),
            (CORONAL, (0.4, 0.4, 2), 25, "x", [0, 2, 1]),
            (CORONAL, (0.4, 0.4, 2), -25, "z", [0, 2, 1]),
            (CORONAL, (1, 1, 10), 44, "x", [0, 2, 1]),
            (AXIAL, (0.5, 0.5, 6), 25, "x", [0, 1, 2]),
            (AXIAL, (0.5, 0.5, 6), 35, "y", [0, 1, 2]),
            (AXIAL, (1, 1, 1), 44, "z", [0, 1, 2]),
            (AXIAL, (1, 1, 1), 46, "z", [1, 0, 2]),
            (AXIAL, (8, 1, 1), 44, "z", [0, 1, 2]),
        ],
    )
    def test_thick_slices_do_not_turn_them(self, base, spacing, degrees, around, expected):
        affine = tilted(base, spacing, degrees, around)
        assert ras_axes(affine).tolist() == expected
        assert np.argsort(nib.io_orientation(affine)[:, 0]).tolist() == expected

    def test_the_original_confuses_them_and_legacy_does_too(self):
        affine = tilted(SAGITTAL, (1, 1, 5), 12, "z")
        volume = Volume(np.zeros((4, 5, 6)), affine)
        assert ras_axes(affine, legacy=True).tolist() == [0, 2, 1]
        assert reorient(volume).data.shape == (6, 4, 5)
        assert reorient(volume, legacy=True).data.shape == (4, 6, 5)

    def test_1000_random_affines_turn_as_with_nibabel(self):
        rng = np.random.default_rng(0)
        data = np.arange(24).reshape(2, 3, 4)
        for _ in range(1000):
            axes = rng.normal(size=(3, 3)) * rng.uniform(0.1, 10, 3)
            affine = nib.affines.from_matvec(axes, rng.normal(size=3))
            ours = reorient(Volume(data, affine))
            theirs = nib.as_closest_canonical(nib.Nifti1Image(data.astype(np.int16), affine))
            np.testing.assert_array_equal(ours.data, theirs.dataobj)
            np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-12)

    @given(affines, st.permutations(range(3)), SIDES, st.booleans())
    def test_voxels_keep_their_places_there_and_back(self, affine, order, sides, legacy):
        index = np.moveaxis(np.indices((3, 4, 5)), 0, -1)
        volume = Volume(nib.affines.apply_affine(affine, index), affine)  # its own positions
        turned = reorient(volume, legacy=legacy)
        index = np.moveaxis(np.indices(turned.data.shape[:3]), 0, -1)
        there = nib.affines.apply_affine(turned.affine, index)
        np.testing.assert_allclose(turned.data, there, atol=1e-9)
        stored = nib.orientations.inv_ornt_aff(np.stack([order, sides], 1), (3, 4, 5))
        back = reorient(turned, affine @ stored)
        unit = (back.affine[:3, :3] / spacing_of(back.affine)).T @ (affine @ stored)[:3, :3]
        np.testing.assert_allclose(np.diag(unit), spacing_of(affine @ stored), rtol=1e-9)
        assert legacy or turned.data.shape == reorient(back).data.shape


class TestUpright:
    @given(ANGLES, SPACINGS, SIDES, st.floats(-0.5, 0.5))
    def test_axes_are_at_right_angles_and_voxels_hardly_move(self, angles, spacing, sides, shear):
        affine, shape = affine_from(angles, spacing, sides, shear), np.array([181, 217, 181])
        result = upright(affine, shape)
        assert shear_degrees(result) < 1e-5
        np.testing.assert_allclose(spacing_of(result), spacing_of(affine), rtol=1e-9)
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1).T
        apart = nib.affines.apply_affine(result, corners) - nib.affines.apply_affine(
            affine, corners
        )
        extent = np.linalg.norm(shape * spacing_of(affine)) / 2
        assert np.linalg.norm(apart, axis=1).max() <= extent * np.deg2rad(abs(shear)) / 2 + 1e-9

    @given(ANGLES, SPACINGS, SIDES)
    def test_axes_at_right_angles_stay(self, angles, spacing, sides):
        affine = affine_from(angles, spacing, sides)
        np.testing.assert_allclose(upright(affine, (200, 200, 200)), affine, atol=1e-9)
