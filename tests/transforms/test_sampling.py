"""Every parameter that a transform samples follows the distribution that its documentation states.

Statistical tests have fixed seeds, and each errs with a probability of at most `ALPHA` = 1e-4 if
the distribution is right; several comparisons in one test share that (Bonferroni). They use large
batches of tiny images, whose elements are independent samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchio import LabelMap
from torchio.data.affine import AffineMatrix
from torchio.data.batch import ImagesBatch, SubjectsBatch

import synthsr_transforms as synth
from synthsr_transforms.transforms.base import SynthTransform

ALPHA = 1e-4
COUNT = 4000
ASEG = "freesurfer_aseg"
Maker = Callable[..., Any]


def assert_likely(p_values: Sequence[float]) -> None:
    """No p-value is too small, given how many there are."""
    assert min(p_values) * len(p_values) > ALPHA, f"p-values {sorted(p_values)[:5]}"


def fit(values: Tensor, expected: Any) -> float:
    """P-value of the Kolmogorov-Smirnov test."""
    return float(stats.kstest(values.double().cpu().flatten().numpy(), expected.cdf).pvalue)


def uniform(low: float, high: float) -> Any:
    return stats.uniform(low, high - low)


def share(hits: Tensor, expected: float) -> float:
    """P-value of the binomial test that a share of booleans is as expected."""
    flat = hits.flatten()
    return float(stats.binomtest(int(flat.sum()), len(flat), expected).pvalue)


def even(values: Tensor, kinds: int) -> float:
    """P-value of the test that whole numbers within 0..kinds-1 are equally likely."""
    counts = torch.bincount(values.long().flatten().cpu(), minlength=kinds)
    assert len(counts) == kinds
    return float(stats.chisquare(counts.numpy()).pvalue)


def apart(*columns: Tensor) -> list[float]:
    """P-values of the tests that each two columns are uncorrelated."""
    flat = [c.double().cpu().flatten().numpy() for c in columns]
    return [
        float(stats.pearsonr(flat[i], flat[j]).pvalue) for i in range(len(flat)) for j in range(i)
    ]


@pytest.fixture
def tiny(device: torch.device) -> Maker:
    """Maker of batches of many tiny elements that share one memory."""

    def make(
        size: int = COUNT,
        *,
        shape: Sequence[int] = (4, 3, 5),
        channels: int = 1,
        value: float = 0.0,
        label: int = 0,
        spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> SubjectsBatch:
        affines = [AffineMatrix.from_spacing(tuple(spacing_mm)) for _ in range(size)]
        image = torch.full((1, channels, *shape), value, device=device)
        labels = torch.full((1, 1, *shape), label, dtype=torch.int16, device=device)
        return SubjectsBatch(
            {
                "labels": ImagesBatch(
                    labels.expand(size, -1, -1, -1, -1), affines, image_class=LabelMap
                ),
                "image": ImagesBatch(image.expand(size, -1, -1, -1, -1), affines),
            }
        )

    return make


def sampled(transform: SynthTransform, batch: SubjectsBatch, seed: int = 1) -> dict[str, Tensor]:
    """Parameters that a transform samples for a batch, as it records them."""
    params = transform.sample_record(batch, torch.Generator().manual_seed(seed))
    return transform.to_params(params, batch.batch_size)


def image_of(transform: SynthTransform, batch: SubjectsBatch, name: str = "image") -> Tensor:
    """An image of the batch after the transform."""
    out = transform(batch, generator=torch.Generator().manual_seed(2))
    return out.images[name].data.cpu()


class TestSpatial:
    def test_deformations(self, tiny: Maker) -> None:
        transform = synth.SpatialDeformation(
            rotation_degrees=(-15, 15),
            scaling={"uniform": [[0.8, 0.9, 1.0], [1.2, 1.1, 1.3]]},
            shearing=(-0.02, 0.02),
            translation_mm={"normal": [1, 3]},
            velocity_std_mm=(0, 4),
        )
        params = sampled(transform, tiny())
        rotation, scaling = params["rotation_degrees"].unbind(1), params["scaling"].unbind(1)
        shearing, shift = params["shearing"].unbind(1), params["translation_mm"].unbind(1)
        bounds = ((0.8, 1.2), (0.9, 1.1), (1.0, 1.3))
        p_values = [fit(r, uniform(-15, 15)) for r in rotation]
        p_values += [fit(s, uniform(*b)) for s, b in zip(scaling, bounds, strict=True)]
        p_values += [fit(s, uniform(-0.02, 0.02)) for s in shearing]
        p_values += [fit(t, stats.norm(1, 3)) for t in shift]
        p_values.append(fit(params["velocity_std_mm"], uniform(0, 4)))
        p_values += apart(*rotation, *scaling, *shearing, *shift, params["velocity_std_mm"])
        assert len(params["velocity_seed"].unique()) == COUNT
        assert_likely(p_values)

    def test_coarse_velocities_have_the_drawn_width(self, tiny: Maker) -> None:
        batch, std_mm = tiny(400, shape=(8, 8, 8)), 0.01
        place = torch.stack(torch.meshgrid(*[torch.arange(8.0)] * 3, indexing="ij"))
        batch.images["image"].data = place.to(batch.device).expand(400, -1, -1, -1, -1)
        # So weak a velocity moves a node of the coarse grid (every fourth voxel) by itself.
        weak = synth.SpatialDeformation(velocity_std_mm=std_mm, velocity_shape_factor=0.25)
        moved = (image_of(weak, batch) - place) / std_mm
        nodes = moved[:, :, 4, 4, 4]
        assert_likely([fit(nodes, stats.norm(0, 1)), *apart(*nodes.unbind(1))])

    def test_every_crop_is_equally_likely_the_last_one_too(self, tiny: Maker) -> None:
        start = sampled(synth.PatchCrop(shape=(2, 3, 2)), tiny(shape=(4, 3, 5)))["start"]
        assert start.amin(0).tolist() == [0, 0, 0]
        assert start.amax(0).tolist() == [2, 0, 3]
        assert_likely([even(start[:, 0] * 4 + start[:, 2], 12)])

    def test_crops_that_hold_a_box_are_equally_likely(self, tiny: Maker) -> None:
        batch = tiny(shape=(10, 10, 10))
        batch.metadata["box"] = [[[3, 2, 4], [6, 8, 9]]] * COUNT
        start = sampled(synth.PatchCrop(shape=(5, 4, 5), focus="box"), batch)["start"]
        expected = ([1, 2, 3], [2, 3, 4], [4])
        p_values = []
        for axis, places in enumerate(expected):
            assert sorted(start[:, axis].unique().tolist()) == places
            if len(places) > 1:
                p_values.append(even(start[:, axis] - places[0], len(places)))
        assert_likely([*p_values, *apart(start[:, 0], start[:, 1])])

    def test_flips_have_their_probability_and_are_independent(self, tiny: Maker) -> None:
        params = synth.HemisphereFlip(p=0.3).sample_record(tiny(), torch.Generator().manual_seed(3))
        keep = torch.tensor(params["_keep"])
        pairs = keep[::2].long() * 2 + keep[1::2].long()
        expected = np.array([0.49, 0.21, 0.21, 0.09]) * (COUNT // 2)
        counts = torch.bincount(pairs, minlength=4).numpy()
        assert_likely([share(keep, 0.3), float(stats.chisquare(counts, expected).pvalue)])

    def test_a_crop_happens_for_the_whole_batch_or_not(self, tiny: Maker) -> None:
        batch, generator = tiny(3), torch.Generator().manual_seed(4)
        crop = synth.PatchCrop(shape=2, p=0.3)
        keep = torch.tensor(
            [crop.sample_record(batch, generator).get("_keep", [True] * 3) for _ in range(600)]
        )
        assert bool((keep == keep[:, :1]).all())
        assert_likely([share(keep[:, 0], 0.3)])

    def test_partial_fields_of_view(self, tiny: Maker) -> None:
        transform = synth.PartialFieldOfView(fraction=(0.25, 1.0))
        batch = tiny(shape=(20, 20, 20), value=1.0, size=2000)
        params = sampled(transform, batch, seed=2)
        assert_likely(
            [
                even(params["axis"], 3),
                fit(params["fraction"], uniform(0.25, 1)),
                fit(params["start"], uniform(0, 1)),
                *apart(params["axis"], params["fraction"], params["start"]),
            ]
        )
        kept = image_of(transform, batch).mean((1, 2, 3, 4))
        torch.testing.assert_close(kept, params["fraction"], rtol=0, atol=0.5 / 20 + 1e-6)

    def test_slabs_begin_anywhere(self, tiny: Maker) -> None:
        batch = tiny(2000, shape=(9, 9, 9), value=1.0)
        transform = synth.PartialFieldOfView(fraction=4 / 9)
        axis = sampled(transform, batch, seed=2)["axis"]
        kept = image_of(transform, batch)[:, 0]
        middle = torch.stack([kept.mean((2, 3)), kept.mean((1, 3)), kept.mean((1, 2))], 1)
        rows = middle[torch.arange(2000), axis]
        begin = rows.argmax(1)
        counts = torch.bincount(begin, minlength=6).numpy()
        expected = np.full(6, 2000 / 6)
        assert bool((rows.sum(1) == 4).all())
        assert_likely([float(stats.chisquare(counts, expected).pvalue)])


class TestBias:
    def test_widths_and_presence(self, tiny: Maker) -> None:
        transform = synth.BiasCorruption(std=(0.1, 0.5), probability=0.8)
        std = sampled(transform, tiny(channels=2))["image.std"]
        present = std > 0
        assert_likely(
            [share(present, 0.8), fit(std[present], uniform(0.1, 0.5)), *apart(*std.unbind(1))]
        )

    def test_the_log_field_is_normal_and_uncorrelated_at_the_nodes(self, tiny: Maker) -> None:
        batch = tiny(2000, shape=(8, 6, 8), channels=2, value=1.0)
        field = image_of(synth.BiasCorruption(std=0.3, shape_factor=0.3), batch).log() / 0.3
        # Coarse grid (3, 2, 3): nodes at voxels 0, 8/3, 16/3 and 0, 3, of which (0, 0) and 3 exist.
        nodes = [field[:, c, 0, y, 0] for c in (0, 1) for y in (0, 3)]
        assert_likely([*(fit(n, stats.norm()) for n in nodes), *apart(*nodes)])

    def test_between_the_nodes_the_field_is_interpolated(self, tiny: Maker) -> None:
        batch = tiny(2000, shape=(8, 8, 8), value=1.0)
        field = image_of(synth.BiasCorruption(std=0.3, shape_factor=0.25), batch)[:, 0].log() / 0.3
        halfway = field[:, 2, 0, 0]
        torch.testing.assert_close(
            halfway, (field[:, 0, 0, 0] + field[:, 4, 0, 0]) / 2, rtol=0, atol=1e-4
        )
        assert_likely(
            [fit(halfway, stats.norm(0, 0.5**0.5)), fit(field[:, 2, 2, 2], stats.norm(0, 0.5**1.5))]
        )


class TestIntensity:
    def test_exponents_are_log_normal(self, tiny: Maker) -> None:
        batch = tiny(channels=2, value=0.5, shape=(1, 1, 1))
        out = image_of(synth.GammaContrast(log_gamma={"normal": [0, 0.5]}), batch)
        exponent = (out.double().log() / np.log(0.5)).flatten(1)
        expected = stats.lognorm(0.5)
        assert_likely(
            [*(fit(e, expected) for e in exponent.unbind(1)), *apart(*exponent.unbind(1))]
        )

    def test_blur_widths(self, tiny: Maker) -> None:
        transform = synth.GaussianSmoothing(sigma_mm=(0.3, 2), multiplier=(0.8, 1.2))
        params = sampled(transform, tiny(channels=2))
        sigma, factor = (
            params[f"image.{k}"].flatten(1).unbind(1) for k in ("sigma_mm", "multiplier")
        )
        p_values = [fit(s, uniform(0.3, 2)) for s in sigma]
        p_values += [fit(f, uniform(0.8, 1.2)) for f in factor]
        assert_likely([*p_values, *apart(*sigma, *factor)])

    def test_noise_widths_and_kinds(self, tiny: Maker) -> None:
        transform = synth.ScannerNoise(std=(1, 9), rician_probability=0.3)
        params = sampled(transform, tiny(channels=2))
        std, rician = params["image.std"], params["image.rician"]
        assert len(params["image.noise_seed"].unique()) == COUNT
        assert_likely(
            [
                *(fit(s, uniform(1, 9)) for s in std.unbind(1)),
                share(rician, 0.3),
                *apart(*std.unbind(1), rician.float()),
            ]
        )

    def test_gaussian_noise_is_white(self, tiny: Maker) -> None:
        batch = tiny(2, shape=(12, 12, 12), channels=2, value=50.0)
        noise = (image_of(synth.ScannerNoise(std=4), batch) - 50) / 4
        fields = [noise[b, c] for b in range(2) for c in range(2)]
        along = [apart(f[:-1], f[1:])[0] for f in fields] + [
            apart(f[..., :-1], f[..., 1:])[0] for f in fields
        ]
        assert_likely([*(fit(f, stats.norm()) for f in fields), *apart(*fields), *along])

    @pytest.mark.parametrize("signal", [0.0, 3.0, 20.0])
    def test_rician_noise_follows_the_rice_distribution(self, signal: float, tiny: Maker) -> None:
        batch = tiny(2, shape=(12, 12, 12), channels=2, value=signal)
        noisy = image_of(synth.ScannerNoise(std=2, rician_probability=1), batch)
        expected = stats.rice(signal / 2, scale=2)
        fields = [noisy[b, c] for b in range(2) for c in range(2)]
        mean_test = (noisy.mean().item() - expected.mean()) / (
            expected.std() / noisy.numel() ** 0.5
        )
        p_mean = 2 * float(stats.norm.sf(abs(mean_test)))
        assert_likely([*(fit(f, expected) for f in fields), *apart(*fields), p_mean])


class TestMixtures:
    def test_means_and_widths_of_classes(self, tiny: Maker) -> None:
        transform = synth.TissueMixture(
            label_table=ASEG, num_channels=2, prior_means=[25, 225], prior_stds=[5, 25]
        )
        params = sampled(transform, tiny(1000))
        assert params["means"].shape == (1000, 2, 16)
        means, stds = params["means"].flatten(1).unbind(1), params["stds"].flatten(1).unbind(1)
        p_values = [fit(m, uniform(25, 225)) for m in means]
        p_values += [fit(s, uniform(5, 25)) for s in stds]
        assert_likely([*p_values, *apart(*means), *apart(*stds), *apart(means[3], stds[3])])

    def test_normal_priors_are_cut_at_zero(self, tiny: Maker) -> None:
        transform = synth.TissueMixture(
            label_table=ASEG, prior_means=[10, 10], prior_stds=[20, 2], distribution="normal"
        )
        params = sampled(transform, tiny(2000))
        means, stds = params["means"].flatten(), params["stds"].flatten()
        above = stats.truncnorm(-1, np.inf, 10, 10)
        assert means.min() == 0
        assert_likely(
            [
                share(means == 0, stats.norm.cdf(-1)),
                fit(means[means > 0], above),
                fit(stds, stats.norm(20, 2)),
            ]
        )

    def test_priors_per_class_and_channel_keep_their_place(self, tiny: Maker) -> None:
        rows = np.stack(
            [np.arange(16.0), np.arange(16.0) + 1, np.arange(16.0) * 10, np.arange(16.0) * 10 + 5]
        )
        transform = synth.TissueMixture(
            label_table=ASEG, num_channels=2, prior_means=rows.tolist(), prior_stds=0
        )
        means = sampled(transform, tiny(1000))["means"]
        first = [fit(means[:, 0, k], uniform(k, k + 1)) for k in range(16)]
        second = [fit(means[:, 1, k], uniform(10 * k, 10 * k + 5)) for k in range(16)]
        assert_likely(first + second)

    def test_a_distribution_for_the_background_wins(self, tiny: Maker) -> None:
        transform = synth.TissueMixture(
            label_table=ASEG, background_mean=[0, 15], background_std={"normal": [0, 5]}
        )
        params = sampled(transform, tiny())
        background = params["stds"][:, 0, 0]
        assert background.min() == 0
        half = stats.halfnorm(0, 5)
        assert_likely(
            [
                fit(params["means"][:, 0, 0], uniform(0, 15)),
                share(background == 0, 0.5),
                fit(background[background > 0], half),
            ]
        )

    def test_voxels_of_a_label_are_normal_and_channels_independent(
        self, make_labels: Maker, device: torch.device
    ) -> None:
        labels = make_labels((24, 24, 24))[None].expand(2, -1, -1, -1, -1).to(device)
        batch = SubjectsBatch(
            {"labels": ImagesBatch(labels, [AffineMatrix()] * 2, image_class=LabelMap)}
        )
        transform = synth.TissueMixture(label_table=ASEG, num_channels=2, prior_stds=[5, 25])
        out = image_of(transform, batch)
        params = sampled(transform, batch, seed=2)
        p_values = []
        for value in labels.unique().tolist():
            where = labels[0, 0].cpu() == value
            k = transform.label_table.row(value).label_class
            scores = [
                (out[b, c][where] - params["means"][b, c, k]) / params["stds"][b, c, k]
                for b in range(2)
                for c in range(2)
            ]
            p_values += [*(fit(s, stats.norm()) for s in scores), *apart(*scores)]
        assert len(p_values) > 100
        assert_likely(p_values)

    def test_both_sides_share_a_mean(self, tiny: Maker) -> None:
        table = synth.LabelTable.ready(ASEG)
        assert table.row(17).label_class == table.row(53).label_class
        transform = synth.TissueMixture(label_table=table, prior_stds=0)
        left, right = (image_of(transform, tiny(5, label=v)) for v in (17, 53))
        assert torch.equal(left, right)

    def test_intensities_of_a_contrast(self, tiny: Maker) -> None:
        transform = synth.TissueContrast(
            label_table=ASEG,
            by_tissue={"white_matter": [100, 120], "csf": {"normal": [20, 3]}},
            by_value={7: [5, 6]},
            std=[1, 4],
        )
        table, params = transform.label_table, sampled(transform, tiny())
        column = {value: params["means"][:, 0, k] for k, value in enumerate(table.values)}
        assert not column[17].any()
        assert_likely(
            [
                fit(column[2], uniform(100, 120)),
                fit(column[4], stats.norm(20, 3)),
                fit(column[7], uniform(5, 6)),
                fit(params["stds"][:, 0, 3], uniform(1, 4)),
                *apart(column[2], column[41], column[4], column[43], column[7]),
            ]
        )

    def test_sides_of_a_structure_may_have_one_intensity(self, tiny: Maker) -> None:
        given = {"by_tissue": {"white_matter": [100, 120]}, "std": [1, 4], "label_table": ASEG}
        transform = synth.TissueContrast(same_sides=True, **given)
        table, params = transform.label_table, sampled(transform, tiny())
        column = {value: number for number, value in enumerate(table.values)}
        for name in ("means", "stds"):
            of_labels = params[name][:, 0]
            for value, other in table.swapped_values().items():
                assert torch.equal(of_labels[:, column[value]], of_labels[:, column[other]])
            assert not torch.equal(of_labels[:, column[2]], of_labels[:, column[7]])

    def test_voxels_of_a_contrast_are_normal(self, tiny: Maker) -> None:
        transform = synth.TissueContrast(label_table=ASEG, by_tissue={"white_matter": 110}, std=3)
        made = image_of(transform, tiny(2, shape=(12, 12, 12), label=2), "target")
        fields = [made[b, 0] for b in range(2)]
        assert_likely([*(fit(f, stats.norm(110, 3)) for f in fields), *apart(*fields)])


class TestLesions:
    def test_numbers_of_lesions(self, tiny: Maker) -> None:
        transform = synth.LesionSimulation(
            label_table=ASEG, intensity=(10, 240), std=(0, 15), size_mm=(4, 20), height=(1, 2.2)
        )
        params = sampled(transform, tiny(channels=2))
        intensity, std = params["image.intensity"].unbind(1), params["image.std"].unbind(1)
        size, height = params["size_mm"], params["height"]
        assert len(torch.cat([params["shape_seed"], params["noise_seed"]]).unique()) == 2 * COUNT
        p_values = [
            *(fit(v, uniform(10, 240)) for v in intensity),
            *(fit(s, uniform(0, 15)) for s in std),
        ]
        p_values += [fit(size, uniform(4, 20)), fit(height, uniform(1, 2.2))]
        assert_likely([*p_values, *apart(*intensity, *std, size, height)])

    def test_lesions_cover_the_share_of_a_normal_distribution(self, tiny: Maker) -> None:
        transform = synth.LesionSimulation(
            label_table=ASEG, intensity=1, height=0.7, size_mm=4, softness=1e-3
        )
        out = image_of(transform, tiny(1500, shape=(9, 9, 9), label=2))
        expected = float(stats.norm.sf(0.7))
        corners = out[:, 0, [0, 8, 4], [0, 8, 4], [0, 0, 4]] > 0.5
        assert_likely([share(corner, expected) for corner in corners.unbind(1)])

    def test_lesions_are_likelier_beside_the_ventricles(self, tiny: Maker) -> None:
        transform = synth.LesionSimulation(
            label_table=ASEG, intensity=1, height=1.2, size_mm=4, softness=1e-3,
            beside=[4, 99], beside_mm=2, beside_lift=1.5,
        )  # fmt: skip
        batch = tiny(1500, shape=(24, 9, 9), label=2)
        labels = batch.images["labels"].data.clone()
        labels[:, :, :4] = 4
        batch.images["labels"].data = labels
        out = image_of(transform, batch)[:, 0] > 0.5
        assert not bool(out[:, :4].any())
        near, far = (float(stats.norm.sf(z)) for z in (1.2 - 1.5, 1.2))
        corners = [(0, 0), (8, 0), (0, 8)]
        assert_likely([share(out[:, 4, y, z], near) for y, z in corners])
        assert_likely([share(out[:, 11, y, z], far) for y, z in corners])

    def test_the_lift_is_drawn_for_each_element(self, tiny: Maker) -> None:
        transform = synth.LesionSimulation(label_table=ASEG, beside=[4], beside_lift=(0.5, 2))
        params = sampled(transform, tiny())
        lift, height = params["beside_lift"], params["height"]
        assert_likely([fit(lift, uniform(0.5, 2)), *apart(lift, height)])

    def test_lesions_lie_in_the_tissue_and_in_the_chosen_image_only(
        self, make_batch: Maker, seeded: Maker
    ) -> None:
        batch = make_batch(shape=(24, 20, 22))
        image = batch.images["image"]
        batch.images["target"] = ImagesBatch(image.data, image.affines)
        transform = synth.LesionSimulation(
            label_table=ASEG, tissues=["grey_matter"], intensity=500, height=0, include=["image"]
        )
        out = transform(batch, generator=seeded(1))
        assert torch.equal(out.images["target"].data, batch.images["target"].data)
        assert torch.equal(out.images["labels"].data, batch.images["labels"].data)
        changed = (out.images["image"].data != image.data).any(1, keepdim=True)
        values = batch.images["labels"].data
        tissue = (values == 3) | (values == 42)
        assert not bool((changed & ~tissue).any())
        assert bool((changed & tissue).any())

    def test_voxels_inside_a_lesion_are_normal(self, tiny: Maker) -> None:
        transform = synth.LesionSimulation(label_table=ASEG, intensity=100, std=5, height=-99)
        out = image_of(transform, tiny(2, shape=(12, 12, 12), channels=2, label=2))
        fields = [out[b, c] for b in range(2) for c in range(2)]
        assert_likely([*(fit(f, stats.norm(100, 5)) for f in fields), *apart(*fields)])

    def test_margins_of_skull_stripping(self, tiny: Maker) -> None:
        transform = synth.SkullStripping(label_table=ASEG, margin_mm=[-1, 4])
        assert_likely([fit(sampled(transform, tiny())["margin_mm"], uniform(-1, 4))])

    @pytest.mark.parametrize("margin_mm", [-1.5, 0.0, 2.0, 4.0])
    def test_the_border_of_the_mask_lies_at_the_margin(
        self, margin_mm: float, device: torch.device
    ) -> None:
        values = torch.zeros(1, 1, 60, 8, 8, dtype=torch.int16, device=device)
        values[:, :, 30:] = 2
        affine = [AffineMatrix.from_spacing((0.5, 2.0, 1.0))]
        transform = synth.SkullStripping(label_table=ASEG, margin_mm=margin_mm)
        batch = SubjectsBatch(
            {
                "labels": ImagesBatch(values, affine, image_class=LabelMap),
                "image": ImagesBatch(torch.ones(1, 1, 60, 8, 8, device=device), affine),
            }
        )
        kept_mm = image_of(transform, batch)[0, 0, :, 4, 4].sum().item() * 0.5
        assert kept_mm == pytest.approx(15 + margin_mm, abs=0.5)


class TestResolutions:
    """The distribution of `SampleResolution`, in its three modes."""

    def test_isotropic_axes_are_uniform_from_the_grid_on(self, tiny: Maker) -> None:
        transform = synth.AcquisitionResolution(max_isotropic_mm=[5, 6, 9], probability_minimum=0.2)
        params = sampled(transform, tiny(channels=2, spacing_mm=(1, 1.5, 3)))
        spacing = params["spacing_mm"].flatten(0, 1)
        finest = torch.tensor([1.0, 1.5, 3.0])
        at_finest = (spacing == finest).all(1)
        rest = spacing[~at_finest].unbind(1)
        p_values = [
            fit(r, uniform(a, b)) for r, a, b in zip(rest, finest.tolist(), (5, 6, 9), strict=True)
        ]
        assert_likely([share(at_finest, 0.2), *p_values, *apart(*rest)])

    def test_one_axis_is_thick(self, tiny: Maker) -> None:
        transform = synth.AcquisitionResolution(
            max_isotropic_mm=None, max_anisotropic_mm=[5, 6, 9], probability_minimum=0.1
        )
        spacing = sampled(transform, tiny(channels=2))["spacing_mm"].flatten(0, 1)
        thick = spacing > 1
        assert int(thick.sum(1).max()) == 1
        chosen = thick[thick.any(1)].float().argmax(1)
        p_values = [fit(spacing[thick[:, a], a], uniform(1, m)) for a, m in enumerate((5, 6, 9))]
        assert_likely([share(~thick.any(1), 0.1), even(chosen, 3), *p_values])

    def test_both_modes_have_their_shares(self, tiny: Maker) -> None:
        transform = synth.AcquisitionResolution(
            max_isotropic_mm=4,
            max_anisotropic_mm=9,
            probability_minimum=0.15,
            probability_isotropic=0.3,
        )
        spacing = sampled(transform, tiny(channels=2))["spacing_mm"].flatten(0, 1)
        number = (spacing > 1).sum(1)
        assert set(number.tolist()) == {0, 1, 3}
        iso, aniso = spacing[number == 3], spacing[number == 1]
        thick = aniso.argmax(1)
        assert_likely(
            [
                share(number == 0, 0.15),
                share(number == 3, 0.85 * 0.3),
                even(thick, 3),
                *(fit(axis, uniform(1, 4)) for axis in iso.unbind(1)),
                fit(aniso.amax(1), uniform(1, 9)),
            ]
        )

    def test_channels_and_elements_are_independent(self, tiny: Maker) -> None:
        transform = synth.AcquisitionResolution(max_isotropic_mm=9, probability_minimum=0)
        spacing = sampled(transform, tiny(channels=2))["spacing_mm"]
        columns = spacing.flatten(1).unbind(1)
        assert_likely([*apart(*columns), *(apart(c[:-1], c[1:])[0] for c in columns)])

    @pytest.mark.parametrize("min_mm", [None, 2.0])
    def test_the_thickness_is_uniform_between_minimum_and_spacing(
        self, min_mm: float | None, tiny: Maker
    ) -> None:
        transform = synth.AcquisitionResolution(
            min_mm=min_mm, max_isotropic_mm=9, probability_minimum=0
        )
        params, low = sampled(transform, tiny()), min_mm or 1.0
        spacing, thickness = (params[k].flatten(0, 1) for k in ("spacing_mm", "thickness_mm"))
        where = (thickness - low) / (spacing - low)
        assert_likely(
            [*(fit(w, uniform(0, 1)) for w in where.unbind(1)), *apart(where[:, 0], spacing[:, 0])]
        )

    def test_a_grid_coarser_than_the_maximum_keeps_its_spacing(self, tiny: Maker) -> None:
        transform = synth.AcquisitionResolution(max_isotropic_mm=2, probability_minimum=0)
        spacing = sampled(transform, tiny(100, spacing_mm=(1, 3, 5)))["spacing_mm"]
        assert spacing[..., 1:].unique(dim=0).tolist() == [[[3, 5]]]
        assert spacing[..., 0].max() <= 2


class TestAcquisitions:
    def test_numbers_of_an_acquisition(self, tiny: Maker) -> None:
        transform = synth.SliceAcquisition(
            spacing_mm={"uniform": [[1, 1, 2], [1, 3, 9]]},
            thickness_mm=[1, 4],
            blur_multiplier=[0.8, 1.2],
            noise_std=[0, 5],
            rician_probability=0.4,
        )
        params = sampled(transform, tiny(channels=2))
        spacing = params["spacing_mm"].flatten(0, 1)
        thickness, factor = (params[k].flatten(1) for k in ("thickness_mm", "blur_multiplier"))
        assert bool((spacing[:, 0] == 1).all())
        p_values = [fit(spacing[:, 1], uniform(1, 3)), fit(spacing[:, 2], uniform(2, 9))]
        p_values += [fit(t, uniform(1, 4)) for t in thickness.unbind(1)]
        p_values += [fit(f, uniform(0.8, 1.2)) for f in factor.unbind(1)]
        p_values += [fit(s, uniform(0, 5)) for s in params["noise_std"].unbind(1)]
        p_values += [
            share(params["rician"], 0.4),
            *apart(*params["noise_std"].unbind(1), *factor.unbind(1)),
        ]
        assert len(params["noise_seed"].unique()) == COUNT
        assert_likely(p_values)

    @pytest.mark.parametrize("rician", [0, 1])
    def test_noise_of_the_slices(self, rician: int, tiny: Maker) -> None:
        transform = synth.SliceAcquisition(spacing_mm=1, noise_std=2, rician_probability=rician)
        noisy = image_of(transform, tiny(2, shape=(12, 12, 12), channels=2))
        expected = stats.rayleigh(scale=2) if rician else stats.norm(0, 2)
        fields = [noisy[b, c] for b in range(2) for c in range(2)]
        assert_likely([*(fit(f, expected) for f in fields), *apart(*fields)])

    def test_noise_is_drawn_per_slice_and_interpolated(self, tiny: Maker) -> None:
        transform = synth.SliceAcquisition(spacing_mm=(1, 1, 4), noise_std=2, alignment="corner")
        noisy = image_of(transform, tiny(8, shape=(8, 8, 16)))[:, 0]
        halfway = (noisy[..., 0] + noisy[..., 4]) / 2
        torch.testing.assert_close(noisy[..., 2], halfway, rtol=0, atol=1e-5)
        assert_likely(
            [fit(noisy[..., ::4], stats.norm(0, 2)), fit(noisy[..., 2], stats.norm(0, 2**0.5))]
        )

    def test_spacings_of_a_reliability_map(self, tiny: Maker) -> None:
        transform = synth.ReliabilityMap(spacing_mm={"uniform": [[1, 1, 2], [1, 1, 6]]})
        spacing = sampled(transform, tiny(channels=2))["spacing_mm"][..., 2]
        assert_likely(
            [*(fit(s, uniform(2, 6)) for s in spacing.unbind(1)), *apart(*spacing.unbind(1))]
        )


class TestRegistration:
    @pytest.mark.parametrize("cls", [synth.RegistrationError, synth.RegistrationCorrection])
    def test_motions_are_uniform_and_the_reference_stays(
        self, cls: type[SynthTransform], tiny: Maker
    ) -> None:
        transform = cls(rotation_degrees=(-5, 5), translation_mm=(-4, 3), reference_channel=1)
        params = sampled(transform, tiny(channels=3))
        angle, shift = params["rotation_degrees"], params["translation_mm"]
        assert not angle[:, 1].any()
        assert not shift[:, 1].any()
        angles, shifts = (d[:, [0, 2]].flatten(1).unbind(1) for d in (angle, shift))
        p_values = [fit(a, uniform(-5, 5)) for a in angles] + [
            fit(s, uniform(-4, 3)) for s in shifts
        ]
        assert_likely([*p_values, *apart(*angles, *shifts)])

    def test_correction_undoes_the_error(self, make_batch: Maker, seeded: Maker) -> None:
        batch = make_batch(2, affine="anisotropic", shape=(20, 18, 16))
        x = torch.arange(20.0, device=batch.device)[:, None, None]
        z = torch.arange(16.0, device=batch.device)
        batch.images["image"].data = (x + 3 * z).expand(2, 2, 20, 18, 16)
        moved = synth.RegistrationError()(batch, generator=seeded(1))
        none = {"rotation_degrees": 0, "translation_mm": 0}
        back = synth.RegistrationCorrection(**none)(moved).images["image"].data
        expected = batch.images["image"].data
        assert (moved.images["image"].data - expected).abs().max() > 1
        inside = (..., slice(7, -7), slice(6, -6), slice(6, -6))
        torch.testing.assert_close(back[inside], expected[inside], rtol=0, atol=1e-3)

    def test_correction_copes_with_elements_that_were_left_out(
        self, make_batch: Maker, seeded: Maker, assert_same: Maker
    ) -> None:
        batch = make_batch(4)
        moved = synth.RegistrationError(p=0.5)(batch, generator=seeded(1))
        kept = moved.applied_transforms[0].params["_keep"]
        assert 0 < sum(kept) < 4
        correction = synth.RegistrationCorrection()
        back = correction(moved, generator=seeded(2))
        for before, after in zip(moved.unbatch(), back.unbatch(), strict=True):
            alone = correction.replay(before, after.applied_transforms[-1].params)
            first, second = (SubjectsBatch.from_subjects([s]) for s in (alone, after))
            assert_same(first, second, tolerance=1e-5)
