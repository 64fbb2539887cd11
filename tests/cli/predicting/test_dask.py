"""Promises of ``--dask``: the same files, each made once, also where a worker is killed."""

from __future__ import annotations

import csv
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import SCAN_MM, SCAN_SHAPE, SECONDS, one_error, run, save, save_tiny_model, until

from synthsr_net.prediction.runs.on_dask import MADE_BY_LOST_WORKER, Recipe, do_task
from synthsr_net.prediction.runs.tasks import plan_tasks
from synthsr_transforms.phantom import head_phantom
from synthsr_transforms.support.messages import SynthSRError, WorkFailedError

distributed = pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),
]
MODEL = ("--model", "tiny.safetensors")
NUMBER = 10


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two workers on this machine; one that dies is started again."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1"
    ) as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with scans, of which one is damaged, and a model."""
    monkeypatch.chdir(tmp_path)
    save_tiny_model(tmp_path / "tiny.safetensors")
    for k in range(NUMBER):
        voxels = np.random.default_rng(k).random(SCAN_SHAPE, np.float32)
        save(tmp_path / "scans" / f"s{k}.nii.gz", voxels, np.diag([SCAN_MM] * 3 + [1.0]))
    (tmp_path / "scans" / "bad.nii.gz").write_bytes(b"no scan")
    return tmp_path


def summary() -> list[tuple[str, str]]:
    with open("out/summary.tsv", newline="") as file:
        return [(Path(r["scan"]).name, r["status"]) for r in csv.DictReader(file, delimiter="\t")]


def test_a_killed_worker_loses_nothing_and_nothing_is_made_twice(cluster, folder):
    """The worker is killed as soon as results appear; Dask gives its scans to others."""
    first = next(iter(cluster.workers.values())).pid

    def kill() -> None:
        until(lambda: list(Path("out").glob("s*_synthsr.nii.gz")))
        os.kill(first, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    result = run("predict", "scans", "out", *MODEL, "--dask", cluster.scheduler_address)
    killer.join(SECONDS)
    assert result.exit_code == 1, result.output
    assert result.stderr.count("Failed: bad.nii.gz: ") == 1
    assert Counter(summary()) == {
        ("bad.nii.gz", "failed"): 1,
        **{(f"s{k}.nii.gz", "done"): 1 for k in range(NUMBER)},
    }
    assert not [path for path in Path("out").iterdir() if path.name.startswith(".")]
    assert run("predict", "scans", "plain", *MODEL).exit_code == 1
    names = [path.name for path in Path("plain").glob("*.nii.gz")]
    assert len(names) == NUMBER
    for name in names:
        assert Path("plain", name).read_bytes() == Path("out", name).read_bytes()


def test_samples_are_those_of_one_process(cluster, folder):
    Path("maps").mkdir()
    head_phantom(spacing_mm=5).save("maps/head.nii.gz")
    words = ("generate", "all_purpose", "--labels", "maps", "--set", "crop.shape=32", "-n", 5)
    result = run(*words, "--out", "many", "--dask", cluster.scheduler_address)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Made 5 samples in ")
    assert run(*words, "--out", "one").exit_code == 0
    names = sorted(path.name for path in Path("one").iterdir())
    assert sorted(path.name for path in Path("many").iterdir()) == names
    for name in names:
        assert Path("one", name).read_bytes() == Path("many", name).read_bytes(), name
    assert run(*words, "--out", "many").stdout.startswith("Nothing to make: all 5 samples")


class TestTask:
    """What a worker does, in this process."""

    def recipe(self, **fields: Any) -> Recipe:
        from synthsr_net import Predictor

        defaults = {
            "run": "test",
            "load": lambda: Predictor.from_file("tiny.safetensors", device="cpu"),
            "tables": lambda tasks, model: [],
            "report": None,
            "convention": "neurological",
            "overwrite": False,
        }
        return Recipe(**{**defaults, **fields})

    @pytest.fixture(autouse=True)
    def fresh(self, monkeypatch):
        monkeypatch.setattr("synthsr_net.prediction.runs.on_dask._ready", {})

    def test_what_a_lost_call_made_is_not_made_again(self, folder):
        (task,) = plan_tasks(["scans/s0.nii.gz"], "a.nii.gz")
        assert do_task(self.recipe(), task).warnings == ()
        before = task.output.stat().st_mtime_ns
        assert do_task(self.recipe(), task).warnings == (MADE_BY_LOST_WORKER,)
        assert task.output.stat().st_mtime_ns == before
        assert do_task(self.recipe(overwrite=True), task).warnings == ()
        assert task.output.stat().st_mtime_ns > before

    def test_bad_input_is_told_and_other_errors_are_tried_again(self, folder, monkeypatch):
        (bad,) = plan_tasks(["scans/bad.nii.gz"], "a.nii.gz")
        assert isinstance(do_task(self.recipe(), bad).error, SynthSRError)

        def fail(*_: Any, **__: Any) -> None:
            raise OSError(5, "Input/output error", "b.nii.gz")

        monkeypatch.setattr("synthsr_net.prediction.runs.runner.read_scan", fail)
        (task,) = plan_tasks(["scans/s0.nii.gz"], "b.nii.gz")
        with pytest.raises(WorkFailedError, match=r"b.nii.gz: Input/output error"):
            do_task(self.recipe(), task)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("tcp://127.0.0.1:9", "got tcp://127.0.0.1:9, where none answers"),
        ("nonsense://x", "got nonsense://x, where none answers"),
    ],
)
def test_a_scheduler_that_is_not_there(address, message, folder, monkeypatch):
    monkeypatch.setattr("synthsr_transforms.support.dask.SECONDS_TO_CONNECT", 1)
    assert message in one_error(run("predict", "scans", "out", *MODEL, "--dask", address))
    assert not list(Path("out").glob("*.nii.gz"))


def test_it_does_not_go_with_processes_of_this_machine(folder):
    words = (*MODEL, "--dask", "tcp://127.0.0.1:9", "--devices", "2")
    assert "--devices does not go with --dask" in one_error(run("predict", "scans", "out", *words))
