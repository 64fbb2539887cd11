"""Promises of ``synthsr labels``, and of the report it prints."""

from __future__ import annotations

import gzip
from types import SimpleNamespace
from typing import Any

import helpers
import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import Result
from helpers import (
    SHARED_DATA,
    save,
)

from synthsr_transforms.labels.summary import report_label_maps
from synthsr_transforms.labels.table import LabelTable

needs_shared_data = pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason=f"example data is not in {SHARED_DATA}"
)


def run(*arguments: object) -> Result:
    return helpers.run("labels", *arguments)


def cube(*values: int, dtype: type = np.int16) -> npt.NDArray[Any]:
    """A 4 x 4 x 4 map in which each given value fills one slab of 16 voxels, the rest is 0."""
    volume: npt.NDArray[Any] = np.zeros((4, 4, 4), dtype)
    for k, value in enumerate(values):
        volume[k] = value
    return volume


def cells(result: Result) -> dict[str, list[str]]:
    """Rows of the tab-separated report, by label value."""
    lines = [line.split("\t") for line in result.stdout.splitlines() if not line.startswith("#")]
    return {line[0]: line[1:] for line in lines}


class TestReport:
    def test_columns_are_those_of_a_label_table_then_sizes(self, tmp_path):
        result = run(save(tmp_path / "a.nii.gz", cube(2, 41), np.diag([1, 2, 3, 1])))
        assert result.exit_code == 0
        assert cells(result)["value"] == [
            *("name", "side", "class", "tissue", "voxels", "mm3", "ml", "files"),
        ]
        assert cells(result)["41"] == [
            *("right cerebral white matter", "right", "1", "white_matter"),
            *("16", "96.0", "0.096", "1"),
        ]

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz", "a.npz"])
    def test_all_kinds_of_files_are_read(self, name, tmp_path):
        result = run(save(tmp_path / name, cube(2, 41)))
        assert result.exit_code == 0
        assert cells(result)["2"][4] == "16"

    def test_means_are_over_the_files_that_hold_the_label(self, tmp_path):
        save(tmp_path / "a.nii", cube(2, 41))
        save(tmp_path / "b.nii", cube(2, 2, 41, 41))
        save(tmp_path / "c.nii", cube(0))
        rows = cells(run(tmp_path))
        assert rows["2"][4:] == ["24", "24.0", "0.024", "2"]
        assert rows["0"][4:] == ["48", "48.0", "0.048", "2"]

    def test_volume_of_a_sheared_voxel_is_its_determinant(self, tmp_path):
        affine = np.array([[1, 0, 0, 0], [0, 2, 0.7, 0], [0, 0, 3, 0], [0, 0, 0, 1.0]])
        nib.save(nib.Nifti1Image(cube(2), affine), tmp_path / "a.nii")
        volume = report_label_maps([tmp_path / "a.nii"]).volumes[0]
        assert volume.mean_volume_mm3 / volume.mean_voxels == pytest.approx(6)

    def test_float_maps_of_integers_and_trailing_axes_are_accepted(self, tmp_path):
        volume = cube(2, 41, dtype=np.float32)[..., np.newaxis]
        found = report_label_maps([save(tmp_path / "a.nii", volume)]).volumes
        assert {one.value: one.mean_voxels for one in found} == {0: 32, 2: 16, 41: 16}

    @pytest.mark.parametrize(
        ("values", "name"),
        [
            ((2, 3, 4), "synthsr"),
            ((2, 41, 77), "freesurfer_aseg"),
            ((1001, 2001), "freesurfer_aparc_aseg"),
            ((77, 11100, 11175, 12142), "freesurfer_a2009s_aseg"),
            ((2, 41, 507), "synthseg"),
        ],
    )
    def test_the_ready_table_that_fits_best_is_picked_and_named(self, values, name, tmp_path):
        result = run(save(tmp_path / "a.nii", cube(*values)))
        assert result.stdout.startswith(f"# 1 label map, table {name} (knows ")

    def test_a_terminal_gets_a_drawn_table(self, tmp_path, monkeypatch):
        terminal = SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True))
        monkeypatch.setattr("synthsr_cli.common.tables.sys", terminal)
        monkeypatch.setenv("COLUMNS", "140")
        result = run(save(tmp_path / "a.nii", cube(2, 41)))
        assert "│ right cerebral white matter" in result.stdout
        assert "\t" not in result.stdout

    @needs_shared_data
    def test_example_maps_are_reported_without_warnings(self):
        result = run(SHARED_DATA / "synthsr_labels" / "brain1_labels.nii.gz")
        assert result.exit_code == 0
        assert result.stderr == ""
        assert cells(result)["29"][0] == "undetermined"


class TestWarnings:
    def test_labels_outside_the_table_are_listed(self, tmp_path):
        result = run(save(tmp_path / "a.nii", cube(2, 41, 300)), "--table", "freesurfer_aseg")
        assert result.exit_code == 0
        assert "Warning: labels must be in the table freesurfer_aseg, got 300" in result.stderr
        assert cells(result)["300"][0] == "not in the table"

    def test_labels_without_partners_are_listed_by_side(self, tmp_path):
        result = run(save(tmp_path / "a.nii", cube(2, 41, 30, 58)))
        assert "left labels must have partners on the other side, got 30 without 62" in (
            result.stderr
        )
        assert "right labels must have partners on the other side, got 58 without 26" in (
            result.stderr
        )

    def test_a_table_that_cannot_be_paired_is_a_warning(self, tmp_path):
        path = tmp_path / "mine.tsv"
        LabelTable.from_values([0, 2, 3, 41], classes=range(4)).write(path)
        result = run(save(tmp_path / "a.nii", cube(2, 41)), "--table", path)
        assert result.exit_code == 0
        assert "numbers of left and right labels must be equal" in result.stderr

    @pytest.mark.parametrize(
        ("volume", "message"),
        [
            (np.full((4, 4, 4), 0.5, np.float32), "whole numbers, got 0.5"),
            (np.full((4, 4, 4), np.nan, np.float32), "got NaN"),
            (np.zeros((4, 4), np.int16), "must be a 3-D volume, got a 2-D image of shape (4, 4)"),
            (np.zeros((4, 4, 4, 2), np.int16), "must be a 3-D volume, got shape (4, 4, 4, 2)"),
            (np.full((4, 4, 4), -3, np.int16), "got -3 to -3"),
        ],
    )
    def test_files_that_are_not_label_maps_are_named_and_left_out(self, volume, message, tmp_path):
        save(tmp_path / "a.nii", cube(2, 41))
        save(tmp_path / "b.npz", volume)
        result = run(tmp_path)
        assert result.exit_code == 0
        assert result.stdout.startswith("# 1 label map,")
        assert message in result.stderr
        assert "b.npz" in result.stderr


class TestWriteTable:
    def test_table_holds_the_labels_found(self, tmp_path):
        path = tmp_path / "mine.tsv"
        result = run(save(tmp_path / "a.nii", cube(2, 41, 507)), "--write-table", path)
        assert result.exit_code == 0
        table = LabelTable.read(path)
        assert table.values == (0, 507, 2, 41)
        assert table.classes == (0, 2, 1, 1)
        assert f"Wrote 4 labels to {path}." in result.stderr
        assert "classes 1, 3, 4" in result.stderr

    def test_partners_that_no_map_holds_are_kept_so_that_flips_work(self, tmp_path):
        path = tmp_path / "mine.tsv"
        run(save(tmp_path / "a.nii", cube(2, 3, 41)), "--write-table", path)
        table = LabelTable.read(path)
        assert table.values == (0, 2, 3, 41, 42)
        assert table.swapped_values()[3] == 42

    def test_unknown_labels_are_marked_for_editing(self, tmp_path):
        path = tmp_path / "mine.tsv"
        run(save(tmp_path / "a.nii", cube(2, 41, 300)), "--write-table", path)
        row = LabelTable.read(path).row(300)
        assert row == (300, "label 300 (edit me)", "neutral", 2, "brain_other")

    def test_a_map_of_unknown_labels_only_gives_a_table_too(self, tmp_path):
        report = report_label_maps([save(tmp_path / "a.npz", np.full((2, 2, 2), 999))])
        assert report.present_table.values == (999,)

    def test_an_existing_file_is_kept_unless_overwritten(self, tmp_path):
        path = tmp_path / "mine.tsv"
        path.write_text("precious")
        arguments = (save(tmp_path / "a.nii", cube(2, 41)), "--write-table", path)
        refused = run(*arguments)
        assert refused.exit_code == 2
        assert "Add --overwrite" in refused.stderr
        assert path.read_text() == "precious"
        assert run(*arguments, "--overwrite").exit_code == 0
        assert LabelTable.read(path).values == (0, 2, 41)

    def test_the_table_written_can_be_given_back(self, tmp_path):
        file = save(tmp_path / "a.nii", cube(2, 41, 300))
        run(file, "--write-table", tmp_path / "mine.tsv")
        result = run(file, "--table", tmp_path / "mine.tsv")
        assert result.stderr == ""
        assert "(knows 4 of 4 labels)" in result.stdout


class TestBadInput:
    def check(self, result: Result, message: str) -> None:
        assert result.exit_code == 2
        assert result.stdout == ""
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1

    def test_missing_path(self, tmp_path):
        self.check(run(tmp_path / "none.nii"), f"Error: {tmp_path / 'none.nii'} must be a file")

    def test_empty_folder(self, tmp_path):
        self.check(run(tmp_path), f"Error: {tmp_path} must hold scans or label maps")

    def test_file_of_another_kind(self, tmp_path):
        (tmp_path / "notes.txt").write_text("hello")
        self.check(run(tmp_path / "notes.txt"), f"{tmp_path / 'notes.txt'} must end in one of")

    @pytest.mark.parametrize(
        ("name", "fault"),
        [
            ("a.nii", "cannot be read"),
            ("a.nii.gz", "must be a gzip file"),
            ("a.mgz", "must be a gzip file"),
            ("a.npz", "cannot be read"),
        ],
    )
    def test_damaged_file(self, name, fault, tmp_path):
        (tmp_path / name).write_bytes(b"not an image")
        self.check(run(tmp_path / name), f"{tmp_path / name} {fault}")

    def test_damaged_file_among_good_ones(self, tmp_path):
        save(tmp_path / "a.nii", cube(2, 41))
        (tmp_path / "b.nii").write_bytes(b"not an image")
        self.check(run(tmp_path), f"{tmp_path / 'b.nii'} cannot be read")

    def test_truncated_file(self, tmp_path):
        rng = np.random.default_rng(0)
        whole = save(tmp_path / "whole.nii", rng.integers(0, 50, (20, 20, 20), np.int16))
        packed = gzip.compress(whole.read_bytes())
        (tmp_path / "a.nii.gz").write_bytes(packed[: len(packed) // 2])
        self.check(run(tmp_path / "a.nii.gz"), "ends early")

    def test_no_label_map_among_the_files(self, tmp_path):
        self.check(run(save(tmp_path / "a.nii", np.zeros((4, 4)))), "must be a 3-D volume")

    def test_misspelt_table(self, tmp_path):
        file = save(tmp_path / "a.nii", cube(2))
        self.check(run(file, "--table", "sinthseg"), "did you mean 'synthseg'?")

    def test_table_that_cannot_be_written(self, tmp_path):
        file = save(tmp_path / "a.nii", cube(2, 41))
        for name in ("none/mine.tsv", "mine.csv"):
            result = run(file, "--write-table", tmp_path / name)
            assert result.exit_code == 2
            assert result.stderr.startswith("Error: ")
