"""Promises of ``synthsr predict``: files in, files out, and what people read on the way."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import helpers
import nibabel as nib
import numpy as np
import pytest
import torch
from click.testing import Result
from helpers import PROGRAM, SCAN_MM, one_error, python, run, save_tiny_model, until
from helpers import SCAN_SHAPE as SHAPE

from synthsr_cli.common import prediction
from synthsr_net.models.zoo.files import default_model
from synthsr_net.prediction.predictor import Predictor
from synthsr_net.prediction.report.entries import read_entries

AFFINE = np.diag([-SCAN_MM, SCAN_MM, SCAN_MM, 1.0])
AFFINE[:3, 3] = 40, -30, 5


def voxels(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


def save(path: Path, data: Any = None, affine: np.ndarray = AFFINE) -> Path:
    return helpers.save(path, voxels() if data is None else data, affine)


MODEL = ("--model", "tiny.safetensors")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with a model, a scan, and a folder of three."""
    monkeypatch.chdir(tmp_path)
    save_tiny_model(tmp_path / "tiny.safetensors")
    save(tmp_path / "scan.nii.gz")
    for k in range(3):
        save(tmp_path / "scans" / f"s{k}.nii.gz", voxels(k))
    return tmp_path


def hidden(folder: Path) -> list[Path]:
    return list(folder.rglob(".*"))


def outputs(folder: Path) -> dict[str, bytes]:
    """Files of a folder, but for the summary, which `test_summary.py` reads."""
    paths = [path for path in sorted(folder.rglob("*")) if path.name != "summary.tsv"]
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def data_of(path: Path | str) -> np.ndarray:
    return nib.load(path).get_fdata()


class TestOneScan:
    def test_a_file_becomes_a_file_as_the_library_makes_it(self, folder):
        result = run("predict", "scan.nii.gz", "new/p.nii.gz", *MODEL)
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("Predicted 1 scan in ")
        assert result.stdout.endswith(", in new/p.nii.gz.\n")
        assert result.stderr == ""
        expected = Predictor.from_file("tiny.safetensors")(nib.load("scan.nii.gz"))
        np.testing.assert_allclose(data_of("new/p.nii.gz"), expected.get_fdata(), atol=1e-4)
        np.testing.assert_allclose(nib.load("new/p.nii.gz").affine, expected.affine, atol=1e-5)
        assert not hidden(folder)

    def test_other_formats_become_nifti(self, folder):
        for name, kind in (("a.mgh", nib.MGHImage), ("b.hdr", nib.Nifti1Pair)):
            (folder / "more").mkdir(exist_ok=True)
            nib.save(kind(voxels(), AFFINE.astype(np.float32)), folder / "more" / name)
        result = run("predict", "more", "out", *MODEL)
        assert result.exit_code == 0, result.output
        assert sorted(os.listdir("out")) == ["a_synthsr.mgz", "b_synthsr.nii.gz", "summary.tsv"]
        assert np.array_equal(data_of("out/a_synthsr.mgz"), data_of("out/b_synthsr.nii.gz"))

    @pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mgz", ".npz"])
    def test_endings_are_kept_in_folders(self, folder, ending):
        save(folder / f"x{ending}")
        small = ("--force",) if ending == ".npz" else ()  # without an affine: voxels of 1 mm
        result = run("predict", f"x{ending}", "out", *MODEL, *small)
        assert result.exit_code == 0, result.output
        assert list(outputs(folder / "out")) == [f"x_synthsr{ending}"]

    def test_the_grid_of_the_input(self, folder):
        run("predict", "scan.nii.gz", "p.nii", *MODEL, "--grid", "input")
        assert nib.load("p.nii").shape == SHAPE
        np.testing.assert_allclose(nib.load("p.nii").affine, AFFINE, atol=1e-5)

    def test_options_reach_the_predictor(self, folder, monkeypatch):
        seen: dict[str, Any] = {}
        init = Predictor.__init__

        def look(self: Any, model: Any, **settings: Any) -> None:
            seen.update(settings)
            init(self, model, **settings)

        monkeypatch.setattr(Predictor, "__init__", look)
        options = ("--ct", "--no-flip", "--sharpen", "--precision", "bf16", "--device", "cpu")
        more = ("--max-memory", "3GB", "--window", "128", "--no-data-consistency")
        more += ("--no-inverse-contrast", "--no-registration", "--dtype", "int16")
        save(folder / "ct.nii", 80 * voxels() - 5)
        result = run("predict", "ct.nii", "p.nii", *MODEL, *options, *more)
        assert result.exit_code == 0, result.output
        assert seen == {
            "device": "cpu",
            "precision": "bf16",
            "uncertainty": False,
            "flip": False,
            "inverse_contrast": False,
            "sharpen": True,
            "data_consistency": False,
            "ct": True,
            "force": False,
            "legacy": None,
            "grid": "1mm",
            "dtype": "int16",
            "max_memory": "3GB",
            "window": 128,
            "registration": False,
        }

    def test_the_type_of_voxels(self, folder):
        save_tiny_model(folder / "spread.safetensors", spread=True)
        more = ("--model", "spread.safetensors", "--uncertainty", "s.nii")
        assert run("predict", "scan.nii.gz", "p.nii", *more).exit_code == 0
        more = ("--model", "spread.safetensors", "--uncertainty", "s8.nii")
        result = run("predict", "scan.nii.gz", "p8.nii", *more, "--dtype", "uint8")
        assert result.exit_code == 0, result.output
        for name in ("p", "s"):
            small = nib.load(f"{name}8.nii")
            assert small.get_data_dtype() == np.uint8
            half = 0.5001 * small.dataobj.slope
            assert np.abs(small.get_fdata() - data_of(f"{name}.nii")).max() <= half

    def test_another_type_is_another_prediction_to_resume(self, folder):
        assert run("predict", "scan.nii.gz", "p.nii", *MODEL).exit_code == 0
        result = run("predict", "scan.nii.gz", "p.nii", *MODEL, "--dtype", "int16", "--resume")
        assert result.exit_code == 2
        assert "with other settings" in result.stderr

    def test_legacy(self, folder):
        assert run("predict", "scan.nii.gz", "p.nii", *MODEL, "--legacy", "v1").exit_code == 0
        assert nib.aff2axcodes(nib.load("p.nii").affine) == ("R", "A", "S")

    def test_bf16_is_close(self, folder):
        for precision in ("fp32", "bf16", "auto"):
            run("predict", "scan.nii.gz", f"{precision}.nii", *MODEL, "--precision", precision)
        assert 0 < np.abs(data_of("fp32.nii") - data_of("bf16.nii")).mean() < 0.3
        assert data_of("auto.nii").shape == data_of("fp32.nii").shape

    def test_threads(self, folder):
        run("predict", "scan.nii.gz", "p.nii", *MODEL, "--threads", 2)
        assert torch.get_num_threads() == 2

    def test_a_lesion_mask(self, folder):
        mask = np.zeros(SHAPE, np.uint8)
        mask[5:9, 4:8, 4:8] = 1
        save(folder / "mask.nii.gz", mask)
        run("predict", "scan.nii.gz", "plain.nii", *MODEL)
        result = run("predict", "scan.nii.gz", "kept.nii", *MODEL, "--lesion-mask", "mask.nii.gz")
        assert result.exit_code == 0, result.output
        different = data_of("plain.nii") != data_of("kept.nii")
        assert different[7, 6, 6]
        assert not different[0, 0, 0]

    def test_an_empty_lesion_mask_is_told(self, folder):
        save(folder / "mask.nii.gz", np.zeros(SHAPE, np.uint8))
        result = run("predict", "scan.nii.gz", "p.nii", *MODEL, "--lesion-mask", "mask.nii.gz")
        assert result.exit_code == 0, result.output
        assert result.stderr.startswith("Warning: scan.nii.gz: ")

    def test_the_spread_of_a_model_that_has_one(self, folder):
        save_tiny_model(folder / "spread.safetensors", spread=True)
        model = ("--model", "spread.safetensors")
        result = run("predict", "scan.nii.gz", "p.nii", *model, "--uncertainty", "s.nii")
        assert result.exit_code == 0, result.output
        assert data_of("s.nii").shape == data_of("p.nii").shape
        assert data_of("s.nii").min() > 0

    def test_no_spread_of_a_model_that_has_none(self, folder):
        result = run("predict", "scan.nii.gz", "p.nii", *MODEL, "--uncertainty", "s.nii")
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        assert "predicts none" in result.stderr
        assert not Path("s.nii").exists()

    def test_several_inputs_by_name(self, folder):
        save_tiny_model(folder / "two.safetensors", 2)
        save(folder / "t2.nii.gz", voxels(2))
        arguments = ("--model", "two.safetensors", "--with")
        result = run("predict", "scan.nii.gz", "a.nii", *arguments, "T2=t2.nii.gz")
        assert result.exit_code == 0, result.output
        run("predict", "t2.nii.gz", "b.nii", *arguments, "t1=scan.nii.gz")
        assert np.array_equal(data_of("a.nii"), data_of("b.nii"))

    def test_a_report(self, folder):
        result = run("predict", "scan.nii.gz", "p.nii", *MODEL, "--report", "report")
        assert result.exit_code == 0, result.output
        page = (folder / "report" / "report.html").read_text()
        assert "scan.nii.gz" in page
        assert "tiny" in page
        assert list((folder / "report").rglob("*.png"))

    def test_a_report_tells_the_settings_of_the_scans(self, folder):
        save(folder / "mask.nii.gz", np.eye(SHAPE[0], SHAPE[1])[..., None] * np.ones(SHAPE[2]))
        options = ("--lesion-mask", "mask.nii.gz", "--no-flip", "--report", "report")
        assert run("predict", "scan.nii.gz", "p.nii", *MODEL, *options).exit_code == 0
        page = (folder / "report" / "report.html").read_text()
        told = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))
        wanted = {"lesion kept": "yes", "flip": "no", "legacy": "no", "grid": "1mm"}
        wanted["ct"] = "decided for each scan"
        assert told.items() >= wanted.items()
        assert told["version"] == version("synthsr")

    def test_a_report_that_cannot_be_written_is_told(self, folder, monkeypatch):
        def fill(*_: Any, **__: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(prediction, "write_report", fill)
        result = run("predict", "scan.nii.gz", "p.nii", *MODEL, "--report", "report")
        assert result.exit_code == 1
        expected = "the report in report cannot be written (No space left on device)."
        assert result.stderr == f"Error: {expected} The predictions are complete.\n"
        assert (folder / "p.nii").exists()


class TestShippedModels:
    """Without a name, and by an alias."""

    def test_the_default_needs_no_option(self, folder, ship):
        save_tiny_model(folder / "a-quick-one.safetensors")
        ship(folder / "tiny.safetensors", quick=folder / "a-quick-one.safetensors")
        for arguments in ((), ("--model", "tiny"), ("--model", "quick")):
            result = run("predict", "scan.nii.gz", "p.nii", "--overwrite", *arguments)
            assert result.exit_code == 0, result.output
            header = nib.load("p.nii").header["descrip"].item().decode()
            assert ("a-quick-one" if "quick" in arguments else "tiny") in header

    def test_the_help_names_the_default(self):
        text = " ".join(run("predict", "--help").stdout.split())
        assert f"[default: {default_model()}, which ships with the package]" in text
        assert "--model fast" in text


class TestManyScans:
    def test_a_folder(self, folder):
        result = run("predict", "scans", "out", *MODEL)
        assert result.exit_code == 0, result.output
        assert sorted(outputs(folder / "out")) == [f"s{k}_synthsr.nii.gz" for k in range(3)]
        assert "Predicted 3 scans in " in result.stdout
        assert "3/3 scans" in result.stderr

    def test_scans_of_a_folder_that_are_not_read_are_told(self, folder):
        for name in ("a.par", "b.REC", "c.dcm", "d.json"):
            (folder / "scans" / name).write_bytes(b"1")
        result = run("predict", "scans", "out", *MODEL)
        assert result.exit_code == 0, result.output
        first = result.stderr.splitlines()[0]
        assert first.startswith("Warning: scans also holds scans of kinds that are not read: ")
        assert "a.par, b.REC, c.dcm." in first

    def test_a_folder_can_hold_its_own_predictions(self, folder):
        for _ in range(2):
            assert run("predict", "scans", "scans", *MODEL, "--resume").exit_code == 0
        assert len(outputs(folder / "scans")) == 6

    def test_lists(self, folder):
        (folder / "in.txt").write_text("scans/s2.nii.gz\n\nscan.nii.gz\n")
        (folder / "out.txt").write_text("x/a.nii\ny/b.mgz\n")
        result = run("predict", "in.txt", "out.txt", *MODEL)
        assert result.exit_code == 0
        assert ", listed in out.txt." in result.stdout
        assert run("predict", "in.txt", "folder", *MODEL).exit_code == 0
        assert sorted(outputs(folder / "folder")) == ["s2_synthsr.nii.gz", "scan_synthsr.nii.gz"]
        expected = data_of("folder/s2_synthsr.nii.gz")
        np.testing.assert_allclose(data_of("x/a.nii"), expected, atol=1e-5)
        assert (folder / "y" / "b.mgz").exists()

    def test_a_scan_that_fails_is_listed_and_the_others_are_made(self, folder):
        (folder / "scans" / "s1.nii.gz").write_bytes(b"no scan")
        result = run("predict", "scans", "out", *MODEL, "--report", "report")
        assert result.exit_code == 1
        assert sorted(outputs(folder / "out")) == ["s0_synthsr.nii.gz", "s2_synthsr.nii.gz"]
        assert "Predicted 2 scans" in result.stdout
        assert "1 failed" in result.stdout
        lines = result.stderr.splitlines()
        assert lines[-2].startswith("Failed: s1.nii.gz: must be a gzip file")
        assert lines[-1].startswith("Error: 1 of 3 scans failed")
        assert "must be a gzip file" in (folder / "report" / "report.html").read_text()

    def test_a_missing_scan_of_a_list_does_not_stop_the_others(self, folder):
        (folder / "in.txt").write_text("absent.nii\nscan.nii.gz\n")
        result = run("predict", "in.txt", "out", *MODEL)
        assert result.exit_code == 1
        assert "Failed: absent.nii: does not exist" in result.stderr
        assert sorted(outputs(folder / "out")) == ["scan_synthsr.nii.gz"]

    def test_the_cause_of_a_failure_is_shown_when_asked_for(self, folder):
        (folder / "scans" / "s1.nii.gz").write_bytes(b"no scan")
        result = run("predict", "scans", "out", *MODEL, "--traceback")
        assert "Traceback (most recent call last)" in result.stderr

    def test_warnings_are_told_once_by_scan(self, folder):
        save(folder / "scans" / "s1.nii.gz", np.stack([voxels(), voxels(1)], axis=-1))
        result = run("predict", "scans", "out", *MODEL)
        assert result.exit_code == 0
        warnings = [line for line in result.stderr.splitlines() if line.startswith("Warning")]
        assert len(warnings) == 1
        assert warnings[0].startswith("Warning: s1.nii.gz: ")
        assert "2 volumes: the first one is used" in warnings[0]

    def test_shards_together_are_everything_once(self, folder):
        for shard in ("1/2", "2/2"):
            assert run("predict", "scans", "out", *MODEL, "--shard", shard).exit_code == 0
        assert len(outputs(folder / "out")) == 3
        empty = run("predict", "scan.nii.gz", "more.nii", *MODEL, "--shard", "2/2")
        assert empty.stdout == "Nothing to do: there are no scans for this part.\n"
        result = run("predict", "scans", "more", *MODEL, "--shard", "3/2")
        assert_one_error(result, "shard must be I/N")

    def test_masks_of_a_folder(self, folder):
        for k in range(3):
            mask = np.zeros(SHAPE, np.uint8)
            mask[5:9, 4:8, 4:8] = 1
            save(folder / "masks" / f"s{k}_mask.nii.gz", mask)
        result = run("predict", "scans", "out", *MODEL, "--lesion-mask", "masks")
        assert result.exit_code == 0, result.output
        (folder / "masks" / "s2_mask.nii.gz").unlink()
        result = run("predict", "scans", "out2", *MODEL, "--lesion-mask", "masks")
        assert_one_error(result, "s2.nii.gz")


SLOWLY = """
import itertools, time
from synthsr_cli.main import main
from synthsr_net.prediction.predictor import Predictor
infer, number = Predictor.infer, itertools.count()
Predictor.infer = lambda *args: (time.sleep(60 * (next(number) > 0)), infer(*args))[1]
main()
"""
"""The command, which a signal meets while it computes the second scan."""


class TestGoingOn:
    def test_existing_output_needs_a_word(self, folder):
        run("predict", "scan.nii.gz", "p.nii", *MODEL)
        before = (folder / "p.nii").read_bytes()
        save(folder / "scan.nii.gz", voxels(5))
        result = run("predict", "scan.nii.gz", "p.nii", *MODEL)
        assert_one_error(result, "p.nii exists. Add --resume to keep them, or --overwrite")
        kept = run("predict", "scan.nii.gz", "p.nii", *MODEL, "--resume")
        assert kept.stdout == "Nothing to do: all 1 scans in p.nii are complete.\n"
        assert (folder / "p.nii").read_bytes() == before
        assert run("predict", "scan.nii.gz", "p.nii", *MODEL, "--overwrite").exit_code == 0
        assert (folder / "p.nii").read_bytes() != before

    def test_what_is_missing_is_made(self, folder):
        run("predict", "scans", "out", *MODEL)
        whole = outputs(folder / "out")
        (folder / "out" / "s1_synthsr.nii.gz").unlink()
        result = run("predict", "scans", "out", *MODEL, "--resume")
        assert result.exit_code == 0
        assert "Predicted 1 scan " in result.stdout
        assert "(2 were complete before)" in result.stdout
        np.testing.assert_array_equal(
            gzip.decompress(outputs(folder / "out")["s1_synthsr.nii.gz"]),
            gzip.decompress(whole["s1_synthsr.nii.gz"]),
        )

    def test_predictions_of_other_settings_are_not_mixed(self, folder):
        run("predict", "scans", "out", *MODEL, "--shard", "1/2")
        result = run("predict", "scans", "out", *MODEL, "--resume", "--no-flip")
        assert_one_error(result, "made by another model or with other settings")

    @pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
    def test_a_stopped_run_leaves_whole_files_and_goes_on(self, folder, sent, server):
        for k in range(7):
            shutil.copy(folder / "scan.nii.gz", folder / "scans" / f"t{k}.nii.gz")
        process = server.begin(SLOWLY, "predict", "scans", "out", *MODEL)
        until(lambda: list((folder / "out").glob("s*")), process)
        process.send_signal(sent)
        _, errors = process.communicate()
        assert process.returncode == 130
        made = len(outputs(folder / "out"))
        last = f"Stopped after {made} of 10 scans. The same command with --resume goes on."
        assert errors.splitlines()[-1] == last
        assert not hidden(folder)
        for path in (folder / "out").glob("*.nii*"):
            data_of(path)
        result = run("predict", "scans", "out", *MODEL, "--resume")
        assert result.exit_code == 0, result.output
        assert len(outputs(folder / "out")) == 10


class TestSubfolders:
    def test_they_are_named_or_searched(self, folder):
        save(folder / "scans" / "a" / "b" / "s1.nii.gz")
        (folder / "scans" / "a" / "gone.nii").symlink_to("../.git/annex/objects/x")
        result = run("predict", "scans", "scans/out", *MODEL)
        assert result.exit_code == 0, result.output
        assert "scans: 2 files are in subfolders (a, a/b)" in result.stderr
        result = run("predict", "scans", "scans/out", *MODEL, "--recursive", "--resume")
        assert result.exit_code == 1
        assert "gone.nii: is a link to a file that is not here. Run `datalad get`" in result.stderr
        assert "subfolders" not in result.stderr
        found = sorted(p.relative_to("scans/out").as_posix() for p in Path("scans").rglob("*1_*"))
        assert found == ["a/b/s1_synthsr.nii.gz", "s1_synthsr.nii.gz"]


class TestBids:
    def make(self, folder: Path) -> Path:
        root = folder / "dataset"
        for name in (
            "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
            "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz",
            "sub-02/anat/sub-02_acq-x_run-1_T2w.nii.gz",
        ):
            save(root / name)
        save(root / "sub-02" / "ct" / "sub-02_ct.nii.gz", 60 * voxels())
        description = {"Name": "Heads", "BIDSVersion": "1.8.0"}
        (root / "dataset_description.json").write_text(json.dumps(description))
        return root

    def test_a_derivative_dataset(self, folder):
        root = self.make(folder)
        output = root / "derivatives" / "synthsr"
        result = run("predict", root, output, "--bids", *MODEL)
        assert result.exit_code == 0, result.output
        found = sorted(p.relative_to(output).as_posix() for p in output.rglob("*.nii.gz"))
        assert found == [
            "sub-01/ses-1/anat/sub-01_ses-1_desc-synthsrFLAIR_T1w.nii.gz",
            "sub-01/ses-1/anat/sub-01_ses-1_desc-synthsr_T1w.nii.gz",
            "sub-02/anat/sub-02_acq-x_run-1_desc-synthsrT2w_T1w.nii.gz",
            "sub-02/anat/sub-02_desc-synthsrCT_T1w.nii.gz",
        ]
        for name in found:
            sidecar = json.loads((output / name.replace(".nii.gz", ".json")).read_text())
            (source,) = sidecar["Sources"]
            assert (root / source.removeprefix("bids:raw:")).is_file()
            assert sidecar["Settings"]["ct"] == ("CT" in name)
            assert isinstance(sidecar["Warnings"], list)
        description = json.loads((output / "dataset_description.json").read_text())
        assert description["DatasetType"] == "derivative"
        again = run("predict", root, output, "--bids", "--resume", *MODEL)
        assert again.stdout.startswith("Nothing to do: all 4 scans")

    def test_what_is_left_out_is_said_once(self, folder):
        root = self.make(folder)
        save(root / "sub-03" / "anat" / "sub-03_acq-3D-MPRAGE_T1w.nii.gz")
        for _ in range(2):
            result = run("predict", root, "out", "--bids", "--resume", *MODEL)
            assert result.exit_code == 0, result.output
            (said,) = [line for line in result.stderr.splitlines() if "not predicted" in line]
            assert "of BIDS: sub-03_acq-3D-MPRAGE_T1w.nii.gz; subjects without a scan: sub" in said

    def test_one_participant(self, folder):
        arguments = (self.make(folder), "out", "--bids", "--participant-label", "sub-02", *MODEL)
        assert run("predict", *arguments).exit_code == 0
        assert {path.name for path in (folder / "out").glob("sub-*")} == {"sub-02"}

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("scans", "out", "--bids"), "has no dataset_description.json"),
            (("dataset", "dataset", "--bids"), "must be another folder than the dataset"),
            (("dataset", "out", "--bids", "--ct"), "--ct does not go with --bids"),
            (("dataset", "out", "--bids", "--with", "T2=x"), "--with does not go with --bids"),
            (("dataset", "out", "--bids", "--recursive"), "--recursive does not go with --bids"),
            (("dataset", "out", "--participant-label", "1"), "--participant-label needs --bids"),
            (("dataset", "out"), "--bids for a BIDS dataset"),
        ],
    )
    def test_what_does_not_fit(self, folder, arguments, message):
        self.make(folder)
        result = run("predict", *arguments, *MODEL)
        assert_one_error(result, message)
        assert not (folder / "out").exists()


class TestProcesses:
    def test_several_share_the_scans(self, folder):
        """One of the scans fails, which stops none of the processes."""
        (folder / "scans" / "s1.nii.gz").write_bytes(b"no scan")
        options = ["--device", "cpu", "--devices", "2", "--report", "report"]
        done = python(PROGRAM, "predict", "scans", "out", *MODEL, *options)
        assert done.returncode == 1, done.stderr
        assert sorted(outputs(folder / "out")) == ["s0_synthsr.nii.gz", "s2_synthsr.nii.gz"]
        assert done.stdout.count("Predicted 2 scans") == 1
        assert [f"Process {k} of 2 on" in done.stderr for k in (1, 2, 3)] == [True, True, False]
        assert done.stderr.count("Failed: s1.nii.gz") == 1
        assert "Traceback" not in done.stderr
        page = (folder / "report" / "report.html").read_text()
        assert all(f"s{k}.nii.gz" in page for k in range(3))
        (folder / "scans" / "s1.nii.gz").write_bytes((folder / "scan.nii.gz").read_bytes())
        assert run("predict", "scans", "out", *MODEL, "--resume").exit_code == 0
        assert len(outputs(folder / "out")) == 3

    def test_each_task_of_slurm_takes_its_own(self, folder, monkeypatch):
        variables = {"SLURM_JOB_NAME": "x", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}
        for rank in ("0", "1"):
            more = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank}
            result = run("predict", "scans", "out", *MODEL, env={**variables, **more})
            assert result.exit_code == 0, result.output
            number = 2 - int(rank)
            assert f"Process {int(rank) + 1} of 2 on " in result.stdout
            assert f": Predicted {number} scan{'s' * (number > 1)} in " in result.stdout
        assert len(outputs(folder / "out")) == 3

    def test_a_killed_process_is_told(self, folder, monkeypatch):
        monkeypatch.setattr(prediction, "launch", lambda *_: -signal.SIGKILL)
        devices = ("--device", "cpu", "--devices", "2")
        result = run("predict", "scans", "out", *MODEL, *devices)
        assert_one_error(result, "a process was killed (SIGKILL), perhaps for want of", code=1)

    def test_a_report_of_a_later_run_has_all_scans(self, folder):
        assert run("predict", "scans", "out", *MODEL).exit_code == 0
        (folder / "out" / "s1_synthsr.nii.gz").unlink()
        options = ("--resume", "--report", "report")
        assert run("predict", "scans", "out", *MODEL, *options).exit_code == 0
        entries = {entry.name: entry for entry in read_entries(folder / "report")}
        assert list(entries) == ["s0.nii.gz", "s1.nii.gz", "s2.nii.gz"]
        assert [name for name, entry in entries.items() if entry.picture] == ["s1.nii.gz"]

    def test_a_wrong_number_is_told(self, folder):
        result = run("predict", "scans", "out", *MODEL, "--devices", "some")
        assert_one_error(result, "devices must be a number above 0 or all, got 'some'")


def assert_one_error(result: Result, expected: str, code: int = 2) -> None:
    assert expected in one_error(result, code, warned=True)


def raw(path: Path, change: Callable[[Any], None], data: np.ndarray | None = None) -> Path:
    """A NIfTI file whose header nibabel would not write."""
    data = voxels() if data is None else data
    header = nib.Nifti1Image(data, AFFINE).header
    header["magic"], header["vox_offset"] = b"n+1", 352
    change(header)
    path.write_bytes(header.binaryblock + b"\0" * 4 + data.tobytes(order="F"))
    return path


def fields(**values: Any) -> Callable[[Any], None]:
    def change(header: Any) -> None:
        for name, value in values.items():
            header[name] = value

    return change


RGB = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
Make = Callable[[Path], tuple[object, ...]]
BAD_SCANS: dict[str, tuple[Make, str]] = {
    "missing file": (lambda f: ("a.nii",), "a.nii must be a scan, folder or list, but does not"),
    "not an image": (lambda f: (write(f / "a.nii", b"text" * 200),), "a.nii cannot be read"),
    "truncated gzip": (
        lambda f: (write(f / "a.nii.gz", (f / "scan.nii.gz").read_bytes()[:3000]),),
        "a.nii.gz must be a complete gzip file",
    ),
    "zero bytes": (lambda f: (write(f / "a.nii.gz", b""),), "empty file (0 bytes)"),
    "two dimensions": (lambda f: (save(f / "a.nii", voxels()[0]),), "must be a 3-D volume"),
    "huge matrix": (
        lambda f: (raw(f / "a.nii", fields(dim=(3, 30000, 30000, 30000, 1, 1, 1, 1))),),
        "a.nii must hold",
    ),
    "colours": (lambda f: (save(f / "a.nii", RGB),), "a.nii must hold"),
    "DICOM": (lambda f: (write(f / "a.dcm", b"x"),), "DICOM"),
    "other format": (lambda f: (write(f / "a.par", b"x"),), "must end in one of .nii.gz, .nii"),
    "CT with an offset": (
        lambda f: (save(f / "a.nii", 100 * voxels() - 2000), "--ct"),
        "within 0 and 80 HU",
    ),
    "empty folder": (lambda f: ((f / "e").mkdir() or "e",), "must hold scans"),
    "model for two scans": (
        lambda f: ("scan.nii.gz", "--model", save_tiny_model(f / "two.safetensors", 2)),
        "model two takes 2 scans (T1, T2), got 1.",
    ),
    "missing model": (lambda f: ("scan.nii.gz", "--model", "no.safetensors"), "no.safetensors"),
    "unknown model": (lambda f: ("scan.nii.gz", "--model", "sinthsr-v2"), "synthsr-v2"),
    "corrupt model": (
        lambda f: ("scan.nii.gz", "--model", write(f / "c.safetensors", b"x" * 99)),
        "c.safetensors must be a safetensors file",
    ),
    "corrupt Keras file": (
        lambda f: ("scan.nii.gz", "--model", write(f / "c.h5", b"\x89HDF\r\n\x1a\n" + b"x" * 99)),
        "c.h5",
    ),
    "missing mask": (
        lambda f: ("scan.nii.gz", "--lesion-mask", "m.nii"),
        "m.nii must be a scan, folder or list, but does not exist",
    ),
    "mask of several volumes": (
        lambda f: ("scan.nii.gz", "--lesion-mask", save(f / "m.nii", voxels(0, (*SHAPE, 2)))),
        "m.nii must be a 3-D volume",
    ),
    "unnamed input": (
        lambda f: ("scan.nii.gz", "--with", "x.nii"),
        "--with must be NAME=FILE, such as T2=t2.nii.gz, got 'x.nii'",
    ),
    "little memory": (
        lambda f: ("scan.nii.gz", "--max-memory", "10kB"),
        "even in a sliding window, but only",
    ),
    "wrong size": (lambda f: ("scan.nii.gz", "--max-memory", "lots"), "a number and a unit"),
    "absent device": (lambda f: ("scan.nii.gz", "--device", "cuda:77"), "device must be"),
}


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


class TestBadInput:
    @pytest.mark.parametrize("case", BAD_SCANS)
    def test_it_is_one_clear_line_and_leaves_nothing(self, case, folder):
        make, expected = BAD_SCANS[case]
        source, *options = make(folder)
        before = outputs(folder)
        model = () if "--model" in options else MODEL
        result = run("predict", source, "out/p.nii.gz", *options, *model)
        assert_one_error(result, expected)
        assert outputs(folder) == before
        assert not hidden(folder)

    @pytest.mark.parametrize(
        ("output", "message"),
        [
            ("scan.nii.gz", "output must be another file than the input"),
            ("tiny.safetensors/out", "tiny.safetensors is a file"),
        ],
    )
    def test_outputs_that_cannot_be(self, folder, output, message):
        before = outputs(folder)
        assert_one_error(run("predict", "scan.nii.gz", output, *MODEL), message)
        assert outputs(folder) == before

    def test_a_model_that_is_not_here(self, folder, monkeypatch):
        monkeypatch.setenv("SYNTHSR_DATA", str(folder / "data"))
        result = run("predict", "scan.nii.gz", "p.nii", "--model", "synthsr-v2")
        assert_one_error(result, "synthsr models download synthsr-v2")

    def test_a_shipped_model_that_is_missing(self, folder, ship):
        ship(folder / "tiny.safetensors")
        (folder / "tiny.safetensors").unlink()
        result = run("predict", "scan.nii.gz", "p.nii")
        assert_one_error(result, "is missing. Install the package again.")

    def test_no_permission_to_write(self, folder, monkeypatch):
        monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
        result = run("predict", "scan.nii.gz", "out", *MODEL)
        assert_one_error(result, "no permission to write")
        assert not (folder / "out").exists()

    def test_permission_lost_on_the_way(self, folder, monkeypatch):
        def refuse(*_: Any, **__: Any) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", "p.nii")

        monkeypatch.setattr(nib, "save", refuse)
        result = run("predict", "scan.nii.gz", "p.nii", *MODEL)
        assert_one_error(result, "p.nii: Permission denied.")
        assert not hidden(folder)

    @pytest.mark.parametrize("source", ["scan.nii.gz", "scans"])
    def test_a_full_disk(self, folder, monkeypatch, source):
        def fill(_: Any, path: Path) -> None:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("synthsr_transforms.io.volumes._save", fill)
        result = run("predict", source, "out", *MODEL)
        assert result.exit_code == 1
        lines = [line for line in result.stderr.splitlines() if " left" not in line]
        assert lines[-1].startswith("Error: the disk of out is full. Free some space")
        assert len(lines) == 1
        assert not outputs(folder / "out")

    def test_a_bug_is_told_as_one(self, folder, monkeypatch):
        def fail(*_: Any) -> None:
            raise RuntimeError("bug")

        monkeypatch.setattr(Predictor, "infer", fail)
        result = run("predict", "scan.nii.gz", "p.nii", *MODEL)
        assert_one_error(result, "unexpected RuntimeError: bug. Please report it", code=1)


class TestDoubts:
    """Scans that are odd but usable: there is a prediction, and a warning."""

    @pytest.mark.parametrize(
        ("make", "expected"),
        [
            (lambda f: save(f / "a.nii", np.stack([voxels()] * 2, -1)), "the first one is used"),
            (lambda f: save(f / "a.nii", with_nan()), "NaN or infinite"),
            (lambda f: raw(f / "a.nii", other_qform), "qform"),
            (lambda f: save(f / "a.nii", affine=np.diag([0.1, 8, 8, 1])), "unusual voxels"),
            (lambda f: save(f / "a.nii", affine=np.diag([8, 8, 20.0, 1])), "unusual voxels"),
        ],
    )
    def test_a_warning_comes_with_the_prediction(self, folder, make, expected):
        path = make(folder)
        result = run("predict", path, "p.nii", *MODEL)
        assert result.exit_code == 0, result.output
        assert expected in result.stderr
        assert all(line.startswith("Warning: a.nii: ") for line in result.stderr.splitlines())
        assert np.isfinite(data_of("p.nii")).all()

    def test_mri_with_ct(self, folder):
        save(folder / "a.nii", (200 * voxels()).astype(np.int16))
        result = run("predict", "a.nii", "p.nii", *MODEL, "--ct")
        assert result.exit_code == 0
        assert "Warning: a.nii: " in result.stderr


def with_nan() -> np.ndarray:
    data = voxels()
    data[3, 3, 3], data[4, 4, 4] = np.nan, np.inf
    return data


def other_qform(header: Any) -> None:
    header.set_sform(AFFINE, code=1)
    moved = AFFINE.copy()
    moved[:3, 3] += 30
    header.set_qform(moved, code=1)
