"""Promises of the evaluation on simulated scans: contrasts, slices, networks and measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchio as tio
from evaluation.contrasts import CONTRASTS, LATERAL_VENTRICLES, scan_generator, target_contrast
from evaluation.heads import Head, find_label_maps, read_head
from evaluation.lesions import evaluate_head_lesions
from evaluation.network import HeadNetwork
from evaluation.slices import acquire, cubic, linear, operators
from evaluation.truth import SimulationPlan, evaluate_label_maps, seed_of
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor

from synthsr_net.models.checkpoint import InputConfig, Model, ModelConfig, ScanConfig
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_net.prediction.intensities import percentile
from synthsr_net.prediction.predictor import Predictor, Prepared
from synthsr_net.prediction.space.preprocess import to_network_space
from synthsr_transforms.generator.config import load_config
from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.scans import Scan
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.phantom import head_phantom
from synthsr_transforms.support.messages import SynthSRError
from synthsr_transforms.transforms import SliceAcquisition

SPACING = 4.0
AFFINE = np.diag([SPACING, SPACING, SPACING, 1.0])


def predictor(scan: dict[str, Any] | None = None, **settings: Any) -> Predictor:
    network = UNetConfig(num_levels=2, num_features=3)
    options = {"spacing_mm": SPACING, "divisor": 8, **(scan or {})}
    config = ModelConfig(network=network, scan=ScanConfig(**options))
    torch.manual_seed(0)
    return Predictor(Model(config, UNet3d(network).eval()), device="cpu", **settings)


class Oracle:
    """Stands for a network: answers with a volume, or with its input."""

    device = torch.device("cpu")
    spacing_mm = SPACING
    config = ModelConfig(scan=ScanConfig(spacing_mm=SPACING, divisor=8))

    def __init__(self, answer: Tensor | None = None) -> None:
        self.answer = answer
        self.seen: list[Tensor] = []

    def __call__(self, volume: Tensor, **_: Any) -> Tensor:
        self.seen.append(volume)
        return volume if self.answer is None else self.answer


@pytest.fixture(scope="module")
def labels() -> tio.LabelMap:
    return head_phantom(spacing_mm=SPACING, seed=1)


@pytest.fixture(scope="module")
def head(labels: tio.LabelMap) -> Head:
    return Head("phantom", labels.data[0], np.asarray(labels.affine.data), "cpu")


@pytest.fixture(scope="module")
def file(labels: tio.LabelMap, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "head_1.nii.gz"
    labels.save(path)
    return path


@pytest.fixture(scope="module")
def fine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A label map of 2 mm."""
    path = tmp_path_factory.mktemp("fine") / "head_2.nii.gz"
    head_phantom(spacing_mm=2.0, seed=3).save(path)
    return path


def smooth(shape: tuple[int, int, int]) -> Tensor:
    axes = [torch.arange(n, dtype=torch.float32) for n in shape]
    waves = [torch.sin(0.31 * a + 0.2) for a in axes]
    return 2 + waves[0][:, None, None] * waves[1][:, None] + waves[2]


class TestSlices:
    def test_slices_of_the_own_spacing_change_nothing(self):
        image = torch.rand(12, 10, 9)
        scan = acquire(image, AFFINE, SPACING, 1)
        for volume in (scan.data, linear(scan), cubic(scan)):
            torch.testing.assert_close(volume, image)
        np.testing.assert_allclose(scan.affine, AFFINE)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_linear_interpolation_is_that_of_the_transform(self, axis: int):
        image, spacing, blur = torch.rand(20, 22, 18), [SPACING] * 3, [0.0] * 3
        spacing[axis], blur[axis] = 12.5, 1.0
        whole = SliceAcquisition(spacing_mm=tuple(spacing), blur_multiplier=tuple(blur))
        expected = whole(tio.Subject(image=tio.ScalarImage(image[None], affine=AFFINE)))
        found = linear(acquire(image, AFFINE, 12.5, axis))
        torch.testing.assert_close(found, expected.images["image"].data[0])

    @pytest.mark.parametrize("axis", [0, 2])
    def test_a_scan_file_with_these_slices_becomes_the_same_input(self, axis: int):
        scan = acquire(smooth((24, 21, 27)), AFFINE, 12.0, axis)
        config = ModelConfig(scan=ScanConfig(spacing_mm=SPACING, divisor=8))
        x, space = to_network_space([Scan(scan.data.numpy(), scan.affine)], config)
        expected = linear(scan)
        expected = (expected - expected.min()) / (expected.max() - expected.min())
        torch.testing.assert_close(x[0][space.inside], expected, rtol=0, atol=2e-3)

    def test_splines_pass_through_the_slices_and_are_nearer_to_the_truth(self):
        image = smooth((12, 10, 45))
        scan = acquire(image, AFFINE, 3 * SPACING, 2)
        torch.testing.assert_close(cubic(scan)[..., 1::3], scan.data, rtol=0, atol=1e-4)
        unblurred = scan._replace(data=image[..., 1::3])
        inner = slice(6, -6)
        errors = [(f(unblurred) - image)[..., inner].abs().max() for f in (cubic, linear)]
        assert errors[0] < 0.25 * errors[1]

    def test_slices_cover_the_field_of_view(self):
        scan = acquire(torch.rand(12, 10, 21), AFFINE, 9.0, 2)
        for affine, shape in ((AFFINE, (12, 10, 21)), (scan.affine, scan.data.shape)):
            middle = affine @ [*((n - 1) / 2 for n in shape), 1]
            np.testing.assert_allclose(middle[:3], [22, 18, 40])
            np.testing.assert_allclose(np.diag(affine)[:3] * shape, [48, 40, 84])

    def test_noise_follows_its_seed_and_is_positive_if_rician(self):
        image = torch.zeros(12, 12, 12)
        one, same, other = (
            acquire(image, AFFINE, 8.0, 0, noise_std=3.0, seed=s).data for s in (1, 1, 2)
        )
        assert bool((one == same).all())
        assert not bool((one == other).any())
        assert float(one.min()) > 0
        assert float(acquire(image, AFFINE, 8.0, 0, noise_std=3.0, rician=False).data.min()) < 0


class TestNetwork:
    @pytest.mark.parametrize(
        "scan",
        [
            {"normalisation": "percentile", "percentiles": (2.0, 97.0)},
            {"normalise_after_padding": True, "sharpen": True},
            {"clip_each_pass": True, "output_scale": 100.0, "output_range": (0.0, 30.0)},
            {"flip": False, "output_range": None},
        ],
    )
    def test_predictions_equal_those_of_the_predictor(self, scan: dict[str, Any]):
        used = predictor(scan)
        image = 5 + 40 * smooth((21, 16, 18))
        expected = used.predict([Scan(image.numpy(), AFFINE)]).image.data
        found = HeadNetwork(used)(image)
        torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0, atol=0.05)
        assert float(expected.std()) > 1

    @pytest.mark.parametrize("slice_mm", [SPACING, 3 * SPACING])
    def test_data_consistency_is_that_of_the_predictor(
        self, slice_mm: float, monkeypatch: pytest.MonkeyPatch
    ):
        def blurred(_: Predictor, prepared: Prepared, **_flip: object) -> Tensor:
            return torch.from_numpy(gaussian_filter(prepared.tensor.numpy(), (0, 1, 1, 1))) * 0.43

        monkeypatch.setattr(Predictor, "infer", blurred)
        scan = acquire(5 + 40 * smooth((24, 18, 21)), AFFINE, slice_mm, 1)
        results = []
        for wanted in (False, True):
            used = predictor({"data_consistency": wanted})
            expected = used.predict([Scan(scan.data.numpy(), scan.affine)]).image.data
            found = HeadNetwork(used)(linear(scan), slices=operators(scan))
            torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0, atol=0.05)
            results.append(found)
        assert float((results[0] - results[1]).abs().max()) > 0.5

    def test_averaging_can_be_left_out_for_once(self):
        used = predictor({"output_range": None})
        network, image = HeadNetwork(used), torch.rand(16, 16, 16)
        alone = network(image, averaged=False)
        mirrored = network(image.flip(0), averaged=False).flip(0)
        assert used.flip
        assert not torch.allclose(alone, mirrored)
        torch.testing.assert_close(network(image), (alone + mirrored) / 2, rtol=1e-4, atol=1e-3)

    def test_models_of_several_images_are_refused(self):
        network = UNetConfig(in_channels=2, num_levels=2, num_features=2)
        inputs = [InputConfig(name="T1"), InputConfig(name="T2")]
        config = ModelConfig(name="two", network=network, inputs=inputs)
        with pytest.raises(SynthSRError, match=r"one scan .* got 'two' with 2 input channels"):
            HeadNetwork(Predictor(Model(config, UNet3d(network).eval()), device="cpu"))

    @pytest.mark.parametrize("percent", [0.0, 0.1, 37.0, 99.9, 100.0])
    def test_percentiles_are_those_of_numpy(self, percent: float):
        values = torch.rand(7, 11, 3)
        assert percentile(values, percent) == pytest.approx(
            float(np.percentile(values.numpy(), percent)), abs=1e-6
        )


class TestContrasts:
    def test_the_target_is_that_of_the_preset(self, labels: tio.LabelMap, head: Head):
        params = load_config("all_purpose").steps["target"].params
        table = LabelTable.ready("synthseg")
        for value in (2, 41, 507):
            others = (labels.data != value).float()[None]
            core = torch.nn.functional.max_pool3d(others, 3, 1, 1)[0, 0] == 0
            wanted = params["by_value"].get(value, params["by_tissue"][table.row(value).tissue])
            assert int(core.sum()) > 5
            assert float(head.target[core].mean()) == pytest.approx(wanted, abs=0.01)
        assert target_contrast()["by_tissue"]["white_matter"] == 110

    @pytest.mark.parametrize(
        ("name", "order"),
        [
            ("T1", ["csf", "grey_matter", "white_matter"]),
            ("T2", ["white_matter", "grey_matter", "csf"]),
            ("FLAIR", ["csf", "white_matter", "grey_matter"]),
            ("PD", ["white_matter", "grey_matter", "csf"]),
            ("CT", ["background", "csf", "white_matter", "grey_matter"]),
        ],
    )
    def test_tissues_have_the_order_of_the_scanner(
        self, head: Head, labels: tio.LabelMap, name: str, order: list[str]
    ):
        image, table = head.image(name, 0), LabelTable.ready("synthseg")
        medians = [
            float(image[torch.isin(labels.data[0], torch.tensor(table.values_of(t)))].median())
            for t in order
        ]
        assert medians == sorted(medians)

    def test_random_contrasts_and_bias_follow_the_seed(self, head: Head):
        for name in ("random", "T2"):
            assert torch.equal(head.image(name, 3), head.image(name, 3))
            assert not torch.equal(head.image(name, 3), head.image(name, 4))

    def test_nothing_is_left_outside_the_brain_without_skull(self, head: Head):
        image = head.image("T1", 0, stripped=True)
        brain = torch.nn.functional.max_pool3d((head.reference.tissues > 0)[None].float(), 5, 1, 2)
        assert float(image[brain[0] == 0].abs().max()) == 0
        assert float(image[head.reference.tissues > 0].median()) > 50

    def test_every_contrast_names_only_known_tissues_and_labels(self):
        table = LabelTable.ready("synthseg")
        for name, contrast in CONTRASTS.items():
            scan_generator(name, table.values)
            assert set(contrast.by_value) <= set(table.values)


class TestHeads:
    def test_files_are_read_cropped_and_scaled(self, file: Path):
        (subject,) = find_label_maps([file, file.parent])
        head = read_head(subject, SPACING, 8, "cpu")
        assert all(size % 8 == 0 for size in head.target.shape)
        brain = head.reference.image[head.reference.tissues > 0]
        np.testing.assert_allclose(np.percentile(brain.numpy(), (1, 99)), [0, 1], atol=1e-5)
        torch.testing.assert_close(head.reference.in_range(head.target), head.reference.image)

    def test_other_voxels_and_heads_without_brain_are_refused(
        self, file: Path, labels: tio.LabelMap, tmp_path: Path
    ):
        (subject,) = find_label_maps([file])
        with pytest.raises(SynthSRError, match=r"voxels of 1 mm, as the model, got 4 x 4 x 4"):
            read_head(subject, 1.0, 8, "cpu")
        skull = torch.where(labels.data == 515, 515, 0).to(labels.data.dtype)
        tio.LabelMap(skull, affine=labels.affine).save(tmp_path / "skull.nii.gz")
        (subject,) = find_label_maps([tmp_path])
        with pytest.raises(VolumeError, match="must label a brain"):
            read_head(subject, SPACING, 8, "cpu")


class TestHeldOut:
    plan = SimulationPlan(
        contrasts=("T1", "random"), stripped=("T1",), spacings_mm=(4, 12), stripped_mm=12
    )

    def test_the_truth_is_found_to_be_perfect_and_interpolation_is_not(self, file: Path):
        subjects = find_label_maps([file])
        truth = read_head(subjects[0], SPACING, 8, "cpu").target
        rows = list(evaluate_label_maps(subjects, Oracle(truth), self.plan))  # type: ignore[arg-type]
        assert len(rows) == (1 + 3) + 6 + 3
        for row in rows:
            for scores in (row["network"], row["raw"]):
                assert scores["ssim"] == pytest.approx(1, abs=1e-5)
                assert scores["l1"] == pytest.approx(0, abs=1e-5)
            assert row["interpolation"]["ssim"] < 0.99
            assert row["raw"]["psnr"] > row["interpolation"]["psnr"] + 10

    def test_an_inverted_truth_is_perfect_only_after_mapping(self, file: Path):
        subjects = find_label_maps([file])
        truth = read_head(subjects[0], SPACING, 8, "cpu").target
        (row,) = evaluate_label_maps(
            subjects,
            Oracle(110 - truth),  # type: ignore[arg-type]
            SimulationPlan(contrasts=["T1"], stripped=[], spacings_mm=[12], axes=[2]),
        )
        assert row["network"]["ssim"] == pytest.approx(1, abs=1e-4)
        assert row["raw"]["ssim"] < 0.5

    def test_a_network_that_changes_nothing_is_near_interpolation(self, file: Path):
        plan = SimulationPlan(contrasts=["T1"], stripped=[], spacings_mm=[12], axes=[1])
        (row,) = evaluate_label_maps(find_label_maps([file]), Oracle(), plan)  # type: ignore[arg-type]
        assert row["network"]["ssim"] == pytest.approx(row["interpolation"]["ssim"], abs=0.05)

    def test_thicker_slices_are_interpolated_worse(self, file: Path):
        plan = SimulationPlan(contrasts=["T1"], stripped=[], spacings_mm=[4, 12, 20], axes=[0])
        rows = list(evaluate_label_maps(find_label_maps([file]), Oracle(), plan))  # type: ignore[arg-type]
        found = [row["interpolation"]["ssim"] for row in rows]
        assert found == sorted(found, reverse=True)

    def test_a_random_contrast_is_the_same_for_all_spacings_of_an_axis(self, file: Path):
        oracle = Oracle()
        plan = SimulationPlan(contrasts=["random"], stripped=[], spacings_mm=[12, 4.1], axes=[0, 2])
        rows = list(evaluate_label_maps(find_label_maps([file]), oracle, plan))  # type: ignore[arg-type]
        assert [row["axis"] for row in rows] == ["sagittal"] * 2 + ["axial"] * 2
        likeness = [
            abs(float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]))
            for a, b in zip(oracle.seen, oracle.seen[1:], strict=False)
        ]
        assert likeness[1] < min(likeness[0], likeness[2])

    def test_clipped_ct_reaches_the_network(self, file: Path):
        oracle = Oracle()
        plan = SimulationPlan(contrasts=["CT"], stripped=[], spacings_mm=[4], axes=[2])
        list(evaluate_label_maps(find_label_maps([file]), oracle, plan))  # type: ignore[arg-type]
        assert (float(oracle.seen[0].min()), float(oracle.seen[0].max())) == (0, 80)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"contrasts": ["T3"]},
            {"with_lesions": ["T3"]},
            {"with_lesions": ["random"]},
            {"spacings_mm": [0.0]},
            {"axes": [3]},
        ],
    )
    def test_what_cannot_be_simulated_is_refused(self, wrong: dict[str, Any]):
        with pytest.raises(SynthSRError):
            SimulationPlan(**wrong)


class TestHeadLesions:
    def rows(self, oracle: Oracle, file: Path, pictures: Any = None) -> list[dict[str, Any]]:
        oracle.spacing_mm = 2.0
        plan = SimulationPlan(lesions_mm=4)
        subjects = find_label_maps([file])
        rows = list(evaluate_head_lesions(subjects, oracle, plan, pictures))  # type: ignore[arg-type]
        assert len(oracle.seen) == 6
        assert len(rows) == 3 * 2
        return rows

    def test_nothing_is_seen_in_healthy_predictions_but_in_the_scans(self, fine: Path):
        truth = read_head(find_label_maps([fine])[0], 2.0, 8, "cpu").target
        for row in self.rows(Oracle(truth), fine):
            found = row["lesions"]
            assert found["prediction"] == found["without"]
            assert abs(found["without"]) < 0.4
            dark = row["contrast"] == "T1"
            assert found["input"] < -0.6 if dark else found["input"] > 1

    def test_a_copy_shows_them_all(self, fine: Path):
        for row in self.rows(Oracle(), fine):
            found = row["lesions"]
            assert found["prediction"] == pytest.approx(found["input"])
            seen = found["prediction"] - found["without"]
            assert seen < -0.6 if row["contrast"] == "T1" else seen > 1

    def test_lesions_lie_in_white_matter_and_most_beside_the_ventricles(self, fine: Path):
        head = read_head(find_label_maps([fine])[0], 2.0, 8, "cpu")
        weights = head.lesion_weights(1)
        values = LabelTable.ready("synthseg").values_of("white_matter")
        white = torch.isin(head.labels, torch.tensor(values))
        assert not bool((weights[~white] > 0).any())
        assert torch.equal(weights, head.lesion_weights(1))
        assert not torch.equal(weights, head.lesion_weights(2))
        ventricles = torch.isin(head.labels, torch.tensor(LATERAL_VENTRICLES)).numpy()
        away = torch.from_numpy(distance_transform_edt(~ventricles) * 2.0)
        beside, apart = (weights[white & (away < 4)], weights[white & (away > 14)])
        assert float(beside.mean()) > 5 * float(apart.mean()) > 0

    def test_volumes_are_in_millilitres_and_nothing_is_counted_twice(self, fine: Path):
        rows = self.rows(Oracle(), fine)
        head = read_head(find_label_maps([fine])[0], 2.0, 8, "cpu")
        weights = head.lesion_weights(seed_of(0, head.name, "lesions"))
        both = sum(row["ml"] for row in rows if row["contrast"] == "T2")
        assert both == pytest.approx(float((weights > 0.5).sum()) * 8 / 1000)
