"""Promises of the example scan and of ``synthsr example``."""

from __future__ import annotations

import errno
import os
import runpy
from pathlib import Path
from typing import Any

import helpers
import nibabel as nib
import numpy as np
import pytest
from click.testing import Result
from helpers import (
    ROOT,
    one_error,
)

from synthsr_net.example import EXAMPLE_SCAN, write_example
from synthsr_transforms.io.scans import read_scan
from synthsr_transforms.support.messages import SynthSRError

MAKER = ROOT / "examples" / "make_example_scan.py"


def run(*arguments: object) -> Result:
    return helpers.run("example", *arguments)


@pytest.fixture(scope="module")
def scan() -> Any:
    return nib.load(EXAMPLE_SCAN)


class TestScan:
    def test_it_is_small(self):
        assert EXAMPLE_SCAN.stat().st_size <= 1_000_000

    def test_it_has_thick_axial_slices_of_whole_numbers(self, scan):
        assert scan.get_data_dtype() == np.int16
        np.testing.assert_allclose(scan.header.get_zooms(), (1, 1, 5), atol=1e-5)
        assert nib.aff2axcodes(scan.affine) == ("R", "A", "S")
        assert 130 <= 5 * scan.shape[2] <= 220

    def test_its_header_is_oblique_without_shear(self, scan):
        assert 2 < np.rad2deg(nib.affines.obliquity(scan.affine)).max() < 20
        directions = scan.affine[:3, :3] / [1, 1, 5]
        np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-5)
        np.testing.assert_allclose(scan.get_qform(), scan.get_sform(), atol=1e-3)
        assert int(scan.header["sform_code"]) == int(scan.header["qform_code"]) == 1

    def test_a_head_lies_inside(self, scan):
        """Bright in the middle, dark on all sides of the slices, with fluid darker than brain."""
        data = scan.get_fdata()
        edge = np.concatenate([data[:3].ravel(), data[-3:].ravel()])
        x, y, z = (n // 2 for n in data.shape)
        middle = data[x - 40 : x + 40, y - 40 : y + 40, z - 3 : z + 6]
        assert np.median(edge) < 0.1 * np.median(middle)
        assert np.percentile(middle, 0.5) < 0.4 * np.median(middle)
        assert middle.max() > 1.4 * np.median(middle)  # lesions

    def test_prediction_has_nothing_to_complain_of(self, recwarn):
        read_scan(EXAMPLE_SCAN)
        assert not recwarn.list

    def test_its_maker_makes_it(self, scan):
        made = runpy.run_path(str(MAKER))["make_scan"](7)
        np.testing.assert_allclose(made.affine, scan.affine, atol=1e-4)
        assert made.data.dtype == np.int16
        difference = np.abs(made.data.astype(int) - np.asarray(scan.dataobj).astype(int))
        assert difference.mean() < 0.01  # numbers are rounded differently on other machines


class TestCommand:
    def test_it_writes_the_scan(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        result = run("scan.nii.gz")
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        assert result.stdout.startswith("Wrote scan.nii.gz. ")
        assert "synthsr predict scan.nii.gz t1.nii.gz" in result.stdout
        assert [p.name for p in tmp_path.iterdir()] == ["scan.nii.gz"]
        assert Path("scan.nii.gz").read_bytes() == EXAMPLE_SCAN.read_bytes()

    def test_a_file_is_replaced_only_if_told(self, tmp_path):
        path = tmp_path / "scan.nii.gz"
        path.write_bytes(b"mine")
        assert "--overwrite" in one_error(run(path))
        assert path.read_bytes() == b"mine"
        assert run(path, "--overwrite").exit_code == 0
        assert path.read_bytes() == EXAMPLE_SCAN.read_bytes()

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("scan.nii", "must be written to a .nii.gz file"),
            ("none/scan.nii.gz", "Make it first"),
            ("folder.nii.gz", "got the folder"),
        ],
    )
    def test_bad_targets(self, tmp_path, name, message):
        (tmp_path / "folder.nii.gz").mkdir()
        assert message in one_error(run(tmp_path / name, "--overwrite"))
        assert [p.name for p in tmp_path.rglob("*")] == ["folder.nii.gz"]

    def test_without_a_name_it_is_a_mistake_of_one_line(self):
        assert "Missing argument 'OUT'" in one_error(run())

    def test_a_full_disk_leaves_nothing(self, tmp_path, monkeypatch):
        def fill(self: Path, data: bytes) -> None:
            with self.open("wb") as file:
                file.write(data[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

        monkeypatch.setattr(Path, "write_bytes", fill)
        assert os.strerror(errno.ENOSPC) in one_error(run(tmp_path / "scan.nii.gz"), code=1)
        assert not list(tmp_path.iterdir())


def test_the_library_writes_it_too(tmp_path):
    path = write_example(tmp_path / "scan.nii.gz")
    with pytest.raises(SynthSRError, match="must go to a new file"):
        write_example(path)
    assert nib.load(write_example(path, overwrite=True)).shape == nib.load(EXAMPLE_SCAN).shape
