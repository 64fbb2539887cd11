"""Signals end every command with code 130 and one line, whenever they come."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from helpers import PROGRAM, save, until
from helpers.processes import Process, Server

AT_IMPORT = """
import os, signal
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            for _ in range({times}):
                os.kill(os.getpid(), signal.{number})
import sys
sys.meta_path.insert(0, Finder())
""".strip()
COMMANDS = {
    "predict": "predict scans out --model fast --device cpu",
    "generate": "generate all_purpose --labels maps --out out",
    "train": "train all_purpose --labels maps --out out --device cpu",
    "estimate-priors": "estimate-priors --images scans --labels maps --out out",
    "evaluate": "evaluate scans scans --out out",
    "labels": "labels maps",
    "models": "models",
    "export": "export fast out.onnx",
    "convert-weights": "convert-weights missing.h5 out.safetensors",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name in ("a", "b", "c", "d"):
        save(tmp_path / f"maps/{name}.nii.gz", random.choice(np.int16([0, 2, 3, 41]), (32, 32, 32)))
        save(tmp_path / f"scans/{name}.nii.gz", random.random((32, 32, 32), np.float32))
    return tmp_path


def start(folder: Path, command: str, then: str = "pass") -> subprocess.Popen[str]:
    program = f"{then}\n{PROGRAM}"
    (folder / "temporary").mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", program, *command.split()], cwd=folder, text=True,
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "TMPDIR": str(folder / "temporary")},
    )  # fmt: skip


def check(process: subprocess.Popen[str] | Process, folder: Path) -> str:
    """It ends long before its work would, with one line, and leaves nothing; return the line."""
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    (line,) = [line for line in errors.splitlines() if "Stopped" in line]
    assert errors.endswith(f"{line}\n")
    assert not list(folder.glob("**/.*"))
    return line


@pytest.mark.parametrize("command", COMMANDS)
def test_while_it_imports(folder, command):
    number, module = [("SIGINT", "torch"), ("SIGTERM", "numpy")][len(command) % 2]
    module = "click" if command in ("labels", "evaluate") else module
    code = AT_IMPORT.format(module=module, number=number, times=1 + len(command) % 3)
    process = start(folder, COMMANDS[command], code)
    assert check(process, folder) == "Stopped."
    assert sorted(os.listdir(folder)) == ["maps", "scans", "temporary"]


@pytest.fixture
def working(
    folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Process]:
    """Beginner of commands in the folder, whose imports are done."""
    monkeypatch.chdir(folder)
    (folder / "temporary").mkdir()

    def begin(words: str) -> Process:
        place = folder / "temporary"
        return server.begin(PROGRAM, *words.split(), alone=True, TMPDIR=place)

    return begin


@pytest.mark.parametrize("at_once", [False, True], ids=["group", "alone"])
def test_processes_of_an_estimate_end_with_it(folder, working, at_once):
    process = working(COMMANDS["estimate-priors"] + " --workers 2")
    parent = psutil.Process(process.pid)
    until(lambda: len(parent.children(recursive=True)) >= 3, process)  # two, and a tracker
    children = parent.children(recursive=True)
    (os.kill if at_once else os.killpg)(process.pid, signal.SIGINT)
    assert check(process, folder) == "Stopped."
    psutil.wait_procs(children, timeout=30)
    assert not [child for child in children if child.is_running()]
    assert not os.listdir(folder / "temporary")


def test_training_before_its_first_batch(folder, working):
    process = working(f"{COMMANDS['train']} --set crop.shape=32 --set network.num_features=4")
    until((folder / "out" / "config.yaml").exists, process)
    process.send_signal(signal.SIGINT)
    assert check(process, folder).startswith("Stopped.")
