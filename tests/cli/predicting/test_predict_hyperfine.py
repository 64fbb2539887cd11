"""Promises of ``synthsr predict-hyperfine``: pairs of scans, paired rightly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers
import nibabel as nib
import numpy as np
import pytest
from helpers import SCAN_MM, TINY_SCAN, one_error, run, save_tiny_model
from helpers import SCAN_SHAPE as SHAPE

from synthsr_net.models.checkpoint import InputConfig
from synthsr_net.prediction.predictor import Predictor

AFFINE = np.diag([-SCAN_MM, SCAN_MM, SCAN_MM, 1.0])
MODEL = ("--model", "pair.safetensors")


def save(path: Path, seed: int, affine: np.ndarray = AFFINE) -> Path:
    return helpers.save(path, np.random.default_rng(seed).random(SHAPE, np.float32), affine)


def save_model_of(path: Path, names: tuple[str, ...]) -> None:
    """A small network with the settings of the published one, at 8 mm."""
    inputs = [InputConfig(name=name, maximum=3.0 - k) for k, name in enumerate(names)]
    scan = replace(TINY_SCAN, residual_input=0, output_range=None, flip=False)
    save_tiny_model(path, len(names), inputs=inputs, scan=scan)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with a model for two scans, a pair, and folders of three pairs."""
    monkeypatch.chdir(tmp_path)
    save_model_of(tmp_path / "pair.safetensors", ("T1", "T2"))
    save(tmp_path / "one_T1.nii.gz", 100)
    save(tmp_path / "one_T2.nii.gz", 200)
    for k in range(3):
        save(tmp_path / "t1" / f"s{k}_T1w.nii.gz", k)
        save(tmp_path / "t2" / f"s{k}_T2w.nii", 10 + k)
    return tmp_path


def data_of(path: Path | str) -> np.ndarray:
    return nib.load(path).get_fdata()


def expected(t1: str, t2: str, **settings: Any) -> np.ndarray:
    predictor = Predictor.from_file("pair.safetensors", **settings)
    return predictor([nib.load(t1), nib.load(t2)]).get_fdata()


class TestPairs:
    @pytest.mark.parametrize("legacy", [None, "v1", "v2"])
    def test_two_files(self, folder, legacy):
        options = () if legacy is None else ("--legacy", legacy)
        pair = ("one_T1.nii.gz", "one_T2.nii.gz")
        result = run("predict-hyperfine", *pair, "p.nii", *MODEL, *options)
        assert result.exit_code == 0, result.output
        np.testing.assert_allclose(data_of("p.nii"), expected(*pair, legacy=legacy), atol=1e-5)

    def test_the_order_matters(self, folder):
        run("predict-hyperfine", "one_T1.nii.gz", "one_T2.nii.gz", "a.nii", *MODEL)
        run("predict-hyperfine", "one_T2.nii.gz", "one_T1.nii.gz", "b.nii", *MODEL)
        assert np.abs(data_of("a.nii") - data_of("b.nii")).max() > 0.1

    def test_it_is_what_predict_does_with_both(self, folder):
        run("predict-hyperfine", "one_T1.nii.gz", "one_T2.nii.gz", "a.nii", *MODEL)
        run("predict", "one_T1.nii.gz", "b.nii", "--with", "T2=one_T2.nii.gz", *MODEL)
        assert np.array_equal(data_of("a.nii"), data_of("b.nii"))

    def test_folders_are_matched_by_name(self, folder):
        result = run("predict-hyperfine", "t1", "t2", "out", *MODEL, "--report", "report")
        assert result.exit_code == 0, result.output
        assert "Predicted 3 scans" in result.stdout
        for k in range(3):
            pair = (f"t1/s{k}_T1w.nii.gz", f"t2/s{k}_T2w.nii")
            found = data_of(f"out/s{k}_T1w_synthsr.nii.gz")
            np.testing.assert_allclose(found, expected(*pair), atol=1e-5)
        assert (folder / "report" / "report.html").exists()
        again = run("predict-hyperfine", "t1", "t2", "out", *MODEL, "--resume")
        assert again.stdout.startswith("Nothing to do")

    def test_lists_are_matched_line_by_line(self, folder):
        (folder / "1.txt").write_text("t1/s0_T1w.nii.gz\nt1/s2_T1w.nii.gz\n")
        (folder / "2.txt").write_text("t2/s1_T2w.nii\nt2/s0_T2w.nii\n")
        assert run("predict-hyperfine", "1.txt", "2.txt", "out", *MODEL).exit_code == 0
        found = data_of("out/s0_T1w_synthsr.nii.gz")
        np.testing.assert_allclose(found, expected("t1/s0_T1w.nii.gz", "t2/s1_T2w.nii"), atol=1e-5)

    def test_a_model_that_calls_its_inputs_otherwise_takes_them_in_order(self, folder):
        save_model_of(folder / "other.safetensors", ("first", "second"))
        pair = ("one_T1.nii.gz", "one_T2.nii.gz")
        result = run("predict-hyperfine", *pair, "p.nii", "--model", "other.safetensors")
        assert result.exit_code == 0, result.output
        assert "model other takes first, second, which are taken from T1, T2" in result.stderr
        np.testing.assert_allclose(data_of("p.nii"), expected(*pair), atol=1e-5)

    def test_a_pair_that_fails_does_not_stop_the_others(self, folder):
        (folder / "t2" / "s1_T2w.nii").write_bytes(b"no scan" * 100)
        result = run("predict-hyperfine", "t1", "t2", "out", *MODEL)
        assert result.exit_code == 1
        assert "Failed: s1_T1w.nii.gz: t2/s1_T2w.nii cannot be read" in result.stderr
        assert len(list((folder / "out").glob("*.nii*"))) == 2


class TestBadInput:
    def test_other_numbers_of_files(self, folder):
        (folder / "t2" / "s1_T2w.nii").unlink()
        result = run("predict-hyperfine", "t1", "t2", "out", *MODEL)
        assert "1 have none: t1/s1_T1w.nii.gz" in one_error(result)

    def test_other_names(self, folder):
        (folder / "t2" / "s1_T2w.nii").rename(folder / "t2" / "s7_T2w.nii")
        result = run("predict-hyperfine", "t1", "t2", "out", *MODEL)
        assert "2 have none: t1/s1_T1w.nii.gz, t2/s7_T2w.nii" in one_error(result)

    def test_a_file_and_a_folder(self, folder):
        result = run("predict-hyperfine", "one_T1.nii.gz", "t2", "out", *MODEL)
        assert "t2 must be a file as one_T1.nii.gz is, got a folder" in one_error(result)

    def test_lists_of_different_lengths(self, folder):
        (folder / "1.txt").write_text("one_T1.nii.gz\n")
        (folder / "2.txt").write_text("one_T2.nii.gz\none_T2.nii.gz\n")
        result = run("predict-hyperfine", "1.txt", "2.txt", "out", *MODEL)
        assert "must name equally many files, got 1 and 2" in one_error(result)

    def test_scans_that_do_not_overlap(self, folder):
        affine = AFFINE.copy()
        affine[:3, 3] += 1000
        save(folder / "far.nii.gz", 1, affine)
        result = run("predict-hyperfine", "one_T1.nii.gz", "far.nii.gz", "out/p.nii", *MODEL)
        assert "must overlap with one_T1.nii.gz" in one_error(result)
        assert not (folder / "out").exists()

    def test_a_model_for_one_scan(self, folder):
        save_model_of(folder / "single.safetensors", ("T1",))
        pair = ("one_T1.nii.gz", "one_T2.nii.gz")
        result = run("predict-hyperfine", *pair, "p.nii", "--model", "single.safetensors")
        assert "model single takes 1 scan (T1), got 2" in one_error(result)

    def test_the_model_is_not_here(self, folder, monkeypatch):
        monkeypatch.setenv("HOME", str(folder))
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        result = run("predict-hyperfine", "one_T1.nii.gz", "one_T2.nii.gz", "p.nii")
        assert "synthsr-hyperfine" in one_error(result)
        assert "--model" in result.stderr
