"""Promises of ``synthsr-bids``: options of BIDS Apps, and a derivative that validates."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from helpers import COARSE_MM, any_quality, one_error, python, run

from synthsr_cli.bids_app import repeated
from synthsr_net.models.checkpoint import ModelConfig, ScanConfig, save_model
from synthsr_net.networks.unet import UNet3d, UNetConfig

FILES = (
    "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
    "sub-01/ses-a/anat/sub-01_ses-a_acq-ax_FLAIR.nii.gz",
    "sub-01/ses-b/anat/sub-01_ses-b_run-1_T1w.nii.gz",
    "sub-01/ses-b/anat/sub-01_ses-b_run-02_T1w.nii.gz",
    "sub-02/ses-a/anat/sub-02_ses-a_acq-sag_T2w.nii.gz",
    "sub-03/anat/sub-03_T1w.nii.gz",
)
AFFINE = np.diag([-COARSE_MM, COARSE_MM, 2 * COARSE_MM, 1.0])
VALIDATOR = Path(sys.executable).with_name("bids-validator-deno")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ship) -> Path:
    """Working folder with a dataset and two models, which are those that ship."""
    monkeypatch.chdir(tmp_path)
    made = helpers.segmentation_model(any_quality())
    save_model(tmp_path / "seg.safetensors", made.config, made.network.state_dict())
    network = UNetConfig(num_levels=2, num_features=4)
    config = ModelConfig(
        name="t1", network=network, scan=ScanConfig(spacing_mm=COARSE_MM, divisor=4)
    )
    save_model(tmp_path / "t1.safetensors", config, UNet3d(network).state_dict())
    ship(tmp_path / "t1.safetensors", segmentation=tmp_path / "seg.safetensors")
    for k, name in enumerate(FILES):
        voxels = np.random.default_rng(k).random((24, 28, 12), np.float32)
        helpers.save(tmp_path / "data" / name, voxels, AFFINE)
    about = {"Name": "Heads", "BIDSVersion": "1.8.0"}
    (tmp_path / "data" / "dataset_description.json").write_text(json.dumps(about))
    return tmp_path


def app(*arguments: object, **options: Any) -> Any:
    return run("bids-app", "data", "out", "participant", *arguments, **options)


def made() -> list[str]:
    """Predictions, by the names of their sources."""
    names = [path.name for path in Path("out").rglob("*_T1w.nii.gz")]
    return sorted(names)


class TestSelection:
    @pytest.mark.parametrize(
        "labels",
        [
            ["--participant-label", "02", "03"],
            ["--participant-label", "sub-02", "03"],
            ["--participant_label", "sub-02", "sub-03"],
            ["--participant-label", "02", "--participant-label", "03"],
            ["--participant-label=02", "--participant-label=03"],
        ],
    )
    def test_participants(self, labels):
        result = app(*labels)
        assert result.exit_code == 0, result.output
        assert made() == [
            "sub-02_ses-a_acq-sag_desc-synthsrT2w_T1w.nii.gz",
            "sub-03_desc-synthsr_T1w.nii.gz",
        ]

    @pytest.mark.parametrize("labels", [["b"], ["ses-b"]])
    def test_sessions(self, labels):
        assert app("--session-label", *labels).exit_code == 0
        assert len(made()) == 2
        assert all("_ses-b_" in name for name in made())
        assert app("--session-label", "b", "a", "--participant-label", "01", "02").exit_code == 0
        assert len(made()) == 5

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({"t1w": {"session": "a"}, "flair": {"acquisition": "cor"}, "t2w": {"run": 1}}, 1),
            ({"t1w": {"run": 2}}, 3),
            ({"t1w": {"run": ["1", "02"], "datatype": "anat"}}, 4),
            ({"t1w": {"run": None}}, 4),
            ({"T1w": {"session": "Query.NONE"}, "t2w": {"acquisition": "*"}}, 3),
            ({"any": {"suffix": ["T1w", "T2w"], "session": "ses-a"}, "flair": {"space": "*"}}, 2),
            ({"bold": {"task": "rest"}}, None),
        ],
    )
    def test_filters(self, filters, expected):
        Path("filter.json").write_text(json.dumps(filters))
        result = app("--bids-filter-file", "filter.json")
        if expected is None:
            assert "an entity of bold must be one of" in one_error(result)
            return
        assert result.exit_code == 0, result.output
        assert len(made()) == expected, made()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--session-label", "x"], "got x. There are: ses-a, ses-b."),
            (["--session-label", ""], "sessions must be those of the participants"),
            (["--participant-label", "03", "--session-label", "a"], "There are: none"),
            (["--participant-label", "9"], "participants must be in data, got sub-9"),
            (["--bids-filter-file", "none.json"], "none.json"),
        ],
    )
    def test_what_is_not_there(self, arguments, message):
        assert message in one_error(app(*arguments))
        assert not Path("out").exists()

    def test_levels(self):
        result = run("bids-app", "data", "out", "group")
        assert "'group' is not 'participant'" in one_error(result)

    def test_values_are_not_taken_from_other_options(self):
        words = ["--participant-label", "01", "-w", "work", "--session-label", "a", "b", "--qc"]
        assert repeated(words) == [
            *("--participant-label", "01", "-w", "work"),
            *("--session-label", "a", "--session-label", "b", "--qc"),
        ]


class TestDataset:
    def test_a_run_goes_on_and_keeps_what_is_complete(self):
        assert app("--participant-label", "01").exit_code == 0
        before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.nii.gz")}
        result = app("-w", "work/deep", "--n-cpus", "1", "--mem-mb", "4000")
        assert result.stdout.startswith("Predicted 2 scans in "), result.output
        assert all(path.stat().st_mtime_ns == time for path, time in before.items())
        assert Path("work/deep").is_dir()
        assert not list(Path("work/deep").iterdir())

    @pytest.mark.parametrize(
        ("variables", "expected"),
        [
            ({}, None),
            ({"SYNTHSR_CONTAINER": "synthsr:1"}, {"Type": "docker", "Tag": "synthsr:1"}),
            (
                {"SYNTHSR_CONTAINER": "synthsr:1", "APPTAINER_CONTAINER": "/x.sif"},
                {"Type": "singularity", "Tag": "synthsr:1"},
            ),
        ],
    )
    def test_the_description_names_version_and_container(self, variables, expected):
        assert app("--participant-label", "03", env=variables).exit_code == 0
        (maker,) = json.loads(Path("out/dataset_description.json").read_text())["GeneratedBy"]
        assert maker["Version"]
        assert maker.get("Container") == expected

    @pytest.mark.skipif(not VALIDATOR.exists(), reason="needs bids-validator-deno")
    def test_the_derivative_is_valid(self):
        """With everything that can lie in it, by the validator of BIDS."""
        result = app("--segment", "--qc", "--report", "out/report")
        assert result.exit_code == 0, result.output
        assert len(list(Path("out").rglob("*_dseg.nii.gz"))) == len(FILES)
        shutil.copy("out/summary.tsv", "out/odd.tsv")  # the one file that nobody excused
        command = [VALIDATOR, "--json", "out"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        issues = json.loads(done.stdout)["issues"]["issues"]
        errors = {issue["location"] for issue in issues if issue.get("severity") == "error"}
        assert errors == {"/odd.tsv"}

    def test_it_starts_under_its_own_name(self):
        code = "from synthsr_cli.main import synthsr_bids; synthsr_bids()"
        done = python(code, "--version")
        assert done.stdout.startswith("synthsr-bids"), done.stderr
        done = python(code, "data", "out", "x")
        assert done.returncode == 2
        assert done.stderr.rstrip().endswith("Try 'synthsr bids-app --help'.")
