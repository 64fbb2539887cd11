"""Promises of DICOM in: where voxels come to lie, what is left out and why, and no names."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import pytest
from helpers import dicoms
from helpers.dicoms import NAME, PATIENT_ID, affine, head, write_enhanced, write_series

from synthsr_net.prediction.dicom import archive, conversion
from synthsr_net.prediction.dicom.patients import Redaction, exam_of
from synthsr_net.prediction.dicom.series import guess_contrast, why_no_brain
from synthsr_net.prediction.dicom.study import Study, chosen, is_study, opened
from synthsr_net.prediction.runs.studies import plan_study
from synthsr_transforms.io.scans import read_scan
from synthsr_transforms.support.messages import SynthSRError, WorkFailedError

SPACING = (6.0, 6.0, 7.0)


def read(study: Study, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine of a series on axes RAS."""
    (series,) = (each for each in study.series if each.number == number)
    image = nib.as_closest_canonical(nib.load(series.path))
    return image.get_fdata(), image.affine


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one patient as hospitals export them: some series are no brains."""
    folder: Path = tmp_path_factory.mktemp("exported")
    write_series(folder / "A", head((30, 36, 3)), number=1, description="AAHead_Scout")
    write_series(folder / "B", number=2, description="t1_mprage Doe", suffix="")
    write_series(folder / "C", number=3, description="t2_tse", EchoTime=90.0, RepetitionTime=4000.0)
    write_enhanced(folder / "D" / "IM5", number=5, description="FLAIR")
    return folder


@pytest.fixture
def study(exported: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(exported, tmp_path / "DOE JONATHAN"))


class TestConversion:
    @pytest.mark.parametrize("suffix", [".dcm", "", ".IMA"])
    def test_voxels_keep_their_place_in_the_world(self, tmp_path: Path, suffix):
        write_series(tmp_path / "s", suffix=suffix, spacing=(6, 5, 7))
        with opened(tmp_path / "s") as study:
            data, matrix = read(study, 1)
        assert np.array_equal(data, head())
        np.testing.assert_allclose(matrix, affine(data.shape, (6, 5, 7)), atol=1e-3)

    def test_a_converter_that_gets_stuck_is_ended(self, tmp_path: Path, monkeypatch):
        stuck = tmp_path / "dcm2niix"
        stuck.write_text("#!/bin/sh\nexec sleep 60\n")
        stuck.chmod(0o755)
        monkeypatch.setattr("dcm2niix.bin", str(stuck))
        monkeypatch.setattr(conversion, "HOURS", 0.1 / 3600)
        write_series(tmp_path / "s")
        before = psutil.Process().children()
        with pytest.raises(WorkFailedError, match="was still at work"), opened(tmp_path / "s"):
            pass
        assert psutil.Process().children() == before

    def test_an_enhanced_file_is_the_same_as_its_slices(self, tmp_path: Path):
        path = write_enhanced(tmp_path / "s" / "all.dcm")
        write_series(tmp_path / "s" / "others")  # beside the file: not asked for
        with opened(path) as study:
            assert [each.number for each in study.series] == [5]
            data, matrix = read(study, 5)
        assert np.array_equal(data, head())
        np.testing.assert_allclose(matrix, affine(data.shape, SPACING), atol=1e-3)

    def test_hounsfield_units(self, tmp_path: Path):
        write_series(tmp_path / "s", head() + 1000, modality="CT", description="head")
        with opened(tmp_path / "s") as study:
            assert study.series[0].is_ct
            assert np.array_equal(read(study, 1)[0], head() - 24)

    def test_uneven_slices_are_made_even_and_told(self, tmp_path: Path):
        heights = [-80 + 7 * k + (6 if k > 12 else 0) for k in range(24)]
        write_series(tmp_path / "s", positions=heights)
        with opened(tmp_path / "s") as study:
            (series,) = study.series
            data, matrix = read(study, 1)
        assert any("Interslice distance varies" in text for text in series.warnings)
        assert series.warnings[-1] == "used is the volume of even slices that it made."
        place = np.linalg.inv(matrix) @ [0, 0, heights[23], 1]
        assert abs(place[2] - (data.shape[2] - 1)) < 1

    def test_gantry_tilt_is_undone(self, tmp_path: Path):
        tilt = np.deg2rad(20)
        turned = [-1, 0, 0, 0, -np.cos(tilt), -np.sin(tilt)]
        directions = [f"{v:.6f}" for v in turned]
        more = {"ImageOrientationPatient": directions, "GantryDetectorTilt": "-20"}
        write_series(tmp_path / "s", head() + 1000, modality="CT", **more)
        with opened(tmp_path / "s") as study:
            (series,) = study.series
            scan = read_scan(series.path)
        assert any("gantry tilt" in text for text in series.warnings)
        assert series.warnings[-1] == "used is the volume without gantry tilt that it made."
        axes = scan.affine[:3, :3] / np.linalg.norm(scan.affine[:3, :3], axis=0)
        np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-3)

    def test_a_damaged_series_does_not_stop_the_others(self, study: Path):
        path = sorted((study / "C").iterdir())[4]
        path.write_bytes(path.read_bytes()[:1400])
        with opened(study) as found:
            assert [each.number for each in found.series] == [1, 2, 5]
            assert found.failure is not None
            assert found.failure.startswith("24 of 52 DICOM files were not converted (")
            assert "DOE" not in found.failure

    def test_nothing_that_can_be_converted(self, tmp_path: Path):
        path = write_enhanced(tmp_path / "a.dcm")
        path.write_bytes(path.read_bytes()[:20_000])
        with (
            pytest.raises(SynthSRError, match=r"complete DICOM images.*not large enough"),
            opened(path),
        ):
            pass
        junk = tmp_path / "junk"
        junk.write_bytes(bytes(128) + b"DICM" + b"\xfe" * 500)
        with (
            pytest.raises(SynthSRError, match=r"must hold (?:complete )?DICOM images"),
            opened(junk),
        ):
            pass

    def test_files_go_at_the_end_and_on_errors(self, tmp_path: Path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
        (tmp_path / "temporary").mkdir()
        write_series(tmp_path / "s")
        with opened(tmp_path / "s") as found:
            assert found.series[0].path.is_file()
        assert not list((tmp_path / "temporary").iterdir())
        with pytest.raises(ZeroDivisionError), opened(tmp_path / "s"):
            raise ZeroDivisionError
        assert not list((tmp_path / "temporary").iterdir())

    def test_a_full_disk_is_told_before(self, tmp_path: Path, monkeypatch):
        write_series(tmp_path / "s")
        usage = type("Usage", (), {"free": 10})
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
        with pytest.raises(WorkFailedError, match="Set TMPDIR"), opened(tmp_path / "s"):
            pass


class TestSeries:
    def test_what_is_told_of_each(self, study: Path):
        with opened(study) as found:
            told = [(s.name, s.contrast, s.num_slices, s.spacing_mm) for s in found.series]
            reasons = [series.left_out for series in found.series]
        assert told == [
            ("001_AAHead_Scout", "?", 3, SPACING),
            ("002_t1_mprage_xxx", "T1", 24, SPACING),
            ("003_t2_tse", "T2", 24, SPACING),
            ("005_FLAIR", "FLAIR", 24, SPACING),
        ]
        assert reasons == ["a localiser", None, None, None]

    @pytest.mark.parametrize(
        ("tags", "reason"),
        [
            ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localiser"),
            ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}, "map"),
            ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "phase"),
            ({"description": "3Plane Loc"}, "localiser"),
            ({"description": "relCBF"}, "map"),
            ({"description": "mIP_Images(SW)"}, "map"),
            ({"description": "ep2d_diff_b1000"}, "diffusion-weighted"),
            ({"BodyPartExamined": "CHEST"}, "another part of the body (chest)"),
            ({"modality": "PT"}, "of modality PT, neither MR nor CT"),
            ({"data": head((30, 36, 6))}, "6 slices, 42 mm"),
            ({"data": head((30, 36, 1))}, "give its folder"),
        ],
    )
    def test_what_is_left_out(self, tmp_path: Path, tags: dict[str, Any], reason: str):
        write_series(tmp_path / "s", **tags)
        with opened(tmp_path / "s") as study:
            (series,) = study.series
            assert reason in str(series.left_out)
            assert chosen(study.series, ["1"]) == [series]  # who asks for it gets it
            with pytest.raises(SynthSRError, match="can be a brain, got none"):
                chosen(study.series)

    def test_several_volumes_are_left_out(self):
        image = nib.Nifti1Image(np.zeros((30, 36, 24, 5), np.int16), np.diag([6, 6, 7, 1]))
        assert why_no_brain({"Modality": "MR"}, image) == "4-D, 5 volumes"

    @pytest.mark.parametrize(
        "description",
        ["Head arterial phase", "Ax T2 Propeller", "C-spine and brain T2", "MPR sag", "SAG T1 SE"],
    )
    def test_what_is_kept(self, description: str):
        image = nib.Nifti1Image(np.zeros((30, 36, 24), np.int16), np.diag([6, 6, 7, 1]))
        facts = {"Modality": "MR", "SeriesDescription": description, "ImageType": ["DERIVED"]}
        assert why_no_brain(facts, image) is None

    @pytest.mark.parametrize(
        ("text", "contrast"),
        [
            ("t1_mprage_sag", "T1"),
            ("AX T1 FLAIR", "T1"),
            ("Sag CUBE T2 FLAIR", "FLAIR"),
            ("t2_tirm_tra_dark-fluid", "FLAIR"),
            ("AX T1 +C", "T1+C"),
            ("t2_fl2d_hemo", "T2*"),
            ("PD TSE", "PD"),
            ("epilepsy", "?"),
        ],
    )
    def test_contrasts(self, text: str, contrast: str):
        assert guess_contrast({"Modality": "MR", "SeriesDescription": text}) == contrast

    def test_choice(self, study: Path):
        with opened(study) as found:
            names = lambda *wanted: [s.number for s in chosen(found.series, wanted)]  # noqa: E731
            assert names() == [2, 3, 5]
            assert names("5", "T1_mp") == [2, 5]
            assert names("t*tse") == [3]
            with pytest.raises(SynthSRError, match=r"got '7'. There are: 001_AAHead_Scout, 002_"):
                names("7")


class TestNames:
    def test_of_exams_say_nothing_of_the_patient_and_stay(self):
        first = {"StudyInstanceUID": "1.2", "PatientName": NAME, "PatientID": PATIENT_ID}
        assert exam_of(first) == exam_of({"StudyInstanceUID": "1.2"})
        assert exam_of(first) != exam_of({**first, "StudyInstanceUID": "1.3"})
        assert exam_of(first, keep_names=True).startswith("Doe_Jonathan_Quincy_MRN-4711-0815_exam-")

    def test_are_taken_out_of_texts_as_words(self):
        redacted = Redaction(
            [{"PatientName": "Li^Ann", "PatientID": "4711", "AccessionNumber": ""}]
        )
        assert redacted("FLAIR_li, ANN 4711: annual linear") == "FLAIR_xxx, xxx xxx: annual linear"
        assert Redaction([{}])("t1") == "t1"

    def test_are_nowhere_in_a_study(self, study: Path):
        with opened(study) as found:
            tasks = plan_study([s for s in found.series if not s.left_out], study.parent / "out")
            for text in (repr(tasks), repr(found.series)):
                for word in ("doe", "jonathan", "quincy", "4711", "0815", "1970", "house", "acc99"):
                    assert word not in text.lower().replace(str(study.parent).lower(), "")

    def test_are_kept_where_asked_for(self, study: Path):
        with opened(study, keep_names=True) as found:
            assert found.exams[0].startswith("Doe_Jonathan_Quincy_MRN-4711-0815_exam-")
            assert found.series[1].name == "002_t1_mprage_Doe"
            assert found.series[1].facts["PatientName"] == NAME


class TestWhatIsAStudy:
    def test_by_content(self, tmp_path: Path):
        write_series(tmp_path / "deep" / "er" / "s", suffix="")
        for path in (tmp_path, tmp_path / "deep/er/s", tmp_path / "deep/er/s/I0010000"):
            assert is_study(path)
        assert not is_study(tmp_path / "none")

    def test_volumes_beside_it(self, tmp_path: Path):
        write_series(tmp_path / "s")
        (tmp_path / "a.nii").write_bytes(b"x")
        assert not is_study(tmp_path)  # a folder of volumes, with a subfolder
        with pytest.raises(SynthSRError, match=r"got both \(a.nii beside DICOM\)"):
            is_study(tmp_path, recursive=True)
        (tmp_path / "s" / "b.nii.gz").write_bytes(b"x")
        with pytest.raises(SynthSRError, match=r"got both \(b.nii.gz beside DICOM\)"):
            is_study(tmp_path / "s")

    def test_other_folders(self, tmp_path: Path):
        (tmp_path / "notes.txt").write_text("x")
        assert not is_study(tmp_path)
        assert not is_study(tmp_path, recursive=True)


class TestArchives:
    def zipped(self, tmp_path: Path, **more: bytes) -> Path:
        write_series(tmp_path / "s", suffix="")
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
            for file in sorted((tmp_path / "s").iterdir()):
                made.write(file, f"DOE JONATHAN/{file.name}")
            for name, content in more.items():
                made.writestr(name, content)
        return path

    def test_is_as_its_folder(self, tmp_path: Path):
        path = self.zipped(tmp_path, **{"readme.txt": b"x" * 500, "empty": b""})
        assert is_study(path)
        with opened(path) as study:
            assert np.array_equal(read(study, 1)[0], head())
            assert len(list((study.folder / "unpacked").iterdir())) == 24

    @pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out", "..\\out", "C:\\out"])
    def test_that_leads_out_of_its_folder(self, tmp_path: Path, name: str):
        path = self.zipped(tmp_path, **{name: b"x"})
        with pytest.raises(SynthSRError, match="one leads out of it"), opened(path):
            pass
        assert not list(tmp_path.rglob("out"))

    def test_that_is_encrypted(self, tmp_path: Path):
        path = self.zipped(tmp_path)
        content = bytearray(path.read_bytes())
        for magic, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            content[content.index(magic) + at] |= 1
        path.write_bytes(content)
        with pytest.raises(SynthSRError, match="is encrypted"), opened(path):
            pass

    def test_that_is_a_bomb(self, tmp_path: Path, monkeypatch):
        path = self.zipped(tmp_path)
        monkeypatch.setattr(archive, "MAX_BYTES", 30_000)
        with pytest.raises(SynthSRError, match="must hold at most"), opened(path):
            pass
        monkeypatch.setattr(archive, "_check", lambda *_: None)  # whose sizes lie
        with pytest.raises(SynthSRError, match="must hold at most"), opened(path):
            pass
        monkeypatch.undo()
        monkeypatch.setattr(archive, "MAX_FILES", 20)
        with pytest.raises(SynthSRError, match="must hold at most 20 files"), opened(path):
            pass

    def test_that_is_damaged_or_none(self, tmp_path: Path):
        path = self.zipped(tmp_path)
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(SynthSRError, match=r"complete .zip archive"), opened(path):
            pass
        with zipfile.ZipFile(path, "w") as made:
            made.writestr("a.txt", b"x" * 1000)
        with pytest.raises(SynthSRError, match="none of its 1 files is one"), opened(path):
            pass


class TestTasks:
    def test_files_are_named_after_series(self, study: Path, tmp_path: Path):
        with opened(study) as found:
            series = chosen(found.series)
            tasks = plan_study(series, tmp_path / "out")
            exam = found.exams[0]
        names = ["002_t1_mprage_xxx", "003_t2_tse", "005_FLAIR"]
        assert [task.output.name for task in tasks] == [f"{n}_synthsr.nii.gz" for n in names]
        assert [task.scan for task in tasks] == [f"{exam}/{n}" for n in names]
        assert {task.ct for task in tasks} == {False}

    def test_exams_have_folders_of_their_own(self, tmp_path: Path):
        write_series(tmp_path / "s" / "a")
        write_series(tmp_path / "s" / "b", name="Roe^R", study=dicoms._uid("other"), modality="CT")
        with opened(tmp_path / "s") as found:
            tasks = plan_study(found.series, tmp_path / "out")
            first, second = found.exams
        assert [task.output.parent.name for task in tasks] == [first, second]
        assert sorted(bool(task.ct) for task in tasks) == [False, True]

    def test_all_scans_of_an_exam_the_t1_first(self, study: Path, tmp_path: Path):
        with opened(study) as found:
            series = chosen(found.series)
            (task,) = plan_study(series[::-1], tmp_path / "out.nii", per_session=True)
        assert task.inputs[0].stem == "002_t1_mprage_xxx"
        assert len(task.inputs) == 3
        assert task.scan == found.exams[0]

    def test_a_file_for_several_results_is_refused(self, study: Path, tmp_path: Path):
        with opened(study) as found, pytest.raises(SynthSRError, match="a folder for 3 results"):
            plan_study(chosen(found.series), tmp_path / "out.nii.gz")
