"""Promises of the functional core: identity, inverse, linearity, and agreement with SciPy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import Tensor

from synthsr_transforms.functional import (
    acquisition,
    blur,
    cache,
    fields,
    geometry,
    intensity,
    layout,
    mixture,
    operators,
    reliability,
    resample,
    warp,
)

SHAPE = (12, 10, 14)
Maker = Callable[..., Tensor]


@pytest.fixture
def volume(device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, *SHAPE, generator=generator).to(device)


@pytest.fixture
def ramp(device: torch.device) -> Tensor:
    """A linear function of the voxel, which linear interpolation keeps exactly."""
    x, y, z = (torch.arange(float(n), device=device) for n in SHAPE)
    return (2 * x[:, None, None] - y[:, None] + 0.5 * z)[None, None]


def interior(volume: Tensor, margin: int) -> Tensor:
    inside = slice(margin, -margin)
    return volume[..., inside, inside, inside]


def coordinates_around(shape: Sequence[int], batch: int, seed: int = 1) -> Tensor:
    """Random coordinates, a third of them outside the volume."""
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(batch, 3, 7, 5, 6, generator=generator) * 1.6 - 0.3
    return unit * (torch.tensor(list(shape))[:, None, None, None] - 1)


def by_scipy(volume: Tensor, coordinates: Tensor, order: int) -> Tensor:
    """The same with `scipy.ndimage.map_coordinates`."""
    result = [
        [
            ndimage.map_coordinates(
                channel.double().numpy(), where.double().numpy(), order=order, mode="nearest"
            )
            for channel in element
        ]
        for element, where in zip(volume.cpu(), coordinates.cpu(), strict=True)
    ]
    return torch.from_numpy(np.array(result))


def rigid(degrees: Sequence[float], shift: Sequence[float]) -> Tensor:
    return geometry.affine_matrix(torch.tensor([degrees]), translation=torch.tensor([shift]))


class TestSampling:
    def test_linear_agrees_with_scipy(self, volume: Tensor) -> None:
        where = coordinates_around(SHAPE, 2)
        ours = warp.sample_linear(volume, where.to(volume.device)).cpu().double()
        torch.testing.assert_close(ours, by_scipy(volume, where, order=1), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.float32], ids=str)
    def test_nearest_agrees_with_scipy(self, volume: Tensor, dtype: torch.dtype) -> None:
        labels = (volume * 90).to(dtype)
        where = coordinates_around(SHAPE, 2)
        ours = warp.sample_nearest(labels, where.to(volume.device))
        assert ours.dtype == dtype
        expected = by_scipy(labels, where, order=0)
        torch.testing.assert_close(ours.cpu().double(), expected, rtol=0, atol=1e-5)

    def test_own_coordinates_give_the_volume_back(self, volume: Tensor) -> None:
        grid = torch.stack(
            torch.meshgrid(*[torch.arange(float(n)) for n in SHAPE], indexing="ij")
        ).expand(2, -1, -1, -1, -1)
        grid = grid.to(volume.device)
        torch.testing.assert_close(warp.sample_linear(volume, grid), volume, rtol=0, atol=3e-6)
        assert torch.equal(warp.sample_nearest(volume, grid), volume)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision_volumes_are_read_at_full_precision(self, dtype: torch.dtype) -> None:
        line = torch.arange(256.0).reshape(1, 1, 256, 1, 1).to(dtype)
        where = torch.zeros(1, 3, 9, 1, 1)
        where[0, 0, :, 0, 0] = torch.arange(9) * 25.0
        assert torch.equal(
            warp.sample_linear(line, where).flatten(), torch.arange(9.0).to(dtype) * 25
        )

    def test_slabs_on_several_threads_change_nothing(self, volume: Tensor) -> None:
        where = coordinates_around(SHAPE, 1).repeat(1, 1, 2, 1, 1).to(volume.device)
        threads = torch.get_num_threads()
        try:
            results = []
            for number in (1, 2):
                torch.set_num_threads(number)
                results.append(warp.sample_linear(volume[:1], where))
        finally:
            torch.set_num_threads(threads)
        assert torch.equal(*results)


class TestWarp:
    def test_identity_gives_the_volume_back(self, volume: Tensor) -> None:
        same = warp.warp_affine(volume, torch.eye(4).expand(2, 4, 4))
        torch.testing.assert_close(same, volume, rtol=0, atol=3e-6)

    @pytest.mark.parametrize("shift", [(2, 0, 0), (0, -3, 1), (-1, 2, -4)])
    def test_whole_voxels_are_a_shift(self, volume: Tensor, shift: tuple[int, int, int]) -> None:
        matrix = rigid((0.0, 0, 0), [float(s) for s in shift]).expand(2, 4, 4)
        moved = warp.warp_affine(volume, matrix)
        rolled = volume.roll([-s for s in shift], dims=(2, 3, 4))
        torch.testing.assert_close(interior(moved, 4), interior(rolled, 4), rtol=0, atol=1e-5)

    def test_the_edge_is_repeated_outside(self, volume: Tensor) -> None:
        moved = warp.warp_affine(volume, rigid((0.0, 0, 0), (50.0, 0, 0)).expand(2, 4, 4))
        torch.testing.assert_close(moved, volume[:, :, -1:].expand_as(volume), rtol=0, atol=1e-5)

    def test_an_affine_and_its_inverse_cancel(self, ramp: Tensor) -> None:
        matrix = geometry.affine_matrix(
            torch.tensor([[8.0, -5, 4]]),
            torch.full((1, 6), 0.01),
            torch.tensor([[1.05, 0.95, 1.0]]),
            torch.tensor([[0.6, -0.4, 0.3]]),
        )
        there = warp.warp_affine(ramp, matrix)
        back = warp.warp_affine(there, torch.linalg.inv(matrix))
        torch.testing.assert_close(interior(back, 4), interior(ramp, 4), rtol=0, atol=1e-4)

    def test_a_patch_is_a_part_of_the_whole(self, device: torch.device) -> None:
        matrix = geometry.about_centre(rigid((9.0, 5, -7), (1.0, 2, 3)), SHAPE)
        displacement = torch.rand(1, 3, 4, 3, 5, device=device)
        whole = warp.patch_coordinates(
            matrix, SHAPE, warp.whole_grid(SHAPE, 1, device), displacement
        )
        rows = [torch.arange(2, 9).flip(0), torch.arange(5), torch.tensor([13, 0, 7])]
        patch = warp.patch_coordinates(
            matrix, SHAPE, [r[None].to(device) for r in rows], displacement
        )
        expected = whole[:, :, rows[0]][:, :, :, rows[1]][..., rows[2]]
        torch.testing.assert_close(patch, expected, rtol=0, atol=1e-5)

    def test_the_two_forms_of_a_grid_read_alike(self, volume: Tensor) -> None:
        matrix = geometry.about_centre(rigid((9.0, 5, -7), (1.0, 2, 3)).expand(2, 4, 4), SHAPE)
        where = warp.patch_coordinates(matrix, SHAPE, warp.whole_grid(SHAPE, 2, volume.device))
        grid = warp.affine_grid(matrix, SHAPE, SHAPE, volume.device)
        first, second = warp.sample_linear(volume, where), warp.sample_grid(volume, grid)
        torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


class TestGeometry:
    def test_rotations_agree_with_scipy(self) -> None:
        degrees = torch.tensor([[30.0, -20, 75], [0, 0, 0], [-170, 10, 5]])
        expected = Rotation.from_euler("XYZ", degrees.double().numpy(), degrees=True).as_matrix()
        ours = geometry.rotation_matrix(degrees)
        torch.testing.assert_close(ours, torch.from_numpy(expected), rtol=0, atol=1e-12)

    def test_components_act_in_the_documented_order(self) -> None:
        scale, shear = torch.tensor([[2.0, 3, 4]]), torch.arange(6.0)[None] / 10
        degrees, shift = torch.tensor([[10.0, 20, 30]]), torch.tensor([[5.0, 6, 7]])
        h = torch.tensor([[1.0, 0.0, 0.1], [0.2, 1.0, 0.3], [0.4, 0.5, 1.0]]).double()
        linear = torch.diag(scale[0].double()) @ h @ geometry.rotation_matrix(degrees)[0]
        matrix = geometry.affine_matrix(degrees, shear, scale, shift)[0]
        torch.testing.assert_close(matrix[:3, :3], linear, rtol=0, atol=1e-7)
        assert matrix[:3, 3].tolist() == [5, 6, 7]
        assert matrix[3].tolist() == [0, 0, 0, 1]

    def test_millimetres_become_voxels(self) -> None:
        spacing = torch.tensor([[0.5, 1.0, 4.0]])
        mm = rigid((15.0, -10, 30), (2.0, 2.0, 2.0))
        voxels = geometry.millimetres_to_voxels(mm, spacing)[0]
        scale = torch.diag(torch.tensor([0.5, 1.0, 4.0, 1.0], dtype=torch.float64))
        torch.testing.assert_close(scale @ voxels, mm[0] @ scale)
        assert voxels[:3, 3].tolist() == [4, 2, 0.5]

    def test_the_centre_stays(self) -> None:
        matrix = geometry.about_centre(rigid((15.0, -10, 30), (0.0, 0, 0)), SHAPE)[0]
        centre = torch.tensor([*[(n - 1) / 2 for n in SHAPE], 1.0], dtype=torch.float64)
        torch.testing.assert_close(matrix @ centre, centre)


class TestFields:
    @staticmethod
    def smooth_velocity(size: float, device: torch.device) -> Tensor:
        coarse = torch.randn(2, 3, 3, 3, 3, generator=torch.Generator().manual_seed(3))
        return resample.resize(coarse.to(device) * size, (16, 14, 18))

    def test_the_inverse_velocity_undoes_the_displacement(self, device: torch.device) -> None:
        velocity = self.smooth_velocity(0.5, device)
        forward, backward = (fields.integrate_velocity(v) for v in (velocity, -velocity))
        shape = velocity.shape[2:]
        identity = torch.eye(4).expand(2, 4, 4)
        grid = warp.patch_coordinates(identity, shape, warp.whole_grid(shape, 2, device))
        left = backward + warp.sample_linear(forward, grid + backward)
        assert interior(left, 3).abs().max() < 0.1
        assert forward.abs().max() > 0.8

    def test_no_velocity_no_displacement(self, device: torch.device) -> None:
        velocity = torch.zeros(1, 3, *SHAPE, device=device)
        assert torch.equal(fields.integrate_velocity(velocity), velocity)

    def test_halving_the_velocity_and_doubling_the_squarings_agree(
        self, device: torch.device
    ) -> None:
        velocity = self.smooth_velocity(0.8, device)
        few, many = (fields.integrate_velocity(velocity, s) for s in (7, 10))
        torch.testing.assert_close(few, many, rtol=0, atol=0.02)

    @pytest.mark.parametrize("half_grid_units", [False, True])
    def test_a_constant_velocity_moves_by_itself(
        self, half_grid_units: bool, device: torch.device
    ) -> None:
        coarse = torch.tensor([1.5, -0.5, 0.25], device=device)[None, :, None, None, None]
        moved = fields.elastic_displacement(
            coarse.expand(1, 3, 2, 2, 2), (16, 12, 20), half_grid_units=half_grid_units
        )
        torch.testing.assert_close(moved, coarse.expand_as(moved), rtol=0, atol=1e-4)

    def test_honest_units_agree_with_an_integration_on_the_full_grid(
        self, device: torch.device
    ) -> None:
        shape = (48, 44, 52)
        coarse = torch.randn(1, 3, 3, 3, 3, generator=torch.Generator().manual_seed(8)) * 3
        coarse = coarse.to(device)
        full = fields.integrate_velocity(resample.resize(coarse, shape))
        ours, original = (
            resample.resize(
                fields.elastic_displacement(coarse, shape, half_grid_units=units), shape
            )
            for units in (False, True)
        )
        scale = interior(full, 4).norm(dim=1).mean()
        assert interior(ours - full, 4).norm(dim=1).mean() < 0.06 * scale
        assert interior(original - full, 4).norm(dim=1).mean() > 0.08 * scale

    @pytest.mark.parametrize("seed", range(6))
    def test_deformations_do_not_fold(self, seed: int, device: torch.device) -> None:
        shape = (48, 40, 44)
        generator = torch.Generator().manual_seed(seed)
        coarse_shape = fields.coarse_shape(shape, 0.0625)
        coarse = 4 * torch.randn(1, 3, *coarse_shape, generator=generator)
        displacement = fields.elastic_displacement(coarse.to(device), shape)
        where = warp.patch_coordinates(
            torch.eye(4)[None], shape, warp.whole_grid(shape, 1, device), displacement
        )
        steps = [where.diff(dim=axis)[:, :, :47, :39, :43] for axis in (2, 3, 4)]
        jacobian = torch.stack([s[:, :, :47, :39, :43] for s in steps], -1).movedim(1, -2)
        determinant = torch.linalg.det(jacobian.double().cpu())
        assert determinant.min() > 0
        assert (determinant - 1).abs().max() > 0.1

    def test_the_coarse_grid_rounds_up(self) -> None:
        assert fields.coarse_shape((160, 161, 3), 0.025) == (4, 5, 1)

    def test_bias_fields_are_positive_and_hit_the_grid_nodes(self, device: torch.device) -> None:
        coarse = torch.randn(2, 1, 3, 2, 4, generator=torch.Generator().manual_seed(1)).to(device)
        field = fields.bias_field(coarse, (9, 8, 16))
        assert field.min() > 0
        nodes = field[:, :, ::3, ::4, ::4].log()
        torch.testing.assert_close(nodes, coarse, rtol=0, atol=1e-5)

    def test_smooth_fields_of_a_batch_equal_those_alone(self, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        coarse = [torch.randn(n, generator=generator).to(device) for n in [(4, 7, 5), (9, 2, 30)]]
        together = fields.smooth_normal_fields(coarse, SHAPE)
        alone = [fields.smooth_normal_field(one[None, None], SHAPE) for one in coarse]
        torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-6)

    def test_smooth_normal_fields_have_unit_variance_everywhere(self, device: torch.device) -> None:
        basis = torch.eye(3 * 2 * 4, device=device).reshape(-1, 1, 3, 2, 4)
        variance = fields.smooth_normal_field(basis, SHAPE).square().sum(0)
        torch.testing.assert_close(variance, torch.ones_like(variance), rtol=0, atol=1e-5)


class TestBlur:
    @staticmethod
    def sigma(*values: float) -> Tensor:
        return torch.tensor(values)[None, None]

    @pytest.mark.parametrize("truncate", [1.25, 3.0])
    def test_a_constant_stays_constant(self, truncate: float, device: torch.device) -> None:
        flat = torch.full((1, 2, *SHAPE), 7.0, device=device)
        out = blur.gaussian_blur(flat, self.sigma(0.4, 1.7, 3), truncate=truncate)
        torch.testing.assert_close(out, flat, rtol=1e-6, atol=0)

    def test_zero_boundary_darkens_the_border_alone(self, device: torch.device) -> None:
        flat = torch.ones(1, 1, 20, 20, 20, device=device)
        out = blur.gaussian_blur(flat, self.sigma(1, 1, 1), boundary="zero")
        torch.testing.assert_close(interior(out, 3), interior(flat, 3), rtol=1e-6, atol=0)
        assert out[0, 0, 0, 0, 0] < 0.5

    def test_mass_and_centroid_stay(self, device: torch.device) -> None:
        blob = torch.zeros(1, 1, 24, 25, 26, device=device)
        blob[0, 0, 11:14, 12, 10:12] = torch.rand(
            3, 2, generator=torch.Generator().manual_seed(0)
        ).to(device)
        out = blur.gaussian_blur(blob, self.sigma(1.5, 2, 1), boundary="zero")
        assert out.sum().item() == pytest.approx(blob.sum().item(), rel=1e-5)
        torch.testing.assert_close(centroid(out), centroid(blob), rtol=0, atol=1e-4)

    def test_wide_windows_agree_with_scipy(self, volume: Tensor) -> None:
        ours = blur.gaussian_blur(volume, self.sigma(1.5, 1, 2), truncate=4, boundary="zero")
        expected = ndimage.gaussian_filter(
            volume.cpu().double().numpy(), (0, 0, 1.5, 1, 2), truncate=4, mode="constant"
        )
        torch.testing.assert_close(
            ours.cpu().double(), torch.from_numpy(expected), rtol=0, atol=1e-5
        )

    def test_zero_width_changes_nothing(self, volume: Tensor) -> None:
        assert torch.equal(blur.gaussian_blur(volume, self.sigma(0, 0, 0)), volume)

    def test_each_element_channel_and_axis_has_its_own_width(self, volume: Tensor) -> None:
        sigma = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(2)) * 2
        together = blur.gaussian_blur(volume, sigma)
        for b in range(2):
            for c in range(3):
                alone = blur.gaussian_blur(
                    volume[b : b + 1, c : c + 1], sigma[b : b + 1, c : c + 1]
                )
                expected = together[b : b + 1, c : c + 1]
                torch.testing.assert_close(alone, expected, rtol=0, atol=1e-5)

    def test_the_window_follows_window_sigma(self, device: torch.device) -> None:
        point = torch.zeros(1, 1, 21, 1, 1, device=device)
        point[0, 0, 10] = 1
        narrow = blur.gaussian_blur(
            point, self.sigma(3, 0, 0), window_sigma=self.sigma(1, 0, 0), truncate=2
        )
        assert int((narrow > 0).sum()) == 5

    def test_full_width_at_half_maximum_is_the_thickness(self) -> None:
        sigma = blur.acquisition_sigma(torch.tensor(0.5), torch.tensor(4.0), torch.tensor(3.0))
        fwhm_mm = 2 * math.sqrt(2 * math.log(2)) * sigma.item() * 0.5
        assert fwhm_mm == pytest.approx(3.0, rel=0.02)

    def test_widths_of_targets(self) -> None:
        one = torch.ones(3)
        sigma = blur.acquisition_sigma(one, torch.tensor([1.0, 2.0, 0.0]), coefficient=None)
        assert sigma.tolist() == [0.5, 1.5, 0.0]


def centroid(volume: Tensor) -> Tensor:
    """Centre of mass in voxels of a volume `(1, 1, X, Y, Z)`."""
    mass = volume[0, 0].double().cpu()
    axes = [torch.arange(n, dtype=torch.float64) for n in mass.shape]
    x, y, z = axes
    moments = [mass * x[:, None, None], mass * y[:, None], mass * z]
    return torch.stack([m.sum() for m in moments]) / mass.sum()


class TestResize:
    @pytest.mark.parametrize("shape", [(6, 5, 7), (24, 20, 28), (9, 13, 5)])
    def test_linear_agrees_with_scipy(self, volume: Tensor, shape: tuple[int, int, int]) -> None:
        rows = [torch.arange(float(m)) * n / m for n, m in zip(SHAPE, shape, strict=True)]
        where = torch.stack(torch.meshgrid(*rows, indexing="ij")).expand(2, -1, -1, -1, -1)
        ours = resample.resize(volume, shape).cpu().double()
        torch.testing.assert_close(ours, by_scipy(volume, where, 1), rtol=0, atol=1e-5)

    def test_same_shape_is_identity(self, volume: Tensor) -> None:
        for mode in ("linear", "nearest"):
            assert torch.equal(resample.resize(volume, SHAPE, mode=mode), volume)

    @pytest.mark.parametrize("factor", [2, 3])
    def test_taking_every_nth_voxel_agrees_with_torch(self, factor: int) -> None:
        labels = torch.randint(0, 99, (2, 1, 12, 6, 18), generator=torch.Generator().manual_seed(0))
        shape = tuple(n // factor for n in labels.shape[2:])
        expected = torch.nn.functional.interpolate(labels.double(), shape, mode="nearest")
        for mode in ("linear", "nearest"):
            ours = resample.resize(labels.float(), shape, mode=mode)
            torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-4)
        nearest = resample.resize(labels.short(), shape, mode="nearest")
        assert nearest.dtype == torch.int16
        assert torch.equal(nearest.double(), expected)

    def test_enlarging_keeps_the_samples(self, volume: Tensor) -> None:
        large = resample.resize(volume, tuple(3 * n for n in SHAPE))
        torch.testing.assert_close(large[:, :, ::3, ::3, ::3], volume, rtol=0, atol=1e-5)


class TestCache:
    """Tensors that depend on shapes alone are made once and shared."""

    def test_a_result_is_made_once_for_each_argument(self, device: torch.device) -> None:
        made = []

        @cache.cached(8)
        def twice(number: int, device: torch.device) -> Tensor:
            made.append(number)
            return torch.full((2,), float(number), device=device)

        results = [twice(number, device) for number in (1, 2, 1)]
        assert made == [1, 2]
        assert results[0] is results[2]
        assert [result.tolist() for result in results[:2]] == [[1, 1], [2, 2]]

    def test_what_was_made_in_inference_serves_training(self, device: torch.device) -> None:
        with torch.inference_mode():
            volume = torch.rand(1, 1, 7, 6, 5, device=device)
            resample.resize(volume, (3, 9, 5))
            fields.integrate_velocity(volume.expand(1, 3, 7, 6, 5))
        volume = torch.rand(1, 3, 7, 6, 5, device=device, requires_grad=True)
        resized = resample.resize(volume, (3, 9, 5)).sum()
        (resized + fields.integrate_velocity(volume).sum()).backward()
        assert volume.grad is not None
        assert bool(volume.grad.isfinite().all())

    def test_blurs_have_gradients_for_volume_and_width(self, device: torch.device) -> None:
        sigma = torch.full((1, 1, 3), 0.8, requires_grad=True)
        volume = torch.rand(1, 1, 6, 5, 4, device=device, requires_grad=True)
        blur.gaussian_blur(volume, sigma).square().sum().backward()
        assert all(t.grad is not None and bool(t.grad.any()) for t in (sigma, volume))


class TestOperators:
    @pytest.mark.parametrize("boundary", ["zero", "renormalise"])
    def test_three_axes_together_are_each_axis_alone(
        self, boundary: str, device: torch.device
    ) -> None:
        generator = torch.Generator().manual_seed(4)
        where = torch.rand(2, 3, 3, 5, generator=generator) * torch.tensor(SHAPE)[:, None]
        sigma = 0.3 + torch.rand(2, 3, 3, generator=generator)
        radius = operators.gaussian_radius(sigma, 2)
        reach = operators.kernel_reach(radius, boundary)
        together = operators.gaussian_rows(
            where.to(device), SHAPE, sigma.to(device), radius.to(device),
            boundary, reach,
        )  # fmt: skip
        for axis, size in enumerate(SHAPE):
            one = slice(axis, axis + 1)
            parts = where[..., one, :], (size,), sigma[..., one], radius[..., one]
            alone = operators.gaussian_rows(*parts, boundary, reach)
            ours = together[..., one, :, :size].cpu()
            torch.testing.assert_close(ours, alone, rtol=0, atol=1e-6)

    def test_a_selection_is_indexing(self, volume: Tensor) -> None:
        index = torch.tensor([3, 0, 9, 9], device=volume.device)
        chosen = operators.interpolation_operator(index.float(), 10)[None, None]
        out = operators.apply_separable(volume, [None, chosen, None])
        assert torch.equal(out, volume[:, :, :, index])

    def test_separable_operators_are_an_einsum(self, volume: Tensor) -> None:
        generator = torch.Generator().manual_seed(5)
        x, y, z = (
            torch.rand(2, 3, m, n, generator=generator).to(volume.device)
            for m, n in zip((4, 11, 5), SHAPE, strict=True)
        )
        expected = torch.einsum("bcxyz,bcix,bcjy,bckz->bcijk", volume, x, y, z)
        ours = operators.apply_separable(volume, [x, y, z])
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)

    def test_a_gaussian_on_a_sample_is_symmetric_and_sums_to_one(self) -> None:
        sigma = torch.full((1, 1, 3), 1.7)
        row = operators.blur_operators((21, 21, 21), sigma, torch.device("cpu"))[0][0, 0, 10]
        torch.testing.assert_close(row, row.flip(0))
        assert row.sum().item() == pytest.approx(1, abs=1e-6)
        assert int((row > 0).sum()) == 11

    @pytest.fixture
    def medium(self) -> Iterator[None]:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        yield
        torch.set_float32_matmul_precision(before)

    @pytest.mark.usefixtures("medium")
    def test_full_precision_restores_what_it_found(self, device: torch.device) -> None:
        seen = []

        def look_and_fail() -> None:
            with operators.full_precision(device.type):
                seen.append(torch.get_float32_matmul_precision())
                seen.append(torch.is_autocast_enabled(device.type))
                raise KeyError

        with torch.autocast(device.type, dtype=torch.bfloat16):
            with pytest.raises(KeyError):
                look_and_fail()
            assert torch.is_autocast_enabled(device.type)
        assert seen == ["highest", False]
        assert torch.get_float32_matmul_precision() == "medium"


class TestMixture:
    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64], ids=str)
    def test_look_up_is_indexing(self, dtype: torch.dtype, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(6)
        labels = torch.randint(0, 9, (2, 1, *SHAPE), generator=generator).to(device, dtype)
        table = torch.rand(2, 3, 9, generator=generator).to(device)
        made = mixture.look_up(labels, table)
        for b in range(2):
            assert torch.equal(made[b], table[b][:, labels[b, 0].long()])

    def test_the_image_is_mean_plus_width_times_noise(self, device: torch.device) -> None:
        labels = torch.tensor([0, 2, 1], device=device).reshape(1, 1, 3, 1, 1)
        means, stds = (
            torch.tensor(v, device=device)[None, None] for v in ([1.0, 2, 3], [0.1, 0.2, 0.3])
        )
        noise = torch.full((1, 1, 3, 1, 1), 10.0, device=device)
        made = mixture.tissue_mixture(labels, means, stds, noise)
        torch.testing.assert_close(made.flatten().cpu(), torch.tensor([2.0, 6, 4]))


class TestIntensity:
    def test_min_max_fills_zero_to_one_per_channel(self, volume: Tensor) -> None:
        scale = torch.tensor([1.0, 50, 1e4], device=volume.device)[:, None, None, None]
        out = intensity.min_max(volume * scale - 7)
        low, high = out.amin((2, 3, 4)), out.amax((2, 3, 4))
        torch.testing.assert_close(low, torch.zeros_like(low))
        torch.testing.assert_close(high, torch.ones_like(high))

    def test_a_constant_becomes_zero(self) -> None:
        assert not intensity.min_max(torch.full((1, 1, 2, 2, 2), 5.0)).any()

    def test_gamma_and_its_inverse_cancel(self, volume: Tensor) -> None:
        exponent = torch.linspace(-1, 1, 6).reshape(2, 3)
        there = intensity.gamma_contrast(volume, exponent)
        back = intensity.gamma_contrast(there, -exponent)
        torch.testing.assert_close(back, volume, rtol=1e-4, atol=1e-6)
        assert there.min() >= 0
        assert there.max() <= 1

    def test_gamma_keeps_order_and_sign(self, device: torch.device) -> None:
        line = torch.linspace(-1, 1, 11, device=device).reshape(1, 1, 11, 1, 1)
        out = intensity.gamma_contrast(line, torch.tensor([[0.7]])).flatten()
        assert bool((out.diff() > 0).all())
        assert torch.equal(out.sign(), line.flatten().sign())

    @pytest.mark.parametrize("rician", [False, True])
    def test_no_width_no_noise(self, volume: Tensor, rician: bool) -> None:
        noise = torch.ones(2, 6 if rician else 3, *SHAPE, device=volume.device)
        out = intensity.add_noise(volume - 0.5, noise, torch.zeros(2, 3), rician=rician)
        assert torch.equal(out, volume - 0.5)

    def test_rician_noise_is_a_magnitude(self, volume: Tensor) -> None:
        noise = torch.randn(2, 6, *SHAPE, generator=torch.Generator().manual_seed(1))
        noise, std = noise.to(volume.device), torch.full((2, 3), 0.3)
        out = intensity.add_noise(volume, noise, std, rician=True)
        real, imaginary = volume + 0.3 * noise[:, :3], 0.3 * noise[:, 3:]
        torch.testing.assert_close(out, (real**2 + imaginary**2).sqrt())


sizes = st.integers(3, 40)


class TestLayout:
    @given(
        st.tuples(sizes, sizes, sizes),
        st.tuples(sizes, sizes, sizes),
        st.integers(1, 3),
        st.sampled_from([None, 0.8, 1.5, 2.0]),
    )
    @settings(max_examples=60)
    def test_plans_fit(
        self, shape: tuple, wanted: tuple, multiple: int, target_mm: float | None
    ) -> None:
        target = None if target_mm is None else (target_mm,) * 3
        reach = [n if target is None else int(n / target_mm) for n in shape]
        assume(min(reach) >= multiple)
        plan = layout.plan_patch(
            shape, target_spacing_mm=target, output_shape=wanted, multiple_of=multiple
        )
        for output, crop, n, w, r in zip(
            plan.output_shape, plan.crop_shape, shape, wanted, reach, strict=True
        ):
            assert output % multiple == 0
            assert 1 <= output <= min(w, r) or w < multiple
            assert 1 <= crop <= n
            assert abs(crop - output * (1 if target is None else target_mm)) <= 0.5

    def test_crop_is_slicing_at_a_place_of_its_own(self, volume: Tensor) -> None:
        start = torch.tensor([[0, 3, 5], [4, 0, 9]])
        out = layout.crop(volume, start, (6, 7, 5))
        assert torch.equal(out[0], volume[0, :, 0:6, 3:10, 5:10])
        assert torch.equal(out[1], volume[1, :, 4:10, 0:7, 9:14])

    def test_first_and_last_place_are_reached(self) -> None:
        almost_one = torch.tensor([[0.0] * 3, [math.nextafter(1, 0)] * 3], dtype=torch.float64)
        start = layout.crop_start(almost_one, SHAPE, (8, 10, 5))
        assert start.tolist() == [[0, 0, 0], [4, 0, 9]]

    @given(st.lists(st.floats(0, 1, exclude_max=True), min_size=3, max_size=3), st.randoms())
    @settings(max_examples=60)
    def test_crops_hold_their_box_or_lie_within_it(self, unit: list[float], dice: object) -> None:
        draw = np.random.default_rng(dice.randint(0, 10**6))  # type: ignore[attr-defined]
        low = [int(draw.integers(0, n)) for n in SHAPE]
        high = [int(draw.integers(a + 1, n + 1)) for a, n in zip(low, SHAPE, strict=True)]
        wanted = [int(draw.integers(1, n + 1)) for n in SHAPE]
        box = torch.tensor([[low, high]])
        start = layout.crop_start(torch.tensor([unit]), SHAPE, wanted, box)[0].tolist()
        for begin, size, a, b, n in zip(start, wanted, low, high, SHAPE, strict=True):
            assert 0 <= begin <= n - size
            if size >= b - a:
                assert begin <= a
                assert begin + size >= b
            else:
                assert a <= begin
                assert begin + size <= b

    def test_bounding_boxes_touch_the_mask(self, device: torch.device) -> None:
        mask = torch.zeros(3, 1, *SHAPE, dtype=torch.bool, device=device)
        mask[0, 0, 2, 3, 4] = mask[0, 0, 5, 3, 9] = True
        mask[1] = True
        boxes = layout.bounding_box(mask)
        whole = [[0, 0, 0], list(SHAPE)]
        assert boxes.tolist() == [[[2, 3, 4], [6, 4, 10]], whole, whole]

    def test_too_small_label_maps_are_refused(self) -> None:
        with pytest.raises(ValueError, match="at least 32 voxels"):
            layout.plan_patch((64, 30, 64), multiple_of=32)


def plan_for(
    shape: Sequence[int], acquired_mm: Sequence[float], alignment: str
) -> acquisition.SlicePlan:
    """Plan for one element and channel on a 1 mm grid."""
    return acquisition.plan_slices(
        shape, torch.ones(1, 1, 3), torch.tensor([[list(map(float, acquired_mm))]]), alignment
    )


class TestAcquisition:
    @pytest.mark.parametrize("alignment", acquisition.ALIGNMENTS)
    @pytest.mark.parametrize("boundary", ["zero", "renormalise"])
    def test_slices_on_the_grid_are_the_plain_blur(
        self, alignment: str, boundary: str, volume: Tensor
    ) -> None:
        one = torch.ones(2, 3, 3)
        plan = acquisition.plan_slices(SHAPE, one, one, alignment)
        sigma = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(1)) * 2
        ours = acquisition.acquire_slices(volume, plan, sigma, SHAPE, boundary=boundary)
        expected = blur.gaussian_blur(volume, sigma, truncate=1.25, boundary=boundary)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("alignment", ["centre", "corner"])
    @pytest.mark.parametrize("acquired_mm", [(1, 1, 4), (2, 3, 6), (4, 1, 2)])
    def test_a_blob_stays_where_it_is(
        self, alignment: str, acquired_mm: tuple[int, int, int], device: torch.device
    ) -> None:
        shape = (36, 36, 36)
        x, y, z = (torch.arange(36.0) - c for c in (17.2, 18.9, 16.6))
        square = x[:, None, None] ** 2 + y[:, None] ** 2 + z**2
        blob = torch.exp(-square / (2 * 3.0**2))[None, None].to(device)
        plan = plan_for(shape, acquired_mm, alignment)
        sigma = blur.acquisition_sigma(torch.ones(1, 1, 3), torch.tensor([[acquired_mm]]).float())
        out = acquisition.acquire_slices(blob, plan, sigma, shape, truncate=3)
        torch.testing.assert_close(centroid(out), centroid(blob), rtol=0, atol=0.05)

    def test_centred_slices_lie_symmetrically(self) -> None:
        plan = plan_for((1, 1, 14), (1, 1, 4), "centre")
        where = acquisition.slice_positions(plan, plan.low_shape[0, 0].tolist())[0, 0, 2]
        torch.testing.assert_close(where + where.flip(0), torch.full_like(where, 13.0))
        torch.testing.assert_close(where.diff(), torch.full((len(where) - 1,), 14 / len(where)))

    def test_corner_slices_lie_at_whole_voxels_from_the_first_on(self) -> None:
        plan = plan_for((1, 1, 14), (1, 1, 4), "corner")
        where = acquisition.slice_positions(plan, plan.low_shape[0, 0].tolist())[0, 0, 2]
        assert where.tolist() == [0, 5, 9]

    @pytest.mark.parametrize("alignment", ["centre", "corner"])
    def test_linear_images_stay_between_the_slices(self, alignment: str, ramp: Tensor) -> None:
        plan = plan_for(SHAPE, (2, 1, 2), alignment)
        sigma = torch.full((1, 1, 3), 0.8)
        out = acquisition.acquire_slices(ramp, plan, sigma, SHAPE, truncate=2)
        torch.testing.assert_close(interior(out, 3), interior(ramp, 3), rtol=0, atol=1e-4)

    def test_a_step_at_low_resolution_sees_the_slices(self, volume: Tensor) -> None:
        spacing = torch.tensor([[[1.0, 1, 2], [2, 1, 1], [1, 5, 1]], [[3.0, 1, 1]] * 3])
        plan = acquisition.plan_slices(SHAPE, torch.ones(2, 3, 3), spacing)
        sigma, seen = torch.full((2, 3, 3), 0.5), []

        def look(slices: Tensor) -> Tensor:
            seen.append(tuple(slices.shape[2:]))
            return slices

        ours = acquisition.acquire_slices(volume, plan, sigma, SHAPE, at_low_resolution=look)
        expected = acquisition.acquire_slices(volume, plan, sigma, SHAPE)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
        assert seen == [tuple(plan.low_shape.amax((0, 1)).tolist())]

    @pytest.mark.parametrize("alignment", acquisition.ALIGNMENTS)
    def test_elements_do_not_depend_on_their_neighbours(
        self, alignment: str, volume: Tensor
    ) -> None:
        spacing = torch.tensor([[[1.0, 1, 2], [2, 1, 1], [1, 5, 1]], [[3.0, 1, 1]] * 3])
        sigma = torch.full((2, 3, 3), 0.7)
        one = torch.ones(2, 3, 3)
        plan = acquisition.plan_slices(SHAPE, one, spacing, alignment)
        together = acquisition.acquire_slices(volume, plan, sigma, SHAPE)
        for b in range(2):
            own = acquisition.plan_slices(SHAPE, one[b : b + 1], spacing[b : b + 1], alignment)
            alone = acquisition.acquire_slices(volume[b : b + 1], own, sigma[b : b + 1], SHAPE)
            torch.testing.assert_close(alone, together[b : b + 1], rtol=0, atol=1e-5)

    @pytest.mark.parametrize("alignment", ["centre", "corner"])
    @pytest.mark.parametrize("acquired_mm", [(1, 1, 4), (3, 2.5, 1), (5, 4, 3.3)])
    def test_reliability_counts_the_slices(
        self, alignment: str, acquired_mm: tuple[float, float, float]
    ) -> None:
        plan = plan_for(SHAPE, acquired_mm, alignment)
        made = reliability.reliability_map(plan, SHAPE)
        assert made.sum().item() == pytest.approx(plan.low_shape.prod().item(), rel=1e-5)
        assert made.min() >= 0
        assert made.max() <= 1 + 1e-6

    def test_centred_reliability_is_symmetric_and_corner_starts_at_the_first_voxel(self) -> None:
        for acquired_mm in ((1, 1, 4), (3, 2.5, 1), (5, 4, 3.3)):
            centred = reliability.reliability_map(plan_for(SHAPE, acquired_mm, "centre"), SHAPE)
            torch.testing.assert_close(centred, centred.flip(2, 3, 4), rtol=0, atol=1e-5)
            corner = reliability.reliability_map(plan_for(SHAPE, acquired_mm, "corner"), SHAPE)
            assert corner[0, 0, 0, 0, 0] == 1

    @pytest.mark.parametrize("alignment", acquisition.ALIGNMENTS)
    def test_everything_is_reliable_if_every_voxel_is_a_slice(self, alignment: str) -> None:
        plan = plan_for(SHAPE, (1, 1, 1), alignment)
        assert torch.equal(reliability.reliability_map(plan, SHAPE), torch.ones(1, 1, *SHAPE))

    @pytest.mark.parametrize(("alignment", "first"), [("centre", 1), ("corner", 0)])
    def test_distance_is_zero_on_a_sample_and_right_beside_it(
        self, alignment: str, first: int
    ) -> None:
        spacing = torch.tensor([[[1.0, 1.0, 3.0]]])
        plan = plan_for((4, 4, 12), (1, 1, 3), alignment)
        made = reliability.distance_map(plan, (4, 4, 12), spacing)
        assert made[..., first::3].abs().max() < 1e-5
        beside = made[..., first + 1 :: 3]
        torch.testing.assert_close(beside, torch.ones_like(beside), rtol=0, atol=1e-5)

    def test_samples_of_the_two_maps_agree(self) -> None:
        plan = plan_for((6, 4, 15), (2, 1, 5), "corner")
        where = reliability.reliability_map(plan, (6, 4, 15)) > 0.999
        distance = reliability.distance_map(plan, (6, 4, 15), torch.tensor([[[2.0, 1.0, 5.0]]]))
        assert bool((distance[where] < 1e-4).all())
        assert bool((distance[~where] > 0.5).all())

    def test_modes_of_a_random_resolution(self) -> None:
        low, iso, aniso = torch.ones(4, 3), torch.full((4, 3), 3.0), torch.full((4, 3), 7.0)
        drawn = acquisition.random_resolution(
            low,
            isotropic_mm=iso,
            anisotropic_mm=aniso,
            axis=torch.tensor([0, 2, 1, 1]),
            choose_isotropic=torch.tensor([False, False, True, False]),
            choose_minimum=torch.tensor([False, False, False, True]),
        )
        assert drawn.tolist() == [[7, 1, 1], [1, 1, 7], [3, 3, 3], [1, 1, 1]]

    def test_impossible_plans_are_refused(self) -> None:
        one = torch.ones(1, 1, 3)
        with pytest.raises(ValueError, match="must be positive"):
            acquisition.plan_slices(SHAPE, one, 0 * one)


@pytest.mark.parametrize(
    "function",
    [
        lambda v: blur.gaussian_blur(v, torch.ones(1, 1, 3)),
        lambda v: warp.sample_grid(v, torch.zeros(1, 1, 1, 1, 3)),
        lambda v: operators.apply_separable(v, [None, None, None]),
    ],
)
def test_a_volume_without_batch_dimension_gets_advice(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"must have shape \(B, C, X, Y, Z\), got \(4, 4, 4\)"):
        function(torch.zeros(4, 4, 4))
