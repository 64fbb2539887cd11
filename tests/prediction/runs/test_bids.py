"""Promises of BIDS datasets: which scans are found, and what the derivative dataset says."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from synthsr_net.prediction.runs.bids import (
    check_derivative,
    derivative_description,
    find_bids_scans,
    left_out,
    sidecar,
    write_descriptions,
)
from synthsr_net.prediction.runs.tasks import missing_tasks, plan_bids
from synthsr_transforms.support.messages import SynthSRError

FILES = (
    "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
    "sub-01/ses-1/anat/sub-01_ses-1_acq-x_run-2_T2w.nii.gz",
    "sub-01/ses-1/anat/sub-01_ses-1_ce-gadolinium_T1w.nii",
    "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz",
    "sub-01/ses-1/anat/sub-01_ses-1_part-mag_T2starw.nii.gz",
    "sub-01/ses-1/ct/sub-01_ses-1_ct.nii.gz",
    "sub-02/anat/sub-02_inplaneT1.nii.gz",
    "sub-02/anat/sub-02_run-1_PDw.nii.gz",
)
NO_SCANS = (
    "sub-01/ses-1/anat/sub-01_ses-1_part-phase_T2starw.nii.gz",
    "sub-01/ses-1/anat/sub-01_ses-1_T1map.nii.gz",
    "sub-01/ses-1/anat/sub-01_ses-1_label-lesion_mask.nii.gz",
    "sub-01/ses-1/anat/sub-01_ses-1_T1w.json",
    "sub-01/ses-1/anat/notes.nii.gz",
    "sub-01/ses-1/func/sub-01_ses-1_task-rest_bold.nii.gz",
    "derivatives/fmriprep/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz",
    "sourcedata/sub-01/anat/sub-01_T1w.nii.gz",
    "code/sub-01/anat/sub-01_T1w.nii.gz",
)
NAME = re.compile(
    r"sub-[A-Za-z0-9]+(_ses-[A-Za-z0-9]+)?(_task-[A-Za-z0-9]+)?(_acq-[A-Za-z0-9]+)?"
    r"(_ce-[A-Za-z0-9]+)?(_rec-[A-Za-z0-9]+)?(_run-[0-9]+)?(_echo-[0-9]+)?(_part-mag)?"
    r"(_space-[A-Za-z0-9]+)?(_res-[A-Za-z0-9]+)?(_desc-[A-Za-z0-9]+)_T1w\.nii\.gz"
)
"""Names in `anat` of a derivative dataset, entities in the order of the specification."""


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    root = tmp_path / "dataset"
    for name in (*FILES, *NO_SCANS):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    describe(root, Name="Heads", BIDSVersion="1.8.0", DatasetDOI="doi:10.1/x")
    return root


def describe(root: Path, **fields: Any) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text(json.dumps(fields))


class TestFinding:
    def test_anatomy_and_nothing_else(self, dataset):
        found = [str(scan.relative) for scan in find_bids_scans(dataset)]
        assert sorted(found) == sorted(FILES)

    def test_participants_can_be_chosen(self, dataset):
        for labels in (["02"], ["sub-02"], ["02", "sub-02"]):
            scans = find_bids_scans(dataset, labels)
            assert len(scans) == 2
            assert {scan.entities["sub"] for scan in scans} == {"02"}
        with pytest.raises(SynthSRError, match=r"got sub-03. There are: sub-01, sub-02"):
            find_bids_scans(dataset, ["03"])

    @pytest.mark.parametrize(
        "label",
        [
            *("01/../../outside", "../sub-01", "/etc", "01/", "01/.", "01/ses-1", "..", ".", ""),
            *("*", "0?", "[0]1", "01\\..\\outside", "sub-01/../../outside", "01,02", "01 02", "~"),
        ],
    )
    def test_a_participant_is_no_path(self, dataset, label):
        outside = dataset.parent / "outside" / "anat" / "sub-01_T1w.nii.gz"
        outside.parent.mkdir(parents=True)
        outside.write_bytes(b"x")
        with pytest.raises(SynthSRError, match="participants must be in"):
            plan_bids(dataset, dataset / "derivatives" / "synthsr", participants=["02", label])

    @pytest.mark.parametrize(
        "name",
        [
            *("sub-03_acq-3D-MPRAGE_T1w.nii.gz", "sub-03_t1w.nii.gz", "sub-03_T1W.nii.gz"),
            *("sub-03_T1.nii.gz", "sub-03_T1w_defaced.nii.gz", "T1w.nii.gz", "sub-03_T1w.NII.GZ"),
            *("sub-03_T1w.mgz", "sub-03 T1w.nii.gz", "sub-03_run_1_T1w.nii", "sub-03_flair.nii.gz"),
            *("sub-03-T1w.nii.gz", "sub-03_Acq-x_T1w.nii.gz", "sub-03_MPRAGE.nii.gz"),
        ],
    )
    def test_names_that_are_not_of_bids_are_said(self, dataset, name):
        assert left_out(dataset) == [
            f"not predicted in {dataset} are files whose names are not of BIDS: notes.nii.gz."
        ]
        assert left_out(dataset, ["02"]) == []
        (dataset / "sub-03" / "anat").mkdir(parents=True)
        (dataset / "sub-03" / "anat" / name).write_bytes(b"x")
        (dataset / "sub-03" / "anat" / "._sub-03_T1w.nii.gz").write_bytes(b"x")
        (dataset / "sub-04").symlink_to(".git/nowhere")
        (said,) = left_out(dataset)
        assert (
            f"not of BIDS: notes.nii.gz, {name}; subjects without a scan: sub-03, sub-04." in said
        )
        with pytest.raises(SynthSRError, match=f"not of BIDS: {re.escape(name)}"):
            find_bids_scans(dataset, ["03"])

    def test_two_scans_for_one_prediction_are_named(self, dataset):
        scan = dataset / FILES[0]
        scan.with_name(scan.name.removesuffix(".gz")).write_bytes(b"x")
        with pytest.raises(SynthSRError, match=r"for both \S+_T1w\.nii and \S+_T1w\.nii\.gz"):
            plan_bids(dataset, dataset / "derivatives" / "synthsr")

    def test_ct_is_told_by_its_suffix(self, dataset):
        tasks = plan_bids(dataset, dataset / "derivatives" / "synthsr")
        assert {task.inputs[0].name for task in tasks if task.ct} == {"sub-01_ses-1_ct.nii.gz"}
        assert not any(task.ct is False for task in tasks)  # values decide about the others

    def test_what_is_no_dataset(self, tmp_path):
        with pytest.raises(SynthSRError, match=r"has no dataset_description\.json"):
            find_bids_scans(tmp_path)
        with pytest.raises(SynthSRError, match=r"has no dataset_description\.json"):
            find_bids_scans(tmp_path / "absent")
        (tmp_path / "dataset_description.json").write_text("{")
        with pytest.raises(SynthSRError, match="must be a JSON file"):
            find_bids_scans(tmp_path)
        (tmp_path / "dataset_description.json").write_text("[]")
        with pytest.raises(SynthSRError, match="must hold a JSON object, got list"):
            find_bids_scans(tmp_path)

    def test_a_dataset_without_scans(self, tmp_path):
        describe(tmp_path, Name="Empty")
        with pytest.raises(SynthSRError, match=r"must hold scans such as sub-01/anat"):
            find_bids_scans(tmp_path)


class TestNames:
    def test_entities_are_kept_and_names_are_valid(self, dataset):
        for scan in find_bids_scans(dataset):
            output = scan.output()
            assert NAME.fullmatch(output.name), output.name
            assert output.parent.name == "anat"
            for key, value in scan.entities.items():
                assert f"{key}-{value}_" in output.name
            assert "_desc-synthsr" in output.name

    def test_names_never_collide(self, dataset):
        scans = find_bids_scans(dataset)
        assert len({scan.output() for scan in scans}) == len(scans)

    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            (FILES[0], "sub-01/ses-1/anat/sub-01_ses-1_desc-synthsr_T1w.nii.gz"),
            (FILES[1], "sub-01/ses-1/anat/sub-01_ses-1_acq-x_run-2_desc-synthsrT2w_T1w.nii.gz"),
            (FILES[5], "sub-01/ses-1/anat/sub-01_ses-1_desc-synthsrCT_T1w.nii.gz"),
        ],
    )
    def test_the_source_is_in_the_label(self, dataset, source, expected):
        (scan,) = [s for s in find_bids_scans(dataset) if str(s.relative) == source]
        assert scan.output() == PurePosixPath(expected)

    def test_preprocessed_sources_keep_their_label(self, tmp_path):
        describe(tmp_path, Name="Derivative", DatasetType="derivative")
        for label in ("brain", "preproc"):
            path = tmp_path / "sub-1" / "anat" / f"sub-1_space-MNI_desc-{label}_T1w.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        names = {scan.output().name for scan in find_bids_scans(tmp_path)}
        assert names == {
            "sub-1_space-MNI_desc-synthsrBrain_T1w.nii.gz",
            "sub-1_space-MNI_desc-synthsrPreproc_T1w.nii.gz",
        }
        assert all(NAME.fullmatch(name) for name in names)


class TestDerivative:
    def test_its_description_has_what_the_specification_requires(self, dataset):
        output = dataset / "derivatives" / "synthsr"
        write_descriptions(dataset, [output, None, output])
        written = json.loads((output / "dataset_description.json").read_text())
        assert written == derivative_description(dataset, output)
        assert written["DatasetType"] == "derivative"
        assert written["BIDSVersion"]
        assert "Heads" in written["Name"]
        assert written["GeneratedBy"][0]["Name"]
        assert written["SourceDatasets"][0]["DOI"] == "doi:10.1/x"
        assert written["DatasetLinks"]["raw"] == "../.."
        check_derivative(dataset, output)  # a second run may go on in it

    def test_sidecars_link_to_the_source(self, dataset):
        scan = find_bids_scans(dataset)[0]
        written = sidecar(scan)
        assert written["Sources"] == [f"bids:raw:{scan.relative}"]
        assert written["SpatialReference"] == written["Sources"][0]
        assert written["SkullStripped"] is False
        assert written["Description"].startswith("T1-weighted scan predicted from")
        assert sidecar(scan, "laplace_scale")["Description"].startswith(
            "scale of a Laplace distribution"
        )

    def test_a_stripped_source_makes_a_stripped_prediction(self, dataset):
        (dataset / NO_SCANS[3]).write_text('{"SkullStripped": true}')
        (scan,) = [s for s in find_bids_scans(dataset) if str(s.relative) == FILES[0]]
        assert sidecar(scan)["SkullStripped"] is True

    def test_other_datasets_are_not_touched(self, dataset, tmp_path):
        with pytest.raises(SynthSRError, match="must be another folder than the dataset"):
            check_derivative(dataset, dataset / "code" / "..")
        describe(tmp_path / "other", Name="fMRIPrep", GeneratedBy=[{"Name": "fMRIPrep"}])
        with pytest.raises(SynthSRError, match="but is another dataset"):
            check_derivative(dataset, tmp_path / "other")
        (tmp_path / "file").write_text("x")
        with pytest.raises(SynthSRError, match="file is a file"):
            check_derivative(dataset, tmp_path / "file")

    def test_spreads_do_not_go_into_the_dataset_itself(self, dataset, tmp_path):
        with pytest.raises(SynthSRError, match="must be another folder than the dataset"):
            plan_bids(dataset, tmp_path / "out", extra={"laplace_scale": dataset})

    def test_tasks_write_a_sidecar_each_and_can_be_resumed(self, dataset, tmp_path):
        tasks = plan_bids(dataset, tmp_path / "out", extra={"laplace_scale": tmp_path / "out"})
        assert len(tasks) == len(FILES)
        assert len({path for task in tasks for path in task.outputs}) == 4 * len(FILES)
        first = tasks[0]
        scale = first.extra["laplace_scale"]
        assert [path.name for path in first.sidecars] == [
            image.name.replace(".nii.gz", ".json") for image in (first.output, scale)
        ]
        assert "_desc-synthsrSpread" in scale.name
        for path in first.outputs:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        assert missing_tasks(tasks, resume=True) == tasks[1:]
