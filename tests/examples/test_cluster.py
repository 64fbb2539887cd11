"""Scripts for SLURM, under its variables: parts of an array at once, and Dask in an allocation."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    ROOT,
    SCAN_MM,
    SCAN_SHAPE,
    save,
    save_tiny_model,
)

from synthsr_cli.group import synthsr
from synthsr_transforms.phantom import head_phantom

SCRIPTS = ROOT / "examples" / "cluster"
PROGRAM = """#!/bin/bash
exec {python} -W ignore -c 'from synthsr_cli.main import {main}; {main}()' "$@"
"""
DASK = """#!/bin/bash
echo "dask $*" >> dask.txt
[ "$1" = worker ] || echo '{}' > "$3"
exec sleep 60
"""
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="scripts of bash")


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs in front of the path; the working folder has a model."""
    monkeypatch.chdir(tmp_path)
    save_tiny_model(tmp_path / "tiny.safetensors")
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, main in (("synthsr", "main"), ("synthsr-bids", "synthsr_bids")):
        program(folder / name, PROGRAM.format(python=sys.executable, main=main))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    return folder


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def array(script: str, words: Sequence[str], parts: int = 2) -> list[str]:
    """What the tasks of an array print, which all run at once."""
    variables = {"SLURM_ARRAY_TASK_COUNT": str(parts), "SLURM_CPUS_PER_TASK": "1"}
    variables |= {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    started = [
        subprocess.Popen(
            ["bash", str(SCRIPTS / script), *words],
            env={**os.environ, **variables, "SLURM_ARRAY_TASK_ID": str(k + 1)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for k in range(parts)
    ]
    printed = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0] * parts, printed
    return printed


def scans(*names: str) -> None:
    for k, name in enumerate(names):
        voxels = np.random.default_rng(k).random(SCAN_SHAPE, np.float32)
        save(Path(name), voxels, np.diag([SCAN_MM] * 3 + [1.0]))


def test_parts_of_an_array_predict_each_scan_once_and_say_so(tools):
    scans(*(f"scans/s{k}.nii.gz" for k in range(5)))
    words = ["scans", "out/", "--model", "tiny.safetensors"]
    for said, number in zip(array("predict.sh", words), (3, 2), strict=True):
        assert f"Predicted {number} scans in " in said
    with open("out/summary.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert sorted(row["scan"] for row in rows) == [f"scans/s{k}.nii.gz" for k in range(5)]
    log = Path("out.log").read_text()
    assert log.count("exit code 0") == 2
    assert log.count(": wrote out/s") == 5
    assert "Nothing to do" in array("predict.sh", words, parts=1)[0]


def test_parts_of_an_array_make_each_sample_once(tools):
    head_phantom(spacing_mm=5).save("head.nii.gz")
    words = ["all_purpose", "made", "3", "--labels", "head.nii.gz", "--set", "crop.shape=32"]
    for said, number in zip(array("generate.sh", words), ("2 samples", "1 sample"), strict=True):
        assert f"Made {number} in " in said
    assert len(list(Path("made").glob("sample_*.json"))) == 3


def test_a_task_takes_one_participant(tools):
    scans("data/sub-01/anat/sub-01_T1w.nii.gz", "data/sub-b/ses-1/anat/sub-b_ses-1_FLAIR.nii.gz")
    about = {"Name": "Heads", "BIDSVersion": "1.8.0"}
    Path("data/dataset_description.json").write_text(json.dumps(about))
    said = array("bids.sh", ["data", "out", "--model", "tiny.safetensors"])
    assert all("Predicted 1 scan in " in text for text in said)
    assert len(list(Path("out").glob("sub-*"))) == 2


def test_a_scheduler_and_workers_are_started_and_stopped(tools):
    """With stand-ins for Dask and `srun`; `test_dask.py` of the commands runs a real cluster."""
    program(tools / "dask", DASK)
    program(tools / "srun", '#!/bin/bash\nexec "$@"\n')
    both = "until [ $(wc -l < dask.txt) = 2 ]; do sleep 0.05; done"
    program(tools / "synthsr", f'#!/bin/bash\necho "$@" > synthsr.txt\n{both}\nexit 3\n')
    variables = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "4"}
    done = subprocess.run(
        ["bash", str(SCRIPTS / "dask.sh"), "scans", "out", "--model", "fast"],
        env={**os.environ, **variables},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 3
    words = Path("synthsr.txt").read_text().split()
    file = words[words.index("--dask") + 1]
    assert not Path(file).exists()
    assert sorted(line.split()[1] for line in Path("dask.txt").read_text().splitlines()) == [
        "scheduler",
        "worker",
    ]
    assert Path("dask.txt").read_text().count(file) == 2
    context = synthsr.make_context("synthsr", ["predict"], resilient_parsing=True)
    command = synthsr.get_command(context, "predict")
    assert command is not None
    assert command.make_context("predict", words[1:]).params["dask"] == file


def test_the_page_shows_every_script():
    pages = [SCRIPTS.parents[1] / "docs" / name for name in ("clusters.md", "recipes.md")]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    for path in SCRIPTS.glob("*.sh"):
        assert f'--8<-- "examples/cluster/{path.name}"' in text, path.name
