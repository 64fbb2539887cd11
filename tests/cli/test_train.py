"""Promises of ``synthsr train``: what it says, what it refuses, and what comes out of it."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from click.testing import Result
from helpers import run, save

from synthsr_cli.common import messages
from synthsr_cli.common.progress import Counter, progress
from synthsr_cli.train import show_epoch, show_step
from synthsr_net.models.checkpoint import read_model
from synthsr_net.models.transfer import start_from
from synthsr_net.prediction.predictor import Predictor
from synthsr_net.training.callbacks import saving
from synthsr_net.training.callbacks.log import EpochResults, Progress
from synthsr_net.training.callbacks.metrics_file import MetricsFile
from synthsr_net.training.data.bank import Bank, read_bank
from synthsr_net.training.data.stream import PairStream
from synthsr_net.training.setup import prepare
from synthsr_net.training.task.objective import Objective
from synthsr_transforms.generator.config import load_config
from synthsr_transforms.generator.generator import Generator
from synthsr_transforms.io.scans import scan_of
from synthsr_transforms.job import job
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.phantom import head_phantom
from synthsr_transforms.subjects.files import find_subjects, phantom_subject

pytestmark = pytest.mark.usefixtures("without_curves")

SHAPE = (20, 18, 22)
AFFINE = np.diag([4.0, 4, 4, 1])
CONFIG = """
label_table: freesurfer_aseg
real_target: {real}
steps:
  crop: {{name: PatchCrop, params: {{shape: 12}}}}
  mixture: {{name: TissueMixture}}
  rescale: {{name: MinMaxRescale, params: {{include: [image]}}}}
  {target}
  acquisition: {{name: SliceAcquisition, params: {{spacing_mm: [4, 4, 9]}}}}
training:
  network: {{num_levels: 2, num_features: 4}}
  optimiser: {{learning_rate: 1.0e-2}}
  run: {{epochs: 2, steps_per_epoch: 3}}
  validation: {{every_epochs: 0, previews: 0, held_out: 0}}
"""
PAIRS_OF_SCANS = """
label_table: freesurfer_aseg
reliability: reliability
steps:
  crop: {name: PatchCrop, params: {shape: 12}}
  mixture: {name: TissueMixture, params: {num_channels: 2}}
  rescale: {name: MinMaxRescale, params: {include: [image]}}
  target: {name: CopyImage, params: {channels: [0]}}
  acquisition: {name: SliceAcquisition, params: {spacing_mm: [4, 4, 9]}}
  reliability: {name: ReliabilityMap}
training:
  network: {num_levels: 2, num_features: 4}
  optimiser: {learning_rate: 1.0e-2}
  run: {epochs: 1, steps_per_epoch: 2}
  validation: {every_epochs: 0, held_out: 0}
"""
INTENSITIES = {
    "white_matter": 110,
    "grey_matter": 80,
    "deep_grey": 84,
    "csf": 24,
    "brain_other": 96,
    "vessel": 55,
    "lesion": 110,
    "extracerebral": 65,
}


def settings(*assignments: str) -> list[str]:
    return [word for assignment in assignments for word in ("--set", assignment)]


@pytest.fixture
def folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_labels: Callable, make_image: Callable
) -> Path:
    """Working folder with two label maps, their images, and configurations."""
    monkeypatch.chdir(tmp_path)
    for k in (1, 2):
        save(tmp_path / "maps" / f"sub-0{k}_dseg.nii", make_labels(SHAPE, k)[0].numpy(), AFFINE)
        save(tmp_path / "images" / f"sub-0{k}_T1w.nii", make_image(SHAPE, 1, k)[0].numpy(), AFFINE)
    copy = "target: {name: CopyImage}"
    rescale = "target_rescale: {name: MinMaxRescale, params: {include: [target]}}"
    (tmp_path / "own.yaml").write_text(CONFIG.format(real="false", target=copy))
    (tmp_path / "real.yaml").write_text(CONFIG.format(real="true", target=rescale))
    (tmp_path / "two.yaml").write_text(PAIRS_OF_SCANS)
    return tmp_path


@pytest.fixture(scope="module")
def epoch(tmp_path_factory: pytest.TempPathFactory, make_labels: Callable) -> Path:
    """Folder of a complete run of one epoch."""
    place: Path = tmp_path_factory.mktemp("epoch")
    for k in (1, 2):
        save(place / "maps" / f"sub-0{k}_dseg.nii", make_labels(SHAPE, k)[0].numpy(), AFFINE)
    (place / "own.yaml").write_text(CONFIG.format(real="false", target="target: {name: CopyImage}"))
    where = ("--labels", place / "maps", "--out", place / "run", "--device", "cpu")
    result = run("train", place / "own.yaml", *where, *settings("run.epochs=1"))
    assert result.exit_code == 0, result.stderr
    return place / "run"


@pytest.fixture
def done(epoch: Path, folder: Path) -> Path:
    """A copy of the complete run, `run` in the working folder."""
    return Path(shutil.copytree(epoch, folder / "run"))


def train(*arguments: object, source: str = "own.yaml", labels: str = "maps") -> Result:
    return run("train", source, "--labels", labels, "--out", "run", "--device", "cpu", *arguments)


def scan(seed: int = 0, affine: np.ndarray = AFFINE) -> nib.Nifti1Image:
    values = np.random.default_rng(seed).random((22, 24, 26), np.float32)
    return nib.Nifti1Image(300 * values, affine)


# What comes out ----------------------------------------------------------------------------------


def without_chance() -> str:
    """A configuration in which image and target follow from the label map, but for a bit of noise.

    White matter is bright in both, so that little has to be learnt.
    """
    table = LabelTable.ready("synthseg")
    means = [0.0] * table.num_classes
    for row in table.rows:
        means[row.label_class] = 30 + 1.6 * INTENSITIES.get(row.tissue, -30 / 1.6)
    none, some = [0] * table.num_classes, [2] * table.num_classes
    tissues = ", ".join(f"{name}: [{value}, {value}]" for name, value in INTENSITIES.items())
    return f"""
label_table: synthseg
steps:
  target: {{name: TissueContrast, params: {{by_tissue: {{{tissues}}}, std: [1, 1]}}}}
  target_scale:
    name: MinMaxRescale
    params: {{clip: [0, 255], input_range: [0, 255], include: [target]}}
  mixture:
    name: TissueMixture
    params:
      distribution: normal
      prior_means: {[means, none]}
      prior_stds: {[some, none]}
  rescale: {{name: MinMaxRescale, params: {{include: [image]}}}}
training:
  network: {{num_levels: 2, num_features: 8, normalisation: none}}
  optimiser: {{learning_rate: 3.0e-3}}
  run: {{epochs: 4, steps_per_epoch: 40}}
  validation: {{every_epochs: 0, held_out: 0}}
"""


class TestOverfitting:
    def test_two_label_maps_are_learnt_and_the_model_predicts(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for seed in (0, 1):
            head = head_phantom(spacing_mm=12, shape=(16, 20, 18), seed=seed)
            save(tmp_path / "maps" / f"sub-{seed}.nii", head.data[0].numpy(), head.affine.numpy())
        (tmp_path / "own.yaml").write_text(without_chance())
        result = train()
        assert result.exit_code == 0, result.stderr
        losses = [float(row["train/loss"]) for row in MetricsFile("run/metrics.csv").rows()]
        assert losses[-1] < losses[0] / 4

        generator = Generator(load_config("own.yaml"))
        stream = PairStream(
            generator, Bank(read_bank(find_subjects("maps"), target="target")), seed=9
        )
        pair = stream.pair(0)
        shown = stream.bank.entries[stream.plan(0).entries[0]].affine.numpy()
        image, target = pair.image[0, 0].numpy(), 255 * pair.target[0, 0].numpy()
        save(tmp_path / "scan.nii.gz", 900 * image, shown)
        predicted = run(
            "predict", "scan.nii.gz", "t1.nii.gz", "--model", "run/models/last.safetensors"
        )
        assert predicted.exit_code == 0, predicted.stderr
        prediction = nib.load("t1.nii.gz").get_fdata()
        assert prediction.shape == target.shape
        assert np.isfinite(prediction).all()
        constant = np.abs(target - np.median(target)).mean()
        assert np.abs(prediction - target).mean() < constant / 4


class TestPrediction:
    """Model files of all kinds of runs go through `Predictor`, which does what training did."""

    def predictor(self, *assignments: str, source: str = "own.yaml", **kwargs: Any) -> Predictor:
        result = train(*settings(*assignments), source=source)
        assert result.exit_code == 0, result.stderr
        return Predictor.from_file(
            "run/models/last.safetensors", device="cpu", flip=False, **kwargs
        )

    @pytest.fixture(autouse=True)
    def _in_folder(self, folder: Path) -> None:
        pass

    def both(self, predictor: Predictor, *images: nib.Nifti1Image) -> tuple[Any, Any, Any]:
        """Prediction; what the network gives for the input, and the input, without padding."""
        prediction = predictor(list(images))
        prepared = predictor.prepare([scan_of(image) for image in images])
        network = read_model("run/models/last.safetensors").network
        inside = (slice(None), *prepared.space.inside)
        output = network(prepared.tensor[None])[0][inside].numpy()
        return prediction.get_fdata(), output, prepared.tensor[inside].numpy()

    def intensities(self, image: nib.Nifti1Image, values: np.ndarray) -> np.ndarray:
        """Values from 0 to 1 as intensities of a scan, whose extremes are smoothed a little."""
        data = image.get_fdata()
        return np.clip(data.min() + np.ptp(data) * values, 0, None)

    def test_one_channel(self):
        predictor = self.predictor()
        predicted, (output,), _ = self.both(predictor, scan())
        np.testing.assert_allclose(predicted, np.clip(255 * output, 0, 255), atol=1e-2)
        assert np.ptp(predicted) > 0

    def test_a_residual_channel(self):
        predictor = self.predictor("loss.residual_channels=[0]")
        predicted, (output,), (base,) = self.both(predictor, scan())
        expected = self.intensities(scan(), output + base)
        np.testing.assert_allclose(predicted, expected, atol=0.01 * expected.max())

    def test_spreads(self):
        predictor = self.predictor("loss.name=laplace", "loss.residual_channels=[0]")
        predicted, (image, spread), (base,) = self.both(predictor, scan())
        expected = self.intensities(scan(), image + base)
        np.testing.assert_allclose(predicted, expected, atol=0.01 * expected.max())
        found = predictor.predict([scan_of(scan())]).laplace_scale
        expected = np.ptp(scan().get_fdata()) * (1e-5 + 0.02 * np.exp(spread))
        np.testing.assert_allclose(found.data, expected, rtol=1e-2)

    def test_two_scans_with_reliability_maps(self):
        predictor = self.predictor("loss.residual_channels=[1]", source="two.yaml")
        thick = scan(2, AFFINE @ np.diag([1, 1, 2, 1]))
        predicted, (output,), channels = self.both(predictor, scan(1), thick)
        assert [image.reliability_map for image in predictor.config.inputs] == [True, True]
        assert channels.shape[0] == 4
        expected = self.intensities(thick, output + channels[2])
        np.testing.assert_allclose(predicted, expected, atol=0.01 * expected.max())
        assert channels[1].min() == 1
        assert 0 < channels[3].mean() < 1


# What is said ------------------------------------------------------------------------------------


class TestWhatIsSaid:
    def test_a_run_from_beginning_to_end(self, folder):
        result = train(*settings("validation.every_epochs=1", "validation.held_out=1"))
        assert result.exit_code == 0, result.stderr
        lines = result.stderr.splitlines()
        assert "2/2 label maps read" in result.stderr
        (begin,) = [line for line in lines if line.startswith("Training a network of")]
        assert "(1 in, 1 out, batch normalisation) on 1 label map (1 more for validation)" in begin
        assert "patches of 12 x 12 x 12, in fp32." in begin
        assert [line.split(",")[0] for line in lines if line.startswith("Epoch ")] == [
            f"Epoch {row['epoch']}: train loss {row['train/loss']:.4g}"
            for row in MetricsFile("run/metrics.csv").rows()
        ]
        assert any(line.startswith("1/6 batches, epoch 1/2, loss ") for line in lines)
        assert result.stdout.startswith("Trained 2 epochs in ")
        assert result.stdout.endswith("The best model is run/models/best.safetensors.\n")

    def test_what_was_corrected_is_said(self, folder):
        result = train(
            *settings("crop.shape=15", "loss.crop=8", "network.num_levels=3", "run.epochs=1")
        )
        assert result.exit_code == 0, result.stderr
        notes = [line for line in result.stderr.splitlines() if line.startswith("Note: ")]
        assert notes == [
            "Note: label maps are padded by 3 x 3 x 3 voxels.",
            "Note: patches of 15 x 15 x 15 voxels become 12 x 12 x 12, multiples of 4.",
        ]

    def test_without_held_out_label_maps(self, folder):
        result = train(*settings("validation.every_epochs=1", "run.epochs=1"))
        assert "Note: no label map is held out" in result.stderr

    def test_a_resumed_run(self, done):
        result = run(
            "train", "--out", "run", "--resume", "--device", "cpu", "--set", "run.epochs=2"
        )
        assert result.exit_code == 0, result.stderr
        assert f"Going on from {Path('run/state/last.ckpt')}." in result.stderr
        assert "4/6 batches, epoch 2/2" in result.stderr
        assert "Epoch 1:" not in result.stderr

    def test_a_run_that_was_stopped_before_its_first_save_starts_anew(self, done):
        Path("run/state/last.ckpt").unlink()
        result = run("train", "--out", "run", "--resume", "--device", "cpu")
        assert result.exit_code == 0, result.stderr
        assert "Note: nothing is saved in run yet: the run starts anew." in result.stderr
        assert "Going on from" not in result.stderr
        assert "Epoch 1:" in result.stderr

    def test_a_stopped_run(self, folder, monkeypatch):
        reach = Counter.reach

        def stop(self: Counter, done: int, total: int, text: str = "") -> None:
            reach(self, done, total, text)
            if done == 2 and text.startswith("epoch"):
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(Counter, "reach", stop)
        result = train()
        assert result.exit_code == 130
        assert result.stdout == ""
        assert result.stderr.endswith("Stopped. `synthsr train --out run --resume` goes on.\n")
        assert Path("run/state/last.ckpt").exists()

    def test_other_processes_are_quiet(self, done, monkeypatch):
        monkeypatch.setenv("RANK", "1")
        result = run("train", "--out", "run", "--resume", "--device", "cpu")
        assert result.output == ""
        assert result.exit_code == 0

    def test_times_left_are_those_of_this_run(self, monkeypatch, capsys):
        now = [100.0]
        monkeypatch.setattr("synthsr_cli.common.progress.time.perf_counter", lambda: now[0])
        results = {"train/loss": 0.5, "validation/brain/psnr": 21.0}
        with messages.shown(), progress("batches", done=None) as shown:
            show_step(shown, Progress(51, 100, 2, 4, float("nan")))
            now[0] += 20
            show_step(shown, Progress(61, 100, 3, 4, 0.25))
            show_epoch(shown, EpochResults(3, results, True))
            show_epoch(shown, EpochResults(4, {}, False))
        first, second, third, fourth = capsys.readouterr().err.splitlines()
        assert first == "51/100 batches, epoch 2/4"  # of which nobody knows how long it took
        assert second == "61/100 batches, epoch 3/4, loss 0.2500, 2.00 s each, 1 min 18 s left"
        assert third == "Epoch 3: train loss 0.5, brain psnr 21 (best)"
        assert fourth == "Epoch 4: the critic alone has learnt"

    def test_presets_are_listed(self):
        result = run("train", "--list-presets")
        assert result.exit_code == 0
        assert "all_purpose" in result.stdout

    def test_help(self):
        result = run("train", "--help")
        assert result.exit_code == 0
        for word in ("--resume", "--devices", "--num-nodes", "--compile", "Examples:"):
            assert word in result.stdout


class TestSources:
    def test_images_are_paired_in_order_when_asked_for(self, folder):
        for k, path in enumerate(sorted((folder / "images").iterdir())):
            path.rename(path.with_name(f"scan{k}.nii"))
        refused = train("--images", "images", source="real.yaml")
        assert "--match order" in refused.stderr
        result = train("--images", "images", "--match", "order", source="real.yaml")
        assert result.exit_code == 0, result.stderr

    def test_real_targets(self, folder):
        result = train("--images", "images", source="real.yaml")
        assert result.exit_code == 0, result.stderr
        sources = load_config("run/config.yaml")
        assert sources.real_target
        again = run("train", "run/config.yaml", "--out", "again", "--device", "cpu")
        assert again.exit_code == 0, again.stderr
        first, second = (
            read_model(f"{name}/models/last.safetensors").network for name in ("run", "again")
        )
        assert torch.equal(first.head.weight, second.head.weight)

    def test_the_phantom_where_there_are_no_label_maps(self, folder, monkeypatch):
        monkeypatch.setattr(job, "phantom_subject", partial(phantom_subject, spacing_mm=4))
        for table in ("synthseg", "freesurfer_aseg"):  # the second lacks what is outside the brain
            sets = settings(f"label_table={table}", "run.epochs=1")
            result = run("train", "own.yaml", "--out", table, "--device", "cpu", *sets)
            assert result.exit_code == 0, result.stderr
            assert "on 1 label map," in result.stderr

    def test_compiled(self, folder, monkeypatch):
        compiled = []

        def compile_(function: Any) -> Any:
            compiled.append(function)
            return function

        monkeypatch.setattr(torch, "compile", compile_)
        assert train("--compile", *settings("run.epochs=1")).exit_code == 0
        network, loss = compiled
        assert network.__self__.config.num_levels >= 1
        assert loss.__self__.outputs_per_target == 1

    def test_samples_of_the_run_are_generated(self, done):
        result = run("generate", "run/config.yaml", "-n", 1, "--out", "samples", "--device", "cpu")
        assert result.exit_code == 0, result.stderr
        image = nib.load("samples/sample_000000_image.nii.gz").get_fdata(dtype=np.float32)
        entries = read_bank(find_subjects(done.parent / "maps"), target="target")
        stream = PairStream(Generator(load_config("run/config.yaml")), Bank(entries))
        np.testing.assert_array_equal(image, stream.pair(0).image[0, 0].numpy())


# What is refused ---------------------------------------------------------------------------------


def refused(result: Result, *words: str, code: int = 2) -> None:
    """The command ended with one line of error that says all of this, and wrote nothing."""
    assert result.exit_code == code, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert result.stderr.splitlines()[-1:] == errors
    for word in words:
        assert word in errors[0]
    assert result.stdout == ""


class TestBadInput:
    @pytest.fixture(autouse=True)
    def _in_folder(self, folder: Path) -> None:
        pass

    @pytest.mark.parametrize(
        ("assignments", "words"),
        [
            (["crop.shape=24"], ["crop.shape must be at most", "--set crop.shape=18"]),
            (["loss.residual_channels=[1]"], ["loss.residual_channels must be 1 numbers", "to 0"]),
            (["real_target=true"], ["real targets need an image", "--images"]),
            (["optimiser.learning_rat=1"], ["did you mean 'learning_rate'?"]),
            (["optimizer.learning_rate=1"], ["did you mean 'optimiser'?"]),
            (["loss.name=ll"], ["loss must be one of"]),
            (["run.epochs=0"], ["run.epochs must be 1 to 1000000, got 0"]),
        ],
    )
    def test_settings(self, assignments, words):
        refused(train(*settings(*assignments)), *words)
        assert not Path("run").exists()

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["own.yaml", "--labels", "none"], ["none must be a file or folder"]),
            (["own.yml", "--labels", "maps"], ["own.yml does not exist"]),
            (["all_purposes"], ["did you mean 'all_purpose'?"]),
            ([], ["a preset or a YAML file must be given"]),
            (["own.yaml", "--images", "images"], ["images need label maps"]),
            (["own.yaml", "--labels", "maps", "--images", "images"], ["images serve generators"]),
            (["real.yaml", "--labels", "maps"], ["real targets need an image"]),
            (["--resume"], ["run must hold a run to resume, but holds none"]),
            (["own.yaml", "--labels", "maps", "--device", "tpu"], ["device must be one of"]),
        ],
    )
    def test_arguments(self, arguments, words):
        refused(run("train", *arguments, "--out", "run"), *words)
        assert not Path("run").exists()

    def test_a_target_that_is_real_and_made(self):
        text = Path("own.yaml").read_text().replace("real_target: false", "real_target: true")
        Path("both.yaml").write_text(text)
        result = train("--images", "images", source="both.yaml")
        refused(result, "got both", "step 'target' makes 'target'")
        text = Path("own.yaml").read_text().replace("target: {name: CopyImage}", "")
        Path("neither.yaml").write_text(text)
        refused(train(source="neither.yaml"), "must make an image 'target'")
        assert not Path("run").exists()

    def test_the_folder_of_the_label_maps(self):
        before = sorted(Path("maps").iterdir())
        result = run("train", "own.yaml", "--labels", "maps", "--out", "maps")
        refused(result, "must be another than that of label maps")
        assert sorted(Path("maps").iterdir()) == before

    def test_a_folder_that_holds_a_run(self, done):
        before = Path("run/config.yaml").read_bytes()
        refused(train(), "holds a run", "--resume", "--overwrite")
        other = run("train", "--out", "run", "--resume", *settings("loss.name=l2"))
        refused(other, "training.loss.name is 'l1' there and 'l2' here")
        assert Path("run/config.yaml").read_bytes() == before
        Path("run/state/last.ckpt").write_bytes(b"damaged")
        refused(run("train", "--out", "run", "--resume"), "last.ckpt", "cannot be read")

    def test_label_maps_of_several_spacings(self, make_labels):
        save(Path("maps/sub-03_dseg.nii"), make_labels(SHAPE, 3)[0].numpy(), np.diag([5, 5, 5, 1]))
        refused(train(*settings("run.batch_size=2")), "one isotropic", "4 to 5 mm (sub-03")

    def test_segmentation_networks_need_a_label_for_each_output(self, epoch):
        model = f"loss.segmentation.model={epoch / 'models/last.safetensors'}"
        refused(train(*settings(model)), "for each of the 1 outputs", "got nothing")
        wrong = "loss.segmentation.output_labels=[0, 2]"
        refused(train(*settings(model, wrong)), "for each of the 1 outputs", "got 2 labels")

    def test_weights_of_another_architecture(self, epoch):
        weights = f"initial_weights={epoch / 'models/last.safetensors'}"
        result = train(*settings(weights, "network.num_features=3"))
        refused(result, "--set network.num_features=4")
        assert train(*settings(weights, "run.epochs=1")).exit_code == 0

    def test_weights_of_a_narrower_network_are_widened(self, epoch):
        weights = f"initial_weights={epoch / 'models/last.safetensors'}"
        result = train(*settings(weights, "network.num_features=5", "run.epochs=1"))
        assert result.exit_code == 0, result.stderr
        assert "features beyond 4, 8 of the levels are new" in result.stderr

    def test_kernels_of_new_features_follow_the_seed_of_the_run(self, monkeypatch, epoch):
        seeds = []

        def start(network: Any, source: Any, seed: int) -> list[str]:
            seeds.append(seed)
            return start_from(network, source, seed)

        monkeypatch.setattr(prepare, "start_from", start)
        weights = f"initial_weights={epoch / 'models/last.safetensors'}"
        assert train(*settings(weights, "run.seed=7", "run.epochs=1")).exit_code == 0
        assert seeds == [7]


class TestFailedWork:
    @pytest.fixture(autouse=True)
    def _in_folder(self, folder: Path) -> None:
        pass

    def test_a_loss_that_is_not_finite(self, monkeypatch):
        good, calls = Objective.forward, []

        def forward(self: Objective, prediction: Any, pair: Any) -> Any:
            calls.append(None)
            return good(self, prediction, pair) * (float("nan") if len(calls) == 5 else 1)

        monkeypatch.setattr(Objective, "forward", forward)
        refused(
            train(),
            "loss must be finite, got nan at step 4: sample 4 (seed ",
            "last good model is run/models/last.safetensors",
            "The pair lies in run/failed/step_000004",
            code=1,
        )

    def test_a_full_disk(self, monkeypatch):
        def full(*args: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(saving, "save_model", full)
        refused(train(), "could not be saved in run: the disk is full", "--resume", code=1)

    def test_what_nobody_foresaw(self, monkeypatch):
        def surprising(*args: Any) -> None:
            raise RuntimeError("surprise")

        monkeypatch.setattr(Objective, "forward", surprising)
        refused(train(), "unexpected RuntimeError: surprise", "--traceback", code=1)
