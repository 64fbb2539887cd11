"""Promises of ``synthsr predict`` for exams: options, tables, sessions, and what is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from helpers import SCAN_MM, SCAN_SHAPE, TINY_SCAN, one_error, run, save, save_tiny_model

from synthsr_net.prediction.predictor import Predictor
from synthsr_net.prediction.report.entries import read_entries

AFFINE = np.diag([-SCAN_MM, SCAN_MM, SCAN_MM, 1.0])
AFFINE[:3, 3] = 40, -30, 5
MODEL = ("--model", "exam.safetensors", "--no-registration")
TWO = ("--registration", "a", "--registration", "b")


def save_scan(path: Path, seed: int) -> Path:
    return save(path, np.random.default_rng(seed).random(SCAN_SHAPE, np.float32), AFFINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with a model that takes any number of scans, one that does not, and scans."""
    monkeypatch.chdir(tmp_path)
    save_tiny_model(tmp_path / "exam.safetensors")
    added = replace(TINY_SCAN, residual_input=0)
    save_tiny_model(tmp_path / "single.safetensors", scan=added)
    for name, seed in {"t1": 0, "t2": 1, "flair": 2}.items():
        save_scan(tmp_path / f"{name}.nii.gz", seed)
    return tmp_path


def expected_of(*names: str) -> np.ndarray:
    predictor = Predictor.from_file("exam.safetensors", registration=False)
    return predictor([nib.load(f"{name}.nii.gz") for name in names]).get_fdata()


def data_of(path: str | Path) -> np.ndarray:
    return nib.load(path).get_fdata()


def sidecar_of(path: str) -> dict[str, Any]:
    return json.loads(Path(path).read_text())


class TestAlso:
    ARGUMENTS = ("predict", "t1.nii.gz", "out.nii.gz", "--also", "t2.nii.gz", *MODEL)

    def test_scans_make_one_prediction_as_the_library_makes_it(self, folder):
        result = run(*self.ARGUMENTS, "--also", "flair.nii.gz", "--report", "report")
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("Predicted 1 scan in ")
        expected = expected_of("t1", "t2", "flair")
        np.testing.assert_allclose(data_of("out.nii.gz"), expected, atol=1e-3)
        (entry,) = read_entries("report")
        assert entry.picture is not None
        assert entry.input == "t1.nii.gz, t2.nii.gz, flair.nii.gz"

    def test_the_sidecar_says_which_scans_and_where_they_lie(self, folder):
        assert run(*self.ARGUMENTS).exit_code == 0
        content = sidecar_of("out.json")
        assert content["Sources"] == ["t1.nii.gz", "t2.nii.gz"]
        first, second = content["Scans"]
        assert first["Alignment"] == "first scan"
        assert second == {
            "Source": "t2.nii.gz",
            "Used": True,
            "Alignment": "header",
            "FirstToScan": np.eye(4).tolist(),
        }
        assert content["Settings"]["scans"] == 2
        assert content["Settings"]["registration"] is False

    def test_it_is_resumed_with_the_same_scans_alone(self, folder):
        assert run(*self.ARGUMENTS).exit_code == 0
        assert "Nothing to do" in run(*self.ARGUMENTS, "--resume").stdout
        more = run(*self.ARGUMENTS, "--also", "flair.nii.gz", "--resume")
        assert "with other settings" in one_error(more)
        Path("out.json").unlink()
        assert "Predicted 1 scan" in run(*self.ARGUMENTS, "--resume").stdout

    def test_folders_are_matched_by_name(self, folder):
        for contrast, seed in {"T1w": 0, "T2w": 1}.items():
            for person in (1, 2):
                save_scan(folder / contrast / f"p{person}_{contrast}.nii.gz", seed)
        result = run("predict", "T1w", "out", "--also", "T2w", *MODEL)
        assert result.exit_code == 0, result.output
        files = sorted(path.name for path in Path("out").iterdir() if path.name != "summary.tsv")
        names = ("p1_T1w_synthsr", "p2_T1w_synthsr")
        assert files == sorted(f"{name}{end}" for name in names for end in (".json", ".nii.gz"))
        expected = expected_of("t1", "t2")
        np.testing.assert_allclose(data_of("out/p1_T1w_synthsr.nii.gz"), expected, atol=1e-3)

    def test_a_transform_is_taken_from_a_file(self, folder):
        transform = sitk.TranslationTransform(3, [SCAN_MM, 0.0, 0.0])  # LPS: to the left
        sitk.WriteTransform(transform, "move.tfm")
        arguments = [a for a in self.ARGUMENTS if a != "--no-registration"]
        result = run(*arguments, "--registration", "move.tfm")
        assert result.exit_code == 0, result.output
        second = sidecar_of("out.json")["Scans"][1]
        assert second["Alignment"] == "given"
        assert np.array(second["FirstToScan"])[:3, 3].tolist() == [-SCAN_MM, 0, 0]
        moved = nib.load("t2.nii.gz")
        affine = moved.affine.copy()
        affine[0, 3] += SCAN_MM  # what the scan has on the left lies in the place of the first
        nib.save(nib.Nifti1Image(moved.get_fdata(), affine), "moved.nii.gz")
        expected = expected_of("t1", "moved")
        np.testing.assert_allclose(data_of("out.nii.gz"), expected, atol=1e-2)

    def test_scans_without_a_brain_are_told(self, folder, ship, tmp_path):
        shipped = tmp_path / "shipped"
        shipped.mkdir()
        fast = save_tiny_model(shipped / "tiny.safetensors")
        ship(fast, fast=fast)
        arguments = [a for a in self.ARGUMENTS if a != "--no-registration"]
        result = run(*arguments)
        assert result.exit_code == 0, result.output
        assert "no brain was found in scan 1 (t1.nii.gz)" in result.stderr

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--also", "none.nii.gz", *MODEL), "does not exist"),
            (("--also", "t1.nii.gz", *MODEL), "must be given once, got t1.nii.gz twice"),
            (("--also", "t2.nii.gz", "--model", "single.safetensors"), "takes 1 scan (T1), got 2"),
            (("--also", "t2.nii.gz", "--with", "T2=t2.nii.gz", *MODEL), "Give one of them"),
            (("--registration", "a.tfm", "--model", "exam.safetensors"), "goes with --also"),
            (("--also", "t2.nii.gz", "--registration", "a.tfm", *MODEL), "not with --no-registr"),
            (("--also", "t2.nii.gz", *MODEL[:2], "--registration", "a"), "a does not exist"),
            (("--also", "t2.nii.gz", *MODEL[:2], *TWO), "must be given once for each --also"),
            (("--per-session", *MODEL), "--per-session needs --bids"),
            (("--also", "t2.nii.gz", "--legacy", "v1", *MODEL), "legacy takes one scan"),
        ],
    )
    def test_bad_input_is_one_line(self, folder, arguments, words):
        result = run("predict", "t1.nii.gz", "out.nii.gz", *arguments)
        assert words in one_error(result)
        assert not Path("out.nii.gz").exists()
        assert not Path("out.json").exists()


class TestTable:
    def write(self, *rows: str, name: str = "exams.tsv") -> str:
        Path(name).write_text("\n".join(row.replace("|", "\t") for row in rows) + "\n")
        return name

    def test_each_exam_makes_one_prediction(self, folder):
        table = self.write(
            "exam|scan|output|ct",
            "a|t1.nii.gz||",
            "b|flair.nii.gz|special/b.nii.gz|no",
            "a|t2.nii.gz||no",
            "",
        )
        result = run("predict", table, "out", *MODEL)
        assert result.exit_code == 0, result.output
        np.testing.assert_allclose(
            data_of("out/a_synthsr.nii.gz"), expected_of("t1", "t2"), atol=1e-3
        )
        np.testing.assert_allclose(data_of("out/special/b.nii.gz"), expected_of("flair"), atol=1e-3)
        assert sidecar_of("out/a_synthsr.json")["Sources"] == ["t1.nii.gz", "t2.nii.gz"]
        assert "Nothing to do" in run("predict", table, "out", "--resume", *MODEL).stdout

    def test_paths_may_start_at_the_table(self, folder):
        Path("sub").mkdir()
        save_scan(folder / "sub" / "x.nii.gz", 0)
        table = self.write("exam,scan", "a,x.nii.gz", name="sub/exams.csv")
        assert run("predict", table, "out", *MODEL).exit_code == 0
        assert Path("out/a_synthsr.nii.gz").is_file()

    @pytest.mark.parametrize(
        ("rows", "words"),
        [
            (["exam|file", "a|t1.nii.gz"], "must have the columns exam and scan"),
            (["exam|scan"], "must hold a row for each scan"),
            (["exam|scan", "a|none.nii.gz"], "does not exist"),
            (["exam|scan", "a|"], "line 2"),
            (["exam|scan", "../a|t1.nii.gz"], "without slashes"),
            (["exam|scan|ct", "a|t1.nii.gz|perhaps"], "must be yes, no or empty"),
            (["exam|scan|output", "a|t1.nii.gz|x.nii", "a|t2.nii.gz|y.nii"], "one output"),
            (["exam|scan|output", "a|t1.nii.gz|x.png"], "must be a file such as"),
            (["exam|scan|registration", "a|t1.nii.gz|x.tfm"], "must be empty for the first scan"),
            (["exam|scan", "a|t1.nii.gz", "a|t1.nii.gz"], "twice"),
        ],
    )
    def test_bad_tables_are_one_line(self, folder, rows, words):
        assert words in one_error(run("predict", self.write(*rows), "out", *MODEL))
        assert not Path("out").exists()

    def test_other_ways_to_name_scans_do_not_go_with_it(self, folder):
        table = self.write("exam|scan", "a|t1.nii.gz")
        result = run("predict", table, "out", "--also", "t2.nii.gz", *MODEL)
        assert "leave out --also" in one_error(result)
        assert "must be a folder" in one_error(run("predict", table, "out.nii.gz", *MODEL))


class TestSessions:
    def make(self, folder: Path) -> Path:
        root = folder / "dataset"
        files = {
            "sub-01/ses-1/anat/sub-01_ses-1_FLAIR": 2,
            "sub-01/ses-1/anat/sub-01_ses-1_T1w": 0,
            "sub-01/ses-1/anat/sub-01_ses-1_T2w": 1,
            "sub-01/ses-2/anat/sub-01_ses-2_T2w": 1,
            "sub-02/anat/sub-02_T1w": 0,
        }
        for name, seed in files.items():
            save_scan(root / f"{name}.nii.gz", seed)
        (root / "dataset_description.json").write_text(
            json.dumps({"Name": "x", "BIDSVersion": "1.10.0"})
        )
        return root

    def test_a_session_makes_one_prediction_with_all_sources(self, folder):
        root = self.make(folder)
        result = run("predict", root, "out", "--bids", "--per-session", *MODEL)
        assert result.exit_code == 0, result.output
        made = Path("out/sub-01/ses-1/anat/sub-01_ses-1_desc-synthsrExam_T1w.nii.gz")
        assert sorted(p.relative_to("out").as_posix() for p in Path("out").rglob("*.nii.gz")) == [
            "sub-01/ses-1/anat/sub-01_ses-1_desc-synthsrExam_T1w.nii.gz",
            "sub-01/ses-2/anat/sub-01_ses-2_desc-synthsrExam_T1w.nii.gz",
            "sub-02/anat/sub-02_desc-synthsrExam_T1w.nii.gz",
        ]
        np.testing.assert_allclose(data_of(made), expected_of("t1", "t2", "flair"), atol=1e-3)
        content = sidecar_of(str(made).replace(".nii.gz", ".json"))
        ends = [source.rsplit("_", 1)[1] for source in content["Sources"]]
        assert ends == ["T1w.nii.gz", "T2w.nii.gz", "FLAIR.nii.gz"]
        assert content["SpatialReference"] == content["Sources"][0]
        assert [scan["Source"] for scan in content["Scans"]] == content["Sources"]
        assert "T1w and T2w and FLAIR" in content["Description"]

    def test_it_goes_beside_predictions_from_each_scan(self, folder):
        root = self.make(folder)
        assert run("predict", root, "out", "--bids", *MODEL[:2]).exit_code == 0
        assert run("predict", root, "out", "--bids", "--per-session", *MODEL).exit_code == 0

    def test_single_scans_and_transforms_do_not_go_with_it(self, folder):
        root = self.make(folder)
        result = run("predict", root, "out", "--bids", "--also", "t1.nii.gz", *MODEL)
        assert "--also does not go with --bids" in one_error(result)
