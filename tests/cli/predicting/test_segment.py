"""Promises of ``synthsr segment``, and of ``synthsr predict`` with a segmentation network."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import helpers
import nibabel as nib
import numpy as np
import pytest
from helpers import COARSE_MM, STRUCTURES, any_quality, one_error, run

from synthsr_net import Segmenter
from synthsr_net.models.checkpoint import ModelConfig, ScanConfig, save_model
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_net.prediction.report.entries import read_entries

AFFINE = np.diag([-COARSE_MM, COARSE_MM, 2 * COARSE_MM, 1.0])
AFFINE[:3, 3] = 60, -70, 12
VOLUMES = ["intracranial", *(name for v, name in STRUCTURES.items() if v not in (0, 258))]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ship) -> Path:
    """Working folder with three scans and two models, which are those that ship."""
    monkeypatch.chdir(tmp_path)
    made = helpers.segmentation_model(any_quality())
    save_model(tmp_path / "seg.safetensors", made.config, made.network.state_dict())
    network = UNetConfig(num_levels=2, num_features=4)
    scan = ScanConfig(spacing_mm=COARSE_MM, divisor=4)
    config = ModelConfig(name="t1", network=network, scan=scan)
    save_model(tmp_path / "t1.safetensors", config, UNet3d(network).state_dict())
    ship(tmp_path / "t1.safetensors", segmentation=tmp_path / "seg.safetensors")
    for k in range(3):
        voxels = np.random.default_rng(k).random((24, 28, 12), np.float32)
        helpers.save(tmp_path / "scans" / f"s{k}.nii.gz", voxels, AFFINE)
    return tmp_path


def rows(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.endswith(".tsv") else ","))


def test_a_file_becomes_what_the_library_makes_of_it(folder):
    result = run("segment", "scans/s0.nii.gz", "labels.nii.gz", "--volumes", "v.csv")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Segmented 1 scan in ")
    with pytest.warns(UserWarning, match="quality score"):
        expected = Segmenter.from_file("seg.safetensors")(nib.load("scans/s0.nii.gz"))
    labels = nib.load("labels.nii.gz")
    np.testing.assert_array_equal(labels.dataobj, expected.dataobj)
    np.testing.assert_allclose(labels.affine, expected.affine)
    assert np.issubdtype(labels.get_data_dtype(), np.integer)
    (row,) = rows("v.csv")
    assert list(row) == ["scan", *(f"{name.replace(' ', '_')}_ml" for name in VOLUMES)]
    assert row["scan"] == "scans/s0.nii.gz"


def test_a_folder_with_everything_and_going_on(folder):
    more = ("--volumes", "v.csv", "--qc", "--posteriors", "post", "--report", "report")
    result = run("segment", "scans", "out", *more)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("quality score 0.0") == 3
    assert {path.name for path in Path("out").iterdir()} == {
        *(f"s{k}_synthsr_seg.nii.gz" for k in range(3)),
        "qc.tsv",
        "summary.tsv",
    }
    posteriors = nib.load("post/s1_synthsr_posteriors.nii.gz").get_fdata()
    values = np.array(list(STRUCTURES))[posteriors.argmax(-1)]
    np.testing.assert_array_equal(values, nib.load("out/s1_synthsr_seg.nii.gz").dataobj)
    assert [row["look_at_it"] for row in rows("out/qc.tsv")] == ["yes"] * 3
    entries = read_entries("report")
    assert all(entry.score is not None and entry.score < 0.1 for entry in entries)
    assert Path("report", entries[0].picture or "").is_file()
    before = Path("v.csv").read_text()
    assert one_error(run("segment", "scans", "out", *more)).count("--resume") == 1
    lines = before.splitlines(keepends=True)
    Path("v.csv").write_text("".join(lines[:-1]))
    written = [path.stat().st_mtime_ns for path in sorted(Path("out").glob("s?_*"))]
    again = run("segment", "scans", "out", *more, "--resume")
    assert again.stdout.startswith("Segmented 1 scan in ")
    assert Path("v.csv").read_text() == before
    now = [path.stat().st_mtime_ns for path in sorted(Path("out").glob("s?_*"))]
    assert [a == b for a, b in zip(written, now, strict=True)] == [True, True, False]


def test_a_table_takes_scans_one_after_the_other(folder):
    for k in range(2):
        result = run("segment", f"scans/s{k}.nii.gz", f"l{k}.nii.gz", "--volumes", "v.tsv")
        assert result.exit_code == 0, result.output
    assert [row["scan"] for row in rows("v.tsv")] == ["scans/s0.nii.gz", "scans/s1.nii.gz"]


def test_a_bids_derivative(folder):
    anat = folder / "data" / "sub-1" / "anat"
    anat.mkdir(parents=True)
    (folder / "data" / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1"}')
    (folder / "scans" / "s0.nii.gz").rename(anat / "sub-1_FLAIR.nii.gz")
    result = run("segment", "data", "out", "--bids", "--posteriors", "out")
    assert result.exit_code == 0, result.output
    found = {path.name for path in Path("out/sub-1/anat").iterdir()}
    stems = [f"sub-1_desc-synthsrFLAIR_{kind}" for kind in ("dseg", "probseg")]
    assert found == {f"{stem}{ending}" for stem in stems for ending in (".nii.gz", ".json")}
    names = {int(row["index"]): row["name"] for row in rows("out/dseg.tsv")}
    assert names == STRUCTURES
    sidecar = json.loads(Path("out/sub-1/anat/sub-1_desc-synthsrFLAIR_dseg.json").read_text())
    assert list(sidecar["VolumesInMillilitres"]) == VOLUMES
    assert sidecar["Sources"] == ["bids:raw:sub-1/anat/sub-1_FLAIR.nii.gz"]
    assert 0 < sidecar["QualityScore"]["Overall"] < 0.1


def test_predictions_are_segmented_in_the_same_go(folder):
    plain = run("predict", "scans", "plain")
    assert plain.exit_code == 0, plain.output
    more = ("--segmentation", "labels", "--volumes", "v.csv", "--qc", "--report", "report")
    result = run("predict", "scans", "out", *more)
    assert result.exit_code == 0, result.output
    for k in range(3):
        name = f"s{k}_synthsr.nii.gz"
        prediction = nib.load(f"out/{name}")
        np.testing.assert_array_equal(prediction.dataobj, nib.load(f"plain/{name}").dataobj)
        labels = nib.load(f"labels/s{k}_synthsr_seg.nii.gz")
        assert labels.shape == prediction.shape
        np.testing.assert_allclose(labels.affine, prediction.affine)
    assert len(rows("v.csv")) == len(rows("out/qc.tsv")) == 3
    assert all(entry.score is not None for entry in read_entries("report"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "t1.safetensors"), "must tell structures apart"),
        (("--volumes", "v.txt"), "must end in .csv or .tsv"),
        (("--volumes", "other.csv"), "is another file"),
        (("--participant-label", "1"), "needs --bids"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(folder, arguments, message):
    (folder / "other.csv").write_text("a,b\n1,2\n")
    result = run("segment", "scans", "out", *arguments)
    assert message in one_error(result)
    assert not (folder / "out").exists()


def test_a_network_without_calibration_gives_no_score(folder):
    made = helpers.segmentation_model()
    save_model(folder / "plain.safetensors", made.config, made.network.state_dict())
    result = run("segment", "scans", "out", "--qc", "--model", "plain.safetensors")
    assert "calibrated segmentation network" in one_error(result)
