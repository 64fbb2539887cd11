"""Promises of the metrics of a training run, and of the file that keeps them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from synthsr_net.metrics.volumes import (
    MAX_PSNR_DB,
    MEASURES,
    REGION_MEASURES,
    Masks,
    VolumeMeans,
    masks,
    measure,
    measure_regions,
    ssim_map,
)
from synthsr_net.training.callbacks.metrics_file import MetricsFile
from synthsr_transforms.labels.table import LabelTable

SHAPE = (16, 13, 14)
KEYS = REGION_MEASURES
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def batch(size: int = 2, channels: int = 1, seed: int = 0, noise: float = 0.1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(size, channels, *SHAPE, generator=generator)
    prediction = target + noise * torch.randn(target.shape, generator=generator)
    head = torch.rand(size, 1, *SHAPE, generator=generator) < 0.6
    brain = head & (torch.rand(head.shape, generator=generator) < 0.5)
    return prediction, target, brain, head


def added(metrics: VolumeMeans, *batches: Batch) -> VolumeMeans:
    for prediction, target, brain, head in batches:
        metrics.update(*measure_regions(prediction, target, Masks(brain, head)))
    return metrics


def measured(*batches: Batch) -> dict[str, float]:
    return added(VolumeMeans(KEYS), *batches).compute()


def by_hand(prediction: np.ndarray, target: np.ndarray, mask: np.ndarray) -> tuple[float, ...]:
    """L1, PSNR and SSIM of one volume of range 1, in float64 by other means."""

    def smooth(volume: np.ndarray) -> np.ndarray:
        return gaussian_filter(volume, 1.5, mode="mirror", truncate=5 / 1.5)

    p, t = prediction.astype(np.float64), target.astype(np.float64)
    means = smooth(p), smooth(t)
    variances = smooth(p * p) - means[0] ** 2, smooth(t * t) - means[1] ** 2
    covariance = smooth(p * t) - means[0] * means[1]
    c1, c2 = 0.01**2, 0.03**2
    ssim = (2 * means[0] * means[1] + c1) * (2 * covariance + c2)
    ssim /= (means[0] ** 2 + means[1] ** 2 + c1) * (sum(variances) + c2)
    error = (p - t)[mask]
    return np.abs(error).mean(), -10 * np.log10((error**2).mean()), ssim[mask].mean()


class TestVolumeMeans:
    def test_they_equal_a_computation_by_other_means(self, device):
        prediction, target, brain, head = batch(3, noise=0.3)
        found = measured(tuple(x.to(device) for x in (prediction, target, brain, head)))
        for region, mask in (("brain", brain), ("head", head)):
            rows = [
                by_hand(*(x[k, 0].numpy() for x in (prediction, target, mask))) for k in range(3)
            ]
            for name, expected in zip(MEASURES, np.mean(rows, axis=0), strict=True):
                assert found[f"{region}/{name}"] == pytest.approx(expected, rel=2e-4)

    def test_equal_volumes_are_as_like_as_can_be(self):
        _, target, brain, head = batch()
        found = measured((target, target, brain, head))
        assert [found[key] for key in KEYS] == pytest.approx([0, MAX_PSNR_DB, 1] * 2)

    def test_volumes_count_equally_in_batches_and_alone(self):
        whole = batch(3)
        alone = [tuple(x[k : k + 1] for x in whole) for k in range(3)]
        found = measured(whole)
        assert found == pytest.approx(measured(*alone), rel=1e-5)
        single = [measured(each) for each in alone]
        assert found == pytest.approx(
            {key: np.mean([each[key] for each in single]) for key in KEYS}, rel=1e-5
        )

    def test_what_lies_outside_the_masks_does_not_count(self):
        prediction, target, brain, head = batch(1)
        brain[..., 6:] = head[..., 6:] = False
        spoilt = prediction.clone()
        spoilt[..., 11:] = math.nan  # beyond the window of SSIM
        expected = measured((prediction, target, brain, head))
        assert measured((spoilt, target, brain, head)) == pytest.approx(expected, rel=1e-5)

    def test_nan_inside_a_mask_shows(self):
        prediction, target, brain, head = batch(2)
        brain[1], head[1, :, 2, 2, 2] = False, True
        prediction[1, :, 2, 2, 2] = math.nan
        found = measured((prediction, target, brain, head))
        assert all(math.isnan(found[key]) == key.startswith("head") for key in KEYS)

    def test_volumes_with_an_empty_mask_are_left_out(self):
        prediction, target, brain, head = batch(2)
        brain[0] = False
        found = measured((prediction, target, brain, head))
        second = measured((prediction[1:], target[1:], brain[1:], head[1:]))
        assert [found[f"brain/{name}"] for name in MEASURES] == pytest.approx(
            [second[f"brain/{name}"] for name in MEASURES], rel=1e-5
        )
        assert found["head/l1"] != pytest.approx(second["head/l1"], rel=1e-5)

    def test_metrics_of_no_volume_are_nan(self):
        prediction, target, _, head = batch(1)
        found = measured((prediction, target, torch.zeros_like(head), head))
        assert {key for key in KEYS if math.isnan(found[key])} == set(KEYS[:3])

    def test_several_channels_are_averaged(self):
        prediction, target, _, head = batch(1, channels=2)
        both = measure(prediction, target, [head])[0, 0]
        first, second = (measure(prediction[:, [c]], target[:, [c]], [head])[0, 0] for c in (0, 1))
        assert both[0] == pytest.approx(float(first[0] + second[0]) / 2)
        assert both[2] == pytest.approx(float(first[2] + second[2]) / 2)
        mean_squares = [10 ** (-float(x[1]) / 10) for x in (first, second)]
        assert both[1] == pytest.approx(-10 * math.log10(np.mean(mean_squares)), rel=1e-5)

    def test_autocast_does_not_round(self, device):
        given = tuple(x.to(device) for x in batch())
        expected = measured(given)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            assert measured(given) == expected

    def test_predictions_may_be_rounded_and_have_gradients(self):
        prediction, target, brain, head = batch()
        rounded = prediction.bfloat16()
        expected = measured((rounded.float(), target, brain, head))
        assert measured((rounded.requires_grad_(), target, brain, head)) == expected

    def test_switches_of_precision_stay_as_they_were(self):
        before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = True
        try:
            measured(batch(1))
            assert torch.backends.cudnn.allow_tf32
        finally:
            torch.backends.cudnn.allow_tf32 = before

    def test_processes_are_added_up(self):
        first, second = batch(1, seed=1), batch(2, seed=2)
        other = added(VolumeMeans(KEYS), second)
        states = iter((other.sums, other.counts))
        here = VolumeMeans(
            KEYS,
            dist_sync_fn=lambda value, group=None: [value, next(states)],
            distributed_available_fn=lambda: True,
        )
        added(here, first)
        assert here.compute() == pytest.approx(measured(first, second), rel=1e-6)

    def test_reset_forgets(self):
        metrics = added(VolumeMeans(KEYS), batch(seed=1))
        metrics.reset()
        added(metrics, batch(seed=2))
        assert metrics.compute() == measured(batch(seed=2))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda p, t, b, h: (p[:, :, 1:], t, b, h), "must both be"),
            (lambda p, t, b, h: (p[0], t[0], b, h), "must both be"),
            (lambda p, t, b, h: (p, t, b[:1], h), "masks must be"),
            (lambda p, t, b, h: (p, t, b.float(), h), "masks must be"),
            (lambda *all_: tuple(x[..., :5] for x in all_), "at least 6 voxels"),
        ],
    )
    def test_shapes_that_do_not_fit_are_refused(self, change: Callable[..., Batch], message: str):
        with pytest.raises(ValueError, match=message):
            measured(change(*batch()))


class TestMasks:
    @pytest.mark.parametrize("name", LabelTable.ready_names())
    def test_voxels_are_brain_and_head_as_the_table_says(self, name: str, device):
        table = LabelTable.ready(name)
        values = torch.tensor([*table.values, max(table.values) + 7, 99])
        brain, head = masks(values.view(1, 1, 1, 1, -1).to(device), table)
        outside = {"background", "extracerebral"}
        for value, in_brain, in_head in zip(
            values.tolist(), brain.flatten().tolist(), head.flatten().tolist(), strict=True
        ):
            tissue = table.row(value).tissue if value in table else None
            assert in_brain == (tissue is not None and tissue not in outside)
            assert in_head == (tissue != "background")

    def test_label_maps_may_have_any_type_of_whole_numbers(self):
        table = LabelTable.ready("synthseg")
        labels = torch.tensor([0, 2, 42, 77]).view(1, 1, 2, 2, 1)
        expected = masks(labels, table)
        for dtype in (torch.uint8, torch.int16, torch.int32):
            for found, mask in zip(masks(labels.to(dtype), table), expected, strict=True):
                assert torch.equal(found, mask)


@pytest.fixture
def table(tmp_path: Path) -> MetricsFile:
    return MetricsFile(tmp_path / "metrics.csv")


def left_over(table: MetricsFile) -> list[str]:
    return [path.name for path in table.path.parent.iterdir() if path != table.path]


class TestMetricsFile:
    def test_no_file_means_no_rows(self, table: MetricsFile):
        assert table.rows() == []
        table.truncate(3)
        assert not table.path.exists()

    @pytest.mark.parametrize(
        "value",
        [1234567890123, -3, 0.5, 1e-4, 6.02214e23, math.inf, -math.inf, 1 / 3, np.pi * 1e-7],
    )
    def test_numbers_come_back_to_six_digits(self, table: MetricsFile, value: float):
        table.append({"epoch": 0, "x": value})
        (row,) = table.rows()
        if isinstance(value, int):
            assert row["x"] == value
        assert row["x"] == pytest.approx(value, rel=5e-6)

    def test_numbers_of_numpy_and_torch_are_numbers(self, table: MetricsFile):
        table.append({"epoch": np.int64(2), "a": np.float32(0.25), "b": torch.tensor(0.5)})
        assert table.rows() == [{"epoch": 2, "a": 0.25, "b": 0.5}]

    def test_nan_comes_back(self, table: MetricsFile):
        table.append({"epoch": 0, "x": math.nan})
        assert math.isnan(table.rows()[0]["x"])

    def test_columns_grow_to_the_right_and_older_rows_stay_empty_there(self, table: MetricsFile):
        rows = [{"epoch": 0, "b": 1}, {"epoch": 1, "a": 2}, {"epoch": 2, "b": 3, "a": 4}]
        for row in rows:
            table.append(row)
        assert table.rows() == rows
        assert table.path.read_text().splitlines()[:2] == ["epoch,b,a", "0,1,"]

    def test_rows_of_an_epoch_and_later_ones_are_replaced(self, table: MetricsFile):
        for epoch in range(4):
            table.append({"epoch": epoch, "x": epoch})
        table.append({"epoch": 2, "x": 20})
        assert [row["x"] for row in table.rows()] == [0, 1, 20]

    def test_a_resumed_run_leaves_the_file_of_an_uninterrupted_one(self, table: MetricsFile):
        def go(first: int, last: int) -> None:
            for epoch in range(first, last + 1):
                table.append({"epoch": epoch, "x": epoch / 3, **({"y": 1} if epoch % 2 else {})})

        go(0, 5)
        whole = table.path.read_bytes()
        table.truncate(2)
        assert [row["epoch"] for row in table.rows()] == [0, 1, 2]
        go(3, 5)
        assert table.path.read_bytes() == whole
        table.truncate(-1)
        assert table.rows() == []

    def test_a_full_disk_leaves_the_old_file(self, table: MetricsFile, monkeypatch):
        table.append({"epoch": 0, "x": 1})
        before = table.path.read_bytes()

        def full(*args: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space"):
            table.append({"epoch": 1, "x": 2})
        assert table.path.read_bytes() == before
        assert left_over(table) == []

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"hello\nworld\n",
            b"a,b\n1,2\n",
            b"epoch,a\n1\n",
            b"epoch,a\n1,2,3\n",
            b"epoch,a\n2,1\n1,1\n",
            b"epoch,a\n1,1\n1,1\n",
            b"epoch,a\nx,1\n",
            b"epoch,a,a\n0,1,2\n",
            b"epoch,a,\n0,1,2\n",
            b'epoch,a\n0,"1\n',
            b"\xff\xfe\x00epoch",
            b"epoch,a\n0,1\n1",
        ],
    )
    def test_a_damaged_or_foreign_file_is_refused_and_kept(
        self, table: MetricsFile, content: bytes
    ):
        table.path.write_bytes(content)
        for use in (table.rows, lambda: table.append({"epoch": 9}), lambda: table.truncate(0)):
            with pytest.raises(ValueError, match="must be a table of metrics") as caught:
                use()
            assert str(table.path) in str(caught.value)
            assert len(str(caught.value).splitlines()) == 1
        assert table.path.read_bytes() == content


def test_similarity_is_that_of_torchmetrics() -> None:
    """Its dense kernel and our separate ones are one window, borders included."""
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(1, 1, 14, 13, 12, generator=generator)
    prediction = target + 0.1 * torch.randn(target.shape, generator=generator)
    _, theirs = structural_similarity_index_measure(
        prediction, target, sigma=1.5, kernel_size=11, data_range=1.0, return_full_image=True
    )
    torch.testing.assert_close(ssim_map(prediction, target), theirs, rtol=0, atol=1e-4)
