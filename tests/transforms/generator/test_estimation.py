"""Promises of the estimation of priors: the estimator, its means over scans, and its files."""

from __future__ import annotations

import json
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import save
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from synthsr_transforms import Generator, LabelTable, TissueMixture, TissuePriors, load_config
from synthsr_transforms.estimation import (
    EstimationSettings,
    PriorEstimate,
    PriorEstimation,
    estimate_priors,
    find_data_sets,
    write_estimate,
)
from synthsr_transforms.estimation import scans as scans_module
from synthsr_transforms.estimation.estimate import processes
from synthsr_transforms.estimation.files import output_names
from synthsr_transforms.estimation.picture import channel_figure
from synthsr_transforms.estimation.statistics import (
    class_statistics,
    rescale_intensities,
    t2_cropping_stats,
    t2_extent,
)
from synthsr_transforms.io.volumes import read_volume
from synthsr_transforms.priors.tissue_priors import read_prior_file
from synthsr_transforms.support.config import read_yaml
from synthsr_transforms.support.messages import SynthSRError, WorkFailedError
from synthsr_transforms.transforms.build import build_transform
from synthsr_transforms.transforms.spec import constructor_params

SHAPE = (9, 10, 8)
VALUES = [0, 2, 3, 41, 42]
TABLE = LabelTable.from_values(VALUES)  # classes: background, white matter, cortex

SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)
volumes = hnp.arrays(np.float32, SHAPES, elements=st.floats(0, 1000, width=32))


def label_map(seed: int = 0, values: list[int] = VALUES) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.int16(values), SHAPE)


def scan_of(labels: np.ndarray, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """A scan whose classes are 1, 100 and 200 on average."""
    noise = np.random.default_rng(seed).normal(0, 5, labels.shape)
    means = np.choose(TABLE.class_lookup().numpy()[labels], [1, 100, 200])
    return (scale * (means + noise)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three scans and their label maps."""
    for k in range(3):
        labels = label_map(k)
        save(tmp_path / "maps" / f"sub-{k}_dseg.nii", labels)
        save(tmp_path / "t1" / f"sub-{k}_T1w.nii", scan_of(labels, k))
        save(tmp_path / "t2" / f"sub-{k}_T2w.nii", scan_of(labels, k + 9, 0.5))
    return tmp_path


def estimate(folder: Path, *images: str, table: Any = TABLE, **options: Any) -> PriorEstimate:
    data_sets = find_data_sets([folder / name for name in images or ("t1",)], [folder / "maps"])
    chosen = EstimationSettings(**{"rescale": False, **options})
    job = PriorEstimation(
        data_sets=data_sets, label_table=table, settings=chosen, keep_samples=True
    )
    return job.run()


class TestStatistics:
    @settings(max_examples=60)
    @given(volumes, st.integers(0, 2**31))
    def test_are_the_median_and_the_scaled_mad_of_the_voxels_of_a_class(self, channel, seed):
        classes = np.random.default_rng(seed).integers(-1, 4, channel.shape)
        found = class_statistics(channel, classes, 4, legacy=True)
        for k in range(4):
            voxels = channel[classes == k].astype(float)
            if k > 0:
                voxels = voxels[voxels > 0]
            assert found.voxels[k] == voxels.size
            if not voxels.size:
                assert np.isnan(found.medians[k])
                assert np.isnan(found.stds[k])
                continue
            middle = np.median(voxels)
            assert found.medians[k] == pytest.approx(middle, rel=1e-6)
            expected = 1.4826 * np.median(np.abs(voxels - middle))
            assert found.stds[k] == pytest.approx(expected, rel=1e-5, abs=1e-4)

    @settings(max_examples=60)
    @given(volumes, st.permutations(range(3)))
    def test_do_not_depend_on_the_order_of_axes(self, channel, axes):
        classes = np.indices(channel.shape).sum(axis=0) % 3
        one = class_statistics(channel, classes, 3)
        two = class_statistics(channel.transpose(axes), classes.transpose(axes), 3)
        for ours, theirs in zip(one[:4], two[:4], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)

    @settings(max_examples=60)
    @given(volumes)
    def test_rescaled_intensities_lie_within_0_and_255_in_the_same_order(self, channel):
        scaled = rescale_intensities(channel)
        assert scaled.min() >= 0
        assert scaled.max() <= 255
        order = np.argsort(channel.ravel())
        assert (np.diff(scaled.ravel()[order]) >= 0).all()

    @settings(max_examples=40)
    @given(volumes, st.integers(0, 40))
    def test_samples_come_from_their_class(self, channel, number):
        classes = np.indices(channel.shape).sum(axis=0) % 2
        for k, sample in enumerate(
            class_statistics(channel, classes, 2, num_samples=number).samples
        ):
            assert len(sample) <= number
            assert set(sample) <= set(channel[classes == k])

    def test_one_class_alone(self):
        found = class_statistics(np.array([-1.0, 0, 1]), np.zeros(3, int), 1)
        assert found.medians == [0]
        assert found.voxels == [3]


class TestMeansOverScans:
    def test_are_those_of_the_scans_and_their_population_deviation(self, folder):
        found = estimate(folder)
        (channel,) = found.channels
        assert channel.medians.shape == (3, 3)
        np.testing.assert_allclose(found.priors.means[0, 0], channel.medians.mean(axis=0))
        np.testing.assert_allclose(found.priors.means[0, 1], channel.medians.std(axis=0))
        np.testing.assert_allclose(found.priors.stds[0, 0], channel.stds.mean(axis=0))
        np.testing.assert_allclose(found.priors.means[0, 0], [1, 100, 200], atol=1)
        np.testing.assert_allclose(found.priors.stds[0, 0, 1:], 5, rtol=0.2)

    def test_a_class_that_a_scan_lacks_is_left_out_of_its_means(self, folder):
        labels = label_map(5, [0, 2, 41])
        save(folder / "maps" / "sub-1_dseg.nii", labels)
        save(folder / "t1" / "sub-1_T1w.nii", scan_of(labels, 5))
        found = estimate(folder)
        assert found.priors.means[0, 0, 2] == pytest.approx(200, abs=1)
        assert found.channels[0].scans_with.tolist() == [3, 3, 2]
        legacy = estimate(folder, legacy=True)
        assert legacy.priors.means[0, 0, 2] == pytest.approx(200 * 2 / 3, abs=1)
        np.testing.assert_array_equal(legacy.priors.means[..., :2], found.priors.means[..., :2])

    @pytest.mark.parametrize("legacy", [False, True])
    def test_a_class_that_no_scan_holds_is_named(self, folder, legacy):
        table = LabelTable.from_values([*VALUES, 17, 53])
        if legacy:  # as in the original
            assert estimate(folder, table=table, legacy=True).priors.means[0, 0, 3] == 0
            return
        with pytest.raises(
            ValueError, match=r"got none for class 3 \(hippocampus\) \(channel 1 of"
        ):
            estimate(folder, table=table)

    def test_a_class_without_positive_voxels_is_named(self, folder):
        for k in range(3):
            labels = label_map(k)
            save(folder / "t1" / f"sub-{k}_T1w.nii", np.where(labels % 39 == 3, 0, labels))
        with pytest.raises(ValueError, match=r"voxels above 0 in some scan.* class 2 \("):
            estimate(folder)

    def test_data_sets_and_channels_are_stacked_in_order(self, folder):
        for k in range(3):
            pair = [scan_of(label_map(k), k + seed, scale) for seed, scale in ((0, 1), (9, 2))]
            save(folder / "both" / f"sub-{k}_both.nii", np.stack(pair, axis=-1))
        found = estimate(folder, "t2", "both")
        assert [(c.data_set, c.channel) for c in found.channels] == [(1, 1), (2, 1), (2, 2)]
        np.testing.assert_allclose(found.priors.means[:, 0, 2], [100, 200, 400], rtol=0.02)
        alone = estimate(folder, "t1").priors
        assert TissuePriors(found.priors.means[1:2], found.priors.stds[1:2], "normal") == alone

    def test_orientations_of_scan_and_label_map_may_differ(self, folder):
        expected = estimate(folder).priors
        flipped = np.diag([-1.0, 1, 1, 1])
        flipped[0, 3] = SHAPE[0] - 1
        for k in range(3):
            scan = scan_of(label_map(k), k)[::-1]
            save(folder / "t1" / f"sub-{k}_T1w.nii", scan, flipped)
        assert estimate(folder).priors == expected

    def test_label_maps_on_other_grids_are_resampled_on_request(self, folder):
        expected = estimate(folder).priors
        wide = np.eye(4)
        wide[:3, 3] = -3
        for k in range(3):
            save(folder / "maps" / f"sub-{k}_dseg.nii", np.pad(label_map(k), 3), wide)
        with pytest.raises(ValueError, match=r"on the grid of .*--resample-labels"):
            estimate(folder)
        assert estimate(folder, resample_labels=True).priors == expected
        wide[:3, 3] = 500
        save(folder / "maps" / "sub-1_dseg.nii", np.pad(label_map(1), 3), wide)
        with pytest.raises(ValueError, match="nothing in common"):
            estimate(folder, resample_labels=True)

    def test_processes_find_the_same(self, folder):
        arguments = ([folder / "t1", folder / "t2"], folder / "maps", TABLE)
        assert estimate_priors(*arguments, workers=2) == estimate_priors(*arguments)

    def test_the_ready_table_that_fits_best_is_the_default(self, folder):
        priors = estimate_priors(str(folder / "t1"), folder / "maps", legacy=True)
        assert priors.num_classes == LabelTable.ready("freesurfer_aseg").num_classes

    def test_one_scan_is_in_memory_at_a_time(self, folder, monkeypatch):
        alive: list[Any] = []
        read = scans_module.read_pair

        def watched(*arguments: Any, **options: Any) -> Any:
            assert not [ref for ref in alive if ref() is not None]
            pair = read(*arguments, **options)
            alive.append(weakref.ref(pair[0].data))
            return pair

        monkeypatch.setattr(scans_module, "read_pair", watched)
        estimate(folder)
        assert len(alive) == 3

    def test_errors_come_out_of_processes_and_one_that_dies_is_an_error(self, tmp_path):
        def measured_in_processes() -> None:
            with processes(2) as measure:
                with pytest.raises(SynthSRError, match="lost does not exist"):
                    list(measure(read_volume, ["lost"]))
                list(measure(os._exit, [3]))

        with pytest.raises(WorkFailedError, match="memory"):
            measured_in_processes()


def brain(margin: int, *, stored: Any = np.float32, **classes: tuple[float, float]) -> Any:
    """Label map and scan of nested boxes, white matter in grey matter, in margins of 0."""
    labels = np.zeros((24, 24, 24), np.int16)
    labels[2:-2, 2:-2, 2:-2], labels[7:-7, 7:-7, 7:-7] = 3, 2
    noise = np.random.default_rng(0).normal(size=labels.shape)
    scan = np.zeros(labels.shape)
    for value, name in ((3, "grey"), (2, "white")):
        mean, std = classes.get(name, (80.0, 6.0) if name == "grey" else (110.0, 5.0))
        scan = np.where(labels == value, mean + std * noise, scan)
    if stored is not np.float32:
        scan = np.clip(np.rint(scan), 0, np.iinfo(stored).max)
    return np.pad(labels, margin), np.pad(scan.astype(stored), margin)


class TestSpikes:
    """No class of one intensity becomes a prior."""

    def prior(self, tmp_path: Path, pair: Any, rescale: bool = True) -> PriorEstimate:
        for name, data in zip(("maps", "t1"), pair, strict=True):
            save(tmp_path / name / "a.nii", data)
        return estimate(tmp_path, rescale=rescale)

    @pytest.mark.parametrize("margin", [0, 2, 8, 20, 30])
    @pytest.mark.parametrize("stored", [np.float32, np.uint8, np.int16])
    def test_margins_do_not_clip_white_matter(self, tmp_path, margin, stored):
        found = self.prior(tmp_path, brain(margin, stored=stored))
        means, stds = found.priors.means[0, 0], found.priors.stds[0, 0]
        assert means[2] / means[1] == pytest.approx(80 / 110, rel=0.06)
        assert stds[1] / means[1] == pytest.approx(5 / 110, rel=0.35)
        assert stds[2] / means[2] == pytest.approx(6 / 80, rel=0.35)
        assert any("brightest class" in text for text in found.warnings())

    @pytest.mark.parametrize(
        ("white", "grey"), [((110.0, 0.2), (80.0, 6.0)), ((110.0, 5.0), (80.0, 0.2))]
    )
    @pytest.mark.parametrize("rescale", [True, False])
    def test_a_class_of_nearly_one_whole_number_has_a_width(self, tmp_path, white, grey, rescale):
        labels, scan = brain(4, stored=np.uint8, white=white, grey=grey)
        scan[labels == 0] = 200  # a skull
        scan[0] = 0
        inside = np.flatnonzero(labels == (2 if white[1] < 1 else 3))
        scan.ravel()[inside[::9]] += 3
        found = self.prior(tmp_path, (labels, scan), rescale)
        assert (found.priors.stds[0, 0, 1:] > 0.5).all()

    @pytest.mark.parametrize("margin", [0, 8, 20])
    @pytest.mark.parametrize("rescale", [True, False])
    @pytest.mark.parametrize(
        "classes",
        [
            {"white": (300.0, 10.0)},
            {"white": (256.0, 3.0)},
            {"white": (400.0, 9.0), "grey": (300.0, 9.0)},
            {"white": (110.0, 0.0)},
            {"grey": (80.0, 0.0)},
            {"white": (1.0, 0.0), "grey": (1.0, 0.0)},
        ],
    )
    def test_saturated_and_constant_classes_are_refused(self, tmp_path, classes, margin, rescale):
        with pytest.raises(
            ValueError, match=r"a\.nii must show several intensities|to be rescaled"
        ):
            self.prior(tmp_path, brain(margin, stored=np.uint8, **classes), rescale)

    def test_all_scans_of_a_data_set_are_rescaled_alike(self, tmp_path):
        for name, margin in (("a", 2), ("b", 20)):
            for kind, data in zip(("maps", "t1"), brain(margin), strict=True):
                save(tmp_path / kind / f"{name}.nii", data)
        found = estimate(tmp_path, rescale=True)
        assert found.channels[0].by_labels
        np.testing.assert_allclose(found.priors.means[0, 1], 0, atol=0.5)

    def test_legacy_does_as_the_original(self, tmp_path):
        for name, data in zip(("maps", "t1"), brain(20), strict=True):
            save(tmp_path / name / "a.nii", data)
        found = estimate(tmp_path, rescale=True, legacy=True)
        assert found.priors.means[0, 0, 1] == 255
        assert found.priors.stds[0, 0, 1] == 0


class TestT2Cropping:
    @settings(max_examples=60)
    @given(st.integers(0, 19), st.integers(0, 19))
    def test_is_that_of_a_ball_around_every_voxel(self, first, last):
        from scipy.ndimage import binary_dilation

        first, last = sorted((first, last))
        volume = np.zeros((7, 20, 6))
        volume[3, first, 2] = volume[4, last, 3] = 1
        axes = np.indices((11, 11, 11)) - 5
        wide = binary_dilation(volume > 0, (axes**2).sum(axis=0) <= 25).any(axis=(0, 2))
        places = np.flatnonzero(wide)
        expected = max(places[0] + 2, 0) / 20, min(places[-1] - 2, 20) / 20
        assert t2_extent(volume) == pytest.approx(expected)

    def test_zeros_are_not_covered_unless_as_in_the_original(self):
        volume = np.zeros((4, 30, 5))
        volume[:, 10:20] = 1
        assert t2_extent(volume) == (7 / 30, 22 / 30)
        assert t2_extent(volume, legacy=True) == (2 / 30, 27 / 30)
        with pytest.raises(ValueError, match="above 0"):
            t2_extent(np.zeros((2, 3, 4)))

    def test_statistics_are_means_and_population_deviations(self):
        np.testing.assert_allclose(t2_cropping_stats([(0, 0.5), (0.2, 0.9)]), [0.1, 0.1, 0.7, 0.2])


class TestFiles:
    def test_arrays_are_those_of_the_original(self, folder):
        found = estimate(folder, "t1", "t2")
        names = [path.name for path in write_estimate(found, folder / "out")]
        assert sorted(names) == sorted(path.name for path in output_names(folder / "out"))
        means = np.load(folder / "out" / "prior_means.npy")
        assert means.shape == (4, 3)
        np.testing.assert_array_equal(means[2], found.priors.means[1, 0])
        paths = (folder / "out" / "prior_means.npy", folder / "out" / "prior_stds.npy")
        assert TissuePriors.read(*paths) == found.priors

    def test_description_says_the_same_with_names_and_counts(self, folder):
        found = estimate(folder, "t1", "t2")
        write_estimate(found, folder / "out")
        priors, labels = read_prior_file(folder / "out" / "priors.yaml")
        np.testing.assert_allclose(priors.means, found.priors.means, rtol=1e-6)
        np.testing.assert_allclose(priors.stds, found.priors.stds, rtol=1e-6)
        assert priors.distribution == "normal"
        assert labels == dict(zip(TABLE.values, TABLE.classes, strict=True))
        content = read_yaml(folder / "out" / "priors.yaml")
        row = content["channels"][1]["classes"][2]
        assert row["name"] == "cerebral cortex"
        assert row["scans"] == 3
        assert row["voxels"] == sum(np.isin(label_map(k), (3, 42)).sum() for k in range(3))
        record = content["provenance"]
        assert record["data_sets"][0]["pairs"]["sub-2_T1w"] == "sub-2_dseg.nii"
        assert record["date"].startswith("20")
        assert content["label_table"] == "label_table.tsv"
        assert LabelTable.read(folder / "out" / "label_table.tsv") == TABLE

    def test_nothing_is_written_if_a_picture_fails(self, folder, monkeypatch):
        from synthsr_transforms.estimation import picture

        def fail(*_: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(picture, "channel_figure", fail)
        with pytest.raises(OSError, match="disk full"):
            write_estimate(estimate(folder), folder / "out", plot=True)
        assert list((folder / "out").iterdir()) == []

    def test_files_of_an_earlier_estimate_are_kept_or_all_replaced(self, folder):
        write_estimate(estimate(folder, "t1", "t2"), folder / "out", plot=True)
        with pytest.raises(ValueError, match="--overwrite"):
            write_estimate(estimate(folder), folder / "out")
        write_estimate(estimate(folder), folder / "out", plot=True, overwrite=True)
        assert len(list((folder / "out").glob("*.png"))) == 1

    @pytest.mark.parametrize("rescale", [True, False])
    def test_a_picture_shows_every_class(self, folder, rescale):
        figure = channel_figure(estimate(folder, rescale=rescale), 1)
        texts = [text.get_text() for axes in figure.axes for text in axes.texts]
        for name in TABLE.class_names:
            assert name in texts
        assert len(figure.axes) == TABLE.num_classes + 2

    def test_a_class_of_no_scan_can_be_drawn(self, folder):
        table = LabelTable.from_values([*VALUES, 17, 53])
        assert channel_figure(estimate(folder, table=table, legacy=True), 1).axes


class TestUse:
    @pytest.fixture
    def description(self, folder: Path) -> Path:
        write_estimate(estimate(folder), folder / "out")
        return folder / "out" / "priors.yaml"

    def test_a_mixture_takes_the_description_or_the_priors(self, description):
        priors = read_prior_file(description).priors
        for form in (str(description), priors, priors.to_dict()):
            mixture = TissueMixture(label_table=TABLE, priors=form)
            assert mixture._class_priors == priors
            params = json.loads(json.dumps(constructor_params(mixture)))
            spec = {"name": "TissueMixture", "params": params}
            assert build_transform(spec)._class_priors == priors
        with pytest.raises(ValueError, match="must come alone"):
            TissueMixture(label_table=TABLE, priors=priors, prior_means=3)
        with pytest.raises(ValueError, match="must have 2 channels, got 1"):
            TissueMixture(label_table=TABLE, priors=priors, num_channels=2)

    def test_another_label_table_is_refused(self, description):
        moved = LabelTable.from_values([0, 2, 3, 41, 42], [0, 2, 1, 2, 1])
        with pytest.raises(ValueError, match="label 2 in class 1 there and in 2 here"):
            TissueMixture(label_table=moved, priors=str(description))
        other = LabelTable.from_values([0, 10, 11], [0, 1, 2])
        with pytest.raises(ValueError, match="none of the labels of class 1, 2"):
            TissueMixture(label_table=other, priors=str(description))
        with pytest.raises(ValueError, match="each of 2 classes"):
            TissueMixture(label_table=LabelTable.from_values([0, 2, 41]), priors=str(description))

    def test_a_preset_takes_them_in_place_of_its_own(self, description):
        table = description.with_name("label_table.tsv")
        changes = [f"mixture.priors={description}", f"label_table={table}"]
        config = load_config("tutorial_2_sr_synthetic", changes)
        assert set(config.steps["mixture"].params) == {"num_channels", "priors"}
        mixture = Generator(config).transforms["mixture"]
        assert mixture._class_priors == read_prior_file(description).priors

    @pytest.mark.parametrize(
        "text",
        ["a: 1", "classes: []\nchannels: []\ndistribution: normal", "classes: [3]", "- 1"],
    )
    def test_other_files_are_refused_by_name(self, tmp_path, text):
        (tmp_path / "p.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"p\.yaml"):
            TissueMixture(label_table=TABLE, priors=str(tmp_path / "p.yaml"))

    def test_a_row_that_was_taken_out_is_missed(self, description):
        lines = description.read_text().splitlines()
        kept = [line for line in lines if not line.startswith("      - {class: 1,")]
        description.write_text("\n".join(kept))
        with pytest.raises(ValueError, match="rows for classes"):
            read_prior_file(description)
