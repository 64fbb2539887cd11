"""Promises of fine-tuning against a critic: whose turn it is, what each learns, going on."""

from __future__ import annotations

import copy
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from synthsr_net.losses.adversarial import critic_loss, generator_total
from synthsr_net.models.checkpoint import ModelConfig, read_model, save_model
from synthsr_net.networks.critic import mask_of
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_net.training.callbacks.metrics_file import MetricsFile
from synthsr_net.training.config import AdversarialConfig
from synthsr_net.training.data.stream import PairStream
from synthsr_net.training.run import TrainingRun, start
from synthsr_net.training.task.adversarial import AdversarialTask, is_network_turn
from synthsr_transforms.seeds import derive_seed
from synthsr_transforms.support.messages import WorkFailedError

CONFIG = """
label_table: freesurfer_aseg
steps:
  crop: {name: PatchCrop, params: {shape: 12}}
  mixture: {name: TissueMixture}
  rescale: {name: MinMaxRescale, params: {include: [image]}}
  target: {name: CopyImage}
  acquisition: {name: SliceAcquisition, params: {spacing_mm: [4, 4, 9]}}
training:
  network: {num_levels: 2, num_features: 4, normalisation: instance}
  optimiser: {learning_rate: 1.0e-2, epsilon: 1.0e-2}
  run: {epochs: 1, steps_per_epoch: 2}
  validation: {every_epochs: 0, held_out: 0}
  adversarial:
    {weight: 0.25, first_critic_steps: 3, critic_steps: 1, learning_rate: 5.0e-3,
     num_features: 2, num_levels: 2}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, save_label_maps: Callable) -> Path:
    """Two label maps and a configuration."""
    place: Path = tmp_path_factory.mktemp("adversarial")
    save_label_maps(place / "maps", 2)
    (place / "own.yaml").write_text(CONFIG)
    return place


def watched(run: TrainingRun, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Weights of network and critic before each batch and after the last, as the run goes on."""
    seen: dict[str, Any] = {"network": [], "critic": [], "rate": [], "average": []}
    step = AdversarialTask.training_step

    def look(task: AdversarialTask) -> None:
        seen["network"].append(weights(task.network))
        seen["critic"].append(weights(task.critic))
        seen["rate"].append(task.optimizers()[0].param_groups[0]["lr"])
        seen["average"].append(task.average and weights(task.average.network))

    def training_step(task: AdversarialTask, batch: Any, batch_idx: int) -> None:
        look(task)
        step(task, batch, batch_idx)

    monkeypatch.setattr(AdversarialTask, "training_step", training_step)
    monkeypatch.setattr(AdversarialTask, "on_train_end", look, raising=False)
    run.fit()
    return seen


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.named_parameters()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def assert_close(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


class TestTurns:
    @pytest.mark.parametrize(("first", "ratio"), [(1, 1), (3, 2), (100, 10), (2, 5)])
    def test_the_critic_comes_first_then_so_many_times_between(self, first, ratio):
        config = AdversarialConfig(first_critic_steps=first, critic_steps=ratio)
        turns = [n for n in range(first + 5 * (ratio + 1)) if is_network_turn(n, config)]
        assert turns[0] == first
        assert {b - a - 1 for a, b in itertools.pairwise(turns)} == {ratio}
        assert len(turns) == 5

    def test_each_batch_serves_one_of_the_two(self, begin, monkeypatch):
        run = begin("run.steps_per_epoch=4", "optimiser.ema_decay=0.5")
        seen = watched(run, monkeypatch)
        assert run.prepared.batches_per_epoch == run.prepared.num_batches == 8
        changed = {
            part: [not same(a, b) for a, b in itertools.pairwise(states)]
            for part, states in seen.items()
            if part != "rate"
        }
        network = [is_network_turn(n, run.config.adversarial) for n in range(8)]
        assert sum(network) == 3
        assert changed["network"] == changed["average"] == network
        assert changed["critic"] == [not turn for turn in network]

    def test_statistics_freeze_after_their_share_of_all_turns(self, begin, monkeypatch):
        sets = ("network.normalisation=batch", "run.steps_per_epoch=4")
        run = begin(*sets, "run.freeze_batch_norm_after=0.75")
        found: list[Tensor] = []
        end = AdversarialTask.on_train_batch_end

        def watch(task: AdversarialTask, *args: Any) -> None:
            end(task, *args)
            found.append(task.network.encoder[0].norm.running_mean.clone())

        monkeypatch.setattr(AdversarialTask, "on_train_batch_end", watch)
        run.fit()
        moved = [not torch.equal(a, b) for a, b in itertools.pairwise(found)]
        assert moved == [True] * 5 + [False] * 2  # of eight batches, six are before

    def test_the_learning_rate_follows_the_turns_of_the_network(self, begin, monkeypatch):
        run = begin(
            "run.epochs=2", "optimiser.schedule=inverse_time", "optimiser.inverse_time_decay=1"
        )
        rates = watched(run, monkeypatch)["rate"]
        turns, expected = 0, []
        for number in range(9):
            expected.append(1e-2 / (1 + turns))
            turns += is_network_turn(number, run.config.adversarial)
        assert rates == pytest.approx(expected)


class TestLearning:
    """Updates equal those that are computed by hand."""

    SETS = (
        "adversarial.first_critic_steps=1",
        "adversarial.masked_labels=[0, 2]",
        "run.batch_size=2",
    )

    def pairs(self, run: TrainingRun) -> PairStream:
        data = run.prepared.data()
        data.connect(torch.device("cpu"))
        return data.stream

    @pytest.mark.parametrize("limit", [None, 0.01])
    def test_the_critic(self, begin, monkeypatch, limit):
        run = begin(*self.SETS, f"optimiser.clip_norm={'null' if limit is None else limit}")
        task = copy.deepcopy(run.prepared.task()).train()
        optimiser = torch.optim.Adam(task.critic.parameters(), lr=5e-3, eps=1e-2)
        pair = self.pairs(run).pair(0)
        with torch.no_grad():
            fake = task.network(pair.image)
        loss = critic_loss(
            task.critic,
            pair.target,
            fake,
            mask=mask_of(pair.labels, [0, 2]),
            generator=torch.Generator().manual_seed(derive_seed(0, 0, 0, 1)),
        ).total
        loss.backward()
        if limit is not None:
            norm = torch.nn.utils.clip_grad_norm_(task.critic.parameters(), limit)
            assert norm > 2 * limit
        optimiser.step()
        seen = watched(run, monkeypatch)
        assert not same(seen["critic"][0], seen["critic"][1])
        assert_close(weights(task.critic), seen["critic"][1])
        assert float(mask_of(pair.labels, [0, 2]).mean()) not in (0.0, 1.0)

    @pytest.mark.parametrize("loss", ["l1", "laplace"])
    def test_the_network(self, begin, monkeypatch, loss, tmp_path):
        judge = UNetConfig(num_levels=1, num_features=3, kernel_size=1, out_channels=2)
        path = tmp_path / "judge.safetensors"
        save_model(path, ModelConfig(network=judge), UNet3d(judge).state_dict())
        run = begin(
            *self.SETS,
            f"loss.name={loss}",
            "loss.crop=8",
            "loss.padding_voxels=0",
            f"loss.segmentation.model={path}",
            "loss.segmentation.output_labels=[0, 2]",
        )
        task = copy.deepcopy(run.prepared.task()).train()
        pair = self.pairs(run).pair(1)
        seen = watched(run, monkeypatch)
        task.critic.load_state_dict(seen["critic"][1])
        optimiser = torch.optim.Adam(task.network.parameters(), lr=1e-2, eps=1e-2)
        output = task.network(pair.image)
        fake = output[:, :1]
        middle = (..., slice(2, 10), slice(2, 10), slice(2, 10))
        generator_total(
            task.objective.image_loss(output[middle], pair.target[middle]),
            task.critic(fake, mask_of(pair.labels, [0, 2])),
            task.objective.segmentation(fake, pair.labels),
            critic_weight=0.25,
            dice_weight=0.25,
        ).backward()
        optimiser.step()
        assert not same(seen["network"][1], seen["network"][2])
        assert_close(weights(task.network), seen["network"][2])

    def test_the_critic_learns_to_tell(self, begin, monkeypatch):
        run = begin(
            "adversarial.first_critic_steps=1000",
            "run.steps_per_epoch=30",
            "adversarial.learning_rate=2.0e-2",
        )
        task = run.prepared.task()
        monkeypatch.setattr(type(run.prepared), "task", lambda self: task)
        pair = self.pairs(run).pair(500)

        def gap() -> float:
            with torch.no_grad():
                fake = task.network(pair.image)
                return float((task.critic(pair.target) - task.critic(fake)).mean())

        before = gap()
        run.fit()
        assert gap() > before + 0.1


class TestRuns:
    def test_metrics_tell_of_both(self, begin):
        run = begin("run.epochs=2")
        run.fit()
        first, second = MetricsFile(run.folder.metrics_path).rows()
        assert {"train/loss", "train/critic_loss"} <= set(first)
        assert (first["global_step"], second["global_step"]) == (4, 8)
        assert first["train/critic_loss"] != second["train/critic_loss"]

    def test_an_epoch_of_the_critic_alone_has_no_loss_of_the_network(self, begin):
        run = begin("adversarial.first_critic_steps=7", "run.epochs=2")
        told: list[Any] = []
        run.fit(on_epoch=told.append)
        first, second = MetricsFile(run.folder.metrics_path).rows()
        assert "train/loss" not in first
        assert "train/loss" in second
        assert [each.best for each in told] == [True, True]

    def test_the_model_file_is_that_of_the_network(self, begin):
        run = begin()
        run.fit()
        network = read_model(run.folder.model_path("last")).network
        assert same(weights(network), weights(run.prepared.network))

    @pytest.mark.parametrize("step", [2, 5])
    def test_a_stopped_run_goes_on_to_the_same_end(self, begin, tmp_path, step):
        sets = (
            "run.epochs=2",
            "network.dropout=0.2",
            "optimiser.ema_decay=0.8",
            "optimiser.schedule=cosine",
            "run.deterministic=true",
            "run.steps_per_epoch=3",
        )
        begin(*sets, name="whole").fit()
        run = begin(*sets)

        def on_step(now: Any) -> None:
            if now.done == step:
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(KeyboardInterrupt):
            run.fit(on_step=on_step)
        begin(resume=True).fit()
        states = [
            torch.load(tmp_path / name / "state" / "last.ckpt", weights_only=True)["state_dict"]
            for name in ("whole", "run")
        ]
        assert any(name.startswith("critic.") for name in states[0])
        assert same(*states)
        models = [load_file(tmp_path / n / "models" / "last.safetensors") for n in ("whole", "run")]
        assert same(*models)
        tables = [MetricsFile(tmp_path / n / "metrics.csv").rows() for n in ("whole", "run")]
        for row in (*tables[0], *tables[1]):
            del row["seconds"], row["samples_per_second"]
        assert tables[0] == tables[1]

    def test_a_loss_of_the_critic_that_is_not_finite_stops_it(self, begin, monkeypatch):
        good = AdversarialTask.critic_loss

        def bad(self: AdversarialTask, pair: Any) -> Tensor:
            return good(self, pair) * (torch.nan if self.position.done == 2 else 1)

        monkeypatch.setattr(AdversarialTask, "critic_loss", bad)
        with pytest.raises(WorkFailedError, match="got nan at step 2"):
            begin().fit()


class TestBadInput:
    def test_patches_of_several_sizes(self, begin, tmp_path, make_labels, folder):
        (tmp_path / "maps").mkdir()
        for k, shape in enumerate([(20, 18, 22), (16, 18, 20)]):
            image = nib.Nifti1Image(make_labels(shape, k)[0].numpy(), np.diag([4.0, 4, 4, 1]))
            nib.save(image, tmp_path / "maps" / f"sub-{k}.nii")
        with pytest.raises(ValueError, match="adversarial training needs patches of one size"):
            begin("crop.shape=null", labels=tmp_path / "maps")
        assert not (tmp_path / "run").exists()

    def test_labels_on_another_grid_than_the_target(self, begin, folder, tmp_path):
        text = (folder / "own.yaml").read_text()
        step = "{name: TargetResolution, params: {spacing_mm: 8, include: [target, image]}}"
        text = text.replace("  acquisition:", f"  coarse: {step}\n  acquisition:")
        text = text.replace("spacing_mm: [4, 4, 9]", "spacing_mm: 8")
        (tmp_path / "coarse.yaml").write_text(text.replace("shape: 12", "shape: 16"))
        with pytest.raises(ValueError, match="masked_labels need targets on the grid"):
            start(
                tmp_path / "coarse.yaml",
                ["adversarial.masked_labels=[0]"],
                folder=tmp_path / "run",
                labels=folder / "maps",
            )
        assert not (tmp_path / "run").exists()
