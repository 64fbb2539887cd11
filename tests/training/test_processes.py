"""Promises of runs in processes: killed ones go on, and several share one training."""

from __future__ import annotations

import copy
import random
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import until
from helpers.processes import Process, Server

from synthsr_net.losses.adversarial import critic_loss, generator_total
from synthsr_net.training.callbacks.metrics_file import MetricsFile
from synthsr_net.training.data.stream import PairStream
from synthsr_net.training.folder import RunFolder
from synthsr_net.training.run import TrainingRun
from synthsr_transforms.seeds import derive_seed


def command(*arguments: object) -> str:
    """The command `synthsr train`, as Python."""
    words = ["train", *map(str, arguments), "--device", "cpu", "--threads", "1"]
    return f"from synthsr_cli.group import synthsr; synthsr({words!r})"


def run_to_end(server: Server, code: str) -> float:
    """Run a piece of Python in a process, and return how long it took."""
    begun = time.monotonic()
    process = server.begin(code)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return time.monotonic() - begun


def killed(process: Process) -> int:
    """Exit code of a process after a signal that it cannot refuse."""
    process.send_signal(signal.SIGKILL)
    return process.wait()


def settings(*assignments: str) -> list[str]:
    return [word for assignment in assignments for word in ("--set", assignment)]


@pytest.fixture(scope="module")
def whole(
    server: Server, folder: Path, tmp_path_factory: pytest.TempPathFactory, hard: list[str]
) -> Path:
    """Folder of a run with `hard` settings that was never interrupted."""
    place = tmp_path_factory.mktemp("whole")
    arguments = [folder / "own.yaml", "--labels", folder / "maps", *settings(*hard)]
    run_to_end(server, command(*arguments, "--out", place / "run"))
    return place / "run"


class TestKilling:
    def test_a_killed_run_goes_on_to_the_same_end(
        self, server, folder, tmp_path, hard, assert_same_run
    ):
        sets = settings(*hard, "run.steps_per_epoch=8", "run.save_every_steps=3")
        arguments = [folder / "own.yaml", "--labels", folder / "maps", *sets]
        duration = run_to_end(server, command(*arguments, "--out", tmp_path / "whole"))

        run = RunFolder(tmp_path / "run")
        process = server.begin(command(*arguments, "--out", run.path))
        until(run.state_path.exists, process)
        assert killed(process) == -signal.SIGKILL
        assert not run.model_path("epoch_003").exists()

        resume = command("--out", run.path, "--resume")
        delay = random.uniform(0.1, 0.8) * duration  # any moment, another in each test run
        process = server.begin(resume)
        time.sleep(delay)
        assert killed(process) in (-signal.SIGKILL, 0)

        run_to_end(server, resume)
        print(f"killed after {delay:.3f} s")
        assert_same_run(tmp_path / "whole", run.path)

    @pytest.mark.parametrize("moment", ["on_train_batch_start", "on_train_epoch_end", "save"])
    def test_killed_from_inside(
        self, server, folder, tmp_path, whole, moment, hard, assert_same_run
    ):
        """In the middle of what is done between batches, in epoch 2."""
        owner, name, number = {
            "save": ("saving.Trainer", "save_checkpoint", 2),
            "on_train_epoch_end": ("saving", "_copy", 3),
        }.get(moment, ("saving.SaveState", moment, 6))
        code = f"""
import os, signal
from synthsr_net.training.callbacks import saving
owner = {owner}
before, calls = owner.{name}, []
def killing(self, *args, **kwargs):
    before(self, *args, **kwargs)
    calls.append(None)
    if len(calls) == {number}:
        os.kill(os.getpid(), signal.SIGKILL)
owner.{name} = killing
"""
        sets = settings(*hard, "run.save_every_steps=3")
        arguments = [folder / "own.yaml", "--labels", folder / "maps", *sets]
        run = command(*arguments, "--out", tmp_path / "run")
        assert server.begin(code + run).wait() == -signal.SIGKILL
        run_to_end(server, command("--out", tmp_path / "run", "--resume"))
        assert_same_run(whole, tmp_path / "run")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_from_outside(self, server, folder, tmp_path, number):
        arguments = [folder / "own.yaml", "--labels", folder / "maps"]
        sets = settings("run.steps_per_epoch=5000")
        run = RunFolder(tmp_path / "run")
        process = server.begin(command(*arguments, *sets, "--out", run.path))
        until(lambda: "batches" in process.files[1].read_text(), process)
        process.send_signal(number)
        _, errors = process.communicate()
        assert process.returncode == 130
        assert (
            errors.splitlines()[-1]
            == f"Stopped. `synthsr train --out {run.path} --resume` goes on."
        )
        assert torch.load(run.state_path, weights_only=True)["position"] > 0


SEVERAL = """
import torch
from synthsr_net.training.environment import Hardware
from synthsr_net.training.run import start
from synthsr_net.training.task.regression import TrainingTask

torch.set_num_threads(1)
run = start({source!r}, {sets!r}, folder={folder!r}, labels={labels!r},
            hardware=Hardware(devices=2))

def on_train_end(self):
    torch.save(self.state_dict(), f"{folder}/rank{{self.global_rank}}.pt")

TrainingTask.on_train_end = on_train_end
run.fit()
"""


class TestSeveralProcesses:
    SETS = (
        "run.epochs=1",
        "run.steps_per_epoch=1",
        "network.dropout=0",
        "network.normalisation=instance",
        "optimiser.learning_rate=0.1",
        "optimiser.epsilon=0.01",  # steps follow gradients rather than their signs
    )

    def train(self, server: Server, folder: Path, place: Path, *sets: str) -> list[dict]:
        """Train on two processes; the states that they end with."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        about = {
            "source": str(folder / "own.yaml"),
            "labels": str(folder / "maps"),
            "folder": str(place),
            "sets": [*self.SETS, *sets],
        }
        code = SEVERAL.format(**about)
        network = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        started = [
            server.begin(code, RANK=rank, LOCAL_RANK=rank, NODE_RANK=0, **network)
            for rank in (0, 1)
        ]
        errors = [process.communicate()[1] for process in started]
        assert [process.returncode for process in started] == [0, 0], "\n".join(errors)
        return [torch.load(place / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]

    def test_gradients_are_means_over_the_batches_of_all(self, server, folder, tmp_path, begin):
        validation = ("validation.every_epochs=1", "validation.samples=3")
        first, second = self.train(server, folder, tmp_path / "two", *validation)
        assert all(torch.equal(first[name], second[name]) for name in first)
        accumulate = ("run.steps_per_epoch=2", "optimiser.accumulate_batches=2")
        alone = begin(*self.SETS, *accumulate, *validation)
        before = copy.deepcopy(alone.prepared.network.state_dict())
        alone.fit()
        moved = 0.0
        for name, tensor in alone.prepared.network.state_dict().items():
            torch.testing.assert_close(first[f"network.{name}"], tensor, rtol=1e-4, atol=1e-5)
            moved = max(moved, float((tensor - before[name]).abs().max()))
        assert moved > 1e-2
        (one,), (two,) = (
            MetricsFile(place / "metrics.csv").rows()
            for place in (alone.folder.path, tmp_path / "two")
        )
        assert one["global_step"] == 2 * two["global_step"]
        for name in [*(n for n in one if n.startswith("validation/")), "train/loss"]:
            assert two[name] == pytest.approx(one[name], rel=1e-3)

    def test_a_critic_learns_from_the_batches_of_all(self, server, folder, tmp_path, begin):
        sets = (
            "adversarial.weight=0.5",
            "adversarial.first_critic_steps=1",
            "adversarial.critic_steps=1",
            "adversarial.learning_rate=0.05",
            "adversarial.num_features=2",
            "adversarial.num_levels=2",
            "adversarial.masked_labels=[0]",
            "validation.every_epochs=1",
            "validation.samples=1",  # fewer than processes
        )
        first, second = self.train(server, folder, tmp_path / "two", *sets)
        assert all(torch.equal(first[name], second[name]) for name in first)
        task, stream = self.by_hand(begin(*self.SETS, *sets))
        before = copy.deepcopy(task.state_dict())
        self.update_critic(task, stream)
        self.update_network(task, stream)
        for part in ("critic", "network"):
            moved = 0.0
            for name, parameter in getattr(task, part).named_parameters():
                name = f"{part}.{name}"
                torch.testing.assert_close(first[name], parameter.detach(), rtol=1e-4, atol=1e-5)
                moved = max(moved, float((first[name] - before[name]).abs().max()))
            assert moved > 1e-3

    def by_hand(self, run: TrainingRun) -> tuple[Any, PairStream]:
        data = run.prepared.data()
        data.connect(torch.device("cpu"))
        return run.prepared.task().train(), data.stream

    def update_critic(self, task: Any, stream: PairStream) -> None:
        optimiser = torch.optim.Adam(task.critic.parameters(), lr=0.05, eps=0.01)
        for rank in (0, 1):
            pair = stream.pair(rank)
            with torch.no_grad():
                fake = task.network(pair.image)
            chance = torch.Generator().manual_seed(derive_seed(0, 0, rank, 1))
            mask = (pair.labels != 0).float()
            loss = critic_loss(task.critic, pair.target, fake, mask=mask, generator=chance).total
            (loss / 2).backward()
        optimiser.step()

    def update_network(self, task: Any, stream: PairStream) -> None:
        optimiser = torch.optim.Adam(task.network.parameters(), lr=0.1, eps=0.01)
        optimiser.zero_grad()
        for rank in (0, 1):
            pair = stream.pair(2 + rank)
            fake = task.network(pair.image)
            score = task.critic(fake, (pair.labels != 0).float())
            image = (fake - pair.target).abs().mean()
            (generator_total(image, score, critic_weight=0.5) / 2).backward()
        optimiser.step()
