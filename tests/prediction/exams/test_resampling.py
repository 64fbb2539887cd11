"""Promises of resampling: positions in the world, sizes, and agreement with SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from synthsr_net.prediction.resampling import (
    antialiased,
    as_tensor,
    new_coordinates,
    orthogonal_grid,
    resample,
    reslice,
)
from synthsr_net.prediction.space.reliability import reliability
from synthsr_transforms.functional.operators import along_axes, axis_operator
from synthsr_transforms.io.grids import Volume

sizes = st.integers(1, 40)
factors = st.floats(0.1, 10)


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def oblique(spacing: Any = (1.0, 1.0, 1.0), degrees: Any = (12, -8, 20)) -> np.ndarray:
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    affine[:3, :3] = turn @ np.diag(spacing)
    affine[:3, 3] = (-11.5, 7.25, 3)
    return affine


class TestSizes:
    @given(sizes, factors)
    def test_new_axis_covers_the_old_one_and_is_the_shortest_to_do_so(
        self, size: int, factor: float
    ):
        count = len(new_coordinates(size, factor))
        assert count >= size * factor - 1e-3
        assert count == 1 or count - 1 < size * factor - 1e-3

    @given(st.integers(1, 400), st.floats(-1e-6, 1e-6))
    def test_rounded_spacings_make_no_slice_more(self, size: int, noise: float):
        assert len(new_coordinates(size, 1 + noise)) == size

    def test_errors_of_rounding_are_kept_on_request(self):
        rounded = float(np.float32(1.1))
        assert len(new_coordinates(20, rounded)) == 22
        assert len(new_coordinates(20, rounded, exact=True)) == 23

    @given(sizes, factors)
    def test_centres_are_where_the_field_of_view_puts_them(self, size: int, factor: float):
        where = new_coordinates(size, factor)
        expected = (np.arange(len(where)) + 0.5) / factor - 0.5
        np.testing.assert_allclose(where, expected, atol=1e-9)


class TestOperators:
    @given(sizes, st.floats(0.02, 6))
    @settings(max_examples=50)
    def test_blur_is_that_of_scipy(self, size: int, sigma: float):
        data = noise((size,))
        ours = axis_operator(size, torch.arange(size), sigma).numpy() @ data
        np.testing.assert_allclose(ours, ndimage.gaussian_filter(data, sigma), atol=1e-5)

    @given(sizes, st.lists(st.floats(-3, 45), min_size=1, max_size=9))
    def test_interpolation_is_that_of_numpy(self, size: int, where: list[float]):
        data = noise((size,))
        ours = axis_operator(size, torch.tensor(where)).numpy() @ data
        np.testing.assert_allclose(ours, np.interp(where, np.arange(size), data), atol=1e-5)

    @given(sizes, factors, st.floats(0, 5))
    def test_constants_stay(self, size: int, factor: float, sigma: float):
        matrix = axis_operator(size, torch.from_numpy(new_coordinates(size, factor)), sigma).numpy()
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-5)

    @pytest.mark.parametrize("order", ["C", "F"])
    def test_axes_in_any_memory_order_give_the_same(self, order: Any):
        data = noise((5, 6, 7))
        operators = [axis_operator(n, torch.arange(4), 0.8) for n in data.shape]
        expected = np.einsum("ai,bj,ck,ijk->abc", *(m.numpy() for m in operators), data)
        ours = along_axes(as_tensor(np.asarray(data, order=order)), operators)
        np.testing.assert_allclose(ours, expected, atol=1e-5)
        np.testing.assert_array_equal(along_axes(as_tensor(data), [None] * 3), data)


class TestResample:
    @pytest.mark.parametrize("spacing", [(0.5, 0.8, 3.0), (1.0, 1.0, 1.0), (2.2, 0.31, 1.0)])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_agrees_with_blurring_and_reading_at_world_points(self, spacing: Any, order: Any):
        data = np.asarray(noise((14, 17, 12)), order=order)
        volume = Volume(data, oblique(spacing))
        ours = resample(volume, 1.0)
        sigma = [0.25 / s if s <= 1 else 0.0 for s in spacing]
        blurred = ndimage.gaussian_filter(data.astype(np.float64), sigma)
        index = np.indices(ours.data.shape).reshape(3, -1)
        world = ours.affine[:3, :3] @ index + ours.affine[:3, 3:]
        inverse = np.linalg.inv(volume.affine)
        where = inverse[:3, :3] @ world + inverse[:3, 3:]
        expected = ndimage.map_coordinates(blurred, where, order=1, mode="nearest")
        np.testing.assert_allclose(ours.data.ravel(), expected, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(ours.affine[:3, :3], axis=0), 1, atol=1e-12)

    def test_leaves_its_input_alone(self):
        volume = Volume(noise((6, 7, 8)), oblique((2, 1, 0.5)))
        data, affine = volume.data.copy(), volume.affine.copy()
        resample(volume, 1.0)
        np.testing.assert_array_equal(volume.data, data)
        np.testing.assert_array_equal(volume.affine, affine)

    def test_1_mm_stays_but_for_the_slight_blur(self):
        data = noise((9, 8, 7))
        ours = resample(Volume(data, oblique()), 1.0)
        assert ours.data.shape == data.shape
        np.testing.assert_allclose(ours.data, data, atol=0.01)
        np.testing.assert_allclose(ours.affine, oblique(), atol=1e-12)
        exact = resample(Volume(data, oblique()), 1.0, blur=False)
        np.testing.assert_allclose(exact.data, data, atol=1e-6)

    def test_read_only_and_mirrored_views_are_accepted(self):
        data = noise((5, 6, 7))
        data.setflags(write=False)
        volume = Volume(data[::-1], np.eye(4))
        np.testing.assert_allclose(resample(volume, 1.0, blur=False).data, data[::-1], atol=1e-6)

    @given(st.tuples(sizes, sizes, sizes), st.floats(0.3, 5), st.tuples(*[st.booleans()] * 3))
    @settings(max_examples=30)
    def test_starting_from_the_last_border_is_mirroring(
        self, shape: Any, spacing: float, from_last: Any
    ):
        volume = Volume(noise(shape), oblique((spacing, 1.7, 0.9)))
        turn = tuple(slice(None, None, -1 if last else 1) for last in from_last)
        mirror = np.diag([*(-1.0 if last else 1.0 for last in from_last), 1.0])
        mirror[:3, 3] = [n - 1 if last else 0 for n, last in zip(shape, from_last, strict=True)]
        ours = resample(volume, 1.0, from_last=from_last)
        theirs = resample(Volume(volume.data[turn], volume.affine @ mirror), 1.0)
        np.testing.assert_allclose(ours.data, theirs.data[turn], atol=1e-5)
        last = [
            n - 1 if flipped else 0 for n, flipped in zip(ours.data.shape, from_last, strict=True)
        ]
        np.testing.assert_allclose(
            ours.affine @ [*last, 1], theirs.affine @ [0, 0, 0, 1], atol=1e-9
        )


class TestReslice:
    def sheared(self, degrees: float = 20.0) -> np.ndarray:
        affine = oblique((0.8, 0.9, 2.5))
        tilt = np.eye(4)
        tilt[1, 2] = np.tan(np.deg2rad(degrees)) * 2.5 / 0.9
        return affine @ tilt

    def test_orthogonal_grid_has_right_angles_and_covers_everything(self):
        volume = Volume(noise((20, 16, 9)), self.sheared())
        shape, affine = orthogonal_grid((volume.data.shape, volume.affine), 1.0)
        np.testing.assert_allclose(affine[:3, :3].T @ affine[:3, :3], np.eye(3), atol=1e-9)
        corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in volume.data.shape]))
        world = volume.affine[:3, :3] @ corners.reshape(3, -1) + volume.affine[:3, 3:]
        inverse = np.linalg.inv(affine)
        index = inverse[:3, :3] @ world + inverse[:3, 3:]
        assert (index >= -0.5 - 1e-3).all()
        assert (index <= np.array(shape)[:, None] - 0.5 + 1e-3).all()

    @given(st.floats(-40, 40), st.booleans())
    def test_orthogonal_grid_follows_the_axes(self, degrees: float, mirrored: bool):
        affine = self.sheared(degrees)
        affine[:, 0] *= -1 if mirrored else 1
        _, found = orthogonal_grid(((4, 5, 6), affine), 1.0)
        units = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        cosines = (units * found[:3, :3]).sum(axis=0)
        assert (cosines > np.cos(np.deg2rad(abs(degrees) / 2 + 0.5))).all()

    @pytest.mark.parametrize("outside", [0.0, -7.0])
    def test_agrees_with_scipy_at_world_points(self, outside: float):
        volume = Volume(noise((20, 16, 9)), self.sheared())
        grid = orthogonal_grid((volume.data.shape, volume.affine), 1.0)
        ours, share = reslice(volume, grid, outside=outside, margin=0.0)
        index = np.indices(grid[0]).reshape(3, -1)
        matrix = np.linalg.inv(volume.affine) @ grid[1]
        where = matrix[:3, :3] @ index + matrix[:3, 3:]
        expected = ndimage.map_coordinates(
            volume.data, where, order=1, mode="constant", cval=outside
        )
        np.testing.assert_allclose(ours.ravel(), expected, atol=1e-5)
        inside = ((where >= 0) & (where <= np.array(volume.data.shape)[:, None] - 1)).all(axis=0)
        assert share == pytest.approx(inside.mean())

    def test_border_voxels_reach_as_far_as_the_margin_or_for_ever(self):
        volume = Volume(np.full((1, 1, 2), 5, np.float32), np.eye(4))
        grid = ((1, 1, 6), np.eye(4) - np.diag([0, 0, 0.5, 0]))
        grid[1][2, 3] = -1
        ours = [
            reslice(volume, grid, outside=o, margin=m)[0].ravel().tolist()
            for o, m in ((0.0, 0.5), (0.0, 0.0), (None, 0.0))
        ]
        assert ours[0] == [0, 5, 5, 5, 5, 5]
        assert ours[1] == [0, 0, 5, 5, 5, 0]
        assert ours[2] == [5] * 6

    def test_antialiasing_blurs_only_axes_that_get_no_finer(self):
        volume = Volume(noise((12, 13, 9)), oblique((0.5, 1.0, 3.0)))
        expected = ndimage.gaussian_filter(volume.data, (0.5, 0.25, 0))
        np.testing.assert_allclose(antialiased(volume, 1.0).data, expected, atol=1e-5)


class TestReliability:
    @given(st.floats(1.05, 9), st.integers(1, 12))
    @settings(max_examples=50)
    def test_falls_from_each_slice_to_nothing_one_voxel_away(self, spacing: float, count: int):
        scan = Volume(np.zeros((1, 1, count)), np.diag([1, 1, spacing, 1]))
        affine = np.eye(4)
        affine[2, 3] = -3
        ours = reliability(scan, ((1, 1, int(spacing * count) + 8), affine), 1.0).ravel()
        assert ours.min() >= 0
        assert ours.max() <= 1
        centres = spacing * np.arange(count)
        distance = np.abs(np.arange(len(ours)) - 3 - centres[:, None]).min(axis=0)
        assert (ours[distance >= 1] < 1e-6).all()
        assert (ours >= (1 - distance) - 1e-5).all()
        if spacing >= 2:  # no voxel lies near two slices
            np.testing.assert_allclose(ours, (1 - distance).clip(0), atol=1e-5)
            assert ours.sum() == pytest.approx(count, abs=1e-3)

    def test_is_1_where_nothing_was_interpolated(self):
        scan = Volume(np.zeros((5, 6, 7)), oblique((0.7, 1.0, 0.5)))
        new = resample(Volume(noise((5, 6, 7)), scan.affine), 1.0)
        assert (reliability(scan, (new.data.shape, new.affine), 1.0) == 1).all()

    def test_is_0_outside_the_scan(self):
        scan = Volume(np.zeros((4, 4, 4)), np.eye(4))
        ours = reliability(scan, ((6, 4, 4), np.eye(4)), 1.0)
        assert (ours[:4] == 1).all()
        assert (ours[4:] == 0).all()

    def test_axes_multiply_whatever_the_orientation(self):
        affine = np.array([[0, 0, 2.0, 0], [3, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
        ours = reliability(Volume(np.zeros((2, 3, 4)), affine), ((7, 4, 3), np.eye(4)), 1.0)
        x, y = [1, 0, 1, 0, 1, 0, 1], [1, 0, 0, 1]
        np.testing.assert_allclose(ours, np.einsum("i,j,k->ijk", x, y, [1, 1, 1]), atol=1e-6)
