"""Promises of tissue priors: forms, shapes, draws, files."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
import torch
from helpers import (
    SHARED_DATA,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from synthsr_transforms.priors.tissue_priors import TissuePriors

needs_shared_data = pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason=f"example data is not in {SHARED_DATA}"
)
ERROR_RATE = 1e-6
"""Chance that a test of a law fails on a right sampler, before its seed was fixed."""

TWO_CHANNELS = np.array([[100, 50, 0], [10, 5, 0], [200, 150, 20], [20, 15, 2]], dtype=np.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestForms:
    @pytest.mark.parametrize(
        ("means", "stds", "mean_bounds", "std_bounds"),
        [
            (None, None, (25, 225), (5, 25)),
            (50, 3, (75, 175), (12, 18)),
            (np.float32(50), np.int64(3), (75, 175), (12, 18)),
            ((10, 20), [1, 2], (10, 20), (1, 2)),
            (np.array([10, 20]), np.array([1.0, 2.0]), (10, 20), (1, 2)),
        ],
    )
    def test_none_numbers_and_pairs_hold_for_all_channels_and_classes(
        self, means, stds, mean_bounds, std_bounds
    ):
        priors = TissuePriors.from_spec(means, stds, num_channels=2, num_classes=3)
        assert priors.means.shape == priors.stds.shape == (2, 2, 3)
        assert (priors.means == np.reshape(mean_bounds, (1, 2, 1))).all()
        assert (priors.stds == np.reshape(std_bounds, (1, 2, 1))).all()

    @pytest.mark.parametrize("form", ["array", "list", "path", "string"])
    def test_rows_of_an_array_are_channel_by_channel(self, form, tmp_path):
        np.save(tmp_path / "prior.npy", TWO_CHANNELS)
        spec = {
            "array": TWO_CHANNELS,
            "list": TWO_CHANNELS.tolist(),
            "path": tmp_path / "prior.npy",
            "string": str(tmp_path / "prior.npy"),
        }[form]
        priors = TissuePriors.from_spec(
            spec, (1, 2), num_channels=2, num_classes=3, distribution="normal"
        )
        assert priors.means[1].tolist() == [[200, 150, 20], [20, 15, 2]]

    @pytest.mark.parametrize("spec", [None, 30])
    def test_intervals_as_normal_distributions_are_an_error_unless_legacy(self, spec):
        with pytest.raises(ValueError, match=r"when distribution is 'normal', got .*'uniform'"):
            TissuePriors.from_spec(
                spec, (1, 2), num_channels=1, num_classes=2, distribution="normal"
            )

    def test_legacy_reads_bounds_as_mean_and_standard_deviation(self):
        priors = TissuePriors.from_spec(
            None, None, num_channels=1, num_classes=1, distribution="normal", legacy=True
        )
        means, stds = priors.from_draws(torch.tensor([[[1.0], [-0.1]]]))
        assert (means.item(), stds.item()) == (250, 2.5)

    def test_means_and_deviations_taken_for_bounds_are_an_error_unless_legacy(self):
        settings = {"num_channels": 2, "num_classes": 3}
        with pytest.raises(ValueError, match=r"got 100\.0 to 10\.0 \(channel 0, class 0\)"):
            TissuePriors.from_spec(TWO_CHANNELS, None, **settings)
        assert TissuePriors.from_spec(TWO_CHANNELS, None, **settings, legacy=True).num_classes == 3

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            (np.ones((2, 4)), r"shape \(2, 3\) = .*got shape \(2, 4\)"),
            (np.ones((4, 3)), r"got shape \(4, 3\)\. Use priors made for"),
            ([1, 2, 3], r"got shape \(3,\)"),
            ([[1, 2], [3]], "rows of one length"),
            ("none.npy", "none.npy"),
            ([["a", "b", "c"]] * 2, "must be None, a number, a pair"),
            (True, "must be None, a number, a pair"),
            ((np.nan, 1), "means must be finite"),
        ],
    )
    def test_other_forms_are_an_error(self, spec, message):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            TissuePriors.from_spec(spec, None, num_channels=1, num_classes=3)

    def test_a_file_of_the_wrong_shape_is_named(self, tmp_path):
        np.save(tmp_path / "prior.npy", np.ones((2, 7)))
        with pytest.raises(ValueError, match=r"got shape \(2, 7\) \(.*prior\.npy\)"):
            TissuePriors.from_spec(tmp_path / "prior.npy", None, num_channels=1, num_classes=3)

    def test_unknown_distribution_is_an_error(self):
        with pytest.raises(ValueError, match="one of uniform, normal, got 'gaussian'"):
            TissuePriors.from_spec(
                None,
                None,
                num_channels=1,
                num_classes=1,
                distribution="gaussian",
            )

    def test_negative_standard_deviations_of_normal_distributions_are_an_error(self):
        with pytest.raises(ValueError, match=r"of at least 0, got -1\.0"):
            TissuePriors.from_spec(
                (100, -1), (1, 1), num_channels=1, num_classes=2, distribution="normal"
            )

    def test_shapes_of_means_and_stds_must_agree(self):
        with pytest.raises(ValueError, match=r"stds must have the shape of means, \(1, 2, 3\)"):
            TissuePriors(np.ones((1, 2, 3)), np.ones((1, 2, 4)))
        with pytest.raises(ValueError, match=r"\(channels, 2, classes\), got \(2, 3\)"):
            TissuePriors(np.ones((2, 3)), np.ones((2, 3)))


class TestDraws:
    def test_draws_are_mapped_row_by_row(self):
        priors = TissuePriors.from_spec(
            TWO_CHANNELS, TWO_CHANNELS, num_channels=2, num_classes=3, distribution="normal"
        )
        draws = torch.zeros(1, 4, 3)
        draws[0, 0, 0], draws[0, 1, 1], draws[0, 2, 2], draws[0, 3, 0] = 1, 2, 3, 4
        means, stds = priors.from_draws(draws)
        assert means.tolist() == [[[110, 50, 0], [200, 150, 26]]]
        assert stds.tolist() == [[[100, 60, 0], [280, 150, 20]]]

    def test_negative_values_become_zero(self):
        priors = TissuePriors.from_spec(
            (1, 10), (1, 10), num_channels=1, num_classes=1, distribution="normal"
        )
        means, stds = priors.from_draws(torch.full((1, 2, 1), -5.0))
        assert (means.item(), stds.item()) == (0, 0)

    def test_results_are_small_float32_tensors_on_the_cpu(self):
        priors = TissuePriors.from_spec(None, None, num_channels=2, num_classes=5)
        for tensor in priors.sample(3, generator()):
            assert tensor.shape == (3, 2, 5)
            assert tensor.dtype == torch.float32
            assert tensor.device.type == "cpu"

    def test_same_seed_gives_same_draws_and_leaves_the_global_generator_alone(self):
        priors = TissuePriors.from_spec(None, None, num_channels=1, num_classes=4)
        state = torch.get_rng_state()
        one, two = priors.sample(2, generator(7)), priors.sample(2, generator(7))
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
        assert torch.equal(torch.get_rng_state(), state)

    def test_elements_channels_and_classes_are_drawn_apart(self):
        priors = TissuePriors.from_spec(None, None, num_channels=2, num_classes=6)
        means, stds = priors.sample(5, generator())
        assert len(means.unique()) == means.numel()
        assert len(stds.unique()) == stds.numel()

    @pytest.mark.parametrize("shape", [(2, 3), (1, 3, 3), (1, 2, 4)])
    def test_draws_of_another_shape_are_an_error(self, shape):
        priors = TissuePriors.from_spec(None, None, num_channels=1, num_classes=3)
        with pytest.raises(ValueError, match=r"draws must have shape \(B, 2, 3\)"):
            priors.from_draws(torch.zeros(shape))

    def test_uniform_draws_follow_their_distribution(self):
        priors = TissuePriors.from_spec((40, 60), (2, 3), num_channels=1, num_classes=4)
        means, stds = priors.sample(2000, generator(1))
        assert stats.kstest(means.flatten(), stats.uniform(40, 20).cdf).pvalue > ERROR_RATE
        assert stats.kstest(stds.flatten(), stats.uniform(2, 1).cdf).pvalue > ERROR_RATE

    def test_normal_draws_follow_their_distribution(self):
        priors = TissuePriors.from_spec(
            (100, 10), (20, 2), num_channels=1, num_classes=4, distribution="normal"
        )
        means, stds = priors.sample(2000, generator(2))
        assert stats.kstest(means.flatten(), stats.norm(100, 10).cdf).pvalue > ERROR_RATE
        assert stats.kstest(stds.flatten(), stats.norm(20, 2).cdf).pvalue > ERROR_RATE

    def test_clipped_draws_pile_up_at_zero_as_often_as_the_distribution_is_negative(self):
        priors = TissuePriors.from_spec(
            (5, 10), (5, 10), num_channels=1, num_classes=4, distribution="normal"
        )
        means, _ = priors.sample(2000, generator(3))
        zeros = int((means == 0).sum())
        test = stats.binomtest(zeros, means.numel(), stats.norm(5, 10).cdf(0))
        assert test.pvalue > ERROR_RATE

    def test_means_and_stds_are_independent(self):
        priors = TissuePriors.from_spec(None, None, num_channels=1, num_classes=4)
        means, stds = priors.sample(2000, generator(4))
        assert stats.pearsonr(means.flatten(), stds.flatten()).pvalue > ERROR_RATE


class TestCombining:
    def test_classes_can_be_dropped_moved_and_repeated(self):
        priors = TissuePriors.from_spec(
            TWO_CHANNELS, TWO_CHANNELS, num_channels=2, num_classes=3, distribution="normal"
        )
        chosen = priors.select_classes([2, 0, 0])
        assert chosen.means[0].tolist() == [[0, 100, 100], [0, 10, 10]]
        for wrong in ([3], [-1], []):
            with pytest.raises(ValueError, match="classes must be between 0 and 2"):
                priors.select_classes(wrong)


class TestValueSemantics:
    def test_arrays_are_copies_and_read_only(self):
        means = np.ones((1, 2, 3))
        priors = TissuePriors(means, means)
        means[:] = 9
        assert priors.means.max() == 1
        with pytest.raises(ValueError, match="read-only"):
            priors.means[0, 0, 0] = 2
        with pytest.raises(ValueError, match="read-only"):
            pickle.loads(pickle.dumps(priors)).means[0, 0, 0] = 2

    def test_equality_hash_and_pickling_go_by_value(self):
        one = TissuePriors.from_spec(None, None, num_channels=1, num_classes=3)
        two = pickle.loads(pickle.dumps(one))
        assert one == two
        assert hash(one) == hash(two)
        assert one != TissuePriors.from_spec(None, 3, num_channels=1, num_classes=3)
        assert one != "priors"

    @given(
        hnp.arrays(np.float64, (2, 2, 3), elements=st.floats(0, 1e6)),
        st.sampled_from(["uniform", "normal"]),
    )
    def test_plain_dictionaries_survive_json(self, array, distribution):
        priors = TissuePriors(array, array, distribution)
        data = json.loads(json.dumps(priors.to_dict()))
        assert TissuePriors.from_dict(data) == priors

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"mean": 1}, "keys must be distribution, means, stds"),
            ({"distribution": "flat"}, "got 'flat'"),
            ({"means": [[1, 2]]}, r"\(2 \* channels, classes\), got \(1, 2\)"),
        ],
    )
    def test_wrong_dictionaries_are_an_error(self, change, message):
        data = TissuePriors.from_spec(None, None, num_channels=1, num_classes=2).to_dict()
        with pytest.raises(ValueError, match=message):
            TissuePriors.from_dict({**data, **change})


class TestFiles:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_arrays_survive_a_round_trip_bit_by_bit(self, dtype, tmp_path):
        rng = np.random.default_rng(0)
        arrays = [rng.random((4, 7)).astype(dtype) for _ in range(2)]
        paths = [tmp_path / "prior_means.npy", tmp_path / "prior_stds.npy"]
        for path, array in zip(paths, arrays, strict=True):
            np.save(path, array)
        before = [path.read_bytes() for path in paths]
        priors = TissuePriors.read(*paths)
        priors.write(*paths)
        assert [path.read_bytes() for path in paths] == before
        assert (priors.num_channels, priors.num_classes) == (2, 7)
        assert priors.distribution == "normal"

    def test_odd_numbers_of_rows_are_an_error_that_names_the_file(self, tmp_path):
        np.save(tmp_path / "m.npy", np.ones((3, 7)))
        with pytest.raises(ValueError, match=r"got \(3, 7\) \(.*m\.npy\)"):
            TissuePriors.read(tmp_path / "m.npy", tmp_path / "m.npy")

    @pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04"])
    def test_files_that_are_not_arrays_are_an_error(self, content, tmp_path):
        (tmp_path / "m.npy").write_bytes(content)
        with pytest.raises(ValueError, match=r"\.npy array of numbers.*m\.npy"):
            TissuePriors.read(tmp_path / "m.npy", tmp_path / "m.npy")

    def test_other_endings_are_an_error(self, tmp_path):
        priors = TissuePriors.from_spec(None, None, num_channels=1, num_classes=2)
        with pytest.raises(ValueError, match=r"must end in \.npy"):
            priors.write(tmp_path / "m.txt", tmp_path / "s.npy")

    def test_a_failed_write_leaves_no_file(self, tmp_path, monkeypatch):
        def fail(*_: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(os, "replace", fail)
        priors = TissuePriors.from_spec(None, None, num_channels=1, num_classes=2)
        with pytest.raises(OSError, match="disk full"):
            priors.write(tmp_path / "m.npy", tmp_path / "s.npy")
        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk_is_named_with_the_file(self, tmp_path, monkeypatch):
        def fill(*_: object) -> None:
            raise OSError("16 requested and 0 written")  # so says numpy.save on /dev/full

        monkeypatch.setattr(np, "save", fill)
        priors = TissuePriors.from_spec(None, None, num_channels=1, num_classes=2)
        with pytest.raises(OSError, match="No space left on device") as caught:
            priors.write(tmp_path / "m.npy", tmp_path / "s.npy")
        assert caught.value.filename.startswith(str(tmp_path))
        assert "/." not in caught.value.filename
        assert list(tmp_path.iterdir()) == []

    @needs_shared_data
    @pytest.mark.parametrize(
        ("source", "kind"),
        [("synthsr", "t1_hr"), ("synthsr", "t1_lr"), ("synthsr", "t2"), ("synthseg", "t1")],
    )
    def test_published_priors_fit_the_ready_table_of_their_name(self, source, kind):
        from synthsr_transforms.labels.table import LabelTable

        folder = SHARED_DATA / "priors" / source
        priors = TissuePriors.read(
            folder / f"prior_means_{kind}.npy", folder / f"prior_stds_{kind}.npy"
        )
        assert priors.num_classes == LabelTable.ready(source).num_classes
