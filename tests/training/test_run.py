"""Promises of whole runs: their folder, going on after every kind of end, failures."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers
import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from synthsr_net.models.checkpoint import ModelConfig, read_model, save_model
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_net.training import environment
from synthsr_net.training.callbacks import saving
from synthsr_net.training.callbacks.metrics_file import MetricsFile
from synthsr_net.training.environment import Hardware
from synthsr_net.training.folder import RunFolder
from synthsr_net.training.run import TrainingRun, products, start
from synthsr_net.training.task.objective import Objective
from synthsr_transforms.job.job import GenerationJob
from synthsr_transforms.support.config import read_yaml
from synthsr_transforms.support.messages import WorkFailedError
from synthsr_transforms.support.stopping import is_first_process


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory, hard: list[str]) -> TrainingRun:
    """A run with `hard` settings that was never interrupted."""
    place = tmp_path_factory.mktemp("whole") / "run"
    run = start(folder / "own.yaml", hard, folder=place, labels=folder / "maps")
    run.fit()
    return run


@pytest.fixture(scope="module")
def plain(folder: Path, tmp_path_factory) -> RunFolder:
    """Folder of a complete run with the settings of `own.yaml`."""
    place = tmp_path_factory.mktemp("plain") / "run"
    run = start(folder / "own.yaml", folder=place, labels=folder / "maps")
    run.fit()
    return run.folder


@pytest.fixture
def done(plain: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of the complete run, where `begin(resume=True)` goes on with it."""
    shutil.copytree(plain.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def saved(place: Path | RunFolder, name: str = "last") -> dict[str, Tensor]:
    return load_file(RunFolder(getattr(place, "path", place)).model_path(name))


def files(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}


# The folder --------------------------------------------------------------------------------------


class TestFolder:
    def test_it_is_complete_by_itself(self, begin, curves):
        run = begin("validation.every_epochs=1", "validation.previews=1")
        run.fit()
        found = files(run.folder.path)
        assert {name for name in found if not name.startswith("logs/")} == {
            "config.yaml",
            "environment.json",
            "metrics.csv",
            "curve.png",
            "state/last.ckpt",
            "previews/epoch_001.png",
            "previews/epoch_002.png",
            *(f"models/{n}.safetensors" for n in ("last", "best", "epoch_001", "epoch_002")),
        }
        assert any(name.startswith("logs/events.out.tfevents") for name in found)
        about = json.loads((run.folder.path / "environment.json").read_text())
        assert torch.__version__.startswith(about["versions"]["torch"])
        assert about["devices_per_node"] == 1

    def test_model_files_are_those_of_their_epochs(self, begin):
        run = begin("validation.every_epochs=1", "run.epochs=3")
        best = []
        run.fit(on_epoch=lambda told: best.append(told.best))
        epochs = [saved(run.folder, f"epoch_00{n}") for n in (1, 2, 3)]
        last_best = max(n for n, is_best in enumerate(best) if is_best)
        for name, expected in (("last", epochs[2]), ("best", epochs[last_best])):
            model = read_model(run.folder.model_path(name))
            assert all(torch.equal(expected[k], v) for k, v in saved(run.folder, name).items())
            assert model.config.name == "run"
        assert read_model(run.folder.model_path("last")).config.training["global_step"] == 15
        assert not torch.equal(*(e["head.weight"] for e in epochs[:2]))

    @pytest.mark.parametrize(("keep", "left"), [(-1, [1, 2, 3, 4]), (0, []), (2, [3, 4])])
    def test_old_models_are_removed(self, begin, keep, left):
        run = begin(f"run.keep_models={keep}", "run.epochs=4", "run.steps_per_epoch=1")
        run.fit()
        found = sorted(path.stem for path in (run.folder.path / "models").iterdir())
        assert found == ["best", *(f"epoch_00{n}" for n in left), "last"]

    def test_its_settings_repeat_the_run(
        self, whole, begin, tmp_path, monkeypatch, assert_same_run
    ):
        monkeypatch.chdir(tmp_path)
        run = begin(source=whole.folder.config_path, labels=None, name="again")
        run.fit()
        assert_same_run(whole.folder, run.folder)
        assert read_yaml(run.folder.config_path)["training"]["validation_sources"]

    @pytest.mark.parametrize(
        ("assignment", "same"),
        [("run.seed=1", True), ("run.batch_size=2", False), ("loss.crop=8", False)],
    )
    def test_it_says_what_its_settings_make(self, begin, assignment, same):
        run = begin(assignment)
        text = run.folder.config_path.read_text()
        assert f"# `synthsr train {run.folder.config_path} --out FOLDER` repeats the run." in text
        assert ("makes its samples" in text) == same

    def test_its_settings_generate_its_samples(self, whole, tmp_path):
        job = GenerationJob.from_source(
            whole.folder.config_path, folder=tmp_path / "samples", num_samples=2, device="cpu"
        )
        assert len(list(job.run())) == 2
        data = whole.prepared.data()
        data.connect(torch.device("cpu"))
        for number in (0, 1):
            path = tmp_path / "samples" / f"sample_00000{number}_image.nii.gz"
            written = torch.from_numpy(nib.load(path).get_fdata(dtype=np.float32))
            assert torch.equal(written, data.stream.pair(number).image[0, 0])

    def test_a_table_of_ones_own_lies_in_it(self, begin, folder, tmp_path):
        from synthsr_transforms.labels.table import LabelTable

        table = LabelTable.ready("freesurfer_aseg")
        rows_of_own = [row._replace(name=f"{row.name}_x") for row in table.rows]
        LabelTable(tuple(rows_of_own)).write(tmp_path / "mine.tsv")
        run = begin(f"label_table={tmp_path / 'mine.tsv'}")
        run.fit()
        (tmp_path / "mine.tsv").unlink()
        assert LabelTable.read(run.folder.path / "label_table.tsv").rows[0].name.endswith("_x")
        begin("run.epochs=3", resume=True).fit()
        begin(source=run.folder.config_path, labels=None, name="again").fit()
        assert torch.equal(
            saved(tmp_path / "again", "epoch_002")["head.weight"],
            saved(tmp_path / "run", "epoch_002")["head.weight"],
        )

    def test_a_run_is_not_replaced_unasked(self, begin, done):
        before = files(done.path)
        with pytest.raises(ValueError, match=r"holds a run\. Add --resume .* --overwrite"):
            begin()
        assert files(done.path) == before

    def test_overwriting_leaves_the_files_of_others(self, begin, done, metrics_of):
        others = ["notes.txt", "models/other.pt", "logs/mine.log"]
        for name in others:
            (done.path / name).write_text("mine")
        again = begin("run.epochs=1", overwrite=True)
        assert not again.folder.state_path.exists()
        again.fit()
        found = files(done.path)
        assert {*others, "models/epoch_001.safetensors"} <= found
        assert "models/epoch_002.safetensors" not in found
        assert len(metrics_of(done.path)) == 1

    def test_overwriting_touches_nothing_where_there_was_no_run(self, begin, tmp_path):
        (tmp_path / "run" / "models").mkdir(parents=True)
        (tmp_path / "run" / "models" / "mine.safetensors").write_text("mine")
        (tmp_path / "run" / "metrics.csv").write_text("epoch\n")
        begin(overwrite=True)
        assert (tmp_path / "run" / "models" / "mine.safetensors").read_text() == "mine"

    @pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
    def test_samples_are_not_taken_for_a_run(self, begin, tmp_path, how):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.yaml").write_text("steps: {}\njob: {seed: 0}\n")
        with pytest.raises(ValueError, match=r"must hold nothing or a run"):
            begin(**how)
        assert files(tmp_path / "run") == {"config.yaml"}

    def test_other_flags_are_as_before(self, begin):
        benchmark = torch.backends.cudnn.benchmark
        begin().fit()
        assert not torch.are_deterministic_algorithms_enabled()
        with products("bf16"):
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.backends.cudnn.benchmark = not benchmark
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.benchmark == benchmark


# Going on ----------------------------------------------------------------------------------------


def stop_at(step: int, number: int = signal.SIGTERM) -> Callable[[Any], None]:
    """What sends this process a signal after a batch."""

    def on_step(now: Any) -> None:
        if now.done == step:
            os.kill(os.getpid(), number)

    return on_step


class TestGoingOn:
    @pytest.mark.parametrize(
        ("step", "number"),
        [(1, signal.SIGTERM), (5, signal.SIGINT), (9, signal.SIGUSR1)],
    )
    def test_after_a_signal_nothing_is_lost(
        self, whole, begin, step, number, hard, assert_same_run
    ):
        before = {n: signal.getsignal(n) for n in saving.STOP_SIGNALS}
        run = begin(*hard)
        with pytest.raises(KeyboardInterrupt):
            run.fit(on_step=stop_at(step, number))
        assert {n: signal.getsignal(n) for n in saving.STOP_SIGNALS} == before
        position = torch.load(run.folder.state_path, weights_only=True)["position"]
        assert step <= position <= step + 1
        begin(resume=True).fit()
        assert_same_run(whole.folder, run.folder)

    def test_a_second_signal_does_not_wait(self, begin):
        run = begin()

        def twice(now: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            run.fit(on_step=twice)
        assert not run.folder.state_path.exists()

    def test_a_run_without_a_state_begins_anew(self, whole, begin, hard, assert_same_run):
        run = begin(*hard)
        begin(resume=True).fit()
        assert_same_run(whole.folder, run.folder)

    @pytest.mark.parametrize(
        ("assignment", "positions"),
        [
            ("run.save_every_minutes=1.0e-9", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
            ("run.save_every_minutes=1000", [0, 0, 0, 0, 0, 5, 5, 5, 5, 5]),
            ("run.save_every_steps=3", [0, 0, 0, 3, 3, 5, 5, 5, 8, 8]),
        ],
    )
    def test_the_state_is_saved_in_time(self, begin, assignment, positions):
        run, found = begin(assignment), []

        def look(now: Any) -> None:
            path = run.folder.state_path
            state = torch.load(path, weights_only=True) if path.exists() else {"position": 0}
            found.append(state["position"])

        run.fit(on_step=look)
        assert found == positions
        assert torch.load(run.folder.state_path, weights_only=True)["position"] == 10

    def test_more_epochs_can_be_added(self, begin, assert_same_run):
        begin("run.epochs=4", name="long").fit()
        run = begin("run.epochs=2")
        run.fit()
        begin("run.epochs=4", resume=True).fit()
        assert_same_run(run.folder.path.with_name("long"), run.folder)

    def test_what_killed_processes_left_is_removed(self, begin):
        run = begin()
        (run.folder.path / "models/.mine").write_text("half")
        names = ("models/epoch_001.safetensors", "state/last.ckpt", "previews/epoch_001.png")
        left = [helpers.abandoned(run.folder.path / name) for name in names]
        begin(resume=True)
        assert not any(path.exists() for path in left)
        assert "models/.mine" in files(run.folder.path)

    def test_a_complete_run_has_nothing_left_to_do(self, plain, begin, done, assert_same_run):
        begin(resume=True).fit()
        assert_same_run(plain, done)

    def test_rows_of_epochs_that_are_repeated_are_dropped(self, begin, metrics_of):
        run = begin("run.epochs=4", "run.save_every_steps=100")
        kept, best = [b""], []

        def on_epoch(told: Any) -> None:
            kept.append(run.folder.state_path.read_bytes() if told.epoch > 1 else b"")
            best.append(told.best)

        run.fit(on_epoch=on_epoch)
        first = metrics_of(run.folder.path)
        run.folder.state_path.write_bytes(kept[2])  # as it was in epoch 2, before its first batch
        again = begin(resume=True)
        seen = []
        again.fit(
            on_step=lambda now: seen.append((now.done, len(metrics_of(run.folder.path)))),
            on_epoch=on_epoch,
        )
        assert seen == [(done, (done - 1) // 5) for done in range(6, 21)]
        assert metrics_of(run.folder.path) == first
        assert best[4:] == best[1:4]

    def test_the_learning_rate_of_the_settings_holds(self, begin, done, metrics_of):
        begin("run.epochs=3", "optimiser.learning_rate=1.0e-30", resume=True).fit()
        rates = [float(row["learning_rate"]) for row in metrics_of(done.path)]
        assert rates == pytest.approx([1e-2, 1e-2, 1e-30])
        second, third = (saved(done, f"epoch_00{n}")["head.weight"] for n in (2, 3))
        assert torch.equal(second, third)  # from the first step on
        assert read_yaml(done.config_path)["training"]["run"]["epochs"] == 3

    @pytest.mark.parametrize(
        ("assignment", "named"),
        [
            (
                "optimiser.accumulate_batches=3",
                "training.optimiser.accumulate_batches is 1 there and 3 here",
            ),
            ("run.seed=1", "seed is 0 there and 1 here"),
            ("run.batch_size=2", "training.run.batch_size"),
            ("crop.shape=8", "steps.crop.params.shape"),
            ("loss.name=l2", "training.loss.name is 'l1' there and 'l2' here"),
            ("network.num_features=5", "training.network.num_features"),
            ("optimiser.ema_decay=0.5", "training.optimiser.ema_decay"),
        ],
    )
    def test_other_settings_are_refused_by_name(self, begin, done, assignment, named):
        before = done.config_path.read_text()
        with pytest.raises(ValueError, match=r"holds another run: ") as caught:
            begin(assignment, resume=True)
        assert named in str(caught.value)
        assert done.config_path.read_text() == before

    def test_other_label_maps_are_refused_but_they_may_move(self, begin, folder, tmp_path):
        begin()
        shutil.copytree(folder / "maps", tmp_path / "maps")
        begin(resume=True, labels=tmp_path / "maps")
        for path in (tmp_path / "maps").iterdir():
            path.rename(path.with_name(f"other-{path.name}"))
        with pytest.raises(ValueError, match=r"holds another run: job\.sources"):
            begin(resume=True, labels=tmp_path / "maps")

    def test_there_must_be_a_run(self, begin, tmp_path):
        with pytest.raises(ValueError, match="must hold a run to resume, but holds none"):
            begin(resume=True)
        assert not (tmp_path / "run").exists()

    def test_fewer_epochs_than_are_done_are_refused(self, begin, done):
        with pytest.raises(ValueError, match=r"run\.epochs must be at least 2, .* got 1\."):
            begin("run.epochs=1", resume=True)

    def test_resume_and_overwrite_exclude_each_other(self, begin):
        begin()
        with pytest.raises(ValueError, match="resume and overwrite exclude each other"):
            begin(resume=True, overwrite=True)

    @pytest.mark.parametrize("damage", ["empty", "cut", "other", "architecture"])
    def test_a_state_that_does_not_fit_is_refused(self, begin, done, damage):
        path = done.state_path
        state = torch.load(path, weights_only=True)
        if damage == "empty":
            path.write_bytes(b"")
        elif damage == "cut":
            path.write_bytes(path.read_bytes()[:5000])
        elif damage == "other":
            torch.save({"a": 1}, path)
        else:
            state["state_dict"]["network.head.weight"] = torch.zeros(1, 5, 1, 1, 1)
            torch.save(state, path)
        with pytest.raises(ValueError, match=r"last\.ckpt must be the state of") as caught:
            begin(resume=True)
        assert "--overwrite" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_other_files_are_found_from_everywhere(
        self, begin, tmp_path, monkeypatch, assert_same_run, metrics_of
    ):
        network = UNetConfig(num_levels=2, num_features=4)
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        save_model("w.safetensors", ModelConfig(network=network), UNet3d(network).state_dict())
        judge = UNetConfig(num_levels=1, num_features=2, out_channels=2)
        save_model("s.safetensors", ModelConfig(network=judge), UNet3d(judge).state_dict())
        np.save("labels.npy", np.array([0, 2]))
        sets = [
            "initial_weights=w.safetensors",
            "loss.segmentation.model=s.safetensors",
            "loss.segmentation.output_labels=labels.npy",
        ]
        run = begin(*sets, "run.epochs=1")
        run.fit()
        monkeypatch.chdir(tmp_path)
        recorded = read_yaml(run.folder.config_path)["training"]
        assert recorded["initial_weights"] == str(tmp_path / "here" / "w.safetensors")
        assert recorded["loss"]["segmentation"]["output_labels"] == [0, 2]
        begin(source=run.folder.config_path, labels=None, name="again").fit()
        assert_same_run(run.folder, tmp_path / "again")
        (tmp_path / "here" / "w.safetensors").unlink()  # weights are in the state by now
        begin("run.epochs=2", resume=True).fit()
        assert len(metrics_of(run.folder.path)) == 2


# Failing -----------------------------------------------------------------------------------------


class TestLossesThatAreNotFinite:
    def test_the_run_stops_and_says_where(self, begin, monkeypatch, folder, hard):
        run = begin(*hard)
        good, calls = Objective.forward, []

        def forward(self: Objective, prediction: Tensor, pair: Any) -> Tensor:
            calls.append(None)
            loss = good(self, prediction, pair)
            return loss * torch.nan if len(calls) == 8 else loss

        monkeypatch.setattr(Objective, "forward", forward)
        with pytest.raises(WorkFailedError) as caught:
            run.fit()
        message = str(caught.value)
        place = run.folder.path / "failed" / "step_000007"
        record = json.loads((place / "pair.json").read_text())
        assert f"got nan at step 7: sample 7 (seed {record['seed']})" in message
        assert str(run.folder.model_path("last")) in message
        assert record["label_maps"][0] in message
        assert "\n" not in message
        assert read_model(run.folder.model_path("last")).config.training["epochs"] == 1
        data = run.prepared.data()
        data.connect(torch.device("cpu"))
        assert record["seed"] == data.stream.plan(7).seed
        for name, tensor in data.stream.pair(7)._asdict().items():
            written = nib.load(place / f"{name}_0_0.nii.gz").get_fdata(dtype=np.float32)
            np.testing.assert_array_equal(written, tensor[0, 0].numpy())

    def test_once_mended_the_run_goes_on_as_if_nothing_had_been(
        self, whole, begin, monkeypatch, hard, assert_same_run
    ):
        run = begin(*hard, "run.save_every_steps=2")
        with monkeypatch.context() as patched:
            good, calls = Objective.forward, []

            def forward(self: Objective, prediction: Tensor, pair: Any) -> Tensor:
                calls.append(None)
                return good(self, prediction, pair) * (torch.inf if len(calls) == 8 else 1)

            patched.setattr(Objective, "forward", forward)
            with pytest.raises(WorkFailedError):
                run.fit()
        begin(resume=True).fit()
        assert_same_run(whole.folder, run.folder)

    def test_a_learning_rate_that_explodes(self, begin):
        run = begin("optimiser.learning_rate=1.0e+30", "loss.name=l2", "run.save_every_steps=1")
        with pytest.raises(WorkFailedError, match=r"Lower optimiser\.learning_rate"):
            run.fit()

    def test_a_gradient_that_is_not_finite_is_not_saved(
        self, whole, begin, monkeypatch, hard, assert_same_run
    ):
        run = begin(*hard, "run.save_every_steps=2")
        with monkeypatch.context() as patched:
            good, calls = Objective.forward, []

            def forward(self: Objective, prediction: Tensor, pair: Any) -> Tensor:
                calls.append(None)
                loss = good(self, prediction, pair)  # the slope of the root at 0 is infinite
                return loss + (0 * prediction).sum().sqrt() if len(calls) == 8 else loss

            patched.setattr(Objective, "forward", forward)
            with pytest.raises(WorkFailedError, match="got nan at step 9"):
                run.fit()
        state = torch.load(run.folder.state_path, weights_only=True)
        assert saving.are_finite(state["state_dict"])
        assert state["position"] == 7
        begin(resume=True).fit()
        assert_same_run(whole.folder, run.folder)

    def test_weights_that_are_not_finite_are_not_written(self, begin):
        run = begin("run.epochs=3")

        def spoil(now: Any) -> None:
            if now.done == 10:  # after the last loss of the epoch
                with torch.no_grad():
                    run.prepared.network.head.weight.fill_(torch.nan)

        with pytest.raises(WorkFailedError, match=r"weights must be finite.*epoch 2"):
            run.fit(on_step=spoil)
        found = {path.stem for path in (run.folder.path / "models").iterdir()}
        assert found == {"epoch_001", "last", "best"}
        assert read_model(run.folder.model_path("last")).config.training["epochs"] == 1


class TestFullDisk:
    """Writing fails at some point in epoch 2; the run can go on once there is space."""

    def full(self, *args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    @pytest.mark.parametrize("what", ["model", "state", "torch", "metrics", "copy"])
    def test_it_is_told_and_nothing_is_half_written(
        self, whole, begin, monkeypatch, what, hard, assert_same_run, metrics_of
    ):
        run = begin(*hard)
        replace = os.replace

        def no_replace(source: Any, goal: Any) -> None:
            if Path(goal).name == "last.ckpt":
                self.full()
            replace(source, goal)

        def broken(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError("[enforce fail at inline_container.cc:664] . file write failed")

        def spoil(now: Any) -> None:
            if now.done == 6 and what in ("state", "torch"):
                before.update(files(run.folder.path))
            if now.done == 6:
                patches = {
                    "model": (saving, "save_model", self.full),
                    "copy": (saving.shutil, "copyfile", self.full),
                    "state": (saving.os, "replace", no_replace),
                    "torch": (saving.Trainer, "save_checkpoint", broken),
                    "metrics": (MetricsFile, "_write", self.full),
                }
                monkeypatch.setattr(*patches[what])
                if what == "copy":
                    monkeypatch.setattr(saving.os, "link", self.full)

        before: set[str] = set()
        with pytest.raises(WorkFailedError, match=r"the disk is full.*--resume") as caught:
            run.fit(on_step=spoil)
        assert "\n" not in str(caught.value)
        monkeypatch.undo()
        found = files(run.folder.path)
        assert not [name for name in found if Path(name).name.startswith(".")]
        assert read_model(run.folder.model_path("best")).config.training["epochs"] in (1, 2)
        for path in (run.folder.path / "models").iterdir():
            read_model(path)
        assert len(metrics_of(run.folder.path)) == (2 if what in ("state", "torch") else 1)
        begin(resume=True).fit()
        assert_same_run(whole.folder, run.folder)

    def test_a_pair_that_cannot_be_written_does_not_hide_the_reason(self, begin, monkeypatch):
        run = begin("optimiser.learning_rate=1.0e+30", "loss.name=l2")
        monkeypatch.setattr("synthsr_net.training.task.watch.write_volume", self.full)
        with pytest.raises(WorkFailedError, match=r"loss must be finite.*could not be written"):
            run.fit()

    def test_too_little_space_is_told_before_anything_is_written(
        self, begin, tmp_path, monkeypatch
    ):
        from synthsr_transforms.support import atomic

        usage = atomic.shutil.disk_usage(tmp_path)
        monkeypatch.setattr(atomic.shutil, "disk_usage", lambda path: usage._replace(free=10))
        with pytest.raises(WorkFailedError, match="free"):
            begin()
        assert not (tmp_path / "run").exists()


class TestStarting:
    @pytest.mark.parametrize(
        ("assignments", "named"),
        [
            (["crop.shape=40"], "crop.shape must be at most the size of each label map"),
            (["loss.crop=14"], "loss.crop must be at most the size of patches"),
            (["network.in_channels=2"], "network.in_channels must be 1"),
            (["network.out_channels=3"], "network.out_channels must be 1"),
            (["loss.residual_channels=[1]"], "loss.residual_channels must be 1 numbers"),
            (["loss.name=ssim3d", "crop.shape=8"], "at least 11 voxels"),
            (["loss.name=l3"], "loss must be one of"),
            (["loss.params.a=1"], "arguments of the loss l1"),
            (["validation.held_out=3"], "validation.held_out must leave label maps"),
            (["label_table=synthseg"], "lacks labels of the label maps: 31, 63"),
            (["initial_weights=none.safetensors"], "none.safetensors"),
            (["loss.segmentation.model=none.h5"], "none.h5"),
            (["validation.images=none", "validation.labels=none"], "none"),
        ],
    )
    def test_mistakes_are_told_before_anything_is_written(
        self, begin, tmp_path, assignments, named
    ):
        if "validation.images" in assignments[0]:
            assignments = [*assignments, "validation.every_epochs=1"]
        with pytest.raises(ValueError, match=r"\.") as caught:
            begin(*assignments)
        assert named in str(caught.value)
        assert not (tmp_path / "run").exists()

    def test_nothing_to_train(self, begin, tmp_path):
        with pytest.raises(ValueError, match="a preset or a YAML file must be given"):
            begin(source=None)
        assert not (tmp_path / "run").exists()

    def test_not_among_the_label_maps(self, folder):
        before = files(folder)
        with pytest.raises(ValueError, match="must be another than that of label maps"):
            start(folder / "own.yaml", folder=folder / "maps", labels=folder / "maps")
        assert files(folder) == before

    def test_more_gpus_than_there_are(self, begin, tmp_path, monkeypatch):
        monkeypatch.setattr(environment, "available_device", lambda name: name)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        with pytest.raises(ValueError, match=r"devices must be at most the 2 .* got 3"):
            begin(hardware=Hardware(device="cuda", devices=3))
        assert not (tmp_path / "run").exists()

    def test_launchers_say_which_process_is_the_first(self, monkeypatch):
        for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
            monkeypatch.delenv(name, raising=False)
        assert is_first_process()
        monkeypatch.setenv("SLURM_PROCID", "3")
        assert not is_first_process()
        monkeypatch.setenv("LOCAL_RANK", "0")
        assert is_first_process()
        monkeypatch.setenv("RANK", "1")
        assert not is_first_process()

    def test_label_maps_of_several_shapes_make_batches(
        self, begin, folder, tmp_path, make_labels, metrics_of
    ):
        (tmp_path / "maps").mkdir()
        for k, shape in enumerate([(20, 18, 22), (14, 24, 16)]):
            image = nib.Nifti1Image(make_labels(shape, k)[0].numpy(), np.diag([4.0, 4, 4, 1]))
            nib.save(image, tmp_path / "maps" / f"sub-{k}.nii")
        run = begin("run.batch_size=3", "validation.held_out=0", labels=tmp_path / "maps")
        run.fit()
        assert len(metrics_of(run.folder.path)) == 2
        image.affine[:3, :3] *= 2
        nib.save(nib.Nifti1Image(image.dataobj, image.affine), tmp_path / "maps" / "sub-1.nii")
        with pytest.raises(ValueError, match=r"one isotropic voxel spacing, got 4 to 8 mm"):
            begin("run.batch_size=3", labels=tmp_path / "maps", name="other")


def test_several_machines_need_a_launcher(tmp_path, monkeypatch) -> None:
    """Without one, the first would wait for the others forever."""
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="num-nodes must be 1 outside a cluster, got 2"):
        start("all_purpose", folder=tmp_path / "run", hardware=Hardware(num_nodes=2))
    assert not (tmp_path / "run").exists()
