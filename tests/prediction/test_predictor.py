"""Promises of the Python way to predict: one model, scans of any kind."""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import torchio as tio
from helpers import TINY_SCAN, tiny_model
from hypothesis import given, settings, strategies

from synthsr_net.inference.memory import Plan, plan_memory
from synthsr_net.models.checkpoint import InputConfig, Model, ScanConfig, save_model
from synthsr_net.networks.unet import UNet3d
from synthsr_net.prediction import inferer
from synthsr_net.prediction.predictor import Predictor
from synthsr_transforms.io.scans import read_scan

SHAPE, SPACING = (14, 12, 10), (8.0, 8.0, 10.0)


def make_model(scan: ScanConfig = TINY_SCAN, **fields: Any) -> Model:
    inputs = fields.pop("inputs", [InputConfig()])
    return tiny_model(len(inputs), inputs=inputs, scan=scan, **fields)


@pytest.fixture
def model() -> Model:
    return make_model()


@pytest.fixture
def image() -> nib.Nifti1Image:
    voxels = np.random.default_rng(1).random(SHAPE, np.float32)
    affine = np.diag([-SPACING[0], SPACING[1], SPACING[2], 1.0])
    affine[:3, 3] = 50, -40, 7
    return nib.Nifti1Image(voxels, affine)


@pytest.fixture
def save_image(tmp_path: Path, image: nib.Nifti1Image) -> Callable[[str], Path]:
    def save(name: str = "scan.nii.gz") -> Path:
        path = tmp_path / name
        if name.endswith(".npz"):
            np.savez(path, vol_data=image.get_fdata())
        else:
            nib.save(image, path)
        return path

    return save


def voxels_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


class TestKinds:
    def test_a_nibabel_image_gives_one_with_both_forms_and_the_unit(self, model, image):
        result = Predictor(model)(image)
        assert isinstance(result, nib.Nifti1Image)
        assert result.get_data_dtype() == np.float32
        assert result.get_sform(coded=True)[1] == result.get_qform(coded=True)[1] == 1
        np.testing.assert_allclose(result.get_qform(), result.affine, atol=1e-4)
        assert result.header.get_xyzt_units()[0] == "mm"
        np.testing.assert_allclose(nib.affines.voxel_sizes(result.affine), 8.0)

    def test_a_torchio_image_gives_one(self, model, image):
        given = tio.ScalarImage(torch.as_tensor(image.get_fdata())[None], affine=image.affine)
        result = Predictor(model)(given)
        assert isinstance(result, tio.ScalarImage)
        assert result.data.dtype == torch.float32
        expected = Predictor(model)(image)
        np.testing.assert_allclose(result.data[0], expected.get_fdata(), atol=1e-4)
        matrix = np.asarray(result.affine.data)
        np.testing.assert_allclose(matrix, expected.affine, atol=1e-5)

    def test_a_path_gives_the_path_of_a_file_beside_it(self, model, save_image):
        path = save_image("scan.NII.GZ")
        result = Predictor(model)(path)
        assert result == path.with_name("scan_synthsr.nii.gz")
        expected = Predictor(model)(nib.load(path))
        np.testing.assert_allclose(voxels_of(result), expected.get_fdata(), atol=1e-4)
        np.testing.assert_allclose(nib.load(result).affine, expected.affine, atol=1e-4)

    @pytest.mark.parametrize("name", ["a.nii", "b.mgz", "new/folder/c.nii.gz"])
    def test_a_path_can_be_given_to_write_to(self, model, save_image, tmp_path, name):
        result = Predictor(model)(str(save_image()), tmp_path / name)
        assert result == tmp_path / name
        assert voxels_of(result).dtype.kind == "f"
        assert voxels_of(result).dtype.itemsize == 4
        assert {p.name[0] for p in result.parent.iterdir()} != {"."}

    def test_arrays_stay_arrays(self, model, save_image):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            result = Predictor(model, force=True)(save_image("scan.npz"))
        assert any("no affine in .npz files" in str(warning.message) for warning in told)
        assert result.name == "scan_synthsr.npz"
        assert np.load(result)["vol_data"].dtype == np.float32

    def test_the_scan_is_never_overwritten(self, model, save_image):
        path = save_image()
        before = path.read_bytes()
        with pytest.raises(ValueError, match="another file than the input"):
            Predictor(model)(path, path)
        assert path.read_bytes() == before

    def test_an_output_of_another_kind_is_refused_before_the_work(self, model, save_image):
        with pytest.raises(ValueError, match=r"must be a folder, or a file ending in"):
            Predictor(model)(save_image(), "prediction.nrrd")

    def test_a_folder_is_refused_with_advice(self, model, save_image):
        with pytest.raises(ValueError, match="must be one file, got the folder"):
            Predictor(model)(save_image().parent)

    def test_output_belongs_to_paths(self, model, image):
        with pytest.raises(ValueError, match="output goes with scans given by path"):
            Predictor(model)(image, "a.nii")

    def test_what_is_doubtful_becomes_a_warning(self, model, image):
        small = nib.Nifti1Image(image.get_fdata(), image.affine @ np.diag([0.2, 0.2, 0.2, 1.0]))
        with pytest.warns(UserWarning, match="field of view|an object of"):
            Predictor(model, force=True)(small)


class TestModels:
    def test_a_file_gives_the_same_as_the_model(self, model, image, tmp_path):
        path = tmp_path / "tiny.safetensors"
        save_model(path, model.config, model.network.state_dict())
        predictor = Predictor.from_file(path, device="cpu")
        assert torch.equal(
            torch.as_tensor(predictor(image).get_fdata()),
            torch.as_tensor(Predictor(model, device="cpu")(image).get_fdata()),
        )
        assert predictor.record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()

    def test_wrong_settings_are_told_before_the_model_is_read(self, tmp_path):
        with pytest.raises(ValueError, match="grid must be one of 1mm, input, got '2mm'"):
            Predictor.from_file(tmp_path / "absent.safetensors", grid="2mm")

    def test_several_inputs_are_given_as_a_list(self, image):
        names = [InputConfig(name="T1"), InputConfig(name="T2")]
        predictor = Predictor(make_model(inputs=names))
        assert predictor([image, image]).shape == predictor([image, image]).shape
        with pytest.raises(ValueError, match=r"takes 2 scans \(T1, T2\), got 1.* --with T2=FILE"):
            predictor(image)

    def test_a_spread_comes_with_the_prediction(self, save_image):
        prediction = Predictor(make_model(spread=True)).predict([read_scan(save_image())])
        assert prediction.laplace_scale is not None
        assert prediction.laplace_scale.data.shape == prediction.image.data.shape
        assert float(prediction.laplace_scale.data.min()) > 0

    @pytest.mark.parametrize("flip", [False, True])
    def test_a_second_head_leaves_predictions_as_they_are(self, save_image, flip):
        scans = [read_scan(save_image())]
        scan = replace(TINY_SCAN, data_consistency=True, inverse_contrast=True, flip=flip)
        plain = make_model(scan)
        config = replace(plain.config.network, out_channels=2, scale_features=3)
        torch.manual_seed(1)
        network = UNet3d(config).eval().requires_grad_(False)
        network.load_state_dict(plain.network.state_dict(), strict=False)
        torch.nn.init.normal_(network.scales[1].weight)
        model = Model(replace(plain.config, network=config, spread=True), network)
        prediction = Predictor(model, device="cpu").predict(scans)
        expected = Predictor(plain, device="cpu").predict(scans)
        np.testing.assert_array_equal(prediction.image.data, expected.image.data)
        assert prediction.laplace_scale is not None
        assert np.isfinite(prediction.laplace_scale.data).all()
        assert prediction.laplace_scale.data.std() > 0
        assert expected.laplace_scale is None
        without = Predictor(model, device="cpu", uncertainty=False).predict(scans)
        np.testing.assert_array_equal(without.image.data, expected.image.data)
        assert without.laplace_scale is None

    def test_weights_have_a_checksum_where_there_is_no_file(self, model):
        first = Predictor(model).record.sha256
        assert first == Predictor(make_model()).record.sha256
        model.network.head.bias.fill_(0.3)
        assert first != Predictor(model).record.sha256


class TestSettings:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"precision": "fp16"}, "precision must be one of fp32, tf32, bf16, auto, got 'fp16'"),
            ({"legacy": "v3"}, "legacy must be one of v1, v2, got 'v3'"),
            ({"legacy": "v1", "grid": "input"}, "grid must be 1mm with legacy v1"),
            ({"max_memory": "much"}, "memory must be a number and a unit"),
            ({"device": "gpu"}, "device must be one of"),
        ],
    )
    def test_wrong_ones_are_named(self, model, options, message):
        with pytest.raises(ValueError, match=message):
            Predictor(model, **options)

    def test_unknown_ones_are_refused(self, model):
        with pytest.raises(TypeError, match="flp"):
            Predictor(model, flp=True)

    def test_the_model_says_what_is_not_set(self, image):
        scan = ScanConfig(spacing_mm=8.0, divisor=4, flip=False, sharpen=True)
        model = make_model(scan)
        usual, same, other = (
            Predictor(model, **options)(image).get_fdata()
            for options in ({}, {"flip": False, "sharpen": True}, {"flip": True})
        )
        assert np.array_equal(usual, same)
        assert not np.array_equal(usual, other)

    def test_legacy_decides_what_the_model_would(self, model):
        assert Predictor(model, legacy="v2").sharpen
        assert not Predictor(model, legacy="v1").sharpen
        assert not Predictor(model, legacy="v2", sharpen=False).sharpen

    def test_flip_averaging_makes_mirrored_scans_alike(self, model, image):
        affine = image.affine.copy()
        affine[:3, 0] *= -1
        affine[:3, 3] += (SHAPE[0] - 1) * image.affine[:3, 0]
        mirrored = nib.Nifti1Image(np.asarray(image.dataobj), affine)
        results = [Predictor(model, flip=True)(scan).get_fdata() for scan in (image, mirrored)]
        np.testing.assert_allclose(*results, atol=1e-3)

    def test_the_grid_of_the_input(self, model, image):
        result = Predictor(model, grid="input")(image)
        assert result.shape == image.shape
        np.testing.assert_allclose(result.affine, image.affine, atol=1e-5)

    def test_bf16_is_close_to_fp32(self, model, image):
        fp32, bf16 = (
            Predictor(model, precision=name)(image).get_fdata() for name in ("fp32", "bf16")
        )
        assert 0 < np.abs(fp32 - bf16).mean() < 0.3

    def test_auto_is_a_precision(self, model):
        assert Predictor(model, precision="auto").precision in ("fp32", "tf32", "bf16")

    def test_windows_for_lack_of_memory_are_told(self, model, image, monkeypatch):
        def little_memory(*args: Any, **kwargs: Any) -> Plan:
            return plan_memory(*args, **{**kwargs, "window": 64})

        asked_for = Predictor(model, window=64)(image)  # needs no warning
        monkeypatch.setattr(inferer, "plan_memory", little_memory)
        with pytest.warns(UserWarning, match="predicted in windows of .* for lack of memory"):
            windowed = Predictor(model)(image)
        assert np.array_equal(windowed.get_fdata(), asked_for.get_fdata())

    def test_too_little_memory_is_an_error_with_figures(self, model, image):
        with pytest.raises(ValueError, match="even in a sliding window, but only"):
            Predictor(model, max_memory="10kB")(image)

    def test_a_lesion_is_kept(self, model, save_image, monkeypatch):
        seen = []

        def keep(prediction: Any, scan: Any, mask: Any) -> Any:
            seen.append((scan, mask))
            return prediction._replace(data=prediction.data + 1), ["odd."]

        monkeypatch.setattr("synthsr_net.prediction.refinement.lesions.keep_lesion", keep)
        scan = read_scan(save_image())
        predictor = Predictor(model)
        mask = scan.volume
        with_mask = predictor.predict([scan], lesion_mask=mask)
        np.testing.assert_allclose(
            with_mask.image.data, predictor.predict([scan]).image.data + 1, atol=1e-4
        )
        assert seen == [(scan, mask)]
        assert with_mask.warnings[-1] == "odd."


class TestLegacy:
    def test_the_header_is_that_of_the_original(self, model, save_image, tmp_path):
        result = nib.load(Predictor(model, legacy="v1")(save_image(), tmp_path / "a.nii"))
        assert result.get_data_dtype() == np.float32
        assert result.get_sform(coded=True)[1] == 2
        assert result.get_qform(coded=True)[1] == 0
        assert nib.aff2axcodes(result.affine) == ("R", "A", "S")

    def test_a_sheared_affine_goes_into_the_sform_alone(self, model):
        affine = np.eye(4)
        affine[1, 2] = 0.4
        image = inferer.nifti_of(inferer.Volume(np.zeros((4, 4, 4)), affine))
        np.testing.assert_allclose(image.affine, affine)
        assert image.get_qform(coded=True)[1] == 0


class TestRecords:
    def test_settings_that_change_predictions_change_the_description(self, model):
        texts = {
            Predictor(model, **options).record.describe()
            for options in ({}, {"flip": False}, {"grid": "input"}, {"ct": True}, {"legacy": "v1"})
        }
        assert len(texts) == 5
        predictor = Predictor(model)
        assert (
            predictor.record.describe()
            == Predictor(model, max_memory="4GB", window=64).record.describe()
        )
        assert predictor.record.describe(lesion=True) != predictor.record.describe()

    def test_the_description_is_in_the_header(self, model, image):
        predictor = Predictor(model)
        text = bytes(predictor(image).header["descrip"].item()).decode()
        assert text == predictor.record.describe()


def test_threads_do_not_disturb_each_other(model, image):
    predictor = Predictor(model)
    expected = predictor(image).get_fdata()
    with warnings.catch_warnings(), ThreadPoolExecutor(4) as pool:
        for result in pool.map(predictor, [image] * 8):
            np.testing.assert_array_equal(result.get_fdata(), expected)


@settings(max_examples=40)
@given(data=strategies.data())
def test_any_scan_gives_a_prediction_in_its_place(data):
    """Any shape, spacing and orientation: voxels of the model, the scan covered, not moved."""
    draw = data.draw
    shape = [draw(strategies.integers(2, 24), label="size") for _ in range(3)]
    spacing_mm = [draw(strategies.floats(3.0, 30.0), label="spacing") for _ in range(3)]
    degrees = [draw(strategies.floats(-180.0, 180.0), label="angle") for _ in range(3)]
    order = draw(strategies.permutations(range(3)), label="order")
    affine = np.eye(4)
    affine[:3, :3] = (nib.eulerangles.euler2mat(*np.deg2rad(degrees)) * spacing_mm)[:, order]
    affine[:3, 3] = [draw(strategies.floats(-200.0, 200.0), label="origin") for _ in range(3)]
    voxels = np.random.default_rng(0).random(shape, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = Predictor(make_model(), force=True)(nib.Nifti1Image(voxels, affine))
    assert np.isfinite(result.get_fdata()).all()
    np.testing.assert_allclose(nib.affines.voxel_sizes(result.affine), 8.0, atol=1e-3)
    corners = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
    there = nib.affines.apply_affine(affine, (corners + 0.5) * shape - 0.5)
    here = nib.affines.apply_affine(np.linalg.inv(result.affine), there)
    assert (here > -0.5 - 1e-2).all()
    assert (here < np.array(result.shape) - 0.5 + 1e-2).all()
    assert (np.ptp(here, axis=0) > np.array(result.shape) - 1.01).all()  # and nothing more
