"""Promises of what is refused as no scan of a head, and of CT among MRI, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import one_error, run, save
from scipy import ndimage

from synthsr_net.models.checkpoint import ModelConfig, ScanConfig, save_model
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_net.prediction.checks.plausibility import check_plausible
from synthsr_net.prediction.report.entries import read_entries
from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.scans import Scan

SHAPE = (24, 28, 24)
AFFINE = np.diag([8.0, 8.0, 8.0, 1.0])
RADIUS = np.linalg.norm((np.indices(SHAPE).T - (11.5, 13.5, 11.5)) / (1, 1.2, 1), axis=-1).T
NOISE = np.random.default_rng(0).normal(size=SHAPE)
CT = np.select([RADIUS < 8, RADIUS < 9.5, RADIUS < 10.3], [35.0, 1000.0, -90.0], -1000) + 5 * NOISE
MRI = np.where(RADIUS < 10, 400 + 100 * np.sin(RADIUS), 0) + np.abs(20 * NOISE)
LABELS = np.select([k > RADIUS for k in (2, 4, 6, 8, 10)], [4, 10, 2, 3, 24], 0).astype(np.int16)


def scan(data: np.ndarray, spacing_mm: float = 8.0) -> Scan:
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    return Scan(data.astype(np.float32), affine, "a.nii")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A small network that works at 8 mm, in the working folder."""
    monkeypatch.chdir(tmp_path)
    network = UNetConfig(num_levels=2, num_features=2)
    config = ModelConfig(network=network, scan=ScanConfig(spacing_mm=8.0, divisor=2))
    save_model(tmp_path / "tiny.safetensors", config, UNet3d(network).state_dict())
    return "--model", "tiny.safetensors"


SMALL = np.zeros(SHAPE)
SMALL[10:14, 10:13, 10:12] = NOISE[10:14, 10:13, 10:12] + 5
SOFT_MASK = ndimage.uniform_filter((RADIUS < 10).astype(float), 2)


class TestPlausibility:
    @pytest.mark.parametrize(
        ("data", "spacing_mm", "what"),
        [
            (LABELS, 8.0, "as in a segmentation"),
            (LABELS > 0, 8.0, "as in a segmentation"),
            (LABELS == 2, 8.0, "as in a segmentation"),
            (100.0 * LABELS + 1, 8.0, "as in a segmentation"),
            (SOFT_MASK, 8.0, "map"),
            (255 * SOFT_MASK, 8.0, "map"),
            (MRI[:14, :10, :6], 1.0, "an object of 14 x 10 x 6 mm"),
            (MRI, 0.8, "an object of 19 x 22 x 19 mm"),
            (MRI, 0.008, "an object of 0 x 0 x 0 mm"),
            (SMALL, 8.0, "an object of 32 x 24 x 16 mm"),
        ],
    )
    def test_what_is_no_head_is_refused_or_told(
        self, data: np.ndarray, spacing_mm: float, what: str
    ):
        with pytest.raises(VolumeError, match=rf"a\.nii must be a scan of a head, .*{what}"):
            check_plausible(scan(data, spacing_mm))
        (text,) = check_plausible(scan(data, spacing_mm), force=True)
        assert text.endswith("predicted all the same.")

    @pytest.mark.parametrize(
        "data",
        [
            MRI,
            CT,
            MRI[:, :, :3],
            MRI[:8],
            np.where(RADIUS < 10, MRI, 0),
            np.rint(MRI / MRI.max() * 15),
            np.rint(MRI / MRI.max() * 255),
            np.where(RADIUS < 0.9, 1000 * MRI.max(), MRI),
            np.where(RADIUS < 0.9, 1000 * MRI.max(), np.where(RADIUS < 10, MRI, 0)),
            np.pad(MRI, 10, constant_values=-1000),
            CT.clip(0, 80),
        ],
    )
    def test_scans_and_parts_of_heads_are_taken(self, data: np.ndarray):
        assert check_plausible(scan(data)) == []


class TestCommand:
    def test_a_segmentation_is_refused_in_one_line_unless_forced(self, model):
        save(Path("aseg.nii.gz"), LABELS, AFFINE)
        line = one_error(run("predict", "aseg.nii.gz", "p.nii.gz", *model))
        assert "as in a segmentation, mask or tissue map" in line
        assert not Path("p.nii.gz").exists()
        result = run("predict", "aseg.nii.gz", "p.nii.gz", *model, "--force")
        assert result.exit_code == 0
        assert "predicted all the same" in result.stderr

    def test_in_a_folder_each_scan_is_looked_at(self, model):
        for name, data in (("ct", CT), ("mri", MRI), ("aseg", LABELS)):
            save(Path(f"scans/{name}.nii.gz"), data.astype(np.float32), AFFINE)
        result = run("predict", "scans", "out", *model, "--report", "report")
        assert result.exit_code == 1
        assert "Warning: ct.nii.gz: values are Hounsfield units: clipped" in result.stderr
        assert "mri.nii.gz" not in result.stderr
        assert "Failed: aseg.nii.gz: " in result.stderr
        entries = {entry.name: entry for entry in read_entries("report")}
        assert "clipped to 0 to 80 as CT" in entries["ct.nii.gz"].warnings[0]
        assert entries["mri.nii.gz"].warnings == ()

    def test_what_is_recognised_is_predicted_as_if_it_were_said(self, model):
        save(Path("ct.nii.gz"), CT.astype(np.float32), AFFINE)
        for name, options in (("auto", ()), ("yes", ("--ct",)), ("no", ("--no-ct",))):
            result = run("predict", "ct.nii.gz", f"{name}.nii", *model, *options)
            assert result.exit_code == 0, result.output
            assert ("Hounsfield" in result.stderr) == (name == "auto")
        auto, yes, no = (Path(f"{name}.nii").read_bytes()[352:] for name in ("auto", "yes", "no"))
        assert auto == yes != no

    def test_sidecars_of_bids_say_what_was_clipped(self, model):
        data = {"anat/sub-01_T1w": CT, "anat/sub-01_T2w": MRI, "ct/sub-01_ct": CT}
        for name, voxels in data.items():
            save(Path(f"set/sub-01/{name}.nii.gz"), voxels.astype(np.float32), AFFINE)
        Path("set/dataset_description.json").write_text('{"Name": "a", "BIDSVersion": "1.8.0"}')
        result = run("predict", "set", "out", *model, "--bids")
        assert result.exit_code == 0, result.output
        told = {path.name: json.loads(path.read_text()) for path in Path("out").rglob("sub*.json")}
        clipped = {name: content["Settings"]["ct"] for name, content in told.items()}
        assert clipped == {
            "sub-01_desc-synthsr_T1w.json": True,
            "sub-01_desc-synthsrT2w_T1w.json": False,
            "sub-01_desc-synthsrCT_T1w.json": True,
        }
        assert "Hounsfield units" in told["sub-01_desc-synthsr_T1w.json"]["Warnings"][0]
        assert told["sub-01_desc-synthsrCT_T1w.json"]["Warnings"] == []
