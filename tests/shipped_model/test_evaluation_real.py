"""Promises of the evaluation on real scans: pairs, changes, registrations, regions and lesions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import torchio as tio
from evaluation.heads import Head
from evaluation.lesions import (
    NoLesionsError,
    blobs,
    contrast,
    evaluate_own,
    evaluate_synthetic,
    find_bright_lesions,
)
from evaluation.network import HeadNetwork
from evaluation.run import Evaluation, EvaluationData, EvaluationSettings
from evaluation.scans import (
    Seen,
    evaluate_patient,
    evaluate_scan,
    read_on,
    read_registration,
    see,
)
from evaluation.truth import SimulationPlan, evaluate_real_pairs
from scipy import ndimage
from torch import Tensor

from synthsr_net.metrics.comparison import mean_of
from synthsr_net.models.checkpoint import Model, ModelConfig, ScanConfig
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_net.prediction.predictor import Predictor
from synthsr_net.prediction.refinement.brain_mask import (
    Regions,
    closed,
    dilated,
    eroded,
    filled,
    find_regions,
)
from synthsr_net.prediction.refinement.contrast_inversion import inverted
from synthsr_net.prediction.refinement.data_consistency import Operators
from synthsr_net.training.validation import RealPair, RealPairs
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.io.scans import Scan, scan_of
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.phantom import head_phantom
from synthsr_transforms.support.messages import SynthSRError

SPACING = 3.0
AFFINE = np.diag([SPACING, SPACING, SPACING, 1.0])
ITK = """#Insight Transform File V1.0
#Transform 0
Transform: MatrixOffsetTransformBase_double_3_3
Parameters: {parameters}
FixedParameters: {centre}
"""


def network() -> HeadNetwork:
    architecture = UNetConfig(num_levels=2, num_features=3)
    config = ModelConfig(network=architecture, scan=ScanConfig(spacing_mm=SPACING, divisor=4))
    torch.manual_seed(1)
    return HeadNetwork(Predictor(Model(config, UNet3d(architecture).eval()), device="cpu"))


class Stub(HeadNetwork):
    """A network that answers with a function of its input."""

    def __init__(self, answer: object = None) -> None:
        super().__init__(network().predictor)
        self.answer = answer

    def __call__(
        self, volume: Tensor, *, averaged: bool = True, slices: Operators = (None, None, None)
    ) -> Tensor:
        return self.answer(volume) if callable(self.answer) else 110 * volume


@pytest.fixture(scope="module")
def head() -> Head:
    labels = head_phantom(spacing_mm=SPACING, seed=2)
    return Head("phantom", labels.data[0], np.asarray(labels.affine.data), "cpu")


@pytest.fixture(scope="module")
def seen(head: Head) -> Seen:
    """A head whose prediction is the standard T1."""
    image = head.target / head.target.max()
    scan = Scan(image.numpy(), head.affine, "head.nii.gz")
    grid = ((*image.shape,), head.affine)
    regions = find_regions(head.target, SPACING)
    return Seen("head", scan, image, grid, head.target, regions, [None] * 3)


@pytest.fixture
def files(seen: Seen, tmp_path: Path) -> list[Path]:
    """Two files of the same scan."""
    files = [tmp_path / "a.nii", tmp_path / "b.nii"]
    for file in files:
        nib.save(nib.Nifti1Image(seen.image.numpy(), seen.grid[1]), file)
    return files


def evaluated(
    data: EvaluationData, stub: Stub, folder: Path, settings: EvaluationSettings | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Results of an evaluation of a stub, and what it said."""
    said: list[str] = []
    evaluation = Evaluation(stub.predictor, data, settings, say=said.append)
    evaluation.network = stub
    return evaluation.run(folder), said


def registration(path: Path, matrix: np.ndarray, shift: list[float], centre: list[float]) -> Path:
    numbers = " ".join(map(str, [*matrix.ravel(), *shift]))
    path.write_text(ITK.format(parameters=numbers, centre=" ".join(map(str, centre))))
    return path


class TestRealPairs:
    def test_means_equal_those_of_validation_during_training(self, head: Head):
        noise = np.random.default_rng(0).normal(0, 2, head.target.shape)
        image = (head.target.numpy() + noise).clip(0).astype(np.float32)
        pair = RealPair("a", Volume(image, head.affine), Volume(head.labels.numpy(), head.affine))
        tried = network()

        def forward(x: Tensor) -> Tensor:
            return tried.predictor.network(x).clamp(0, 128 / 255)

        tried.predictor.flip = False
        rows = list(evaluate_real_pairs([pair], tried, SimulationPlan(spacings_mm=[3, 9])))
        assert len(rows) == 1 + 3
        means = RealPairs([pair], tried.config, spacings_mm=[3, 9]).measure(forward)
        for name in ("ssim", "psnr", "l1", "dice_wm"):
            for mm in (3, 9):
                ours = mean_of(row["network"] for row in rows if row["slice_mm"] == mm)[name]
                assert ours == pytest.approx(means[f"real/{mm}mm/brain/{name}"], rel=0.01)


class TestScans:
    def test_prediction_and_grid_are_those_of_the_predictor(self, head: Head):
        tried = network()
        scan = scan_of(tio.ScalarImage(head.image("T2", 0)[None], affine=head.affine))
        found = see(scan, tried)
        expected = tried.predictor.predict([scan]).image
        np.testing.assert_allclose(found.prediction.data, expected.data, atol=0.05)
        np.testing.assert_allclose(found.prediction.affine, expected.affine)

    def test_what_depends_on_nothing_but_the_voxel_is_robust(self, seen: Seen):
        rows = list(evaluate_scan(seen, Stub(), spacings_mm=[9, 15], axes=[0, 1, 2]))
        found = {(row["change"], row["axis"]): row for row in rows}
        assert len(found) == 6 + 3
        assert found["flipped", None]["network"] == pytest.approx(1)
        rotated = found["rotated", None]
        assert rotated["network"] == pytest.approx(rotated["resampling"], abs=1e-5)
        assert 0.9 < rotated["resampling"] < 1
        assert found["inverted", None]["network"] < -0.95
        for axis in ("sagittal", "coronal", "axial"):
            values = [found[f"{mm} mm", axis]["network"] for mm in (9, 15)]
            assert 1 > values[0] > values[1] > 0.5

    def test_a_prediction_that_knows_left_from_right_is_told(self, seen: Seen):
        ramp = torch.linspace(0, 100, seen.image.shape[0])[:, None, None].expand(seen.image.shape)
        rows = list(evaluate_scan(seen, Stub(lambda x: ramp + x), spacings_mm=[]))
        assert next(r for r in rows if r["change"] == "flipped")["network"] < -0.9

    def test_slices_thinner_than_those_of_the_scan_are_not_simulated(self, seen: Seen):
        affine = seen.scan.affine @ np.diag([1, 1, 4, 1.0])
        thick = seen._replace(scan=Scan(seen.scan.data[..., ::4], affine))
        rows = list(evaluate_scan(thick, Stub(), spacings_mm=[9, 16], axes=[0, 1, 2]))
        assert (rows[0]["change"], rows[0]["axis"]) == ("16 mm", "axial")
        assert len(rows) == 1 + 3

    def test_inversion_keeps_the_background_and_turns_tissues_around(self, seen: Seen):
        turned = inverted(seen.image, seen.regions.head)
        outside = ~seen.regions.head
        assert torch.equal(turned[outside], seen.image[outside])
        assert float(turned[seen.regions.white].mean()) < float(turned[seen.regions.grey].mean())


class TestRegions:
    def test_brain_and_tissues_agree_with_the_labels(self, seen: Seen, head: Head):
        table = LabelTable.ready("synthseg")
        values = [
            v for t in ("white_matter", "grey_matter", "deep_grey") for v in table.values_of(t)
        ]
        brain = torch.isin(head.labels, torch.tensor(values))
        found = seen.regions.brain
        assert float((found & brain).sum() / brain.sum()) > 0.8  # voxels of 3 mm are coarse
        skull = torch.isin(head.labels, torch.tensor([511, 515, 516]))
        assert float((found & skull).sum() / skull.sum()) < 0.05
        white = torch.isin(head.labels, torch.tensor([2, 41]))
        assert float((seen.regions.white & white).sum() / seen.regions.white.sum()) > 0.9

    def test_morphology_is_that_of_scipy(self):
        mask = torch.rand(14, 12, 10, generator=torch.Generator().manual_seed(0)) > 0.8
        cube = np.ones((3, 3, 3))
        expected = ndimage.binary_dilation(mask.numpy(), cube)
        np.testing.assert_array_equal(dilated(mask, 1.2).numpy(), expected)
        expected = ndimage.binary_erosion(mask.numpy(), cube, border_value=1)
        np.testing.assert_array_equal(eroded(mask, 1).numpy(), expected)
        shell = closed(mask, 1)
        np.testing.assert_array_equal(
            filled(shell).numpy(), ndimage.binary_fill_holes(shell.numpy())
        )

    def test_nothing_is_found_in_nothing(self):
        assert not any(bool(region.any()) for region in find_regions(torch.zeros(12, 12, 12), 3.0))


class TestWorld:
    def test_the_centre_of_a_rotation_stays_and_axes_point_left_and_back(self, tmp_path: Path):
        quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
        centre = [5.0, -7.0, 3.0]
        matrix = read_registration(registration(tmp_path / "a.txt", quarter, [0, 0, 0], centre))
        np.testing.assert_allclose(matrix @ [-5, 7, 3, 1], [-5, 7, 3, 1], atol=1e-12)
        shifted = read_registration(
            registration(tmp_path / "b.txt", np.eye(3), [10, 20, 30], centre)
        )
        np.testing.assert_allclose(shifted @ [0, 0, 0, 1], [-10, -20, 30, 1])

    @pytest.mark.parametrize("text", ["", "Parameters: 1 2\nFixedParameters: 0 0 0", "a: b"])
    def test_other_files_are_refused(self, tmp_path: Path, text: str):
        (tmp_path / "a.txt").write_text(text)
        with pytest.raises(SynthSRError, match=r"a\.txt must"):
            read_registration(tmp_path / "a.txt")

    def test_volumes_are_read_where_the_registration_says(self):
        volume = torch.rand(9, 8, 7)
        there = np.eye(4)
        there[0, 3] = 2 * SPACING
        same, inside = read_on(volume, AFFINE, ((9, 8, 7), AFFINE))
        torch.testing.assert_close(same, volume)
        assert bool(inside.all())
        moved, inside = read_on(volume, AFFINE, ((9, 8, 7), AFFINE), there)
        torch.testing.assert_close(moved[:-2], volume[2:])
        assert inside[:-2].all()
        assert not inside[-2:].any()


class TestPatient:
    def test_a_scan_agrees_with_itself_wherever_its_header_puts_it(self, seen: Seen):
        there = np.eye(4)
        there[:3, 3] = 2 * SPACING, -SPACING, 4 * SPACING
        moved = seen._replace(name="moved", grid=(seen.grid[0], there @ seen.grid[1]))
        (row,) = evaluate_patient([seen, moved], [None, there])
        assert row["pair"] == ["head", "moved"]
        assert row["correlation"] == pytest.approx(1)
        assert row["ssim"] == pytest.approx(1, abs=1e-4)
        (wrong,) = evaluate_patient([seen, moved], [None, None])
        assert wrong["correlation"] < 0.9

    def test_without_a_brain_nothing_can_be_said(self, seen: Seen):
        none = torch.zeros_like(seen.regions.brain)
        empty = seen._replace(regions=Regions(none, none, none, none))
        (row,) = evaluate_patient([empty, empty], [None, None])
        assert all(math.isnan(row[name]) for name in ("correlation", "ssim", "inputs"))
        assert list(evaluate_synthetic(empty, Stub(), 0)) == []

    def test_three_scans_make_three_pairs_and_inversion_shows_in_the_inputs_alone(self, seen: Seen):
        other = seen._replace(name="other", image=1 - seen.image)
        rows = list(evaluate_patient([other, seen, seen], [None] * 3))
        assert [row["inputs"] for row in rows] == pytest.approx([-1, -1, 1], abs=1e-6)
        assert [row["correlation"] for row in rows] == pytest.approx([1, 1, 1])


class TestLesions:
    def test_contrast_is_in_units_of_white_and_grey(self):
        shape = (24, 24, 24)
        white, lesion = torch.ones(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
        white[:, :, 18:] = False
        lesion[8:12, 8:12, 8:12] = True
        regions = Regions(torch.ones_like(white), white, ~white, torch.ones_like(white))
        volume = torch.where(white, 100.0, 80.0)
        assert contrast(volume, lesion, regions, 1.0) == 0
        for inside, expected in ((130.0, 1.5), (70.0, -1.5)):
            volume[lesion] = inside
            assert contrast(volume, lesion, regions, 1.0) == pytest.approx(expected)
        assert contrast(200 - volume, lesion, regions, 1.0) == pytest.approx(1.5)
        assert math.isnan(contrast(volume, torch.zeros_like(lesion), regions, 1.0))

    def test_lesions_lie_in_white_matter_apart_from_each_other(self, seen: Seen):
        weights, count = blobs(seen.regions, SPACING, 0)
        numbers, parts = ndimage.label(weights.numpy() > 0.5)
        assert parts == count > 1
        middles = ndimage.center_of_mass(numbers > 0, numbers, range(1, parts + 1))
        assert all(bool(seen.regions.white[tuple(np.rint(m).astype(int))]) for m in middles)
        assert torch.equal(weights, blobs(seen.regions, SPACING, 0)[0])
        assert not torch.equal(weights, blobs(seen.regions, SPACING, 1)[0])

    def test_a_copy_shows_them_and_a_healthy_prediction_does_not(self, seen: Seen):
        copied = list(evaluate_synthetic(seen, Stub(), 0))
        healthy = list(evaluate_synthetic(seen, Stub(lambda x: seen.t1), 0))
        assert [row["lesions"] for row in copied] == ["bright", "dark"]
        for copy, well, sign in zip(copied, healthy, (1, -1), strict=True):
            assert sign * copy["input"] > 0.5
            assert copy["prediction"] == pytest.approx(copy["input"], rel=1e-4)
            assert well["prediction"] == well["without"] == copy["without"]
            assert abs(well["without"]) < 0.2 * abs(copy["input"])

    def test_own_lesions_are_found_through_the_registration(self, seen: Seen):
        weights, count = blobs(seen.regions, SPACING, 5)
        there = np.eye(4)
        there[:3, 3] = -SPACING, 3 * SPACING, SPACING
        image = torch.lerp(seen.image, torch.full_like(seen.image, 0.3), weights)
        ill = seen._replace(image=image)
        mask = Volume((weights > 0.5).numpy(), np.linalg.inv(there) @ seen.grid[1])
        row = evaluate_own(ill, mask, there, Stub())
        assert row["count"] == count
        assert row["input"] < -1
        assert abs(row["prediction"]) < 0.3
        assert len(row["each"]) == count
        measured = (one["input"] for one in row["each"])
        found = [value for value in measured if not math.isnan(value)]  # of 10 voxels
        assert len(found) > 1
        assert max(found) < -0.9
        volumes = [one["ml"] for one in row["each"]]
        assert volumes == sorted(volumes, reverse=True)
        expected = float((weights > 0.5).sum()) * SPACING**3 / 1000
        assert sum(volumes) == pytest.approx(expected, rel=0.05)
        away = mask._replace(affine=np.array(mask.affine))
        away.affine[0, 3] += 1000
        with pytest.raises(NoLesionsError, match="marks none there"):
            evaluate_own(ill, away, None, Stub())


class TestBrightLesions:
    """Lesions of white matter are found where they are brighter than the white matter around."""

    @staticmethod
    def ball(centre: tuple[int, int, int], radius: float) -> Tensor:
        axes = [torch.arange(56) - place for place in centre]
        x, y, z = torch.meshgrid(*axes, indexing="ij")
        return x**2 + y**2 + z**2 <= radius**2

    @pytest.fixture
    def lesions(self) -> Tensor:
        return self.ball((20, 28, 30), 2) | self.ball((35, 30, 22), 4)

    @pytest.fixture
    def flair(self) -> Seen:
        """A ball of white matter of 1 mm voxels within grey matter, which is brighter."""
        brain, white = self.ball((28, 28, 28), 25), self.ball((28, 28, 28), 20)
        noise = torch.rand(brain.shape, generator=torch.Generator().manual_seed(0))
        image = torch.where(white, 0.5, torch.where(brain, 0.6, 0.1)) + 0.04 * noise
        regions = Regions(brain, white, brain & ~white, brain)
        affine = np.diag([1.0, -1, 1, 1])
        scan = Scan(image.numpy(), affine, "flair.nii.gz")
        return Seen("flair", scan, image, ((*image.shape,), affine), image, regions, [None] * 3)

    @pytest.mark.parametrize("biased", [False, True])
    def test_they_are_found_and_cortex_is_not(self, flair: Seen, lesions: Tensor, biased: bool):
        image = torch.where(lesions, 0.65, flair.image)
        if biased:
            image = image * torch.linspace(0.8, 1.25, len(image))[:, None]
        found = find_bright_lesions(flair._replace(image=image))
        assert np.array_equal(found.data > 0.5, lesions.numpy())
        assert np.array_equal(found.affine, flair.grid[1])

    def test_a_trace_left_in_the_prediction_does_not_hide_them(self, flair: Seen, lesions: Tensor):
        white = flair.regions.white & ~lesions
        grey = flair.regions.grey | lesions
        image = torch.where(lesions, 0.65, flair.image)
        ill = flair._replace(image=image, regions=flair.regions._replace(white=white, grey=grey))
        assert np.array_equal(find_bright_lesions(ill).data > 0.5, lesions.numpy())

    def test_small_ones_and_those_beside_cortex_are_left_out(self, flair: Seen):
        small, beside = self.ball((28, 28, 28), 1), self.ball((28, 28, 47), 3)
        image = torch.where(small | beside, 0.65, flair.image)
        with pytest.raises(NoLesionsError, match=r"none was found\. Give a mask"):
            find_bright_lesions(flair._replace(image=image))

    def test_without_white_matter_there_are_none(self, flair: Seen):
        none = torch.zeros_like(flair.regions.brain)
        with pytest.raises(NoLesionsError, match="none was found"):
            find_bright_lesions(flair._replace(regions=Regions(none, none, none, none)))

    def test_they_are_looked_for_in_all_scans_of_the_patient(self, seen: Seen, tmp_path: Path):
        weights, count = blobs(seen.regions, SPACING, 5)
        image = torch.lerp(seen.image, torch.tensor(1.5), weights).numpy()
        there = np.eye(4)
        there[:3, 3] = 8, -4, 12
        files = [tmp_path / "here.nii", tmp_path / "there.nii"]
        for file, affine in zip(files, (seen.grid[1], there @ seen.grid[1]), strict=True):
            nib.save(nib.Nifti1Image(image, affine), file)
        shift = [-there[0, 3], -there[1, 3], there[2, 3]]
        matrix = registration(tmp_path / "there.txt", np.eye(3), shift, [0, 0, 0])
        data = EvaluationData(patient=files, registrations=["-", matrix], bright_lesions=files[1])
        stub = Stub(lambda x: 110 * (x / x[seen.regions.white].median()).clamp(max=1))
        results, _ = evaluated(data, stub, tmp_path / "out")
        rows = results["lesions"]
        assert [row["scan"] for row in rows] == ["here", "there"]
        for row in rows:
            assert 1 <= row["count"] <= count
            assert row["input"] > 1
            assert abs(row["prediction"]) < 0.2
        assert {"lesions_own_here.png", "lesions_own_there.png"} <= set(results["pictures"])

    def test_without_any_the_rest_is_still_evaluated(self, files: list[Path], tmp_path: Path):
        data = EvaluationData(patient=files, bright_lesions=files[0])
        results, said = evaluated(data, Stub(), tmp_path / "out")
        assert results["lesions"] == []
        assert [row["pair"] for row in results["patient"]] == [["a", "b"]]
        assert any("left out" in line and "none was found" in line for line in said)

    @pytest.mark.parametrize(
        ("missing", "message"),
        [("there.txt", r"there\.txt must .* does not exist"), (None, r"there\.txt must")],
    )
    def test_a_wrong_file_is_told_before_the_work(
        self, missing: str | None, message: str, tmp_path: Path
    ):
        files = [tmp_path / name for name in ("a.nii", "b.nii", "there.txt")]
        for file in files:
            if file.name != missing:
                file.write_text("")
        data = EvaluationData(patient=files[:2], registrations=["-", files[2]])
        said: list[str] = []
        with pytest.raises(SynthSRError, match=message):
            Evaluation(network().predictor, data, say=said.append).run(tmp_path / "out")
        assert said == []

    def test_scans_of_the_patient_are_predicted_once(self, files: list[Path], tmp_path: Path):
        settings = EvaluationSettings(degraded_mm=[], lesion_scans=0)
        counts = []
        for patient in ([], files):
            data, calls = EvaluationData(scans=files, patient=patient), []
            stub = Stub(lambda x, calls=calls: (calls.append(x), 110 * x)[1])
            evaluated(data, stub, tmp_path / "out", settings)
            counts.append(len(calls))
        assert counts[0] == counts[1] > 0
