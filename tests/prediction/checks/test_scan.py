"""Promises of the way to a network and back: grids, world positions, intensities, warnings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
import torchio
from helpers import (
    SHARED_DATA,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from synthsr_net.models.checkpoint import InputConfig, ModelConfig, ScanConfig
from synthsr_net.networks.unet import UNetConfig
from synthsr_net.prediction.space.postprocess import Prediction, from_network_space, pass_finisher
from synthsr_net.prediction.space.preprocess import ScanSpace, scan_config, to_network_space
from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.grids import Volume, affine_difference, reorient, same_grid
from synthsr_transforms.io.scans import Scan, read_scan
from synthsr_transforms.io.volumes import write_volume
from synthsr_transforms.support.messages import SynthSRError

REAL_SCANS = SHARED_DATA / "real"
needs_shared_data = pytest.mark.skipif(
    not REAL_SCANS.is_dir(), reason=f"real scans are not in {REAL_SCANS}"
)


def model(inputs: list[InputConfig] | None = None, out: int = 1, **scan: Any) -> ModelConfig:
    inputs = inputs or [InputConfig()]
    channels = sum(1 + image.reliability_map for image in inputs)
    network = UNetConfig(in_channels=channels, out_channels=out)
    return ModelConfig(network=network, inputs=inputs, scan=ScanConfig(**scan), spread=out == 2)


# Output of these is what went in, 100 times as large, without clipping or rounding
SAME = model(output_scale=100.0, output_range=None)
T1, T2 = InputConfig(name="T1", maximum=3.0), InputConfig(name="T2", maximum=2.0)
TWO = model([T1, T2], residual_input=0, output_range=None, flip=False)


def affine_of(
    spacing: Any = (1.0, 1.0, 1.0),
    degrees: Any = (0, 0, 0),
    codes: str = "RAS",
    at: Any = (0, 0, 0),
) -> np.ndarray:
    """Affine with given spacing, rotation and axes, whose voxel 0 is at `at`."""
    axes = np.zeros((3, 3))
    for column, code in enumerate(codes):
        positive = code in "RAS"
        axes["RAS".index(code) if positive else "LPI".index(code), column] = 1 if positive else -1
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ axes
    affine[:3, :3] *= np.asarray(spacing, dtype=float)
    affine[:3, 3] = at
    return affine


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(10, 200, shape).astype(np.float32)


def same(
    scan: Scan, config: ModelConfig = SAME, grid: str = "1mm", **options: Any
) -> tuple[torch.Tensor, ScanSpace, Prediction]:
    """Prediction of a network that gives back its input."""
    x, space = to_network_space([scan], config, **options)
    return x, space, from_network_space(x[:1].clone(), space, config, grid=grid)


def world(affine: np.ndarray, index: Any) -> np.ndarray:
    return affine[:3, :3] @ np.asarray(index, dtype=float) + affine[:3, 3]


def voxel(affine: np.ndarray, point: Any) -> np.ndarray:
    return world(np.linalg.inv(affine), point)


def blob(shape: tuple[int, ...], affine: np.ndarray, centre: np.ndarray, mm: float) -> np.ndarray:
    """A Gaussian of width `mm` around a point in the world."""
    points = np.einsum("ij,j...->i...", affine[:3, :3], np.indices(shape).astype(float))
    distance = ((points + (affine[:3, 3] - centre)[:, None, None, None]) ** 2).sum(0)
    return np.exp(-0.5 * distance / mm**2).astype(np.float32)


def centre_of_mass(volume: Volume) -> np.ndarray:
    weights = volume.data.astype(float) - volume.data.min()
    return world(volume.affine, ndimage.center_of_mass(weights))


scans = st.builds(
    lambda shape, spacing, degrees, codes, at: (shape, affine_of(spacing, degrees, codes, at)),
    st.tuples(*[st.integers(1, 24)] * 3).filter(lambda shape: max(shape) > 1),
    st.tuples(*[st.floats(0.4, 6)] * 3),
    st.tuples(*[st.floats(-180, 180)] * 3),
    st.sampled_from(["RAS", "LPS", "LIA", "PSR", "SPL", "ASL"]),
    st.tuples(*[st.floats(-100, 100)] * 3),
)


class TestAnyScan:
    @given(scans, st.sampled_from(["1mm", "input"]), st.booleans(), st.booleans())
    @settings(max_examples=40)
    def test_comes_back_finite_on_a_1_mm_grid_that_covers_it(
        self, scan: Any, grid: str, padded: bool, sharpen: bool
    ):
        shape, affine = scan
        config = model(normalise_after_padding=padded, clip_each_pass=padded, sharpen=sharpen)
        x, _, prediction = same(Scan(noise(shape), affine), config, grid)
        image = prediction.image
        assert np.isfinite(image.data).all()
        assert image.data.dtype == np.float32
        assert all(n % 32 == 0 for n in x.shape[1:])
        assert x.min() >= 0
        assert x.max() <= 1
        if grid == "input":
            assert image.data.shape == shape
            np.testing.assert_array_equal(image.affine, affine)
            return
        np.testing.assert_allclose(np.linalg.norm(image.affine[:3, :3], axis=0), 1, atol=1e-9)
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1)
        index = np.array([voxel(image.affine, world(affine, c)) for c in corners.T])
        assert (index >= -0.5 - 1e-3).all()
        assert (index <= np.array(image.data.shape) - 0.5 + 1e-3).all()

    @given(scans, st.floats(0, 35))
    @settings(max_examples=25)
    def test_sheared_too(self, scan: Any, degrees: float):
        shape, affine = scan
        affine = affine.copy()
        length = np.linalg.norm(affine[:3, 1]) / np.linalg.norm(affine[:3, 0])
        affine[:3, 1] += np.tan(np.deg2rad(degrees)) * length * affine[:3, 0]
        _, _, prediction = same(Scan(noise(shape), affine))
        axes = prediction.image.affine[:3, :3]
        assert np.isfinite(prediction.image.data).all()
        np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=2e-4)
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1)
        for corner in corners.T:
            index = voxel(prediction.image.affine, world(affine, corner))
            assert (index >= -0.5 - 1e-3).all()
            assert (index <= np.array(prediction.image.data.shape) - 0.5 + 1e-3).all()

    @given(
        st.tuples(*[st.floats(0.5, 4)] * 3),
        st.tuples(*[st.floats(-180, 180)] * 3),
        st.sampled_from(["RAS", "LIA", "PSR", "SPL"]),
        st.sampled_from([0.0, 15.0, -25.0]),
        st.sampled_from(["1mm", "input"]),
    )
    @settings(max_examples=25)
    def test_points_keep_their_place_in_the_world(
        self, spacing: Any, degrees: Any, codes: str, tilt: float, grid: str
    ):
        affine = affine_of(spacing, degrees, codes, (-20, 30, 10))
        affine[:3, 2] += np.tan(np.deg2rad(tilt)) * affine[:3, 1] * spacing[2] / spacing[1]
        shape = tuple(max(8, int(40 / s)) for s in spacing)
        centre = world(affine, [0.5 * n + 0.3 for n in shape])
        scan = Scan(blob(shape, affine, centre, mm=4.0), affine)
        _, _, prediction = same(scan, grid=grid)
        np.testing.assert_allclose(centre_of_mass(prediction.image), centre, atol=0.2)

    @pytest.mark.parametrize("legacy", ["v1", "v2"])
    @given(scan=scans)
    @settings(max_examples=10)
    def test_legacy_too(self, legacy: str, scan: Any):
        shape, affine = scan
        _, _, prediction = same(Scan(noise(shape), affine), legacy=legacy)
        assert np.isfinite(prediction.image.data).all()
        np.testing.assert_allclose(
            np.linalg.norm(prediction.image.affine[:3, :3], axis=0), 1, atol=1e-9
        )


def sheared(by: float, *, axes: tuple[int, int] = (1, 2), **options: Any) -> np.ndarray:
    """Affine whose axes are off a right angle by so much."""
    affine = affine_of(**options)
    own, other = axes
    unit = affine[:3, other] / np.linalg.norm(affine[:3, other])
    affine[:3, own] += np.tan(np.deg2rad(by)) * np.linalg.norm(affine[:3, own]) * unit
    return affine


HALF_TURN = affine_of((1, 1, 2), (179.97, 0.02, 0.01), at=(-20, -30, 15))
GEOMETRIES = {
    "aligned": affine_of((1, 1, 2)),
    "oblique": affine_of((1, 1, 2), (12, 0, 0), "LAS"),
    "doubly oblique": affine_of((1, 1, 1), (20, -17, 31), "LIA", (60, -40, 30)),
    "at 45 degrees": affine_of((1, 1, 3), (45, 45, 0)),
    "left-handed": affine_of((1.2, 1, 1), (3, 2, 1), "LAS"),
    "flipped": affine_of((1, 1, 1.5), codes="RPI"),
    "turned by half": HALF_TURN,
    "anisotropic": affine_of((0.6, 0.6, 7), (12, 3, -4), "ASR", (-15, 3, 9)),
    "sheared by rounding": sheared(1e-3, degrees=(5, 6, 7)),
    "sheared by 0.011": sheared(0.011, spacing=(1, 1.2, 2), degrees=(5, 6, 7)),
    "sheared by 0.1": sheared(0.1, spacing=(1, 1.2, 2), degrees=(5, 6, 7), codes="LPS"),
    "sheared by 0.3": sheared(0.3, spacing=(2, 2, 2), degrees=(6, 3, 9)),
    "sheared by 0.499": sheared(0.499, axes=(0, 1), codes="PSR", degrees=(30, 0, 10)),
    "sheared by 0.5": sheared(0.5, axes=(2, 0), at=(-30, 40, 500)),
    "gantry of 10": sheared(10, spacing=(0.9, 0.9, 4), codes="LPS"),
    "gantry of 20": sheared(-20, spacing=(0.9, 0.9, 4), degrees=(0, 0, 3)),
    "as float32": affine_of((0.9, 1.1, 1.3), (11, 22, 33)).astype(np.float32).astype(float),
    "tiny origin": affine_of((1, 1, 2), (1, 2, 3), at=(1e-7, -1e-6, 1e-9)),
    "huge origin": affine_of((1, 1, 2), (1, 2, 3), at=(9000, -12345.678, 20000)),
}


def of_itk(path: Path) -> Volume:
    """What SimpleITK reads, with its affine in the directions of NIfTI."""
    image = SimpleITK.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    data = SimpleITK.GetArrayFromImage(image).T
    return Volume(data, np.diag([-1.0, -1, 1, 1]) @ affine)


def of_torchio(path: Path) -> Volume:
    image = torchio.ScalarImage(path)
    return Volume(image.data[0].numpy(), np.asarray(image.affine.data))


def of_nibabel(path: Path) -> Volume:
    image = nib.load(path)
    return Volume(np.asarray(image.dataobj), image.affine)


class TestEveryReader:
    @pytest.mark.parametrize("grid", ["1mm", "input"])
    @pytest.mark.parametrize("affine", GEOMETRIES.values(), ids=GEOMETRIES)
    def test_sees_a_prediction_at_one_place(self, affine, grid, tmp_path):
        shape = tuple((36 / np.linalg.norm(affine[:3, :3], axis=0)).astype(int))
        centre = world(affine, [0.5 * n + 0.3 for n in shape])
        scan = Scan(blob(shape, affine, centre, mm=4.0), affine)
        image = same(scan, grid=grid)[2].image
        nifti, mgz = tmp_path / "p.nii", tmp_path / "p.mgz"
        for path in (nifti, mgz):
            write_volume(path, image)
        seen = [of_nibabel(mgz), of_nibabel(nifti), of_torchio(nifti), of_itk(nifti)]
        for each in seen:
            assert same_grid(Volume(each.data, each.affine), image)
            np.testing.assert_allclose(centre_of_mass(each), centre, atol=0.15)
        header = nib.load(nifti).header
        assert header["sform_code"] == header["qform_code"] == 1
        assert affine_difference(header.get_qform(), image.affine, image.data.shape)[0] < 0.05

    def test_the_grid_of_a_scan_is_kept_unless_it_is_sheared(self):
        for name, affine in GEOMETRIES.items():
            scan = Scan(noise((9, 10, 11)), affine)
            prediction = same(scan, grid="input")[2]
            doubts = [text for text in prediction.warnings if "upright" in text]
            assert bool(doubts) == ("sheared by 0" in name or "gantry" in name), name
            if not doubts:
                assert same_grid(prediction.image, scan.volume)
            elif (
                "gantry" not in name and "0.5" not in name
            ):  # at most half a degree around one centre
                assert same_grid(prediction.image, scan.volume, tolerance_mm=0.1)


class TestSameNetwork:
    def test_gives_a_1_mm_scan_back_but_for_the_slight_blur(self):
        data = noise((20, 24, 18))
        scan = Scan(data, affine_of(at=(-10, -12, -9)))
        _, _, prediction = same(scan)
        blurred = ndimage.gaussian_filter(data.astype(float), 0.25)
        expected = 100 * (blurred - blurred.min()) / np.ptp(blurred)
        np.testing.assert_allclose(prediction.image.data, expected, atol=1e-4)
        np.testing.assert_array_equal(prediction.image.affine, scan.affine)

    def test_on_the_grid_of_a_1_mm_scan_both_grids_are_one(self):
        scan = Scan(noise((20, 24, 18)), affine_of(codes="PSR", degrees=(4, 5, 6)))
        ours = [same(scan, grid=grid)[2].image for grid in ("1mm", "input")]
        np.testing.assert_allclose(ours[0].data, ours[1].data, atol=1e-4)
        np.testing.assert_allclose(ours[0].affine, ours[1].affine, atol=1e-12)

    @pytest.mark.parametrize("tilt", [0.0, 0.4])
    def test_grid_of_the_input_is_read_linearly(self, tilt: float):
        affine = affine_of((0.7, 1.6, 2.5), (10, -5, 3), "LIA")
        affine[:3, 1] += tilt * affine[:3, 2]
        scan = Scan(noise((22, 17, 9)), affine)
        fine, coarse = (same(scan, grid=grid)[2].image for grid in ("1mm", "input"))
        assert tilt or np.array_equal(coarse.affine, affine)
        assert tilt or coarse.data.shape == scan.data.shape
        matrix = np.linalg.inv(fine.affine) @ coarse.affine
        index = np.indices(coarse.data.shape).reshape(3, -1)
        where = matrix[:3, :3] @ index + matrix[:3, 3:]
        expected = ndimage.map_coordinates(fine.data, where, order=1, mode="nearest")
        np.testing.assert_allclose(coarse.data.ravel(), expected, atol=2e-3)

    def test_tilted_slices_are_read_at_their_world_points(self):
        affine = affine_of((2.0, 2.0, 3.0), (0, 0, 5), "LPS", (30, 30, -20))
        affine[:3, 1] += 0.35 * affine[:3, 2]
        smooth = ndimage.gaussian_filter(noise((20, 22, 14)), 2).astype(np.float32)
        scan = Scan(smooth, affine)
        _, space, prediction = same(scan)
        index = np.indices(prediction.image.data.shape).reshape(3, -1)
        matrix = np.linalg.inv(affine) @ prediction.image.affine
        where = matrix[:3, :3] @ index + matrix[:3, 3:]
        expected = ndimage.map_coordinates(smooth, where, order=1, mode="nearest")
        inside = ((where >= 0) & (where <= np.array(smooth.shape)[:, None] - 1)).all(axis=0)
        lowest, unit = space.rescalings[0].lowest, space.rescalings[0].unit
        ours = lowest + unit / 100 * prediction.image.data.ravel()
        np.testing.assert_allclose(ours[inside], expected[inside], atol=1e-3)
        assert 0.2 < inside.mean() < 0.9

    def test_legacy_keeps_sheared_grids(self):
        affine = affine_of((2.0, 2.0, 2.0))
        affine[0, 1] = 1.0
        _, _, prediction = same(Scan(noise((12, 13, 14)), affine), legacy="v2")
        units = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        np.testing.assert_allclose(prediction.image.affine[:3, :3], units, atol=1e-12)

    @pytest.mark.parametrize("legacy", [None, "v1", "v2"])
    def test_grid_follows_the_axes_of_the_scan_except_for_v1(self, legacy: str | None):
        affine = affine_of((1.5, 1.5, 4.0), (3, -4, 8), "PSR")
        _, space, prediction = same(Scan(noise((12, 13, 6)), affine), legacy=legacy)
        image = prediction.image
        expected = np.eye(3) if legacy == "v1" else affine[:3, :3]
        cosines = (expected * image.affine[:3, :3]).sum(0)
        assert (cosines > 0.8).all()
        assert space.legacy == legacy

    def test_the_six_orientations_of_one_scan_are_one(self):
        original = Volume(noise((24, 30, 26)), affine_of((1.3, 0.8, 2.0), at=(-20, -15, -25)))
        reference, _, first = same(Scan(*original))
        for codes in ("LAS", "LIA", "PSR", "SPL", "ASL"):
            turned = reorient(original, affine_of(codes=codes))
            x, _, prediction = same(Scan(*turned))
            torch.testing.assert_close(x, reference)
            back = reorient(prediction.image, first.image.affine)
            np.testing.assert_allclose(back.data, first.image.data, atol=1e-3)
            np.testing.assert_allclose(back.affine, first.image.affine, atol=1e-9)

    def test_so_are_those_of_a_tilted_scan(self):
        affine = affine_of((1.3, 0.8, 2.0), at=(-20, -15, -25))
        affine[:3, 1] += 0.1 * affine[:3, 2]
        original = Volume(noise((24, 30, 26)), affine)
        reference, _, first = same(Scan(*original))
        for codes in ("LIA", "PSR"):
            x, _, prediction = same(Scan(*reorient(original, affine_of(codes=codes))))
            torch.testing.assert_close(x, reference, atol=1e-4, rtol=0)
            back = reorient(prediction.image, first.image.affine)
            np.testing.assert_allclose(back.data, first.image.data, atol=1e-2)


class TestNormalisation:
    def test_v1_pads_after_and_v2_before(self):
        scan = Scan(noise((20, 24, 18)), affine_of())
        for after in (False, True):
            x, space = to_network_space([scan], model(normalise_after_padding=after))
            inside = x[(0, *space.inside)]
            assert x[0, 0, 0, 0] == 0
            assert (inside.min() == 0) == (not after)
            assert inside.max() == 1

    def test_negative_intensities_raise_the_padding_of_v2(self):
        scan = Scan(noise((20, 24, 18)) - 100, affine_of())
        x, _ = to_network_space([scan], model(normalise_after_padding=True))
        assert x[0, 0, 0, 0] > 0.3

    def test_percentiles(self):
        data = noise((20, 24, 18))
        data[5, 5, 5] = 1e6
        config = model(normalisation="percentile", percentiles=(0.0, 99.0))
        x, _ = to_network_space([Scan(data, affine_of())], config)
        assert x.max() == 1
        assert x.mean() > 0.05

    @pytest.mark.parametrize("after", [False, True])
    def test_ct_is_clipped_to_soft_tissue(self, after: bool):
        data = np.repeat([-1000, 40, 80, 900], 2000).reshape(20, 20, 20).astype(np.float32)
        x, space = to_network_space(
            [Scan(data, affine_of())], model(normalise_after_padding=after), ct=True
        )
        values = x[(0, *space.inside)][[2, 7, 12, 17], 10, 10]
        np.testing.assert_allclose(values, [0, 0.5, 1, 1], atol=1e-5)

    def test_scan_is_left_alone(self):
        data = noise((20, 24, 18)) - 100
        scan = Scan(data.copy(), affine_of())
        to_network_space([scan], model(), ct=True)
        to_network_space([scan], model(normalise_after_padding=True), ct=True)
        np.testing.assert_array_equal(scan.data, data)

    def test_other_spacings_and_divisors(self):
        config = model(spacing_mm=2.0, divisor=8, output_range=None)
        x, _, prediction = same(Scan(noise((20, 24, 18)), affine_of()), config)
        assert tuple(x.shape) == (1, 16, 16, 16)
        np.testing.assert_allclose(np.diag(prediction.image.affine), [2, 2, 2, 1])

    @pytest.mark.parametrize("legacy", ["v1", "v2"])
    def test_legacy_pads_to_32_whatever_the_model_says(self, legacy: str):
        scan = Scan(noise((20, 33, 18)), affine_of())
        x, _ = to_network_space([scan], model(divisor=8), legacy=legacy)
        assert tuple(x.shape) == (1, 32, 64, 32)


class TestOutput:
    def space(self, config: ModelConfig, **options: Any) -> tuple[torch.Tensor, ScanSpace]:
        return to_network_space([Scan(noise((20, 24, 18)), affine_of())], config, **options)

    def test_v1_clips_the_mean_and_v2_each_pass(self):
        passes = [torch.full((1, 32, 32, 32), v) for v in (-0.5, 0.9)]
        results = []
        for each in (False, True):
            config = model(clip_each_pass=each)
            _, space = self.space(config)
            finish = pass_finisher(config, scan_config(config)) or (lambda output: output)
            mean = 0.5 * (finish(passes[0]) + finish(passes[1]))
            results.append(from_network_space(mean, space, config).image.data)
        np.testing.assert_allclose(results[0], 0.5 * (-0.5 + 0.9) * 255, rtol=1e-5)
        np.testing.assert_allclose(results[1], 0.5 * (0 + 128), rtol=1e-5)

    @pytest.mark.parametrize("each", [False, True])
    def test_sharpening_stays_in_the_range_but_for_legacy(self, each: bool):
        config = model(clip_each_pass=each, sharpen=True)
        output = torch.rand(1, 32, 32, 32)
        for legacy in (None, "v2"):
            _, space = self.space(config, legacy=legacy)
            finished = (pass_finisher(config, scan_config(config)) or (lambda o: o))(output)
            data = from_network_space(finished, space, config, sharpen=True).image.data
            plain = from_network_space(finished, space, config, sharpen=False).image.data
            assert plain.min() >= 0
            assert plain.max() <= 128
            assert (data.min() < 0) == (legacy == "v2")
            assert data.max() <= 128 or legacy == "v2"
            assert not np.array_equal(data, plain)

    def test_none_means_what_the_model_says(self):
        output = torch.rand(1, 32, 32, 32)
        for sharpen in (False, True):
            config = model(sharpen=sharpen)
            _, space = self.space(config)
            ours = [from_network_space(output, space, config, sharpen=s) for s in (None, sharpen)]
            np.testing.assert_array_equal(ours[0].image.data, ours[1].image.data)

    def test_output_is_not_changed(self):
        config = model(sharpen=True, clip_each_pass=True)
        _, space = self.space(config)
        output = torch.randn(1, 32, 32, 32)
        before = output.clone()
        finish = pass_finisher(config, scan_config(config))
        from_network_space(finish(output), space, config)
        from_network_space(output, space, config)
        assert torch.equal(output, before)

    def test_numbers_that_are_not_finite_become_the_minimum_and_are_told(self):
        config = model()
        _, space = self.space(config)
        output = torch.full((1, 32, 32, 32), 0.25)
        output[0, 16, 16, 16], output[0, 16, 16, 17] = torch.nan, torch.inf
        prediction = from_network_space(output, space, config)
        assert sorted(np.unique(prediction.image.data)) == pytest.approx([0, 63.75, 128])
        assert any("1 voxels of the prediction are NaN" in t for t in prediction.warnings)

    def test_spread_is_the_scale_of_a_laplace_law_in_grey_levels(self):
        config = model(out=2)
        _, space = self.space(config)
        output = torch.stack([torch.full((32,) * 3, 0.25), torch.full((32,) * 3, -1.5)])
        prediction = from_network_space(output, space, config)
        assert prediction.laplace_scale is not None
        np.testing.assert_allclose(prediction.image.data, 63.75)
        expected = 255 * (1e-5 + 0.02 * np.exp(-1.5))
        np.testing.assert_allclose(prediction.laplace_scale.data, expected, rtol=1e-5)
        np.testing.assert_array_equal(prediction.laplace_scale.affine, prediction.image.affine)
        output[1] = torch.nan
        output[1, 16:] = 1e4
        spread = from_network_space(output, space, config).laplace_scale
        assert spread is not None
        assert np.isfinite(spread.data).all()

    def test_finisher_leaves_log_spreads(self):
        config = model(out=2, clip_each_pass=True)
        finish = pass_finisher(config, scan_config(config))
        output = torch.full((2, 4, 4, 4), -3.0)
        finished = finish(output)
        assert finished[0].unique().tolist() == [0]
        assert finished[1].unique().tolist() == [-3]
        assert torch.equal(finish(output[None])[0], finished)

    def test_mistakes_are_told(self):
        config = model()
        _, space = self.space(config)
        output = torch.zeros(1, 32, 32, 32)
        with pytest.raises(ValueError, match="grid must be one of 1mm, input, got '2mm'"):
            from_network_space(output, space, config, grid="2mm")
        for wrong in (output[:, :16], torch.zeros(2, 32, 32, 32)):
            with pytest.raises(ValueError, match="output must have 1 channel"):
                from_network_space(wrong, space, config)
        many = ModelConfig(network=UNetConfig(out_channels=3))
        with pytest.raises(VolumeError, match="must predict one image"):
            from_network_space(torch.zeros(3, 32, 32, 32), space, many)
        with pytest.raises(ValueError, match="legacy must be one of v1, v2, got 'v3'"):
            scan_config(config, "v3")


class TestSeveralInputs:
    def pair(self, shift: float = 0.0, **second: Any) -> list[Scan]:
        t1 = Scan(noise((16, 18, 8)), affine_of((2, 2, 5), codes="LPS", at=(15, 17, -20)), "t1.nii")
        affine = affine_of(**{"spacing": (2, 2, 5), "at": (-15 + shift, -17, -20), **second})
        return [t1, Scan(noise((16, 18, 8), 1), affine, "t2.nii")]

    def test_the_first_decides_the_grid_and_the_second_is_read_on_it(self):
        scans = self.pair(degrees=(0, 0, 10))
        x, space = to_network_space(scans, TWO)
        shape, affine = space.aligned_grid
        index = np.indices(shape).reshape(3, -1)
        matrix = np.linalg.inv(scans[1].affine) @ affine
        where = matrix[:3, :3] @ index + matrix[:3, 3:]
        expected = ndimage.map_coordinates(scans[1].data, where, order=1, mode="nearest")
        last = np.array(scans[1].data.shape)[:, None] - 0.5
        expected[~((where >= -0.5) & (where <= last)).all(axis=0)] = 0
        expected = 2 * (expected - expected.min()) / np.ptp(expected)
        np.testing.assert_allclose(x[(1, *space.inside)].ravel(), expected, atol=1e-4)
        assert x[0].max() == pytest.approx(3)

    def test_output_is_added_to_the_first(self):
        scans = self.pair()
        x, space = to_network_space(scans, TWO)
        prediction = from_network_space(torch.zeros(1, *x.shape[1:]), space, TWO)
        _, _, alone = same(scans[0], model(output_range=None, output_scale=1.0))
        lowest, unit = space.rescalings[0].lowest, space.rescalings[0].unit
        expected = lowest + 3 * unit * alone.image.data
        np.testing.assert_allclose(prediction.image.data, expected, rtol=1e-4)
        darker = from_network_space(torch.full((1, *x.shape[1:]), -5.0), space, TWO)
        assert darker.image.data.min() == 0

    def test_freesurfer_adds_the_minimum_twice(self):
        scans = self.pair()
        results = []
        for legacy in ("v1", "v2"):
            x, space = to_network_space(scans, TWO, legacy=legacy)
            zero = torch.zeros(1, *x.shape[1:])
            results.append(reorient(from_network_space(zero, space, TWO).image).data)
            lowest = space.rescalings[0].lowest
        np.testing.assert_allclose(results[1] - results[0], lowest, rtol=1e-3)

    def test_scans_that_do_not_overlap_are_refused(self):
        with pytest.raises(VolumeError, match=r"t2\.nii must overlap with t1\.nii"):
            to_network_space(self.pair(shift=500), TWO)

    def test_partial_overlap_is_told(self):
        assert to_network_space(self.pair(), TWO)[1].warnings == ()
        (text,) = to_network_space(self.pair(shift=10), TWO)[1].warnings
        assert text.startswith("T2: t2.nii covers 69%")

    def test_their_number_must_be_that_of_the_inputs(self):
        with pytest.raises(SynthSRError, match=r"takes 2 scans \(T1, T2\), got 1"):
            to_network_space(self.pair()[:1], TWO)
        with pytest.raises(SynthSRError, match="got 2"):
            to_network_space(self.pair(), SAME)

    def test_warnings_name_the_input(self):
        first, second = self.pair()
        scans = [Scan(*first.volume, "a", ("odd.",)), Scan(*second.volume, "b", ("strange.",))]
        assert to_network_space(scans, TWO)[1].warnings == ("T1: odd.", "T2: strange.")

    def test_reliability_maps_follow_their_images(self):
        inputs = [InputConfig(name="a", reliability_map=True), InputConfig(name="b"), T2]
        inputs[2] = InputConfig(name="c", reliability_map=True)
        first, second = (Scan(s.data, s.affine @ np.diag([0.5, 0.5, 1, 1])) for s in self.pair())
        x, space = to_network_space([first, first, second], model(inputs))
        assert x.shape[0] == 5
        for channel in (1, 4):
            inside = x[(channel, *space.inside)]
            assert inside.min() == 0
            assert 0.8 < inside.max() <= 1
            assert 0 < inside.mean() < 0.3
        assert x[1].sum() == x[1][space.inside].sum()
        torch.testing.assert_close(x[0], x[2], atol=0.02, rtol=0)  # blurred slightly, or not


class TestDoubts:
    def test_warnings_of_the_scan_reach_the_prediction(self):
        scan = Scan(noise((10, 11, 12)), affine_of(), "a", ("odd.", "strange."))
        assert same(scan)[2].warnings == ("odd.", "strange.")

    def test_ct_without_and_mri_with_ct_are_told(self):
        air = np.where(noise((20, 20, 20)) > 100, -1000, 40).astype(np.float32)
        assert "add --ct" in same(Scan(air, affine_of()))[1].warnings[0]
        assert same(Scan(air, affine_of()), ct=True)[1].warnings == ()
        mri = Scan(5 * noise((20, 20, 20)), affine_of())
        assert "leave out --ct" in same(mri, ct=True)[1].warnings[0]

    @pytest.mark.parametrize("after", [False, True])
    def test_ct_that_shows_no_soft_tissue_is_refused(self, after: bool):
        scan = Scan(noise((32, 32, 32)) - 2000, affine_of(), "ct.nii")
        with pytest.raises(VolumeError, match=r"ct\.nii must show something within 0 and 80 HU"):
            to_network_space([scan], model(normalise_after_padding=after), ct=True)

    def test_a_scan_that_is_constant_after_resampling_is_told(self):
        data = np.full((1, 1, 1), 5, np.float32)
        _, space, prediction = same(Scan(data, affine_of((0.4, 0.4, 0.4))))
        assert "shows nothing" in space.warnings[0]
        assert np.isfinite(prediction.image.data).all()


@needs_shared_data
class TestRealScans:
    @pytest.mark.parametrize("codes", ["LIA", "SPL"])
    def test_other_orientations_are_one_scan(self, codes: str):
        folder = REAL_SCANS / "orientations"
        scans = [read_scan(folder / f"{name}.nii.gz") for name in ("RAS", codes)]
        (x, space, first), (y, other, second) = (same(scan) for scan in scans)
        assert x.shape == y.shape
        torch.testing.assert_close(x, y, atol=1e-4, rtol=0)
        np.testing.assert_allclose(space.aligned_grid[1], other.aligned_grid[1], atol=1e-4)
        back = reorient(second.image, first.image.affine)
        np.testing.assert_allclose(back.data, first.image.data, atol=0.01)
        np.testing.assert_allclose(back.affine, first.image.affine, atol=1e-4)

    def test_gantry_tilt_becomes_right_angles_and_points_stay(self):
        scan = read_scan(REAL_SCANS / "ct" / "head_ct_gantry_tilt.nii.gz")
        assert any("gantry tilt" in text for text in scan.warnings)
        _, space, prediction = same(scan, ct=True)
        axes = prediction.image.affine[:3, :3]
        np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
        clipped = scan.data.clip(0, 80)
        points = np.random.default_rng(0).uniform(2, np.array(scan.data.shape) - 3, (500, 3))
        theirs = ndimage.map_coordinates(
            ndimage.gaussian_filter(clipped, (0.52, 0.52, 0)), points.T, order=1
        )
        where = np.array([voxel(prediction.image.affine, world(scan.affine, p)) for p in points])
        ours = ndimage.map_coordinates(prediction.image.data, where.T, order=1)
        ours = space.rescalings[0].lowest + space.rescalings[0].unit / 100 * ours
        assert np.corrcoef(ours, theirs)[0, 1] > 0.97
        assert np.median(np.abs(ours - theirs)) < 0.5

    def test_a_scan_of_a_patient_keeps_its_place(self):
        scan = read_scan(REAL_SCANS / "ms_patient" / "T2W.nii.gz")
        assert scan.warnings == ()
        _, _, prediction = same(scan)
        np.testing.assert_allclose(
            centre_of_mass(prediction.image), centre_of_mass(scan.volume), atol=0.3
        )
        extent = np.array(scan.data.shape) * np.linalg.norm(scan.affine[:3, :3], axis=0)
        assert (np.abs(prediction.image.data.shape - extent) < 1).all()

    def test_two_contrasts_of_a_patient_are_brought_together(self):
        scans = [read_scan(REAL_SCANS / "ms_patient" / f"{n}.nii.gz") for n in ("T1W", "T2W")]
        x, space = to_network_space(scans, TWO)
        assert x.shape[0] == 2
        heads = [x[(c, *space.inside)] > 0.2 for c in (0, 1)]
        dice = 2 * (heads[0] & heads[1]).sum() / (heads[0].sum() + heads[1].sum())
        assert dice > 0.8
