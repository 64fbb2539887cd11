"""Distributions: short forms, bounds, moments and independence.

Statistical tests have fixed seeds and each errs with a probability of at most `ALPHA` = 1e-4 if
the distribution is right; several comparisons in one test share that (Bonferroni).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from synthsr_transforms.distributions import (
    Choice,
    Constant,
    Distribution,
    LogNormal,
    Normal,
    Uniform,
    as_distribution,
)
from synthsr_transforms.seeds import derive_seed, normal_field, sample_seeds

ALPHA = 1e-4
COUNT = 4000

SHORT_FORMS: list[tuple[Any, Distribution]] = [
    (5, Constant(5.0)),
    ([1, 9], Uniform(1.0, 9.0)),
    ((1, 9), Uniform(1.0, 9.0)),
    ([1, 1, 5], Constant((1.0, 1.0, 5.0))),
    ([[1, 1, 5], [1, 5, 1]], Constant(((1.0, 1.0, 5.0), (1.0, 5.0, 1.0)))),
    ({"uniform": [[1, 1, 2], [1, 1, 9]]}, Uniform((1.0, 1.0, 2.0), (1.0, 1.0, 9.0))),
    ({"uniform": [0, [1, 2, 3]]}, Uniform(0.0, (1.0, 2.0, 3.0))),
    ({"normal": [0, 0.5]}, Normal(0.0, 0.5)),
    ({"log_normal": [-3, 0.5]}, LogNormal(-3.0, 0.5)),
    ({"choice": [3, 4, 5]}, Choice((3.0, 4.0, 5.0))),
    ({"constant": [1, 2]}, Constant((1.0, 2.0))),
    ({"constant": 7}, Constant(7.0)),
    (np.float32(2), Constant(2.0)),
    (Uniform(0.0, 1.0), Uniform(0.0, 1.0)),
]
NONSENSE = [
    None, True, "3", [], [1], [1, 2, 3, 4], [2, 1], [[1, 2], [3, 4]], {}, {"beta": [1, 2]},
    {"normal": [1]}, {"normal": [0, -1]}, {"log_normal": [0, -1]}, {"choice": []}, {"choice": 3},
    {"uniform": 3}, {"uniform": [1, "a"]}, {"uniform": [[1, 5, 1], [2, 2, 2]]},
    {"uniform": [0, 1], "normal": [0, 1]}, float("nan"), float("inf"), [0, float("inf")], Ellipsis,
]  # fmt: skip

numbers = st.floats(-100, 100, width=32)
pairs = st.tuples(numbers, numbers).map(sorted)
specs = st.one_of(
    numbers,
    pairs,
    st.tuples(numbers, numbers, numbers),
    st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=4),
    st.builds(lambda m, s: {"normal": [m, s]}, numbers, st.floats(0, 10)),
    st.builds(lambda m, s: {"log_normal": [m, s]}, st.floats(-5, 5), st.floats(0, 2)),
    st.builds(lambda v: {"choice": v}, st.lists(numbers, min_size=1, max_size=5)),
    st.builds(lambda v: {"constant": v}, st.lists(numbers, min_size=1, max_size=5)),
    st.builds(
        lambda p, w: {"uniform": [p, [x + w for x in p]]},
        st.lists(numbers, min_size=3, max_size=3),
        st.floats(0, 5),
    ),
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_likely(p_values: Sequence[float]) -> None:
    """No p-value is too small, given how many there are."""
    assert min(p_values) * len(p_values) > ALPHA, f"p-values {sorted(p_values)[:5]}"


class TestShortForms:
    @pytest.mark.parametrize(("spec", "expected"), SHORT_FORMS, ids=lambda v: str(v)[:40])
    def test_it_reads_as_documented(self, spec: Any, expected: Distribution) -> None:
        assert as_distribution(spec) == expected

    @pytest.mark.parametrize("spec", NONSENSE, ids=lambda v: str(v)[:30])
    def test_nonsense_is_refused_by_name(self, spec: Any) -> None:
        with pytest.raises(ValueError, match=r"^sigma must"):
            as_distribution(spec, name="sigma")

    @given(specs)
    def test_a_spec_comes_back_through_json(self, spec: Any) -> None:
        read = as_distribution(spec)
        assert as_distribution(json.loads(json.dumps(read.to_spec()))) == read

    def test_numbers_below_a_minimum_are_refused(self) -> None:
        assert as_distribution([0, 1], minimum=0) == Uniform(0.0, 1.0)
        for spec in (-1, [-1, 1], {"choice": [1, -1]}, {"uniform": [[0, -1, 0], [1, 1, 1]]}):
            with pytest.raises(ValueError, match="std must be at least 0"):
                as_distribution(spec, name="std", minimum=0)

    def test_several_numbers_are_refused_where_one_is_needed(self) -> None:
        for spec in ([1, 2, 3], [[1, 2, 3]], {"uniform": [0, [1, 2, 3]]}, {"normal": [0, [1, 2]]}):
            with pytest.raises(ValueError, match="height must be a distribution of one number"):
                as_distribution(spec, name="height", single=True)
        for spec in (1, [1, 2], {"normal": [0, 1]}, {"choice": [1, 2, 3]}):
            assert as_distribution(spec, single=True) == as_distribution(spec)


class TestSamples:
    @given(specs, st.integers(0, 99))
    def test_they_lie_within_the_bounds_and_have_the_shape(self, spec: Any, seed: int) -> None:
        read = as_distribution(spec)
        widths = [len(v) for v in vars(read).values() if isinstance(v, tuple)]
        rows = [
            len(v[0])
            for v in vars(read).values()
            if isinstance(v, tuple) and isinstance(v[0], tuple)
        ]
        shape = (4, *widths[:1], *rows) if not isinstance(read, Choice) else (4, 2)
        drawn = read.sample(shape, generator(seed))
        assert drawn.shape == shape
        assert drawn.dtype == torch.float32
        low, high = (torch.tensor(b, dtype=torch.float32) for b in read.bounds)
        assert bool((drawn >= low).all())
        assert bool((drawn <= high).all())

    @given(specs)
    def test_a_seed_brings_them_back(self, spec: Any) -> None:
        read = as_distribution(spec)
        assume(
            isinstance(read, Choice) or not any(isinstance(v, tuple) for v in vars(read).values())
        )
        first, second = (read.sample((5, 2), generator(3)) for _ in range(2))
        assert torch.equal(first, second)

    @pytest.mark.parametrize(
        "read",
        [Constant((1.0, 2.0, 3.0)), Uniform(0.0, (1.0, 2.0, 3.0)), Normal((0.0, 0.0, 0.0), 1.0)],
        ids=lambda v: type(v).__name__,
    )
    def test_numbers_per_axis_need_a_shape_that_ends_in_them(self, read: Distribution) -> None:
        assert read.sample((2, 3)).shape == (2, 3)
        for shape in ((2, 1), (3, 2), (1,)):
            with pytest.raises(ValueError, match="cannot give numbers of shape"):
                read.sample(shape)

    def test_numbers_per_channel_keep_their_place(self) -> None:
        drawn = Constant(((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))).sample((5, 2, 3))
        assert drawn[4].tolist() == [[1, 2, 3], [4, 5, 6]]

    def test_changing_a_sample_changes_no_other(self) -> None:
        read = Constant((1.0, 2.0, 3.0))
        read.sample((2, 3)).zero_()
        assert read.sample((1, 3)).tolist() == [[1, 2, 3]]


class TestDistributions:
    @pytest.mark.parametrize(
        ("read", "expected"),
        [
            (Uniform(-2.0, 5.0), stats.uniform(-2, 7)),
            (Normal(3.0, 0.5), stats.norm(3, 0.5)),
            (LogNormal(-3.0, 0.5), stats.lognorm(0.5, scale=np.exp(-3))),
        ],
        ids=["uniform", "normal", "log_normal"],
    )
    def test_samples_follow_the_law(self, read: Distribution, expected: Any) -> None:
        drawn = read.sample((COUNT,), generator(1)).numpy()
        assert_likely([stats.kstest(drawn, expected.cdf).pvalue])

    def test_parameters_hold_per_axis(self) -> None:
        drawn = Uniform((0.0, 1.0, 2.0), (1.0, 1.0, 9.0)).sample((COUNT, 3), generator(2)).numpy()
        assert (drawn[:, 1] == 1).all()
        tests = [
            stats.kstest(drawn[:, 0], stats.uniform(0, 1).cdf),
            stats.kstest(drawn[:, 2], stats.uniform(2, 7).cdf),
        ]
        assert_likely([t.pvalue for t in tests])

    def test_choices_are_equally_likely(self) -> None:
        drawn = Choice((3.0, 4.0, 9.0)).sample((COUNT,), generator(3))
        counts = [int((drawn == v).sum()) for v in (3, 4, 9)]
        assert sum(counts) == COUNT
        assert_likely([stats.chisquare(counts).pvalue])

    @pytest.mark.parametrize(
        "read", [Uniform(0.0, 1.0), Normal(0.0, 1.0), Choice((0.0, 1.0))], ids=str
    )
    def test_numbers_are_independent_along_every_axis(self, read: Distribution) -> None:
        drawn = read.sample((COUNT, 2, 3), generator(4)).flatten(1).T.numpy()
        pairs = [(i, j) for i in range(6) for j in range(i)]
        p_values = [stats.pearsonr(drawn[i], drawn[j]).pvalue for i, j in pairs]
        p_values += [stats.pearsonr(row[:-1], row[1:]).pvalue for row in drawn]
        assert_likely(p_values)


class TestSeeds:
    def test_seeds_are_uniform_and_fit_a_json_number(self) -> None:
        seeds = sample_seeds(COUNT, generator(5))
        assert seeds.dtype == torch.int64
        assert len(seeds.unique()) == COUNT
        assert json.loads(json.dumps(seeds.tolist())) == [int(float(s)) for s in seeds.tolist()]
        assert_likely([stats.kstest(seeds.double().numpy() / 2**53, stats.uniform.cdf).pvalue])

    def test_derived_seeds_do_not_repeat(self) -> None:
        seeds = {derive_seed(s, i, j) for s in range(5) for i in range(20) for j in range(20)}
        assert len(seeds) == 5 * 20 * 20
        scaled = np.array(sorted(seeds)) / 2**53
        assert_likely([stats.kstest(scaled, stats.uniform.cdf).pvalue])

    def test_fields_are_standard_normal_and_independent_between_seeds(
        self, device: torch.device
    ) -> None:
        seeds = torch.tensor([7, 8, 9, 7 + 2**32 - 1, 2**53 - 1])
        drawn = normal_field(seeds, (COUNT,), device).cpu().double().numpy()
        p_values = [stats.kstest(row, stats.norm.cdf).pvalue for row in drawn]
        p_values += [stats.pearsonr(drawn[i], drawn[j]).pvalue for i in range(5) for j in range(i)]
        p_values += [stats.pearsonr(row[:-1], row[1:]).pvalue for row in drawn]
        assert_likely(p_values)

    def test_fields_leave_the_global_generator_alone(self, device: torch.device) -> None:
        before = torch.get_rng_state()
        first = normal_field(torch.tensor([1, 2]), (3, 4), device)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(first, normal_field(torch.tensor([1, 2]), (3, 4), device))
