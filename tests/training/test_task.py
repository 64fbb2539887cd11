"""Promises of what training does with a pair: loss, optimiser, average of weights, validation."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from synthsr_net.losses import LOSSES, build_loss
from synthsr_net.losses.segmentation import SegmentationLoss
from synthsr_net.models.checkpoint import ModelConfig, read_model, save_model
from synthsr_net.networks.unet import NORMALISATIONS, UNet3d, UNetConfig
from synthsr_net.training.callbacks.metrics_file import MetricsFile
from synthsr_net.training.config import LossConfig, OptimiserConfig, SegmentationConfig
from synthsr_net.training.data.bank import Bank, read_entry
from synthsr_net.training.data.stream import PairStream
from synthsr_net.training.run import TrainingRun
from synthsr_net.training.task.objective import (
    Objective,
    input_channels,
    make_segmentation,
)
from synthsr_net.training.task.optimisation import (
    MovingAverage,
    learning_rate_factor,
    make_optimiser,
)
from synthsr_net.training.task.regression import TrainingTask, freeze_batch_norm
from synthsr_net.training.task.watch import LossWatch, NonFiniteLossError
from synthsr_transforms.generator.config import GeneratorConfig
from synthsr_transforms.generator.generator import TrainingPair
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.phantom import head_phantom
from synthsr_transforms.subjects.files import SubjectFiles
from synthsr_transforms.support.messages import SynthSRError

SHAPE = (20, 18, 22)
TABLE = LabelTable.ready("freesurfer_aseg")
SYNTHETIC = """
label_table: freesurfer_aseg
steps:
  crop: {name: PatchCrop, params: {shape: 12}}
  mixture: {name: TissueMixture}
  rescale: {name: MinMaxRescale, params: {include: [image]}}
  target: {name: CopyImage}
  acquisition: {name: SliceAcquisition, params: {spacing_mm: [4, 4, 9]}}
training:
  network: {num_levels: 2, num_features: 4}
  optimiser: {learning_rate: 1.0e-2}
  run: {epochs: 1, steps_per_epoch: 1}
  validation: {every_epochs: 0, previews: 0, held_out: 1, samples: 2}
"""
TWO_CHANNELS = """
label_table: freesurfer_aseg
reliability: reliability
steps:
  crop: {name: PatchCrop, params: {shape: 12}}
  mixture: {name: TissueMixture, params: {num_channels: 3}}
  rescale: {name: MinMaxRescale, params: {include: [image]}}
  target: {name: CopyImage, params: {channels: [0, 1]}}
  inputs: {name: SelectChannels, params: {channels: [0, 1, 2], include: [image]}}
  acquisition: {name: SliceAcquisition, params: {spacing_mm: [4, 4, 9]}}
  reliability: {name: ReliabilityMap}
training:
  network: {num_levels: 2, num_features: 4}
  run: {epochs: 1, steps_per_epoch: 1}
  validation: {every_epochs: 0, held_out: 0}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, save_label_maps: Callable, make_image: Callable) -> Path:
    """Three label maps with images, and configurations."""
    place: Path = tmp_path_factory.mktemp("task")
    save_label_maps(place / "maps", 3)
    (place / "images").mkdir()
    for k in range(3):
        image = nib.Nifti1Image(make_image(SHAPE, 1, k)[0].numpy(), np.diag([4.0, 4, 4, 1]))
        nib.save(image, place / "images" / f"sub-0{k}.nii")
    (place / "own.yaml").write_text(SYNTHETIC)
    (place / "two.yaml").write_text(TWO_CHANNELS)
    return place


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def assert_close(first: dict[str, Tensor], second: dict[str, Tensor], tolerance: float) -> None:
    assert set(first) == set(second)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=tolerance, atol=tolerance, msg=name)


def pair_of(channels: int = 1, targets: int = 1, size: int = 8) -> TrainingPair:
    chance = torch.Generator().manual_seed(0)
    shape = (size,) * 3
    image = torch.rand(2, channels, *shape, generator=chance)
    target = torch.rand(2, targets, *shape, generator=chance)
    values = torch.tensor([0, 2, 3, 41])
    labels = values[torch.randint(4, (2, 1, *shape), generator=chance)].int()
    return TrainingPair(image, target, labels)


# What is made small ------------------------------------------------------------------------------


class TestObjective:
    def test_without_more_it_is_the_image_loss(self):
        pair = pair_of()
        objective = Objective(LossConfig(name="l2"))
        prediction = objective.prediction(pair.image.bfloat16(), pair.image)
        assert prediction.dtype == torch.float32
        torch.testing.assert_close(
            objective(prediction, pair), (prediction - pair.target).square().mean()
        )

    @pytest.mark.parametrize(("crop", "box"), [(4, (4, 4, 4)), ([6, 0, 3], (6, 8, 3))])
    def test_the_loss_reads_the_central_box_alone(self, crop, box):
        pair = pair_of()
        prediction = pair.image.clone().requires_grad_()
        Objective(LossConfig(crop=crop))(prediction, pair).backward()
        read = prediction.grad[0, 0] != 0
        expected = torch.zeros(8, 8, 8, dtype=torch.bool)
        begin = [(8 - n) // 2 for n in box]
        expected[tuple(slice(b, b + n) for b, n in zip(begin, box, strict=True))] = True
        assert torch.equal(read, expected)

    def test_the_output_is_added_to_the_channels_that_were_chosen(self):
        pair = pair_of(channels=4, targets=2)
        output = torch.rand_like(pair.target)
        predicted = Objective(LossConfig(), residual=[2, 0]).prediction(output, pair.image)
        torch.testing.assert_close(predicted, output + pair.image[:, [2, 0]])

    def test_spreads_are_neither_added_to_nor_compared(self):
        pair = pair_of(channels=2, targets=1)
        objective = Objective(LossConfig(name="laplace"), residual=[1])
        output = torch.rand(2, 2, 8, 8, 8)
        predicted = objective.prediction(output, pair.image)
        torch.testing.assert_close(predicted[:, 1], output[:, 1])
        torch.testing.assert_close(
            objective.intensities(predicted), output[:, :1] + pair.image[:, 1:]
        )
        torch.testing.assert_close(
            objective(predicted, pair), build_loss("laplace")(predicted, pair.target)
        )

    @pytest.mark.parametrize("reliability", [None, "reliability"])
    def test_residual_channels_are_numbers_of_images(self, reliability):
        config = GeneratorConfig(reliability=reliability)
        step = 1 if reliability is None else 2
        loss = LossConfig(residual_channels=[2, 0])
        assert input_channels(config, loss, 3 * step, 2) == [2 * step, 0]
        assert input_channels(config, LossConfig(), 3 * step, 2) == []

    @pytest.mark.parametrize("wrong", [[3], [-1], [0, 1], []])
    def test_residual_channels_must_exist(self, wrong):
        config = GeneratorConfig(reliability="reliability")
        with pytest.raises(SynthSRError, match=r"must be 1 numbers.*from 0 to 2, got \["):
            input_channels(config, LossConfig(residual_channels=wrong), 6, 1)


class TestSegmentation:
    @pytest.fixture
    def settings(self, tmp_path: Path) -> SegmentationConfig:
        """A network of three classes that judges by intensity."""
        torch.manual_seed(3)
        network = UNetConfig(num_levels=1, num_features=6, kernel_size=1, out_channels=3)
        state = UNet3d(network).state_dict()
        path = tmp_path / "segmentation.safetensors"
        save_model(path, ModelConfig(network=network), state)
        return SegmentationConfig(model=str(path), output_labels=[0, 2, -1], weight=0.5)

    def made(self, settings: SegmentationConfig, targets: Any = ()) -> Any:
        return make_segmentation(LossConfig(segmentation=settings), TABLE, targets=targets)

    def test_its_dice_is_added_with_its_weight(self, settings):
        config = LossConfig(crop=4, segmentation=settings)
        segmentation = make_segmentation(config, TABLE)
        pair = pair_of()
        both = Objective(config, segmentation=segmentation)(pair.image, pair)
        network = replace(read_model(settings.model).config.network, softmax=True)
        judge = UNet3d(network)
        judge.load_state_dict(read_model(settings.model).network.state_dict())
        dice = SegmentationLoss(judge, [0, 2, -1], TABLE.values, crop=4)(pair.image, pair.labels)
        assert float(dice) > 0.1
        torch.testing.assert_close(both, Objective(config)(pair.image, pair) + 0.5 * dice)

    def test_labels_can_come_from_a_file(self, settings, tmp_path):
        np.save(tmp_path / "labels.npy", np.array([0, 2, -1]))
        made = self.made(replace(settings, output_labels=str(tmp_path / "labels.npy")))
        assert made.merges == self.made(settings).merges

    @pytest.mark.parametrize("wrong", [None, [0, 2], [0, 2, 3, 4], "none.npy"])
    def test_a_label_for_each_output_is_needed(self, settings, wrong):
        expected = r"outputs of .*segmentation|none\.npy"
        with pytest.raises((ValueError, FileNotFoundError), match=expected):
            self.made(replace(settings, output_labels=wrong))

    def test_labels_that_the_table_lacks_are_refused(self, settings):
        with pytest.raises(ValueError, match="got 999"):
            self.made(replace(settings, output_labels=[0, 2, 999]))

    def test_intensities_come_from_the_real_targets(self, settings, folder):
        entries = [
            read_entry(
                SubjectFiles(folder / "maps" / name, folder / "images" / name), target="target"
            )
            for name in ("sub-00.nii", "sub-01.nii")
        ]
        chosen = replace(settings, clip_percentiles=(2.0, 98.0))
        low, high = self.made(chosen, entries).intensity_range
        expected = []
        for entry in entries:
            values = entry.image.numpy().astype(np.float64)
            values = (values - values.min()) / np.ptp(values)
            expected.append(np.percentile(values, [2, 98], method="nearest"))
        np.testing.assert_allclose([low, high], np.mean(expected, 0), rtol=1e-5)
        assert self.made(chosen).intensity_range is None
        assert self.made(settings, entries).intensity_range is None

    def test_in_a_run_it_falls_and_its_network_stays(self, settings, begin):
        run = begin(
            f"loss.segmentation.model={settings.model}",
            "loss.segmentation.output_labels=[0, 2, -1]",
            "loss.segmentation.weight=50",
            "run.steps_per_epoch=40",
        )
        objective = run.prepared.objective
        before, judge = weights(run.prepared.network), weights(objective.segmentation.network)
        run.fit()
        pair = run.prepared.data()
        pair.connect(torch.device("cpu"))
        sample = pair.stream.pair(1000)

        def dice(state: dict[str, Tensor]) -> float:
            network = UNet3d(run.prepared.network.config)
            network.load_state_dict(state)
            return float(objective.segmentation(network(sample.image).detach(), sample.labels))

        assert dice(weights(run.prepared.network)) < dice(before) - 0.02
        assert_close(weights(objective.segmentation.network), judge, 0)


# How weights follow ------------------------------------------------------------------------------


class TestAverage:
    def test_it_follows_its_formula(self):
        torch.manual_seed(0)
        layer = nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2))
        average = MovingAverage(layer, decay=0.8)
        expected = {name: tensor.double() for name, tensor in weights(layer).items()}
        for step in range(60):
            layer(torch.rand(1, 1, 2, 2, 2))
            with torch.no_grad():
                layer[0].weight += torch.rand_like(layer[0].weight)
            average.update(layer, step)
            decay = min(0.8, (1 + step) / (10 + step))
            for name, tensor in weights(layer).items():
                expected[name] = decay * expected[name] + (1 - decay) * tensor
        for name, tensor in weights(average.network).items():
            if name.endswith("num_batches_tracked"):
                assert int(tensor) == 60
            else:
                torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)

    def test_it_follows_a_network_that_moved_and_another_one(self):
        first, second = (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(2))
        average = MovingAverage(first, decay=0.5)
        for network in (first, first.double(), second.double()):
            average.double()
            before = weights(average.network)
            with torch.no_grad():
                network[0].weight += 1
                network[1].running_mean += 1
            average.update(network, step=100)
            for name, tensor in weights(network).items():
                if tensor.is_floating_point():
                    expected = 0.5 * (before[name] + tensor)
                    torch.testing.assert_close(average.network.state_dict()[name], expected)

    def test_it_learns_nothing_by_itself(self):
        average = MovingAverage(nn.Linear(2, 2), decay=0.9)
        assert not any(parameter.requires_grad for parameter in average.parameters())

    def test_a_run_saves_it(self, begin):
        run = begin("optimiser.ema_decay=0.7", "run.steps_per_epoch=6")
        expected = {name: tensor.double() for name, tensor in weights(run.prepared.network).items()}

        def step(now: Any) -> None:
            decay = min(0.7, now.done / (9 + now.done))
            for name, tensor in weights(run.prepared.network).items():
                expected[name] = decay * expected[name] + (1 - decay) * tensor

        run.fit(on_step=step)
        saved = read_model(run.folder.model_path("last")).network.state_dict()
        for name, tensor in saved.items():
            if tensor.is_floating_point():
                torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)


class TestCompilation:
    @pytest.mark.parametrize(
        ("wish", "expected"),
        [("false", []), ("true", [{}, {}]), ("reduce-overhead", [{"mode": "reduce-overhead"}, {}])],
    )
    def test_the_mode_of_the_network_goes_to_torch(self, begin, monkeypatch, wish, expected):
        seen = []

        def compile_(function: Any, **options: Any) -> Any:
            seen.append(options)
            return function

        monkeypatch.setattr(torch, "compile", compile_)
        begin(f"run.compile={wish}").prepared.task()
        assert seen == expected


class TestFrozenStatistics:
    @staticmethod
    def _running_means(run: TrainingRun, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
        """Running means of the first normalisation after each step."""
        found: list[Tensor] = []
        end = TrainingTask.on_train_batch_end

        def watch(task: TrainingTask, *args: Any) -> None:
            end(task, *args)
            found.append(task.network.encoder[0].norm.running_mean.clone())

        monkeypatch.setattr(TrainingTask, "on_train_batch_end", watch)
        run.fit()
        return found

    def test_they_follow_until_their_time_and_stay_from_then_on(self, begin, monkeypatch):
        steps = ("run.epochs=2", "run.steps_per_epoch=3", "network.normalisation=batch")
        run = begin(*steps, "network.normalise_last=true", "run.freeze_batch_norm_after=0.34")
        means = self._running_means(run, monkeypatch)
        moved = [not torch.equal(a, b) for a, b in itertools.pairwise(means)]
        assert moved == [True, True, False, False, False]  # frozen from the fourth step on

    def test_training_uses_them_then(self):
        norm = nn.BatchNorm3d(2).train()
        x = torch.rand(1, 2, 3, 3, 3)
        freeze_batch_norm(nn.Sequential(norm))
        torch.testing.assert_close(norm(x), x / math.sqrt(1 + norm.eps))
        assert norm.weight.requires_grad


class TestLearningRate:
    def factors(self, number: int, **settings: Any) -> list[float]:
        factor = learning_rate_factor(OptimiserConfig(**settings), number)
        return [factor(step) for step in range(number)]

    def test_a_constant_one_stays(self):
        assert self.factors(5) == [1.0] * 5

    def test_it_rises_in_warm_up(self):
        assert self.factors(6, warmup_steps=4) == [0.25, 0.5, 0.75, 1, 1, 1]

    def test_inverse_time_is_that_of_keras(self):
        found = self.factors(50, schedule="inverse_time", inverse_time_decay=0.1)
        np.testing.assert_allclose(found, 1 / (1 + 0.1 * np.arange(50)))

    @pytest.mark.parametrize("warm_up", [0, 10])
    def test_cosine_falls_from_all_to_its_end(self, warm_up):
        schedule = {"schedule": "cosine", "final_learning_rate_ratio": 0.1, "warmup_steps": warm_up}
        found = self.factors(101, **schedule)[warm_up:]
        turn = np.linspace(0, np.pi, 101, endpoint=False)[: 101 - warm_up] * 101 / (101 - warm_up)
        np.testing.assert_allclose(found, 0.1 + 0.9 * (1 + np.cos(turn)) / 2, rtol=1e-12)
        factor = learning_rate_factor(OptimiserConfig(**schedule), 101)
        assert factor(101) == factor(1000) == pytest.approx(0.1)

    @pytest.mark.parametrize("accumulate", [1, 2, 4])
    def test_a_run_counts_steps_of_the_optimiser(self, begin, accumulate):
        run = begin(
            "run.epochs=2",
            "run.steps_per_epoch=6",
            f"optimiser.accumulate_batches={accumulate}",
            "optimiser.schedule=cosine",
            "optimiser.final_learning_rate_ratio=0",
        )
        run.fit()
        half, end = (row["learning_rate"] for row in MetricsFile(run.folder.metrics_path).rows())
        assert half == pytest.approx(0.5e-2, rel=1e-5)
        assert end == pytest.approx(0, abs=1e-12)


class TestOptimiser:
    @pytest.mark.parametrize(("name", "kind"), [("adam", "Adam"), ("adamw", "AdamW")])
    def test_settings_arrive(self, name, kind):
        settings = OptimiserConfig(
            name=name, learning_rate=0.5, betas=(0.8, 0.9), epsilon=1e-3, weight_decay=0.25
        )
        weight = nn.Parameter(torch.zeros(2))
        for rate in (None, 0.1):
            optimiser = make_optimiser([weight], settings, rate)
            (group,) = optimiser.param_groups
            assert type(optimiser).__name__ == kind
            assert group["lr"] == (rate or 0.5)
            assert tuple(group["betas"]) == (0.8, 0.9)
            assert (group["eps"], group["weight_decay"]) == (1e-3, 0.25)

    @pytest.mark.parametrize("accumulate", [1, 2])
    def test_a_run_does_what_a_plain_loop_does(self, begin, accumulate):
        run = begin(
            "run.epochs=2",
            "run.steps_per_epoch=3",
            f"optimiser.accumulate_batches={accumulate}",
            "optimiser.clip_norm=0.1",
            "optimiser.learning_rate=0.1",
            "optimiser.epsilon=0.1",  # so that the order of sums matters little
            "run.batch_size=2",
        )
        network = copy.deepcopy(run.prepared.network)
        data = run.prepared.data()
        data.connect(torch.device("cpu"))
        optimiser = torch.optim.Adam(network.parameters(), lr=0.1, eps=0.1)
        losses: list[list[float]] = []
        for epoch in range(2):
            losses.append([])
            for step in range(3):
                pair = data.stream.pair(3 * epoch + step)
                loss = (network(pair.image) - pair.target).abs().mean()
                (loss / accumulate).backward()
                losses[-1].append(loss.item())
                if (step + 1) % accumulate == 0 or step == 2:
                    torch.nn.utils.clip_grad_norm_(network.parameters(), 0.1)
                    optimiser.step()
                    optimiser.zero_grad()
        run.fit()
        assert_close(weights(run.prepared.network), weights(network), 2e-5)
        means = [row["train/loss"] for row in MetricsFile(run.folder.metrics_path).rows()]
        np.testing.assert_allclose(means, np.mean(losses, 1), rtol=2e-5)


class TestWatch:
    def test_losses_are_read_once_and_in_order(self):
        watch = LossWatch()
        for step in (4, 5, 6):
            watch.add(step, torch.tensor(step / 2, requires_grad=True))
        assert watch.read() == [2.0, 2.5, 3.0]
        assert watch.read(wait=True) == []

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_is_not_finite_is_an_error_that_names_the_step(self, value):
        watch = LossWatch()
        watch.add(1, torch.tensor(1.0))
        watch.add(2, torch.tensor(value))
        with pytest.raises(NonFiniteLossError, match="at step 2") as caught:
            watch.read()
        assert caught.value.step == 2

    def test_on_a_gpu_losses_are_read_when_they_have_arrived(self):
        class Event:
            arrived = False

            def query(self) -> bool:
                return self.arrived

            def synchronize(self) -> None:
                self.arrived = True

        watch, events = LossWatch(), [Event(), Event(), Event()]
        for step, event in enumerate(events):
            watch._waiting.append((step, torch.tensor(float(step)), event))  # type: ignore[arg-type]
        events[0].arrived = events[2].arrived = True
        assert watch.read() == [0.0]
        assert watch.read(wait=True) == [1.0, 2.0]
        assert events[1].arrived


# Whole runs --------------------------------------------------------------------------------------


class TestKinds:
    """A step of everything that can be chosen, from which a finite model comes out."""

    TINY = (
        "network.num_levels=2",
        "network.num_features=4",
        "run.epochs=1",
        "run.steps_per_epoch=1",
        "validation.every_epochs=0",
        "acquisition.spacing_mm=[4, 4, 9]",
        "acquisition.thickness_mm=[4, 4, 9]",
    )

    def trained(self, run: TrainingRun) -> UNet3d:
        before = weights(run.prepared.network)
        run.fit()
        network = read_model(run.folder.model_path("last")).network
        after = network.state_dict()
        assert any(not torch.equal(after[name], before[name]) for name in before)
        return network

    @pytest.mark.parametrize("name", sorted(LOSSES))
    def test_losses(self, begin, name):
        run = begin(f"loss.name={name}")
        assert not any("images" in note for note in run.prepared.notes)
        network = self.trained(run)
        assert network.config.out_channels == LOSSES[name].outputs_per_target

    @pytest.mark.parametrize("name", NORMALISATIONS)
    def test_normalisations(self, begin, name):
        network = self.trained(begin(f"network.normalisation={name}"))
        assert network.config.normalisation == name

    def test_optimisers_and_schedules(self, begin):
        self.trained(begin("optimiser.name=adamw", "optimiser.schedule=inverse_time"))

    def test_brain_floats(self, begin):
        assert begin("run.precision=bf16").prepared.precision == "bf16"
        self.trained(begin("run.precision=bf16", name="other"))

    def test_several_inputs_and_outputs(self, begin):
        run = begin("loss.residual_channels=[2, 0]", source="two.yaml")
        assert any("predicts 2 images" in note for note in run.prepared.notes)
        network = self.trained(run)
        assert (network.config.in_channels, network.config.out_channels) == (6, 2)

    def test_spreads_of_several_outputs(self, begin):
        network = self.trained(
            begin("loss.residual_channels=[1, 1]", "loss.name=laplace", source="two.yaml")
        )
        assert (network.config.in_channels, network.config.out_channels) == (6, 4)

    def test_the_residual_is_the_image_that_was_named(self, begin):
        run = begin("loss.residual_channels=[2, 0]", source="two.yaml")
        pair = pair_of(channels=6, targets=2, size=12)
        task = run.prepared.task()
        with torch.no_grad():
            predicted, output = task.predicted(pair), run.prepared.network(pair.image)
        torch.testing.assert_close(predicted - output, pair.image[:, [4, 0]], rtol=0, atol=1e-5)

    def test_a_pair_of_low_field_scans(self, begin):
        network = self.trained(
            begin(
                "label_table=freesurfer_synthsr",
                "crop.shape=16",
                *self.TINY,
                source="hyperfine",
            )
        )
        assert (network.config.in_channels, network.config.out_channels) == (4, 1)

    def test_real_targets(self, begin, folder):
        run = begin(
            "label_table=freesurfer_synthsr",
            *self.TINY,
            source="tutorial_1_sr_real",
            images=folder / "images",
        )
        assert run.prepared.patch == (20, 18, 22)
        assert self.trained(run).config.in_channels == 2


class TestValidation:
    SETS = ("validation.every_epochs=1", "validation.samples=3", "network.normalisation=instance")

    def test_an_unchanged_network_has_the_same_metrics_every_time(self, begin):
        run = begin(*self.SETS, "run.epochs=3", "optimiser.learning_rate=1.0e-30")
        run.fit()
        rows = MetricsFile(run.folder.metrics_path).rows()
        names = [name for name in rows[0] if name.startswith("validation/")]
        assert len(names) == 6
        assert all(row[name] == rows[0][name] for row in rows for name in names)
        assert len({row["train/loss"] for row in rows}) == 3

    @pytest.mark.parametrize("decay", [0, 0.5])
    def test_metrics_are_those_of_the_model_that_is_saved(self, begin, decay):
        run = begin(*self.SETS, f"optimiser.ema_decay={decay}", "run.steps_per_epoch=5")
        run.fit()
        (row,) = MetricsFile(run.folder.metrics_path).rows()
        network = read_model(run.folder.model_path("last")).network
        (held_out,) = run.prepared.fitted.entries[run.prepared.num_training :]
        stream = PairStream(run.prepared.fitted.generator, Bank([held_out]), seed=1000)
        errors = []
        for number in range(3):
            pair = stream.pair(number)
            inside = pair.labels > 0
            errors.append(float((network(pair.image) - pair.target).abs()[inside].mean()))
        assert row["validation/head/l1"] == pytest.approx(np.mean(errors), rel=1e-4)

    @pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
    def test_the_last_epoch_is_validated_whatever_its_number(self, begin, every, epochs):
        run = begin(*self.SETS, "run.epochs=5", f"validation.every_epochs={every}")
        run.fit()
        rows = MetricsFile(run.folder.metrics_path).rows()
        assert [row["epoch"] for row in rows if "validation/head/l1" in row] == epochs

    def test_epochs_without_validation_are_not_the_best(self, begin):
        run = begin(*self.SETS, "run.epochs=7", "validation.every_epochs=3")
        told = []
        run.fit(on_epoch=told.append)
        l1 = {r.epoch: r.row.get("validation/brain/l1", math.nan) for r in told}
        assert [r.epoch for r in told if r.best and math.isnan(l1[r.epoch])] in ([1], [1, 2])
        assert told[2].best
        best = max(r.epoch for r in told if r.best)
        assert l1[best] == min(value for value in l1.values() if not math.isnan(value))
        assert read_model(run.folder.model_path("best")).config.training["epochs"] == best

    def test_a_residual_network_is_validated_with_its_base(self, begin):
        run = begin(
            *self.SETS[:2],
            "loss.residual_channels=[0]",
            "optimiser.learning_rate=1.0e-30",
            "network.normalisation=none",
        )
        with torch.no_grad():
            for parameter in run.prepared.network.head.parameters():
                parameter.zero_()
        run.fit()
        (row,) = MetricsFile(run.folder.metrics_path).rows()
        data = run.prepared.data()
        data.connect(torch.device("cpu"))
        errors = [(p.image - p.target).abs()[p.labels > 0].mean().item() for p in data.fixed]
        assert row["validation/head/l1"] == pytest.approx(np.mean(errors), rel=1e-4)

    def test_real_scans_are_measured_with_their_base(self, begin, tmp_path):
        """A residual network that adds nothing is as good as interpolation."""
        head = head_phantom(spacing_mm=4)
        labels, affine = head.data[0].numpy(), head.affine.numpy()
        scan = np.sqrt(labels).astype(np.float32) + np.linspace(0, 1, labels.shape[2])
        for name, data in (("labels", labels), ("images", scan.astype(np.float32))):
            (tmp_path / name).mkdir()
            nib.save(nib.Nifti1Image(data, affine), tmp_path / name / "head.nii")
        metric = "real/9mm/brain/l1"
        run = begin(
            "loss.residual_channels=[0]",
            "optimiser.learning_rate=1.0e-30",
            "validation.every_epochs=1",
            f"validation.images={tmp_path / 'images'}",
            f"validation.labels={tmp_path / 'labels'}",
            "validation.slice_spacings_mm=[9]",
            f"validation.metric={metric}",
            "run.epochs=2",
        )
        with torch.no_grad():
            for parameter in run.prepared.network.head.parameters():
                parameter.zero_()
        told: list[Any] = []
        run.fit(on_epoch=told.append)
        rows = MetricsFile(run.folder.metrics_path).rows()
        assert rows[0][metric] == pytest.approx(
            rows[0]["real/9mm/interpolation/brain/l1"], rel=1e-2
        )
        assert rows[0][metric] == rows[1][metric] > 0
        assert [each.best for each in told] == [True, True]

    def test_pictures_show_the_samples(self, begin, curves):
        run = begin(*self.SETS, "validation.previews=2", "run.epochs=2")
        run.fit()
        for epoch in (1, 2):
            assert run.folder.preview_path(epoch).read_bytes().startswith(b"\x89PNG")
        assert run.folder.curve_path.read_bytes().startswith(b"\x89PNG")


class TestDropout:
    def outputs(self, run: TrainingRun, *steps: int) -> list[Tensor]:
        task = run.prepared.task()
        results = []
        for step in steps:
            task.position.done = step
            with torch.no_grad(), task.random_state():
                results.append(task.predicted(pair_of(size=12)))
        return results

    def test_its_chance_is_that_of_the_step(self, begin):
        run = begin("network.dropout=0.5", "network.normalisation=none")
        first, other, again = self.outputs(run, 3, 4, 3)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_it_leaves_the_global_generator_alone(self, begin):
        run = begin("network.dropout=0.5")
        torch.manual_seed(0)
        expected = torch.rand(2)
        torch.manual_seed(0)
        self.outputs(run, 1)
        assert torch.equal(torch.rand(2), expected)
