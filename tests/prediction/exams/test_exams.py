"""Promises of exams: several scans of one person, one prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import SCAN_MM, SCAN_SHAPE, TINY_SCAN, tiny_model

from synthsr_net.models.checkpoint import InputConfig, Model
from synthsr_net.prediction.exams.network_space import (
    FADE_MM,
    covering,
    exam_to_network_space,
    shares_of_scans,
)
from synthsr_net.prediction.predictor import Predictor
from synthsr_net.prediction.space.preprocess import to_network_space
from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.scans import Scan
from synthsr_transforms.support.messages import SynthSRError


def make_scan(
    seed: int = 0,
    shape: Sequence[int] = SCAN_SHAPE,
    spacing_mm: Sequence[float] = (SCAN_MM,) * 3,
    begin_mm: Sequence[float] = (0, 0, 0),
) -> Scan:
    voxels = np.random.default_rng(seed).random(tuple(shape), np.float32)
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = np.array(begin_mm) + np.array(spacing_mm) / 2
    return Scan(voxels, affine, name=f"folder/{seed}.nii.gz")


def image_of(scan: Scan) -> nib.Nifti1Image:
    return nib.Nifti1Image(scan.data, scan.affine)


def prepared(scans: Sequence[Scan], model: Model | None = None) -> Any:
    config = (model or tiny_model()).config
    return exam_to_network_space(scans, config, cts=[None] * len(scans))


class TestNetworkSpace:
    def test_the_grid_is_that_of_the_first_scan_and_covers_all(self):
        first = make_scan()
        wider = make_scan(1, (4, 12, 20), (20.0, 8.0, 8.0), begin_mm=(41, 0, -50))
        _, alone = to_network_space([first], tiny_model().config)
        _, space = prepared([first, wider])
        before, after = 7, 3  # 50 mm below, and 22 mm above
        (x, y, z), affine = space.aligned_grid
        assert (x, y, z) == (16, 12, before + 11 + after)
        begin = np.array([place.start for place in space.first])
        assert begin.tolist() == [0, 0, before]
        moved = affine[:3, :3] @ begin + affine[:3, 3]
        np.testing.assert_allclose(moved, alone.aligned_grid[1][:3, 3], atol=1e-9)

    def test_the_first_scan_is_what_it_is_alone_and_0_around(self):
        first = make_scan()
        alone, single = to_network_space([first], tiny_model().config)
        tensor, space = prepared([first, make_scan(1, begin_mm=(-30, 17, 3))])
        inside = tensor[(0, 0, *space.inside)]
        assert torch.equal(inside[space.first], alone[(0, *single.inside)])
        rest = inside.clone()
        rest[space.first] = 0
        assert not rest.any()
        assert tensor.shape[-3:] == tuple(4 * -(-n // 4) for n in space.aligned_grid[0])

    def test_a_scan_on_the_grid_of_the_first_is_what_it_is_alone(self):
        first, second = make_scan(), make_scan(1)
        tensor, space = prepared([first, second])
        expected, _ = to_network_space([replace(second, affine=first.affine)], tiny_model().config)
        assert tensor.shape == (2, 1, *expected.shape[-3:])
        torch.testing.assert_close(tensor[1], expected, atol=0.05, rtol=0)  # two kinds of blur
        assert tensor[1].max() == 1.0
        assert tensor[1][(0, *space.inside)].min() == 0.0

    def test_what_a_scan_does_not_reach_is_0_and_does_not_count_in_its_intensities(self):
        first = make_scan()
        half = make_scan(1, (14, 12, 5), begin_mm=(0, 0, 0))
        bright = replace(half, data=half.data + 1000)
        tensor, space = prepared([first, bright])
        inside = tensor[(1, 0, *space.inside)]
        assert not inside[..., 6:].any()
        torch.testing.assert_close(
            inside, prepared([first, half])[0][(1, 0, *space.inside)], atol=1e-3, rtol=0
        )

    def test_the_order_of_other_scans_is_theirs_in_the_tensor_alone(self):
        scans = [make_scan(i, begin_mm=(7 * i, -5 * i, 0)) for i in range(3)]
        tensor, space = prepared(scans)
        turned, other = prepared([scans[0], scans[2], scans[1]])
        assert torch.equal(tensor[[0, 2, 1]], turned)
        np.testing.assert_array_equal(space.grid[1], other.grid[1])

    def test_each_scan_has_its_reliability_map(self):
        inputs = [InputConfig(reliability_map=True)]
        model = tiny_model(num_inputs=2, inputs=inputs)
        tensor, space = prepared([make_scan(), make_scan(1, (14, 12, 4), (8.0, 8.0, 24.0))], model)
        assert tensor.shape[:2] == (2, 2)
        assert tensor[(0, 1, *space.inside)][space.first].min() == 1.0
        assert 0 < tensor[(1, 1, *space.inside)].mean() < 0.5

    def test_warnings_name_the_scan(self):
        doubtful = replace(make_scan(1), warnings=("odd.",))
        _, space = prepared([make_scan(), doubtful])
        assert space.warnings == ("scan 2 (1.nii.gz): odd.",)

    def test_scans_that_do_not_meet_are_refused_before_they_make_a_huge_grid(self):
        with pytest.raises(VolumeError, match=r"scan 2 \(1.nii.gz\) must overlap with the first"):
            prepared([make_scan(), make_scan(1, begin_mm=(1e6, 0, 0))])

    def test_a_grid_that_covers_another_stays_as_it_is(self):
        grid = ((10, 10, 10), np.diag([2.0, 2.0, 2.0, 1.0]))
        larger, box = covering(grid, [((5, 5, 5), np.eye(4))])
        assert larger[0] == grid[0]
        np.testing.assert_array_equal(larger[1], grid[1])
        assert box == (slice(0, 10),) * 3


class TestShares:
    def shares(self, *scans: Scan) -> torch.Tensor:
        tensor, space = prepared(scans)
        return shares_of_scans(scans, space, tensor.shape[-3:])[(slice(None), *space.inside)]

    def test_they_sum_to_1_and_scans_of_one_field_of_view_count_the_same(self):
        scans = [make_scan(i) for i in range(3)]
        torch.testing.assert_close(self.shares(*scans), torch.full((3, *SCAN_SHAPE), 1 / 3))
        far = make_scan(3, begin_mm=(50, -30, 20))
        shares = self.shares(*scans, far)
        torch.testing.assert_close(shares.sum(0), torch.ones(shares.shape[1:]))

    def test_a_scan_counts_alone_where_the_others_do_not_reach(self):
        half = make_scan(1, (7, 12, 11))
        first, second = self.shares(make_scan(), half)
        assert (first[7:] == 1).all()
        assert not second[7:].any()

    def test_it_fades_with_the_distance_to_the_border_of_the_field_of_view(self):
        half = make_scan(1, (6, 12, 11))
        wide = make_scan(0, (14, 20, 20), begin_mm=(0, -32, -32))
        _, second = self.shares(wide, half)
        from_border = SCAN_MM * (6 - 0.5 - np.arange(3, 6))
        weight = (from_border / FADE_MM).clip(max=1)
        np.testing.assert_allclose(second[3:6, 10, 10], weight / (1 + weight), rtol=1e-5)

    def test_an_oblique_scan_counts_in_its_own_field_of_view(self):
        turned = np.eye(4)
        turned[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
        scan = make_scan(1, (6, 6, 6), begin_mm=(40, 0, 20))
        scan = replace(scan, affine=turned @ scan.affine)
        first = make_scan()
        tensor, space = prepared([first, scan])
        second = shares_of_scans([first, scan], space, tensor.shape[-3:])[1]
        (x, y, z), affine = space.aligned_grid
        points = np.stack(np.meshgrid(*map(np.arange, (x, y, z)), indexing="ij"), -1)
        world = points @ affine[:3, :3].T + affine[:3, 3]
        places = (world - scan.affine[:3, 3]) @ np.linalg.inv(scan.affine[:3, :3]).T
        inside = ((places > -0.49) & (places < 5.49)).all(-1)
        outside = ((places < -0.51) | (places > 5.51)).any(-1)
        covered = second[space.inside].numpy()
        first_reaches = np.zeros((x, y, z), bool)
        first_reaches[space.first] = True
        assert (covered[inside] > 0).all()
        assert not covered[outside & first_reaches].any()


class TestPredictor:
    def test_one_scan_in_a_list_gives_bit_for_bit_what_the_scan_gives(self):
        image = image_of(make_scan())
        model = tiny_model(scan=replace(TINY_SCAN, data_consistency=True, inverse_contrast=True))
        expected = Predictor(model)(image)
        result = Predictor(model)([image])
        np.testing.assert_array_equal(result.get_fdata(), expected.get_fdata())
        np.testing.assert_array_equal(result.affine, expected.affine)

    @pytest.mark.parametrize("flip", [False, True])
    def test_the_order_of_others_does_not_matter(self, flip):
        images = [image_of(make_scan(i, begin_mm=(3 * i, 0, 5 * i))) for i in range(3)]
        predictor = Predictor(tiny_model(), flip=flip, registration=False)
        result = predictor(images).get_fdata()
        turned = predictor([images[0], images[2], images[1]]).get_fdata()
        np.testing.assert_allclose(result, turned, atol=1e-3)

    def test_a_scan_that_is_there_twice_changes_nothing(self):
        model, scan = tiny_model(), make_scan(shape=(16, 12, 12))
        predictor = Predictor(model, registration=False)
        once = predictor.prepare([scan])
        twice = once._replace(
            tensor=torch.stack([once.tensor, once.tensor]),
            shares=torch.full((2, *once.tensor.shape[-3:]), 0.5),
        )
        expected = predictor.infer(predictor.planned(once))
        torch.testing.assert_close(predictor.infer(predictor.planned(twice)), expected)

    def test_the_input_grid_is_that_of_the_first_scan(self):
        images = [image_of(make_scan(0, (14, 12, 8), (8, 8, 11))), image_of(make_scan(1))]
        result = Predictor(tiny_model(), grid="input", registration=False)(images)
        assert result.shape == (14, 12, 8)
        np.testing.assert_allclose(result.affine, images[0].affine, atol=1e-5)

    @pytest.mark.parametrize("flip", [False, True])
    def test_the_prediction_is_the_mean_of_those_from_each_scan(self, flip):
        scans = [make_scan(i) for i in range(3)]
        predictor = Predictor(tiny_model(), flip=flip, registration=False)
        ready = predictor.prepare(scans)
        alone = [predictor.infer(ready._replace(tensor=x, shares=None)) for x in ready.tensor]
        inside = (0, *ready.space.inside)
        expected = torch.stack(alone).mean(0)[inside]
        torch.testing.assert_close(predictor.infer(ready)[inside], expected, atol=1e-5, rtol=0)

    def test_detail_of_the_first_scan_alone_is_kept(self):
        scan = replace(TINY_SCAN, data_consistency=True)
        model = tiny_model(scan=scan)
        scans = [make_scan(), make_scan(1, begin_mm=(-40, 0, 0))]
        predictor = Predictor(model, registration=False)
        ready = predictor.prepare(scans)
        space = ready.space
        t1 = torch.full((1, *ready.tensor.shape[-3:]), 0.4)
        t1[(0, *space.inside)] += 0.1 * ready.tensor[(0, 0, *space.inside)]
        made = predictor.finish(ready, t1).aligned
        plain = Predictor(model, data_consistency=False).finish(ready, t1).aligned
        outside = torch.ones(space.aligned_grid[0], dtype=torch.bool)
        outside[space.first] = False
        assert torch.equal(made[outside], plain[outside])

    def test_a_prediction_that_is_added_to_a_scan_is_of_one_scan(self):
        model = tiny_model(scan=replace(TINY_SCAN, residual_input=0))
        with pytest.raises(SynthSRError, match=r"takes 1 scan \(T1\), got 2.* takes any number"):
            Predictor(model)([image_of(make_scan()), image_of(make_scan(1))])

    def test_programs_of_one_scan_cannot_be_followed(self):
        with pytest.raises(SynthSRError, match="legacy takes one scan"):
            Predictor(tiny_model(), legacy="v1", registration=False)(
                [image_of(make_scan()), image_of(make_scan(1))]
            )
