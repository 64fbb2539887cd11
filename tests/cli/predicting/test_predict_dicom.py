"""Promises of ``synthsr predict`` for DICOM: what is printed and written, and no names in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers import PROGRAM, dicoms, one_error, run, save_tiny_model, segmentation_model, until
from helpers.dicoms import head, write_enhanced, write_series

from synthsr_net.models.checkpoint import save_model
from synthsr_net.prediction.predictor import Predictor

MODEL = ("--model", "tiny.safetensors")
PERSONAL = ("doe", "jonathan", "quincy", "mrn-4711-0815", "19700102", "house", "acc99", "infirmary")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one patient."""
    place: Path = tmp_path_factory.mktemp("study")
    write_series(place / "A", head((30, 36, 3)), number=1, description="localizer")
    write_series(place / "B", number=2, description="t1_mprage Doe", suffix="")
    write_series(place / "C", head() + 1000, number=3, description="ct", modality="CT")
    return place


@pytest.fixture
def folder(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with a model and a study of one patient."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    save_tiny_model(tmp_path / "tiny.safetensors")
    shutil.copytree(study, tmp_path / "study")
    return tmp_path


def tidy(folder: Path) -> bool:
    return not list((folder / "temporary").iterdir())


class TestStudies:
    def test_what_can_be_brains_is_predicted(self, folder):
        result = run("predict", "study", "out", *MODEL)
        assert result.exit_code == 0, result.output
        assert "DICOM: 3 series, 2 to be used.\n" in result.stderr
        assert "  001_localizer: left out: a localiser\n" in result.stderr
        assert "  002_t1_mprage_xxx: T1, 24 slices, voxels of 6 x 6 x 7 mm\n" in result.stderr
        assert result.stdout.startswith("Predicted 2 scans in ")
        names = ["002_t1_mprage_xxx_synthsr", "003_ct_synthsr"]
        files = [f"{name}{ending}" for name in names for ending in (".json", ".nii.gz")]
        assert sorted(os.listdir("out")) == [*files, "summary.tsv"]
        rows = [line.split("\t") for line in Path("out/summary.tsv").read_text().splitlines()]
        assert [row[0].partition("/")[2] for row in rows[1:]] == ["002_t1_mprage_xxx", "003_ct"]
        assert tidy(folder)

    def test_as_the_library_predicts_from_the_same_voxels(self, folder):
        image = nib.Nifti1Image(head(), dicoms.affine(head().shape, (6, 6, 7)))
        expected = Predictor.from_file("tiny.safetensors", ct=False)(image)
        assert run("predict", "study", "p.nii", *MODEL, "--series", "2").exit_code == 0
        found, expected = map(nib.as_closest_canonical, (nib.load("p.nii"), expected))
        np.testing.assert_allclose(found.affine, expected.affine, atol=1e-3)
        np.testing.assert_allclose(found.get_fdata(), expected.get_fdata(), atol=0.01)

    def test_ct_is_known_from_the_header(self, folder):
        assert run("predict", "study", "out", *MODEL).exit_code == 0
        cts = [
            json.loads(p.read_text())["Settings"]["ct"] for p in sorted(Path("out").glob("*.json"))
        ]
        assert cts == [False, True]
        assert run("predict", "study", "no.nii", *MODEL, "--series", "ct", "--no-ct").exit_code == 0
        assert json.loads(Path("no.json").read_text())["Settings"]["ct"] is False

    def test_one_prediction_of_all_scans(self, folder):
        shutil.rmtree("study/C")
        write_series(folder / "study/C", head(seed=1), number=3, description="t2_tse")
        options = ("--per-session", "--no-registration", "--report", "report")
        result = run("predict", "study", "out", *MODEL, *options)
        assert result.exit_code == 0, result.output
        (path,) = Path("out").glob("*.json")
        content = json.loads(path.read_text())
        exam = content["Sources"][0].partition("/")[0]
        assert path.name == f"{exam}_synthsr.json"
        assert content["Sources"] == [f"{exam}/002_t1_mprage_xxx", f"{exam}/003_t2_tse"]
        assert [scan["Source"] for scan in content["Scans"]] == content["Sources"]

    def test_segment_takes_it_as_well(self, folder):
        model = segmentation_model()
        save_model(folder / "seg.safetensors", model.config, model.network.state_dict())
        options = ("--model", "seg.safetensors", "--volumes", "volumes.csv", "--series", "2")
        result = run("segment", "study", "labels", *options)
        assert result.exit_code == 0, result.output
        assert Path("labels/002_t1_mprage_xxx_synthsr_seg.nii.gz").is_file()
        row = Path("volumes.csv").read_text().splitlines()[1]
        assert re.match(r"exam-[0-9a-f]{8}/002_t1_mprage_xxx,", row)

    def test_an_enhanced_file_and_an_archive(self, folder):
        write_enhanced(folder / "e.dcm")
        assert run("predict", "e.dcm", "e.nii", *MODEL).exit_code == 0
        with zipfile.ZipFile("study.zip", "w") as made:
            for path in Path("study").rglob("I*"):
                made.write(path)
        result = run("predict", "study.zip", "zipped", *MODEL)
        assert result.exit_code == 0, result.output
        assert run("predict", "study", "out", *MODEL).exit_code == 0
        for path in Path("out").glob("*.nii.gz"):
            assert path.read_bytes()[10:] == (Path("zipped") / path.name).read_bytes()[10:]

    def test_going_on(self, folder):
        assert run("predict", "study", "out", *MODEL).exit_code == 0
        before = Path("out/003_ct_synthsr.nii.gz").stat().st_mtime_ns
        Path("out/002_t1_mprage_xxx_synthsr.nii.gz").unlink()
        result = run("predict", "study", "out", *MODEL, "--resume")
        assert "Predicted 1 scan" in result.stdout
        assert Path("out/003_ct_synthsr.nii.gz").stat().st_mtime_ns == before

    def test_two_patients(self, folder):
        other = dicoms._uid("other")
        write_series(folder / "study/D", number=2, name="Roe^Rick", patient_id="99887", study=other)
        result = run("predict", "study", "out", *MODEL)
        assert result.exit_code == 0, result.output
        assert "DICOM: 4 series of 2 exams, 3 to be used." in result.stderr
        assert len([path for path in Path("out").iterdir() if path.name.startswith("exam-")]) == 2
        assert "roe" not in (result.stdout + result.stderr).lower()


class TestListing:
    def test_needs_no_output_and_writes_nothing(self, folder):
        before = sorted(folder.rglob("*"))
        result = run("predict", "study", "--list-series")
        assert result.exit_code == 0, result.output
        lines = [line.split("\t") for line in result.stdout.splitlines()]
        assert lines[0][:3] == ["exam", "series", "description"]
        assert lines[2][1:] == ["2", "t1_mprage xxx", "T1", "24", "6 x 6 x 7", ""]
        assert lines[1][-1] == "a localiser"
        assert sorted(folder.rglob("*")) == before

    def test_names_are_shown_where_asked_for(self, folder):
        result = run("predict", "study", "--list-series", "--keep-names")
        assert "Doe_Jonathan_Quincy_MRN-4711-0815_exam-" in result.stdout


class TestNames:
    def test_are_in_nothing_that_is_written_or_printed(self, folder):
        shutil.move("study", "DICOM")
        options = ("--report", "report", "--keep-names")
        for number in (2, 3):
            result = run("predict", "DICOM", f"out{number}", *MODEL, *options[:number])
            assert result.exit_code == 0, result.output
            written = [p for top in (f"out{number}", "report") for p in Path(top).rglob("*")]
            texts = [
                p.read_text("latin-1") for p in written if p.suffix in (".json", ".html", ".tsv")
            ]
            text = "\n".join([result.stdout, result.stderr, *map(str, written), *texts]).lower()
            found = [
                word for word in PERSONAL if re.search(rf"(?<![a-z0-9]){word}(?![a-z0-9])", text)
            ]
            assert bool(found) == ("--keep-names" in options[:number]), found

    def test_nor_in_errors(self, folder):
        write_series(folder / "flat", np.full((30, 36, 24), 7, np.int16), description="Doe t1")
        error = one_error_after_listing(run("predict", "flat", "p.nii", *MODEL))
        assert error.startswith("Error: exam-")
        assert "temporary" not in error
        assert "doe" not in error.lower()
        assert tidy(folder)


def one_error_after_listing(result) -> str:
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    (line,) = lines
    assert result.exit_code != 0
    return line


class TestFaults:
    def test_a_damaged_series_is_a_failure_after_the_others(self, folder):
        path = folder / "study/B/I0020003"
        path.write_bytes(path.read_bytes()[:1300])
        result = run("predict", "study", "out", *MODEL)
        assert result.exit_code == 1
        assert "Predicted 1 scan in" in result.stdout
        assert "24 of 51 DICOM files were not converted" in result.stderr.splitlines()[-1]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("study",), "Missing argument 'OUTPUT'"),
            (("study", "p.nrrd"), "output must be a folder, or a file ending in"),
            (("study", "p.nii"), "output must be a folder for 2 results"),
            (("study", "out", "--series", "pet"), "got 'pet'. There are: 001_localizer"),
            (("study", "out", "--also", "x.nii"), "--also does not go with DICOM"),
            (("study", "out", "--lesion-mask", "x.nii"), "--lesion-mask does not go with DICOM"),
            (("tiny.safetensors", "out", "--series", "2"), "--series goes with DICOM"),
            (("empty", "out"), "empty must hold scans"),
            (("study/B/I0020003", "out"), "one slice: for one of a series, give its folder"),
            (("missing", "out"), "missing must be a scan, folder or list, but does not exist"),
        ],
    )
    def test_input_that_cannot_be_used(self, folder, arguments, message):
        (folder / "empty").mkdir()
        error = one_error(run("predict", *arguments, *MODEL))
        assert message in error
        assert not Path("out").exists()
        assert tidy(folder)

    @pytest.mark.parametrize("seconds", [0, 0.02, 0.1])
    def test_a_signal_leaves_nothing(self, folder, seconds, server):
        words = ["predict", "study", "out", *MODEL, "--series", "2"]
        process = server.begin(PROGRAM, *words, TMPDIR=folder / "temporary")
        until(lambda: not tidy(folder), process)
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        assert "Stopped" in process.communicate()[1]
        assert process.returncode == 130
        assert tidy(folder)
