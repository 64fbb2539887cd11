"""Promises of validation on real scans with label maps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import (
    SHARED_DATA,
)
from torch import Tensor

from synthsr_net.metrics.comparison import fit_polynomial
from synthsr_net.metrics.volumes import MEASURES, measure
from synthsr_net.models.checkpoint import InputConfig, ModelConfig, ScanConfig
from synthsr_net.networks.unet import UNetConfig
from synthsr_net.prediction.space.preprocess import to_network_space
from synthsr_net.training import validation as real_pairs
from synthsr_net.training.validation import RealPair, RealPairs, read_real_pairs
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.io.scans import Scan
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.phantom import head_phantom

SPACING = 6.0
LEVELS = {"white_matter": 110.0, "grey_matter": 75.0, "deep_grey": 90.0, "csf": 30.0}


def config(spacing_mm: float = SPACING, **changes: Any) -> ModelConfig:
    scan = ScanConfig(spacing_mm=spacing_mm, divisor=8)
    return ModelConfig(**{"scan": scan, **changes})


def identity(x: Tensor) -> Tensor:
    return x


def figures(found: dict[str, float], place: str) -> dict[str, float]:
    """Metrics of the network at a place, such as `4mm`, by the rest of their names."""
    start = f"real/{place}/"
    ends = {name.removeprefix(start): x for name, x in found.items() if name.startswith(start)}
    return {name: value for name, value in ends.items() if not name.startswith("interpolation/")}


def interpolated(found: dict[str, float], place: str) -> dict[str, float]:
    return figures(found, f"{place}/interpolation")


@pytest.fixture(scope="module")
def pair() -> RealPair:
    """A head of the phantom, drawn like a T1 with a few per cent of noise."""
    head = head_phantom(spacing_mm=SPACING, seed=3)
    table = LabelTable.ready("synthseg")
    labels = head.data[0].numpy()
    image = np.zeros(labels.shape, np.float32)
    for value, tissue in zip(table.values, table.tissues, strict=True):
        level = 0.0 if tissue == "background" else LEVELS.get(tissue, 60.0)
        image[labels == value] = level
    image += np.random.default_rng(0).normal(0, 2, image.shape)
    affine = np.asarray(head.affine.data)
    return RealPair("phantom", Volume(image.clip(0), affine), Volume(labels, affine))


@pytest.fixture(scope="module")
def pairs(pair: RealPair) -> RealPairs:
    return RealPairs([pair], config(), spacings_mm=[6, 12])


@pytest.fixture(scope="module")
def plain(pairs: RealPairs) -> dict[str, float]:
    """What the network that changes nothing reaches."""
    return pairs.measure(identity)


class TestInputs:
    def test_each_spacing_has_slices_along_each_axis_but_the_scan_as_it_is(self, pair: RealPair):
        assert len(RealPairs([pair], config(), spacings_mm=[1, 6])) == 2
        assert len(RealPairs([pair, pair], config(), spacings_mm=[6, 12])) == 2 * (1 + 3)

    def test_inputs_are_what_the_network_is_trained_on(self, pair: RealPair):
        def check(x: Tensor) -> Tensor:
            assert x.shape[:2] == (1, 1)
            assert x.dtype == torch.float32
            assert not torch.is_grad_enabled()
            assert all(size % 8 == 0 for size in x.shape[2:])
            assert (float(x.min()), float(x.max())) == (0.0, 1.0)
            return x

        RealPairs([pair], config(), spacings_mm=[12]).measure(check)

    def test_a_scan_as_it_is_becomes_an_input_as_in_prediction(self, pair: RealPair):
        seen: list[Tensor] = []
        data, affine = pair.image
        full = (slice(4, 26), slice(4, 33), slice(3, 27))
        cropped = RealPair(
            "part", Volume(data[full], affine), Volume(pair.labels.data[full], affine)
        )
        RealPairs([cropped], config(), spacings_mm=[6]).measure(lambda x: seen.append(x) or x)
        scan = Scan(np.ascontiguousarray(data[full]), affine)
        expected, _ = to_network_space([scan], config())
        torch.testing.assert_close(seen[0][0], expected, rtol=0, atol=5e-4)  # kept as float16

    def test_thick_slices_keep_what_does_not_change_across_them(self):
        affine = np.diag([1.0, 1, 1, 1])
        plane = torch.rand(12, 15, generator=torch.Generator().manual_seed(0))
        for axis in range(3):
            image = plane.unsqueeze(axis).repeat_interleave(20, axis)
            sliced = real_pairs._sliced(image, affine, axis, 5.0)
            torch.testing.assert_close(sliced, image, rtol=0, atol=1e-5)
            other = real_pairs._sliced(image, affine, (axis + 1) % 3, 5.0)
            assert float((other - image).abs().max()) > 0.1

    def test_thick_slices_are_means_over_their_thickness(self):
        image = torch.zeros(3, 3, 40)
        image[..., 20] = 1.0
        sliced = real_pairs._sliced(image, np.eye(4), 2, 5.0)
        assert float(sliced.sum()) == pytest.approx(9.0, rel=0.1)
        assert float(sliced.max()) < 0.25
        assert float(sliced[..., 20].mean()) > float(sliced[..., 27].mean())

    def test_chance_elsewhere_is_left_alone(self, pair: RealPair):
        before = torch.random.get_rng_state()
        RealPairs([pair], config(), spacings_mm=[12]).measure(identity)
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_scans_of_another_spacing_are_brought_to_that_of_the_network(self):
        labels = np.zeros((40, 44, 48), np.int16)
        labels[10:30, 11:33, 12:36] = 2
        labels[10:18] = np.where(labels[10:18] > 0, 3, 0)
        image = np.choose(labels, [0, 0, 100, 50]).astype(np.float32)
        affine = np.diag([2.0, 2, 2, 1])
        fine = RealPair("fine", Volume(image, affine), Volume(labels, affine))
        seen: list[Tensor] = []
        found = RealPairs([fine], config(4.0), spacings_mm=[4]).measure(
            lambda x: seen.append(x) or x
        )
        assert seen[0].shape == (1, 1, 24, 24, 24)  # 20, 22 and 24 voxels
        assert min(found[f"real/4mm/brain/dice_{end}"] for end in ("wm", "gm")) > 0.9
        assert "real/4mm/brain/dice_csf" not in found


class TestMeasure:
    def test_the_input_itself_is_plain_interpolation(self, plain: dict[str, float]):
        for place in ("6mm", "12mm"):
            assert figures(plain, place) == interpolated(plain, place)
        names = [f"{r}/{m}" for r in ("brain", "head") for m in ("l1", "psnr", "ssim")]
        dice = [f"brain/dice_{end}" for end in ("wm", "gm", "csf")]
        assert list(figures(plain, "6mm")) == names + dice

    def test_thicker_slices_are_less_like_the_scan(self, pair: RealPair, plain: dict[str, float]):
        thicker = RealPairs([pair], config(), spacings_mm=[24]).measure(identity)
        for name, value in figures(plain, "6mm").items():
            values = [value, plain[f"real/12mm/{name}"], thicker[f"real/24mm/{name}"]]
            assert values == sorted(values, reverse=not name.endswith("l1"))
            assert len(set(values)) == 3

    def test_the_scan_as_it_is_is_like_itself(self, plain: dict[str, float]):
        found = figures(plain, "6mm")
        assert found["brain/l1"] < 1e-3
        assert found["brain/psnr"] > 50
        assert found["brain/ssim"] > 0.999
        assert found["brain/dice_wm"] > 0.9

    @pytest.mark.parametrize("contrast", ["inverted", "brighter", "other"])
    def test_the_contrast_of_the_prediction_makes_no_difference(
        self, pair: RealPair, plain: dict[str, float], contrast: str
    ):
        change = {
            "inverted": lambda x: 0.7 - x,
            "brighter": lambda x: 300 * x + 40,
            "other": lambda x: x.clamp(min=0) ** (1 / 3),  # whose cube is the scan
        }[contrast]
        found = RealPairs([pair], config(), spacings_mm=[6]).measure(change)
        for name, value in figures(plain, "6mm").items():
            if contrast != "other" or name.endswith(("l1", "ssim")):
                assert found[f"real/6mm/{name}"] == pytest.approx(value, rel=1e-2, abs=2e-4)

    def test_a_network_that_mends_beats_interpolation(
        self, pairs: RealPairs, plain: dict[str, float]
    ):
        seen: list[Tensor] = []
        found = pairs.measure(lambda x: 0.5 * (x + (seen.append(x) or seen[0])))
        for name, value in figures(found, "12mm").items():
            before = plain[f"real/12mm/{name}"]
            assert value < before if name.endswith("l1") else value > before
        assert interpolated(found, "12mm") == interpolated(plain, "12mm")

    def test_interpolation_is_measured_once(self, pair: RealPair, monkeypatch):
        scans = RealPairs([pair, pair], config(), spacings_mm=[6])
        calls: list[int] = []
        compare = real_pairs.compare
        monkeypatch.setattr(real_pairs, "compare", lambda *a: calls.append(0) or compare(*a))
        first = scans.measure(identity)
        assert len(calls) == 2 * len(scans)
        assert scans.measure(identity) == first
        assert len(calls) == 3 * len(scans)

    def test_metrics_are_means_over_scans(self, pair: RealPair):
        darker = pair._replace(image=pair.image._replace(data=np.sqrt(pair.image.data)))
        both, first, second = (
            RealPairs(chosen, config(), spacings_mm=[6]).measure(lambda x: x.square())
            for chosen in ([pair, darker], [pair], [darker])
        )
        for name, value in both.items():
            assert value == pytest.approx((first[name] + second[name]) / 2)
        assert first["real/6mm/brain/l1"] != pytest.approx(second["real/6mm/brain/l1"])

    def test_what_lies_outside_a_mask_is_the_same_in_both(self, pair: RealPair):
        scans = RealPairs([pair], config(), spacings_mm=[6])
        seen: list[Tensor] = []
        noise = torch.Generator().manual_seed(0)

        def predict(x: Tensor) -> Tensor:
            seen.append(x + 0.1 * torch.randn(x.shape, generator=noise))
            return seen[-1]

        found = scans.measure(predict)
        (scan,) = scans._scans
        image, head, tissues = scan.reference[:3]
        output = seen[0][0, 0][scan.inside]
        for region, mask in (("brain", tissues > 0), ("head", head)):
            whole = torch.zeros(2, *image.shape)
            whole[0][mask] = fit_polynomial(output[mask].double(), image[mask].double()).float()
            whole[1][mask] = image[mask]
            expected = measure(whole[None, :1], whole[None, 1:], [mask[None, None]])
            for name, value in zip(MEASURES, expected.flatten().tolist(), strict=True):
                assert found[f"real/6mm/{region}/{name}"] == pytest.approx(value, rel=1e-5)

    def test_dice_scores_are_those_of_the_nearest_mean(self, pair: RealPair):
        scans = RealPairs([pair], config(), spacings_mm=[6])
        seen: list[Tensor] = []
        found = scans.measure(lambda x: seen.append((x - 0.4).abs()) or seen[0])
        (scan,) = scans._scans
        values, tissues = seen[0][0, 0][scan.inside].numpy(), scan.reference.tissues.numpy()
        values, tissues = values[tissues >= 2], tissues[tissues >= 2]
        means = [values[tissues == k].mean() for k in (2, 3, 4)]
        nearest = 2 + np.argmin([np.abs(values - mean) for mean in means], axis=0)
        for k, end in enumerate(("wm", "gm", "csf"), start=2):
            both = ((nearest == k) & (tissues == k)).sum()
            expected = 2 * both / ((nearest == k).sum() + (tissues == k).sum())
            assert found[f"real/6mm/brain/dice_{end}"] == pytest.approx(expected, abs=1e-3)

    def test_tissues_are_those_of_the_labels(self, pair: RealPair):
        (scan,) = RealPairs([pair], config(), spacings_mm=[6])._scans
        labels, tissues = pair.labels.data, scan.reference.tissues
        table = LabelTable.ready("synthseg")
        for tissue, number in (("white_matter", 2), ("grey_matter", 3), ("csf", 4)):
            expected = np.isin(labels, table.values_of(tissue)).sum()
            assert int((tissues == number).sum()) == expected > 0
        assert int((tissues > 0).sum()) == np.isin(labels, table.brain_values).sum()

    def test_predictions_that_are_no_numbers_show(self, pairs: RealPairs, plain: dict[str, float]):
        found = pairs.measure(lambda x: x / 0)
        for place in ("6mm", "12mm"):
            assert all(math.isnan(value) for value in figures(found, place).values())
            assert interpolated(found, place) == interpolated(plain, place)

    def test_a_constant_prediction_has_the_error_of_the_mean(self, pair: RealPair):
        scans = RealPairs([pair], config(), spacings_mm=[6])
        found = figures(scans.measure(torch.ones_like), "6mm")
        reference = scans._scans[0].reference
        brain = reference.image[reference.tissues > 0]
        expected = float((brain - brain.mean()).abs().mean())
        assert found["brain/l1"] == pytest.approx(expected, rel=1e-4)
        assert found["brain/ssim"] < 0.5

    def test_a_network_is_given_inputs_where_its_weights_are(self, pair: RealPair, device):
        network = torch.nn.Conv3d(1, 1, 1).to(device)
        with torch.no_grad():
            network.weight.fill_(2.0)
        scans = RealPairs([pair], config(), spacings_mm=[6])
        expected = figures(scans.measure(identity, device), "6mm")
        assert figures(scans.measure(network, device), "6mm") == pytest.approx(expected, rel=1e-2)

    def test_only_the_first_channel_counts_in_any_precision(self, pair: RealPair):
        scans = RealPairs([pair], config(), spacings_mm=[6])
        expected = scans.measure(lambda x: x.bfloat16().float())
        assert scans.measure(lambda x: torch.cat([x, 1 - x], 1).bfloat16()) == expected


class TestFitCubic:
    def test_it_is_the_polynomial_of_least_squares(self):
        random = np.random.default_rng(0)
        values, goal = random.normal(100, 30, 500), random.normal(0, 1, 500)
        goal += np.sin(values / 30)
        expected = np.polyval(np.polyfit(values - 100, goal, 3), values - 100)
        found = fit_polynomial(torch.tensor(values), torch.tensor(goal))
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)

    @pytest.mark.parametrize("levels", [1, 2, 3])
    def test_few_levels_get_their_means(self, levels: int):
        generator = torch.Generator().manual_seed(levels)
        values = torch.arange(60, dtype=torch.float64).remainder(levels)
        goal = torch.rand(60, dtype=torch.float64, generator=generator)
        found = fit_polynomial(values, goal)
        for level in range(levels):
            inside = values == level
            expected = goal[inside].mean().expand(int(inside.sum()))
            torch.testing.assert_close(found[inside], expected)

    def test_infinity_has_no_fit(self):
        values = torch.tensor([0.0, 1.0, math.inf], dtype=torch.float64)
        assert bool(fit_polynomial(values, values).isnan().all())


class TestBadInput:
    @pytest.mark.parametrize(
        ("inputs", "named"),
        [
            ([InputConfig(reliability_map=True)], "image with reliability map"),
            ([InputConfig(name="T1w"), InputConfig(name="T2w")], "T1w, T2w"),
        ],
    )
    def test_networks_of_several_channels_are_refused_with_the_reason(
        self, pair: RealPair, inputs: list[InputConfig], named: str
    ):
        with pytest.raises(ValueError, match="needs a network that takes one image") as caught:
            RealPairs([pair], config(inputs=inputs, network=UNetConfig(in_channels=2)))
        assert named in str(caught.value)

    @pytest.mark.parametrize("change", ["no brain", "skull alone", "constant"])
    def test_a_pair_without_a_brain_is_refused(self, pair: RealPair, change: str):
        data, labels = pair.image.data, pair.labels.data
        if change == "constant":
            data = np.full_like(data, 7)
        else:
            labels = np.full_like(labels, 0 if change == "no brain" else 515)
        wrong = RealPair(
            "sub-07", pair.image._replace(data=data), pair.labels._replace(data=labels)
        )
        with pytest.raises(ValueError, match="sub-07 must label a brain"):
            RealPairs([wrong], config())


class TestReading:
    def test_files_are_matched_and_turned(self, pair: RealPair, tmp_path: Path):
        for name, volume in (("labels", pair.labels), ("images", pair.image)):
            image = nib.Nifti1Image(volume.data, volume.affine)
            turned = image.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]], float))
            (tmp_path / name).mkdir()
            nib.save(turned, tmp_path / name / "sub-01_x.nii.gz")
        (found,) = read_real_pairs(tmp_path / "images", tmp_path / "labels")
        assert found.name == "sub-01_x"
        np.testing.assert_array_equal(found.image.data, pair.image.data)
        np.testing.assert_array_equal(found.labels.data, pair.labels.data)
        np.testing.assert_allclose(found.image.affine, pair.image.affine, atol=1e-5)

    @pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=f"needs the data in {SHARED_DATA}")
    def test_labels_of_freesurfer_fit_a_real_scan(self):
        folder = SHARED_DATA / "real" / "paired_T1_labels"
        found = RealPairs(
            read_real_pairs(folder / "fsaverage_brain.mgz", folder / "fsaverage_aseg.mgz"),
            config(6.0),
            spacings_mm=[6, 18],
        ).measure(identity)
        assert min(found[f"real/6mm/brain/dice_{end}"] for end in ("wm", "gm")) > 0.7
        for name, value in figures(found, "18mm").items():
            before = found[f"real/6mm/{name}"]
            assert value > before if name.endswith("l1") else value < before
