"""Promises of `synthsr evaluate`: pairs, grids, mappings of intensities, masks, files, errors."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from synthsr_cli.group import synthsr
from synthsr_net.evaluation import PairScore, evaluate, find_pairs
from synthsr_net.metrics.comparison import compare, reference_of, tissue_map
from synthsr_net.metrics.volumes import MAX_PSNR_DB
from synthsr_net.prediction.resampling import resample
from synthsr_transforms.io.grids import Volume, reorient
from synthsr_transforms.io.volumes import write_volume
from synthsr_transforms.phantom import head_phantom

SPACING = 3.0
T1 = {2: 110, 41: 110, 3: 78, 42: 78, 4: 20, 43: 20, 24: 20, 0: 0, 515: 10, 516: 100, 511: 90}


@pytest.fixture(scope="module")
def labels() -> Volume:
    image = head_phantom(spacing_mm=SPACING, seed=2)
    return Volume(image.data[0].numpy(), np.asarray(image.affine.data))


@pytest.fixture(scope="module")
def t1(labels: Volume) -> Volume:
    """A T1 with intensities of the standard T1, and some noise."""
    values = np.array([T1.get(value, 70) for value in range(int(labels.data.max()) + 1)])
    noise = np.random.default_rng(0).normal(0, 1.5, labels.data.shape)
    data = np.where(labels.data > 0, values[labels.data] + noise, 0)
    return Volume(data.astype(np.float32), labels.affine)


@pytest.fixture
def save(tmp_path: Path) -> Callable[[str, Volume], Path]:
    def save(name: str, volume: Volume) -> Path:
        path = tmp_path / name
        write_volume(path, volume)
        return path

    return save


@pytest.fixture
def score(
    save: Callable[[str, Volume], Path], t1: Volume, labels: Volume
) -> Callable[..., PairScore]:
    """Evaluates a prediction of the T1."""

    def score(prediction: Volume, *, with_labels: bool = True, **options: Any) -> PairScore:
        maps = save("labels.nii.gz", labels) if with_labels else None
        files = save("prediction.nii.gz", prediction), save("reference.nii.gz", t1)
        (found,) = evaluate(*files, labels=maps, **options)
        return found

    return score


def command(*words: object) -> Result:
    return CliRunner().invoke(synthsr, ["evaluate", *map(str, words)])


class TestMetrics:
    def test_a_copy_is_perfect_in_every_mapping(self, score: Callable[..., PairScore], t1: Volume):
        for mapping in ("none", "linear", "cubic"):
            metrics = score(t1, mapping=mapping).metrics
            for region in ("brain", "head"):
                assert metrics[f"{region}/ssim"] == pytest.approx(1, abs=1e-6)
                assert metrics[f"{region}/l1"] == pytest.approx(0, abs=1e-6)
                assert metrics[f"{region}/psnr"] == MAX_PSNR_DB
            assert metrics["brain/dice_wm"] > 0.95

    def test_they_are_those_of_training(
        self, score: Callable[..., PairScore], t1: Volume, labels: Volume
    ):
        worse = t1._replace(data=t1.data + np.random.default_rng(1).normal(0, 9, t1.data.shape))
        worse = worse._replace(data=worse.data.astype(np.float32))
        image = torch.from_numpy(t1.data)
        reference, box = reference_of("t1", image, tissue_map(torch.from_numpy(labels.data)))
        expected = compare(torch.from_numpy(worse.data)[box], reference)
        assert score(worse, mapping="cubic").metrics == pytest.approx(expected, rel=1e-5)

    def test_each_mapping_forgives_what_it_says(self, score: Callable[..., PairScore], t1: Volume):
        scaled, bent = (t1._replace(data=f(t1.data)) for f in (lambda x: 3 * x + 20, np.sqrt))
        l1 = {
            (name, mapping): score(volume, mapping=mapping).metrics["brain/l1"]
            for name, volume in (("scaled", scaled), ("bent", bent))
            for mapping in ("none", "linear", "cubic")
        }
        assert l1["scaled", "none"] > 1 > 1e-5 > l1["scaled", "linear"]
        assert l1["bent", "none"] > l1["bent", "linear"] > 2 * l1["bent", "cubic"]

    def test_a_constant_prediction_is_refused(self, save, t1: Volume):
        flat = save("flat.nii.gz", t1._replace(data=np.ones_like(t1.data)))
        with pytest.raises(ValueError, match=r"flat\.nii\.gz must show something"):
            evaluate(flat, save("t1.nii.gz", t1))


class TestGrids:
    def test_order_and_direction_of_axes_change_nothing(
        self, score: Callable[..., PairScore], t1: Volume
    ):
        turned = reorient(t1, [[0, 0, -1, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
        assert turned.data.shape != t1.data.shape
        assert score(turned).metrics == score(t1).metrics

    def test_predictions_are_interpolated_to_the_reference(
        self, score: Callable[..., PairScore], t1: Volume
    ):
        finer = score(resample(t1, 2.0))
        assert 0.9 < finer.metrics["brain/ssim"] < 1
        moved = t1.affine.copy()
        moved[0, 3] += 2 * SPACING
        assert score(Volume(t1.data, moved)).metrics["brain/ssim"] < 0.7

    def test_what_the_prediction_does_not_cover_does_not_count(
        self, score: Callable[..., PairScore], t1: Volume
    ):
        part = score(t1._replace(data=t1.data[..., : t1.data.shape[2] // 2]))
        assert 0.2 < part.coverage < 0.8
        assert part.metrics["brain/psnr"] == MAX_PSNR_DB
        assert any("covers" in warning for warning in part.warnings)

    def test_a_prediction_elsewhere_is_refused(self, score: Callable[..., PairScore], t1: Volume):
        away = t1.affine.copy()
        away[0, 3] += 1000
        with pytest.raises(ValueError, match="lies elsewhere"):
            score(Volume(t1.data, away))


class TestMask:
    def test_without_labels_the_brain_is_found_in_the_prediction(
        self, score: Callable[..., PairScore], t1: Volume, labels: Volume
    ):
        found = score(t1, with_labels=False)
        assert (found.brain_mask, score(t1).brain_mask) == ("prediction", "labels")
        assert found.metrics["brain/ssim"] == pytest.approx(1)
        assert not any("dice" in name for name in found.metrics)

    def test_other_intensities_need_labels(self, score: Callable[..., PairScore], t1: Volume):
        dark = t1._replace(data=t1.data / 110)
        with pytest.raises(ValueError, match=r"white matter near 110 .* Give label maps"):
            score(dark, with_labels=False)
        assert score(dark).metrics["brain/ssim"] == pytest.approx(1, abs=1e-4)


class TestPairs:
    def test_names_agree_but_for_contrast_and_kind(self, tmp_path: Path):
        names = {
            "predictions": ["sub-1_FLAIR_synthsr.nii.gz", "sub-2_T2w_synthsr.nii"],
            "references": ["sub-2_T1w.mgz", "sub-1_T1w.mgz"],
            "labels": ["sub-2_aparc+aseg.mgz", "sub-1_dseg.nii.gz"],
        }
        for folder, files in names.items():
            (tmp_path / folder).mkdir()
            for file in files:
                (tmp_path / folder / file).touch()
        found = find_pairs(*(tmp_path / folder for folder in names))
        assert [pair.name for pair in found] == ["sub-1_FLAIR_synthsr", "sub-2_T2w_synthsr"]
        for pair, number in zip(found, (1, 2), strict=True):
            assert {f"sub-{number}"} == {path.name[:5] for path in pair[1:] if path is not None}

    def test_a_prediction_without_reference_is_refused(self, tmp_path: Path):
        for file in ("a/s1.nii", "a/s2.nii", "b/s1.nii"):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).touch()
        with pytest.raises(ValueError, match=r"1 have none: .*s2\.nii"):
            find_pairs(tmp_path / "a", tmp_path / "b")


class TestCommand:
    @pytest.fixture
    def folders(self, save: Callable[[str, Volume], Path], t1: Volume, labels: Volume) -> Path:
        """Two predictions, the second one noisy."""
        for name in ("s1", "s2"):
            save(f"references/{name}_T1w.mgz", t1)
            save(f"labels/{name}_aseg.nii.gz", labels)
        noise = np.random.default_rng(0).normal(0, 20, t1.data.shape)
        save("predictions/s1_synthsr.nii", t1)
        worse = t1._replace(data=(t1.data + noise).astype(np.float32))
        return save("predictions/s2_synthsr.nii", worse).parents[1]

    def words(self, folders: Path) -> list[object]:
        return [folders / "predictions", folders / "references", "--labels", folders / "labels"]

    def test_files_hold_a_row_per_pair_their_means_and_the_worst_first(self, folders: Path):
        result = command(*self.words(folders), "--out", folders / "new" / "out")
        assert result.exit_code == 0, result.output
        out = folders / "new" / "out"
        assert {path.name for path in out.iterdir()} == {"metrics.csv", "report.html"}
        with (out / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["name"] for row in rows] == ["s1_synthsr", "s2_synthsr", "mean"]
        for name in ("brain/ssim", "head/l1", "brain/dice_gm"):
            one, two, mean = (float(row[name]) for row in rows)
            assert mean == pytest.approx((one + two) / 2, rel=1e-4)
        assert [rows[0][key] for key in ("mapping", "brain mask")] == ["linear", "labels"]
        page = (out / "report.html").read_text()
        assert page.index('id="pair-1"') < page.index('id="pair-0"')
        assert page.count("data:image/png;base64,") == 2

    def test_without_a_folder_a_table_is_printed_and_nothing_written(self, folders: Path):
        before = sorted(folders.rglob("*"))
        result = command(*self.words(folders), "--map", "none")
        assert sorted(folders.rglob("*")) == before
        lines = result.stdout.splitlines()
        assert lines[0] == "# 2 predictions, none mapping of intensities"
        table = [line.split("\t") for line in lines[1:]]
        assert [row[0] for row in table] == ["name", "s1_synthsr", "s2_synthsr", "mean"]
        assert table[1][table[0].index("brain/ssim")] == "1"

    def test_a_damaged_file_is_one_line_and_nothing_is_written(self, folders: Path):
        (folders / "references" / "s2_T1w.mgz").write_bytes(b"no volume")
        result = command(*self.words(folders), "--out", folders / "out")
        assert result.exit_code == 2
        assert result.stderr.splitlines()[-1].startswith("Error: ")
        assert "s2_T1w.mgz" in result.stderr.splitlines()[-1]
        assert not (folders / "out").exists()

    def test_an_earlier_evaluation_is_kept_unless_told_otherwise(self, folders: Path):
        out = folders / "out"
        out.mkdir()
        (out / "metrics.csv").write_text("mine")
        result = command(*self.words(folders), "--out", out)
        assert result.exit_code == 2
        assert "add --overwrite" in result.stderr
        assert (out / "metrics.csv").read_text() == "mine"
        assert command(*self.words(folders), "--out", out, "--overwrite").exit_code == 0
        assert (out / "metrics.csv").read_text() != "mine"

    def test_npz_files_are_read(
        self, save: Callable[[str, Volume], Path], t1: Volume, labels: Volume
    ):
        files = save("p.npz", t1), save("r.npz", t1)
        (found,) = evaluate(*files, labels=save("l.npz", labels))
        assert found.metrics["brain/ssim"] == pytest.approx(1)
