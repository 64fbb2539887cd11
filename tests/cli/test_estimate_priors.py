"""Promises of ``synthsr estimate-priors``."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from click.testing import Result
from helpers import (
    SHARED_DATA,
    run,
    save,
)

from synthsr_transforms import LabelTable, TissuePriors
from synthsr_transforms.phantom import head_phantom
from synthsr_transforms.priors.tissue_priors import read_prior_file
from synthsr_transforms.support.config import read_yaml

needs_shared_data = pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason=f"example data is not in {SHARED_DATA}"
)
SHAPE = (9, 10, 8)
MIXTURE = """
label_table: {table}
steps:
  mixture: {{name: TissueMixture, params: {{priors: known.yaml, num_channels: {channels}}}}}
  target: {{name: CopyImage}}
"""


def estimate(*arguments: object) -> Result:
    return run("estimate-priors", *arguments)


def label_map(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.int16([0, 2, 3, 41, 42]), SHAPE)


def scan_of(labels: np.ndarray, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 3, labels.shape)
    return (10 + 50 * (labels % 39) + noise).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with three scans, their label maps and a label table."""
    monkeypatch.chdir(tmp_path)
    for k in range(3):
        labels = label_map(k)
        save(tmp_path / "maps" / f"sub-{k}_space-T1w_desc-aseg_dseg.nii.gz", labels)
        save(tmp_path / "scans" / f"sub-{k}_desc-preproc_T1w.nii.gz", scan_of(labels, k))
    LabelTable.from_values([0, 2, 3, 41, 42]).write(tmp_path / "table.tsv")
    return tmp_path


GOOD = ("--images", "scans", "--labels", "maps", "--label-table", "table.tsv")


class TestEstimate:
    def test_writes_priors_and_a_table(self, folder):
        result = estimate(*GOOD, "--plot")
        assert result.exit_code == 0, result.stderr
        names = {path.name for path in (folder / "priors").iterdir()}
        assert names == {
            *("prior_means.npy", "prior_stds.npy", "priors.yaml"),
            *("priors_channel1.png", "label_table.tsv"),
        }
        lines = [line.split("\t") for line in result.stdout.splitlines()]
        assert lines[0] == ["# Priors of 1 channel from 3 scans, table of your own"]
        assert lines[1] == [
            *("channel", "class", "name", "mean", "+-", "std", "+-", "scans", "voxels"),
        ]
        assert lines[4][:3] == ["1", "2", "cerebral cortex"]
        assert "3/3 scans measured" in result.stderr
        assert "Wrote prior_means.npy" in result.stderr

    def test_a_terminal_gets_a_drawn_table(self, folder, monkeypatch):
        terminal = SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True))
        monkeypatch.setattr("synthsr_cli.common.tables.sys", terminal)
        monkeypatch.setenv("COLUMNS", "140")
        result = estimate(*GOOD)
        assert "│ cerebral cortex" in result.stdout
        assert "\t" not in result.stdout

    def test_the_table_that_fits_best_is_found(self, folder):
        save(folder / "maps" / "sub-0_space-T1w_desc-aseg_dseg.nii.gz", label_map(0))
        result = estimate("--images", "scans", "--labels", "maps", "--legacy")
        assert "3/3 label maps looked at" in result.stderr
        assert "table freesurfer_aseg" in result.stdout

    def test_lists_of_the_original(self, folder):
        np.save("labels.npy", np.array([0, 2, 3, 41, 42]))
        np.save("classes.npy", np.array([0, 2, 1, 2, 1]))
        pairs = ("--images", "scans", "--labels", "maps", "--no-rescale", "--label-table")
        result = estimate(*pairs, "labels.npy", "--classes", "classes.npy")
        assert result.exit_code == 0, result.stderr
        means = np.load("priors/prior_means.npy")
        np.testing.assert_allclose(means[0], [10, 160, 110], atol=1)
        assert estimate(*pairs, "labels.npy", "--out", "second").exit_code == 0
        np.testing.assert_allclose(np.load("second/prior_means.npy")[0], [10, 110, 160], atol=1)

    def test_several_data_sets_with_label_maps_of_their_own(self, folder):
        shutil.copytree("maps", "maps2")
        for path in sorted(Path("scans").iterdir()):
            save(Path("t2") / path.name, 2 * nib.load(path).get_fdata())
        result = estimate(*GOOD, "--images", "t2", "--labels", "maps2", "--no-rescale")
        assert result.exit_code == 0, result.stderr
        means = np.load("priors/prior_means.npy")
        np.testing.assert_allclose(means[2:], 2 * means[:2], rtol=1e-5)

    def test_order_is_used_when_asked_for(self, folder):
        for k, path in enumerate(sorted(Path("scans").iterdir())):
            path.rename(path.with_name(f"scan{k}.nii.gz"))
        refused = estimate(*GOOD)
        assert refused.exit_code == 2
        assert "--match order" in refused.stderr
        assert estimate(*GOOD, "--match", "order").exit_code == 0

    def test_t2_cropping(self, folder):
        for k in range(3):
            both = np.stack([scan_of(label_map(k), k)] * 2, axis=-1)
            both[:, 8:, :, 1] = 0
            save(folder / "both" / f"sub-{k}.nii.gz", both)
        pair = ("--images", "both", *GOOD[2:])
        result = estimate(*pair, "--t2-cropping")
        assert result.exit_code == 0, result.stderr
        stats = np.load("priors/t2_cropping_stats.npy")
        np.testing.assert_allclose(stats, [0.2, 0, 0.7, 0], atol=1e-12)
        assert "t2_cropping_stats:" in Path("priors/priors.yaml").read_text()

    @pytest.mark.parametrize("margin", [12, 30])
    def test_a_lonely_scan_and_wide_margins_are_warned_of(self, folder, margin):
        labels = label_map(0)
        save(folder / "a.nii", np.pad(labels, margin))
        save(folder / "b.nii", np.pad(scan_of(labels, 0) * (labels > 0), margin))
        result = estimate("--images", "b.nii", "--labels", "a.nii", *GOOD[4:])
        assert result.exit_code == 0, result.stderr
        assert "Warning: channel 1: one scan does not show" in result.stderr
        assert "Warning: channel 1: classes of some scan lie above" in result.stderr
        means, stds = np.load("priors/prior_means.npy")[0], np.load("priors/prior_stds.npy")[0]
        assert means[1] / means[2] == pytest.approx(110 / 160, rel=0.02)
        assert 200 < means.max() < 250
        assert (stds[1:] > 1).all()

    def test_earlier_output_is_kept_unless_overwritten(self, folder):
        assert estimate(*GOOD).exit_code == 0
        before = Path("priors/priors.yaml").read_bytes()
        refused = estimate(*GOOD, "--no-rescale")
        assert refused.exit_code == 2
        assert "Add --overwrite" in refused.stderr or "add --overwrite" in refused.stderr
        assert Path("priors/priors.yaml").read_bytes() == before
        assert estimate(*GOOD, "--no-rescale", "--overwrite").exit_code == 0
        assert Path("priors/priors.yaml").read_bytes() != before


def bad_scan(data: np.ndarray) -> Any:
    return lambda folder: save(folder / "scans" / "sub-1_desc-preproc_T1w.nii.gz", data)


def bad_map(data: np.ndarray, affine: np.ndarray | None = None) -> Any:
    name = "sub-1_space-T1w_desc-aseg_dseg.nii.gz"
    return lambda folder: save(folder / "maps" / name, data, affine)


def two_channels() -> np.ndarray:
    return np.random.default_rng(0).random((*SHAPE, 2))


def without(name: str) -> Any:
    return lambda folder: next(folder.glob(name)).unlink()


BAD: dict[str, tuple[Any, tuple[object, ...], str]] = {
    "a scan without label map": (without("maps/sub-1*"), (), "each image must have a label map"),
    "a label map without scan": (without("scans/sub-1*"), (), "each label map must have an image"),
    "numbers to pair": (without("scans/sub-1*"), ("--match", "order"), "got 2 in scans and 3 in"),
    "another shape": (bad_scan(np.ones((9, 10, 9))), (), "(9, 10, 9) and (9, 10, 8)"),
    "another place": (bad_map(label_map(1), np.diag([1, 1, 1.1, 1])), (), "on the grid of"),
    "NaN": (bad_scan(np.full(SHAPE, np.nan)), (), "must hold finite numbers below 3.4e38"),
    "float64 overflow": (bad_scan(np.full(SHAPE, 1e300)), (), "finite numbers below 3.4e38"),
    "a constant scan": (bad_scan(np.full(SHAPE, 7.0)), (), "must have several intensities"),
    "2-D scan": (bad_scan(np.ones((9, 10))), (), "got a 2-D image of shape (9, 10)"),
    "time series": (bad_scan(np.ones((*SHAPE, 30))), (), "at most 10 channels, got 30"),
    "complex numbers": (bad_scan(np.ones(SHAPE, np.complex64)), (), "got complex numbers"),
    "channels that differ": (bad_scan(two_channels()), (), "as many channels as each"),
    "labels with fractions": (bad_map(np.full(SHAPE, 0.5)), (), "whole numbers, got 0.5"),
    "negative labels": (bad_map(np.full(SHAPE, -1, np.int16)), (), "got -1 to -1"),
    "huge labels": (bad_map(np.full(SHAPE, 2.0**40)), (), "labels within 0 and 2^31"),
    "NaN labels": (bad_map(np.full(SHAPE, np.nan)), (), "must hold whole numbers, got NaN"),
    "4-D labels": (
        bad_map(np.ones((*SHAPE, 2), np.int16)),
        (),
        "got shape (9, 10, 8, 2)",
    ),
    "unknown labels": (bad_map(np.full(SHAPE, 300, np.int16)), (), "the label table, got 300"),
    "an absent class": (lambda _: None, ("--label-table", "freesurfer_aseg"), "class 3 (csf)"),
    "no such table": (lambda _: None, ("--label-table", "nothing"), "label table must be a file"),
    "no such folder": (lambda _: None, ("--images", "nowhere"), "nowhere must be a file or folder"),
    "too many label folders": (lambda _: None, ("--labels", "maps"), "--labels once"),
    "one channel for T2": (lambda _: None, ("--t2-cropping",), "must have two channels"),
    "classes alone": (lambda _: None, ("--classes", "c.npy"), "--classes must come with a .npy"),
    "a file as output": (lambda _: None, ("--out", "table.tsv"), "must be writable"),
    "one folder for both": (lambda _: None, ("--images", "maps"), "must be in two folders"),
}


class TestBadInput:
    @pytest.mark.parametrize("name", BAD)
    def test_is_one_line_and_nothing_is_written(self, folder, name):
        spoil, arguments, message = BAD[name]
        spoil(folder)
        result = estimate(*GOOD, *arguments)
        assert result.exit_code == 2, result.output
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error")]
        assert message in line
        assert not list(folder.glob("priors/*"))

    def test_processes_that_die_fail_the_work(self, folder, monkeypatch):
        from synthsr_transforms.estimation import PriorEstimation
        from synthsr_transforms.support.messages import WorkFailedError

        def die(*_: object) -> None:
            raise WorkFailedError("a process ended.")

        monkeypatch.setattr(PriorEstimation, "run", die)
        result = estimate(*GOOD)
        assert result.exit_code == 1
        assert "Error: a process ended." in result.stderr


# There and back ----------------------------------------------------------------------------------


def known_priors(num_classes: int, channels: int = 2) -> TissuePriors:
    """Priors of spread classes, far from 0, of which few draws differ much."""
    rng = np.random.default_rng(4)
    spread = np.linspace(60, 240, num_classes)
    means = np.stack([rng.permutation(spread) for _ in range(channels)])
    stds = rng.uniform(4, 10, means.shape)
    pairs = [np.stack([x, share * x], axis=1) for x, share in ((means, 0.01), (stds, 0.04))]
    return TissuePriors(*pairs, "normal")


def write_known(priors: TissuePriors, table: LabelTable) -> None:
    """A `known.yaml` with as little as `generate` needs."""
    numbers = range(table.num_classes)
    labels: list[list[int]] = [[] for _ in numbers]
    for value, label_class in zip(table.values, table.classes, strict=True):
        labels[label_class].append(value)
    channels = [
        [{"class": k, "mean": m[:, k].tolist(), "std": s[:, k].tolist()} for k in numbers]
        for m, s in zip(priors.means, priors.stds, strict=True)
    ]
    content = {
        "distribution": "normal",
        "classes": [{"class": k, "labels": labels[k]} for k in numbers],
        "channels": [{"classes": rows} for rows in channels],
    }
    Path("known.yaml").write_text(yaml.safe_dump(content))


def there_and_back(maps: Path, table_name: str, number: int) -> None:
    """Generate from known priors, estimate, compare."""
    table = LabelTable.resolve(table_name)
    known = known_priors(table.num_classes)
    write_known(known, table)
    Path("own.yaml").write_text(MIXTURE.format(table=table_name, channels=2))
    made = run("generate", "own.yaml", "--labels", maps, "-n", number, "--format", "nii")
    assert made.exit_code == 0, made.stderr
    for kind in ("image", "labels"):
        Path(kind).mkdir()
        for path in Path("synthetic").glob(f"*_{kind}.nii"):
            path.rename(Path(kind) / path.name)
    pairs = ("--images", "image", "--labels", "labels", "--label-table", table_name)
    result = estimate(*pairs, "--no-rescale")
    assert result.exit_code == 0, result.stderr
    found = read_prior_file("priors/priors.yaml").priors
    rows = read_yaml("priors/priors.yaml")["channels"][0]["classes"]
    large = [row["class"] for row in rows if row["voxels"] >= 100 * number]
    assert len(large) > 0.9 * table.num_classes  # spreads of fewer voxels are chance
    np.testing.assert_allclose(found.means[:, 0, large], known.means[:, 0, large], rtol=0.02)
    np.testing.assert_allclose(found.stds[:, 0, large], known.stds[:, 0, large], rtol=0.1)


class TestThereAndBack:
    def test_on_the_phantom(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        phantom = head_phantom(spacing_mm=2)
        values = LabelTable.ready("synthseg").subset(phantom.data.unique().tolist())
        values.write("table.tsv")
        save(tmp_path / "maps" / "head.nii", phantom.data[0].numpy().astype(np.int16))
        there_and_back(tmp_path / "maps", "table.tsv", 4)

    @needs_shared_data
    def test_on_brain_label_maps(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        there_and_back(SHARED_DATA / "synthsr_labels", "synthsr", 3)

    @needs_shared_data
    def test_real_scans_become_training_images(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        pairs = SHARED_DATA / "real" / "paired_T1_labels"
        arguments = (
            "--labels",
            pairs / "fsaverage_aseg.mgz",
            "--label-table",
            "freesurfer_synthsr",
        )
        result = estimate("--images", pairs / "fsaverage_brain.mgz", *arguments, "--no-rescale")
        assert result.exit_code == 0, result.stderr
        csf, cortex, white = (float(np.load("priors/prior_means.npy")[0, k]) for k in (3, 2, 1))
        assert csf < cortex < white
        settings = (
            "label_table=freesurfer_synthsr",
            "mixture.priors=priors/priors.yaml",
            "crop.shape=64",
        )
        made = run(
            *("generate", "tutorial_2_sr_synthetic", *arguments[:2]),
            *(part for setting in settings for part in ("--set", setting)),
        )
        assert made.exit_code == 0, made.stderr
        assert "priors:" in Path("synthetic/config.yaml").read_text()
        again = run("generate", "synthetic/config.yaml", "--out", "again")
        assert again.exit_code == 0, again.stderr
        name = "sample_000000_image.nii.gz"
        one, two = (nib.load(f"{place}/{name}").get_fdata() for place in ("synthetic", "again"))
        np.testing.assert_array_equal(one, two)
