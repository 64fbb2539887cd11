"""Promises of ``synthsr generate`` and of the command line around it."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import nibabel as nib
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers import PROGRAM, one_error, run, save, until

from synthsr_cli.common.errors import as_click_error
from synthsr_cli.common.messages import shown
from synthsr_cli.common.progress import progress
from synthsr_cli.group import COMMANDS, synthsr
from synthsr_transforms.generator.config import preset_names
from synthsr_transforms.job import job as job_module
from synthsr_transforms.job import record as job_record
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.subjects.files import phantom_subject

SHAPE = (16, 18, 20)
CONFIG = """
label_table: {table}
real_target: {real}
steps:
  deformation: {{name: SpatialDeformation, params: {{rotation_degrees: [-10, 10]}}}}
  crop: {{name: PatchCrop, params: {{shape: 12}}}}
  mixture: {{name: TissueMixture}}
  {target}
  acquisition: {{name: SliceAcquisition, params: {{spacing_mm: [1, 1, 3]}}}}
"""


def label_map(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.int16([0, 2, 3, 41, 42]), shape)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with two label maps, their images, and configurations."""
    monkeypatch.chdir(tmp_path)
    for k in (1, 2):
        save(tmp_path / "maps" / f"sub-0{k}_dseg.nii.gz", label_map(k))
        image = np.random.default_rng(k).random(SHAPE, np.float32)
        save(tmp_path / "images" / f"sub-0{k}_T1w.nii.gz", image)
    copy = "target: {name: CopyImage}"
    (tmp_path / "own.yaml").write_text(
        CONFIG.format(table="freesurfer_aseg", real="false", target=copy)
    )
    (tmp_path / "real.yaml").write_text(
        CONFIG.format(table="freesurfer_aseg", real="true", target="")
    )
    return tmp_path


def volumes(folder: Path, ending: str = "nii.gz") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob(f"*.{ending}"))}


class TestGenerate:
    def test_a_configuration_of_ones_own(self, folder):
        result = run("generate", "own.yaml", "--labels", "maps", "-n", 3)
        assert result.exit_code == 0, result.stderr
        assert len(volumes(folder / "synthetic")) == 9
        assert result.stdout.startswith("Made 3 samples in ")
        assert "each, in synthetic." in result.stdout
        assert "3/3 samples" in result.stderr

    def test_a_preset_on_the_phantom_with_pictures(self, folder, monkeypatch):
        monkeypatch.setattr(job_module, "phantom_subject", partial(phantom_subject, spacing_mm=4))
        arguments = ("all_purpose", "--set", "crop.shape=32", "--out", "p", "--preview")
        result = run("generate", *arguments)
        assert result.exit_code == 0, result.stderr
        assert {path.suffix for path in (folder / "p").glob("*preview*")} == {".png"}
        assert (folder / "p" / "overview.png").exists()
        assert result.stderr.startswith("making the built-in head phantom\n")
        assert "phantom" not in run("generate", *arguments).stderr

    def test_a_single_label_map_and_image(self, folder):
        one = ("--labels", "maps/sub-01_dseg.nii.gz", "--images", "images/sub-02_T1w.nii.gz")
        assert run("generate", "real.yaml", *one).exit_code == 0

    def test_images_are_paired_in_order_when_asked_for(self, folder):
        for k, path in enumerate(sorted((folder / "images").iterdir())):
            path.rename(path.with_name(f"scan{k}.nii.gz"))
        pairs = ("real.yaml", "--labels", "maps", "--images", "images")
        refused = run("generate", *pairs)
        assert refused.exit_code == 2
        assert "--match order" in refused.stderr
        assert run("generate", *pairs, "--match", "order").exit_code == 0
        refused = run("generate", "own.yaml", "--labels", "maps", "--match", "order")
        assert "got no --images" in refused.stderr

    def test_subjects_of_freesurfer(self, folder):
        for k in (1, 2):
            save(folder / "subjects" / f"s{k}" / "mri" / "aparc+aseg.mgz", label_map(k))
            save(folder / "subjects" / f"s{k}" / "mri" / "orig.mgz", np.float32(label_map(k)))
        (folder / "subjects" / "s3" / "mri").mkdir(parents=True)
        where = ("--labels", "subjects", "--images", "subjects")
        result = run("generate", "real.yaml", *where)
        assert result.exit_code == 0, result.stderr
        assert "without mri/aparc+aseg.mgz are left out: s3." in result.stderr
        assert Path(json.loads(Path("synthetic/sample_000000.json").read_text())["source"]["image"])
        assert run("labels", "subjects").exit_code == 0

    def test_subfolders_are_named_or_searched(self, folder):
        save(folder / "maps" / "more" / "sub-03_dseg.nii.gz", label_map(3))
        result = run("generate", "own.yaml", "--labels", "maps")
        assert "maps: 1 file is in subfolders (more)" in result.stderr
        result = run("generate", "own.yaml", "--labels", "maps", "--recursive", "--out", "all")
        assert "subfolders" not in result.stderr
        assert "3/3 label maps" in result.stderr

    def test_images_become_targets(self, folder):
        settings = ("--set", "deformation.rotation_degrees=0", "--set", f"crop.shape={list(SHAPE)}")
        folders = ("--labels", "maps", "--images", "images", "--out", "out")
        assert run("generate", "real.yaml", *folders, *settings).exit_code == 0
        source = json.loads((folder / "out" / "sample_000000.json").read_text())["source"]
        written = nib.load(folder / "out" / "sample_000000_target.nii.gz").get_fdata()
        np.testing.assert_allclose(written, nib.load(source["image"]).get_fdata(), atol=1e-4)

    def test_the_format_can_be_chosen(self, folder):
        result = run("generate", "own.yaml", "--labels", "maps", "--format", "mgz", "--out", "m")
        assert result.exit_code == 0
        assert len(volumes(folder / "m", "mgz")) == 3

    def test_settings_can_be_changed(self, folder):
        result = run("generate", "own.yaml", "--labels", "maps", "--set", "crop.shape=8")
        assert result.exit_code == 0
        assert nib.load(folder / "synthetic/sample_000000_image.nii.gz").shape == (8, 8, 8)

    def test_the_same_seed_makes_the_same_samples(self, folder):
        for out, seed in (("a", 4), ("b", 4), ("c", 5)):
            run("generate", "own.yaml", "--labels", "maps", "--seed", seed, "--out", out)
        assert volumes(folder / "a") == volumes(folder / "b")
        assert not set(volumes(folder / "a").values()) & set(volumes(folder / "c").values())

    def test_shards_together_make_the_job(self, folder):
        run("generate", "own.yaml", "--labels", "maps", "-n", 5, "--out", "whole")
        for shard in ("2/2", "1/2"):
            arguments = ("--labels", "maps", "-n", 5, "--out", "parts", "--shard", shard)
            assert run("generate", "own.yaml", *arguments).exit_code == 0
        assert volumes(folder / "whole") == volumes(folder / "parts")

    def test_a_shard_without_samples_says_so(self, folder):
        result = run("generate", "own.yaml", "--labels", "maps", "-n", 4, "--shard", "5/8")
        assert result.exit_code == 0, result.stderr
        assert result.stdout == "Nothing to make: shard 5/8 of 4 samples is empty.\n"

    def test_a_job_goes_on_where_it_stopped(self, folder):
        job = ("generate", "own.yaml", "--labels", "maps")
        run(*job, "-n", 2)
        result = run(*job, "-n", 5)
        assert "Made 3 samples" in result.stdout
        assert "(2 were complete before)" in result.stdout
        again = run(*job, "-n", 5)
        assert again.exit_code == 0
        assert "Nothing to make: all 5 samples" in again.stdout

    def test_the_written_configuration_makes_the_same_samples(self, folder):
        run(
            "generate",
            "own.yaml",
            "--labels",
            "maps",
            "-n",
            3,
            "--seed",
            2,
            "--set",
            "crop.shape=8",
        )
        result = run("generate", "synthetic/config.yaml", "--out", "again")
        assert result.exit_code == 0, result.stderr
        assert volumes(folder / "synthetic") == volumes(folder / "again")

    def test_threads_are_those_asked_for(self, folder):
        run("generate", "own.yaml", "--labels", "maps", "--threads", 2)
        assert torch.get_num_threads() == 2

    def test_ctrl_c_says_how_to_go_on(self, folder, monkeypatch):
        from synthsr_transforms.job.job import StartedJob

        def stop(_: object) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr(StartedJob, "run", stop)
        result = run("generate", "own.yaml", "--labels", "maps", "-n", 9)
        assert result.exit_code == 130
        assert "Stopped after 0 of 9 samples. The same command goes on" in result.stderr

    def test_a_scheduler_can_stop_it(self, folder):
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                PROGRAM,
                "generate",
                "own.yaml",
                "--labels",
                "maps",
                "-n",
                "400",
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        until(lambda: list((folder / "synthetic").glob("*.json")), process)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
        assert process.returncode == 130
        assert "Stopped after" in errors
        assert not list((folder / "synthetic").glob(".*"))


def float_map() -> np.ndarray:
    data = label_map().astype(np.float32)
    data[3, 3, 3] = 2.5
    return data


def nan_map() -> np.ndarray:
    data = label_map().astype(np.float32)
    data[3, 3, 3] = np.nan
    return data


Make = Callable[[Path], tuple[object, ...]]


def wrong(folder: Path, text: str) -> str:
    """Settings in a file, whose name is the result."""
    (folder / "wrong.yaml").write_text(text)
    return "wrong.yaml"


def first_map(folder: Path) -> Path:
    return next(path for path in (folder / "maps").iterdir() if path.name.endswith(".nii.gz"))


BAD_INPUT: dict[str, tuple[Make, str]] = {
    "missing folder": (
        lambda folder: ("own.yaml", "--labels", "nowhere"),
        "nowhere must be a file or folder, but does not exist",
    ),
    "empty folder": (
        lambda folder: ("own.yaml", "--labels", (folder / "empty").mkdir() or "empty"),
        "empty must hold scans or label maps",
    ),
    "output folder of the label maps": (
        lambda folder: ("own.yaml", "--labels", "maps", "--out", "images/../maps"),
        "output folder must be another than that of label maps and images",
    ),
    "output folder of the images": (
        lambda folder: ("real.yaml", "--labels", "maps", "--images", "images", "--out", "images"),
        "output folder must be another than that of label maps and images",
    ),
    "record of a sample as configuration": (
        lambda folder: (
            (folder / "sample_000000.json").write_text('{"sample": "sample_000000", "steps": {}}')
            and "sample_000000.json",
        ),
        "Give config.yaml for the whole job, or make this sample again with"
        " synthsr_transforms.job.job.remake_sample.",
    ),
    "not a volume": (
        lambda folder: ("own.yaml", "--labels", "own.yaml"),
        "own.yaml must end in one of",
    ),
    "broken file": (
        lambda folder: (
            *("own.yaml", "--labels"),
            (folder / "a.nii.gz").write_bytes(b"no volume") and "a.nii.gz",
        ),
        "a.nii.gz must be a gzip file",
    ),
    "label not in the table": (
        lambda folder: ("own.yaml", "--labels", save(folder / "a.nii", label_map() + 5000)),
        "lacks labels of the label maps: 5000, 5002",
    ),
    "label map with fractions": (
        lambda folder: ("own.yaml", "--labels", save(folder / "a.nii", float_map())),
        "a.nii must hold whole numbers, got 2.5",
    ),
    "negative labels": (
        lambda folder: ("own.yaml", "--labels", save(folder / "a.nii", label_map() - 5)),
        "a.nii must hold labels within 0",
    ),
    "2-D label map": (
        lambda folder: ("own.yaml", "--labels", save(folder / "a.nii", label_map()[0])),
        "a.nii must be a 3-D",
    ),
    "4-D label map": (
        lambda folder: (
            *("own.yaml", "--labels"),
            save(folder / "a.nii", label_map(shape=(8, 8, 8, 2))),
        ),
        "a.nii must be a 3-D volume, got shape (8, 8, 8, 2)",
    ),
    "no images for real targets": (
        lambda folder: ("real.yaml", "--labels", "maps"),
        "real targets need an image with each label map",
    ),
    "no images for a preset with real targets": (
        lambda folder: ("tutorial_1_sr_real",),
        "--images",
    ),
    "images without label maps": (
        lambda folder: ("real.yaml", "--images", "images"),
        "Give --labels as well",
    ),
    "images that are not needed": (
        lambda folder: ("own.yaml", "--labels", "maps", "--images", "images"),
        "Leave out --images",
    ),
    "image of another shape": (
        lambda folder: (
            *("real.yaml", "--labels", "maps/sub-01_dseg.nii.gz", "--images"),
            save(folder / "b.nii", np.zeros((16, 18, 21), np.float32)),
        ),
        "(16, 18, 21) and (16, 18, 20)",
    ),
    "image with NaN": (
        lambda folder: (
            *("real.yaml", "--labels", "maps/sub-01_dseg.nii.gz", "--images"),
            save(folder / "b.nii", nan_map()),
        ),
        "b.nii must hold finite numbers",
    ),
    "image that is missing": (
        lambda folder: (
            *("real.yaml", "--labels", "maps", "--images", "images"),
            (folder / "images" / "sub-02_T1w.nii.gz").unlink() or "--preview",
        ),
        "got none for sub-02_dseg.nii.gz",
    ),
    "unknown preset": (
        lambda folder: ("all_purpos", "--labels", "maps"),
        "did you mean 'all_purpose'?",
    ),
    "missing configuration": (
        lambda folder: ("nowhere.yaml", "--labels", "maps"),
        "nowhere.yaml does not exist",
    ),
    "broken configuration": (
        lambda folder: (
            (folder / "b.yaml").write_text("steps: [") and "b.yaml",
            *("--labels", "maps"),
        ),
        "b.yaml cannot be read as YAML",
    ),
    "unknown key": (
        lambda folder: (
            (folder / "b.yaml").write_text("labels_table: synthsr\nsteps: {}") and "b.yaml",
            *("--labels", "maps"),
        ),
        "did you mean 'label_table'?",
    ),
    "unknown step in a setting": (
        lambda folder: ("own.yaml", "--labels", "maps", "--set", "crp.shape=8"),
        "did you mean 'crop'?",
    ),
    "unknown argument in a setting": (
        lambda folder: ("own.yaml", "--labels", "maps", "--set", "crop.shap=8"),
        "did you mean 'shape'?",
    ),
    "setting without value": (
        lambda folder: ("own.yaml", "--labels", "maps", "--set", "crop.shape"),
        "must be written name=value",
    ),
    "unknown label table": (
        lambda folder: ("own.yaml", "--labels", "maps", "--set", "label_table=synthsegg"),
        "did you mean 'synthseg'?",
    ),
    "unknown label table on the phantom": (
        lambda folder: ("own.yaml", "--set", "label_table=synthsegg"),
        "did you mean 'synthseg'?",
    ),
    "priors of the wrong shape": (
        lambda folder: (
            *("own.yaml", "--labels", "maps"),
            *("--set", "mixture.prior_means=[[1, 2], [3, 4]]"),
        ),
        "The label table has 16 classes, the priors 2",
    ),
    "slice spacing of zero": (
        lambda folder: (
            *("own.yaml", "--labels", "maps"),
            *("--set", "acquisition.spacing_mm=[1, 1, 0]"),
        ),
        "spacing_mm must be positive",
    ),
    "output folder below a file": (
        lambda folder: ("own.yaml", "--labels", "maps", "--out", "own.yaml/out"),
        "output folder must be writable, got own.yaml/out",
    ),
    "output folder that is a file": (
        lambda folder: ("own.yaml", "--labels", "maps", "--out", "own.yaml"),
        "own.yaml is a file",
    ),
    "device that is absent": (
        lambda folder: ("own.yaml", "--labels", "maps", "--device", "cuda:77"),
        "device must be",
    ),
    "unknown device": (
        lambda folder: ("own.yaml", "--labels", "maps", "--device", "gpu"),
        "device must be one of auto, cpu, cuda, mps",
    ),
    "shard without total": (
        lambda folder: ("own.yaml", "--labels", "maps", "--shard", "2"),
        "shard must be I/N",
    ),
    "no samples": (lambda folder: ("own.yaml", "--labels", "maps", "-n", 0), "1 to 1000000, got 0"),
    "a list of steps": (lambda folder: (wrong(folder, "steps: []"),), "wrong.yaml: steps must"),
    "a number by tissue": (
        lambda folder: (
            wrong(folder, "steps: {mix: {name: TissueContrast, params: {by_tissue: -0.5}}}"),
        ),
        "TissueContrast: by_tissue must be a mapping to intensities, got -0.5 (wrong.yaml)",
    ),
    "a value of the environment": (
        lambda folder: (wrong(folder, "steps: {}\nlabel_table: '${oc.env:HOME}'"),),
        "wrong.yaml: label_table must not hold ${",
    ),
    "a value of the environment in a change": (
        lambda folder: ("own.yaml", "--set", "label_table=${oc.env:HOME}"),
        "--set: label_table must not hold ${",
    ),
    "a label map named after a value": (
        lambda folder: ("own.yaml", "--labels", shutil.copy(first_map(folder), "${x}.nii.gz")),
        "the path of a file must not hold ${",
    ),
    "a long value": (
        lambda folder: (wrong(folder, f"steps: {list(range(5000))}"),),
        "wrong.yaml: steps must hold settings, got [0, 1, 2",
    ),
    "fraction of a sample": (lambda folder: ("own.yaml", "-n", "1.5"), "not a valid integer"),
    "unknown format": (lambda folder: ("own.yaml", "--format", "png"), "'png' is not one of"),
    "no arguments": (lambda folder: (), "Missing argument 'PRESET|CONFIG.yaml'"),
}


class TestBadInput:
    @pytest.mark.parametrize("case", BAD_INPUT)
    def test_it_is_one_clear_line_and_leaves_nothing(self, case, folder):
        make, expected = BAD_INPUT[case]
        arguments = make(folder)
        before = {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}
        result = run("generate", *arguments)
        assert expected in one_error(result)
        assert before == {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}

    @pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
    def test_cuda_that_is_absent(self, folder):
        result = run("generate", "own.yaml", "--labels", "maps", "--device", "cuda")
        assert "finds no CUDA device" in one_error(result)

    def test_another_job_in_the_folder(self, folder):
        run("generate", "own.yaml", "--labels", "maps")
        result = run("generate", "own.yaml", "--labels", "maps", "--seed", 1)
        assert "job.seed is 0 there and 1 here" in one_error(result)
        assert "--overwrite" in result.stderr
        forced = run("generate", "own.yaml", "--labels", "maps", "--seed", 1, "--overwrite")
        assert forced.exit_code == 0

    def test_a_folder_without_permission(self, folder, monkeypatch):
        monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
        result = run("generate", "own.yaml", "--labels", "maps")
        assert "no permission to write" in one_error(result)

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
    def test_a_folder_that_only_seems_writable(self, folder):
        result = run("generate", "own.yaml", "--out", "/proc/x")
        assert "output folder must be writable, got /proc/x (no " in one_error(result)

    def test_a_disk_without_room(self, folder, monkeypatch):
        usage = shutil._ntuple_diskusage(100, 99, 1)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        result = run("generate", "own.yaml", "--labels", "maps")
        assert "room for about" in one_error(result, code=1)
        assert "got 1 bytes free" in result.stderr
        assert not (folder / "synthetic").exists()

    def test_a_disk_that_fills_up(self, folder, monkeypatch):
        def fill(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(job_record, "write_volume", fill)
        result = run("generate", "own.yaml", "--labels", "maps", "-n", 5)
        assert "is full. Free some space and run the same command again" in one_error(
            result, code=1
        )
        assert {p.name for p in (folder / "synthetic").iterdir()} == {
            *("config.yaml", "manifest.csv"),
        }


class TestCommandLine:
    def test_help_lists_every_command_with_examples_below(self):
        text = run("--help").stdout
        for name, summary in COMMANDS.items():
            assert name in text
            assert summary in text
            assert run(name, "--help").exit_code == 0
        assert "synthsr generate all_purpose -n 2 --preview" in run("generate", "-h").stdout

    def test_the_version_is_printed(self):
        assert run("--version").stdout.startswith("synthsr 0.")

    def test_presets_are_listed(self):
        text = run("generate", "--list-presets").stdout
        for name in preset_names():
            assert name in text
        assert text.count("real target, needs --images") == 3

    def test_it_runs_as_a_module(self):
        command = [sys.executable, "-m", "synthsr_cli", "generate", "lost.yaml"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert done.stderr.startswith("Error: ")

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            ("generate tutorial_1", ["plain", "tutorial_1_sr_real"]),
            ("train exa", ["plain", "exam"]),
            ("predict a b --model fas", ["plain", "fast"]),
            ("models show synthsr-seg", ["plain", "synthsr-seg-v1"]),
            ("train ./own", ["file", "./own"]),
        ],
    )
    def test_shells_complete_names(self, words, expected):
        line = f"synthsr {words}"
        variables = {
            "_SYNTHSR_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split()) - 1),
        }
        done = CliRunner(env=variables).invoke(synthsr, [], prog_name="synthsr")
        assert done.stdout.strip() == ",".join(expected)

    def test_no_command_shows_the_help(self):
        result = run()
        assert result.exit_code == 2
        assert "Commands:" in result.output

    def test_misspelt_commands_are_corrected(self):
        result = run("genrate")
        assert "did you mean 'generate'?" in one_error(result)

    def test_misspelt_options_are_corrected(self):
        result = run("generate", "all_purpose", "--lables", "x")
        assert "--labels" in one_error(result)

    def test_other_commands_work_through_the_group(self, folder):
        result = run("labels", "maps")
        assert result.exit_code == 0
        assert "left cerebral white matter" in result.stdout


class TestProgress:
    def test_off_a_terminal_the_first_and_the_last_are_lines(self, capsys):
        with shown(), progress("things", 5, done=2) as advance:
            for _ in range(3):
                advance()
        lines = capsys.readouterr().err.splitlines()
        assert [line.split(",")[0] for line in lines] == ["3/5 things", "5/5 things"]
        assert " left" not in lines[-1]

    @pytest.mark.parametrize("seconds", [0.0, 1e-6, 0.004, 0.4, 40.0])
    def test_no_line_says_that_things_take_no_time(self, seconds, capsys, monkeypatch):
        """Neither the first of unknown begin, nor quick ones, nor the last, which leaves none."""
        monkeypatch.setattr("synthsr_cli.common.progress.SECONDS_BETWEEN_LINES", -1)
        times = itertools.count(100.0, seconds)
        monkeypatch.setattr("time.perf_counter", lambda: next(times))
        with shown(), progress("things", done=None) as counter:
            for done in range(3, 8):
                counter.reach(done, 7)
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 5
        assert not [line for line in lines if re.search(r", 0(\.0+)? m?s\b", line)]
        assert ("each" in lines[1]) == (seconds >= 1e-4)

    def test_a_long_job_writes_lines_in_between(self, capsys, monkeypatch):
        monkeypatch.setattr("synthsr_cli.common.progress.SECONDS_BETWEEN_LINES", -1)
        with shown(), progress("things", 5) as advance:
            for _ in range(5):
                advance()
        assert len(capsys.readouterr().err.splitlines()) == 5

    def test_on_a_terminal_there_is_a_bar(self, capsys, monkeypatch):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        with shown(), progress("things", 2) as advance:
            advance()
            advance()
        assert "2/2" in capsys.readouterr().err


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "code", "text"),
        [
            (ValueError("x must be y."), 2, "x must be y."),
            (FileNotFoundError(2, "No such file or directory", "a.nii"), 2, "a.nii: No such file"),
            (OSError("odd"), 2, "odd"),
            (MemoryError(), 1, "out of memory"),
            (RuntimeError("bug"), 1, "unexpected RuntimeError: bug. Please report"),
            (KeyError("bug"), 1, "unexpected KeyError"),
        ],
    )
    def test_exit_codes(self, error, code, text):
        assert as_click_error(error).exit_code == code
        assert text in as_click_error(error).format_message()

    @pytest.mark.parametrize("how", ["option", "variable", None])
    def test_tracebacks_are_shown_when_asked_for(self, how, folder, monkeypatch):
        from synthsr_transforms.job.job import GenerationJob

        def fail(*_: Any, **__: Any) -> Any:
            raise RuntimeError("bug")

        monkeypatch.setattr(GenerationJob, "from_source", fail)
        arguments = ["generate", "own.yaml", *(["--traceback"] if how == "option" else [])]
        variables = {"SYNTHSR_TRACEBACK": "1" if how == "variable" else "0"}
        result = run(*arguments, env=variables)
        assert result.exit_code == 1
        assert ("Traceback (most recent call last)" in result.stderr) == (how is not None)
        assert "Error: unexpected RuntimeError: bug." in result.stderr
        assert "SYNTHSR_TRACEBACK=1" in result.stderr

    def test_without_standalone_mode_errors_are_raised(self):
        with pytest.raises(click.ClickException):
            synthsr.main(["generate", "all_purpos"], standalone_mode=False)


def test_a_merged_table_makes_priors_of_fewer_classes_fit(folder):
    """The table that the error advises works, and so does one of the user's own."""
    table = LabelTable.ready("freesurfer_aparc_aseg")
    like = {"lesion": 1, "vessel": 3}
    rows = [row._replace(label_class=like.get(row.tissue, row.label_class)) for row in table.rows]
    LabelTable(tuple(rows)).write(folder / "table.tsv")
    arguments = ("tutorial_1_sr_real", "--labels", "maps", "--images", "images")
    refused = run("generate", *arguments)
    assert "try --set label_table=synthseg_synthsr." in one_error(refused)
    advised = run("generate", *arguments, "--set", "label_table=synthseg_synthsr", "--out", "as")
    assert advised.exit_code == 0, advised.stderr
    result = run("generate", *arguments, "--set", "label_table=table.tsv")
    assert result.exit_code == 0, result.stderr
    assert (folder / "synthetic" / "label_table.tsv").exists()
