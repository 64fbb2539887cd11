"""Promises of the pictures of a training run: samples and curves."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from synthsr_net.training.callbacks.curves import curve_figure
from synthsr_net.training.callbacks.previews import preview_figure
from synthsr_net.training.task.regression import ShownSample
from synthsr_transforms.drawing.panels import figure_array, save_figure
from synthsr_transforms.drawing.slices import intensity_window

SHAPE = (20, 24, 16)


def sample(channels: int = 1, outputs: int = 1, **changes: Any) -> ShownSample:
    random = np.random.default_rng(0)
    labels = np.zeros((1, *SHAPE), np.float32)
    labels[0, 4:11, 5:12, 3:10] = 2  # centre 7, 8, 6
    labels[0, 15:, 20:, 12:] = 506
    volumes: dict[str, Any] = {
        "image": random.random((channels, *SHAPE), np.float32),
        "prediction": random.random((outputs, *SHAPE), np.float32),
        "target": 3 * random.random((outputs, *SHAPE), np.float32),
        "labels": labels,
    }
    return ShownSample(**{k: torch.tensor(v) for k, v in {**volumes, **changes}.items()})


def texts(figure: Figure, panel: int) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].texts]


def titles(figure: Figure) -> list[str]:
    """First words above each volume, in the order of the panels."""
    return [texts(figure, panel)[4] for panel in range(0, len(figure.axes), 3)]


def shown(figure: Figure, panel: int) -> np.ma.MaskedArray:
    return figure.axes[panel].images[0].get_array()


def tops(figure: Figure) -> list[float]:
    return [figure.axes[panel].get_position().y1 for panel in range(0, len(figure.axes), 3)]


class TestPreviews:
    def test_a_sample_with_one_input_has_one_row(self):
        figure = preview_figure([sample(), sample()], "epoch 3")
        assert titles(figure) == ["input", "prediction", "target"] * 2
        rows = tops(figure)
        assert rows[0] == rows[1] == rows[2] > rows[3] == rows[4] == rows[5]
        assert "validation sample 1" in texts(figure, 0)
        assert "validation sample 2" in texts(figure, 9)
        assert figure.texts[0].get_text() == "epoch 3"

    @pytest.mark.parametrize(
        ("channels", "reliability", "lines"),
        [
            (2, False, [["input 1", "input 2"]]),
            (2, True, [["input", "reliability"]]),
            (3, False, [["input 1", "input 2", "input 3"]]),
            (4, False, [["input 1", "input 2"], ["input 3", "input 4"]]),
            (4, True, [["input 1", "reliability 1"], ["input 2", "reliability 2"]]),
            (6, True, [[f"input {k}", f"reliability {k}"] for k in (1, 2, 3)]),
        ],
    )
    def test_several_channels_have_panels_of_their_own(self, channels, reliability, lines):
        figure = preview_figure([sample(channels)], reliability=reliability)
        lines = [*lines, ["prediction", "target"]]
        assert titles(figure) == [title for line in lines for title in line]
        expected = [number for number, line in enumerate(lines) for _ in line]
        heights = sorted(set(tops(figure)), reverse=True)
        assert [heights.index(top) for top in tops(figure)] == expected
        for panel, title in enumerate(titles(figure)):
            colours = figure.axes[3 * panel].images[0].get_cmap().name
            assert colours == ("viridis" if title.startswith("reliability") else "gray")

    def test_several_outputs_lie_beside_their_targets(self):
        figure = preview_figure([sample(1, 2)])
        assert titles(figure)[1:] == ["prediction 1", "target 1", "prediction 2", "target 2"]
        assert len(set(tops(figure))) == 3

    def test_channels_of_the_prediction_beyond_those_of_the_target_are_left_out(self):
        given = sample()
        spread = np.concatenate([given.prediction, np.full((1, *SHAPE), 9, np.float32)])
        figure = preview_figure([sample(prediction=spread)])
        assert titles(figure) == ["input", "prediction", "target"]
        assert shown(figure, 3).max() < 9

    def test_slices_pass_through_the_centre_of_the_brain(self):
        given = sample()
        figure = preview_figure([given])
        for number, volume in enumerate((given.image, given.prediction, given.target)):
            data = np.asarray(volume)[0]
            slices = (data[7].T, data[:, 8].T, data[:, :, 6].T)
            for plane, expected in enumerate(slices):
                np.testing.assert_array_equal(shown(figure, 3 * number + plane), expected)

    @pytest.mark.parametrize("labels", [np.ones((1, 4, 4, 4)), np.zeros((1, *SHAPE))])
    def test_without_a_brain_they_pass_through_what_is_bright_in_the_target(self, labels):
        target = np.zeros((1, *SHAPE), np.float32)
        target[0, 12:15, 3:6, 8:11] = 1.0
        figure = preview_figure([sample(target=target, labels=labels)])
        np.testing.assert_array_equal(shown(figure, 6), target[0, 13].T)
        np.testing.assert_array_equal(shown(figure, 8), target[0, :, :, 9].T)

    def test_prediction_and_target_have_the_window_of_the_target(self):
        given = sample()
        figure = preview_figure([given])
        expected = intensity_window(np.asarray(given.target)[0], "image")
        for panel in (3, 6):
            assert figure.axes[panel].images[0].get_clim() == expected
        assert figure.axes[0].images[0].get_clim() != expected

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_voxels_that_are_no_numbers_are_left_out(self, value: float):
        prediction = sample().prediction.numpy().copy()
        prediction[0, 7, :4] = value
        figure = preview_figure([sample(prediction=prediction)])
        mask = np.ma.getmaskarray(shown(figure, 3))
        np.testing.assert_array_equal(mask, ~np.isfinite(prediction[0, 7]).T)
        assert any("not all numbers" in text for text in texts(figure, 3))
        broken = np.full_like(prediction, value)
        figure = preview_figure([sample(image=broken, prediction=broken, target=broken)])
        assert figure_array(figure).std() > 0
        assert "no numbers" in texts(figure, 0)

    def test_a_picture_is_written_as_its_pixels(self, tmp_path: Path):
        path = tmp_path / "epoch_003.png"
        save_figure(path, lambda: preview_figure([sample()], "epoch 3"))
        pixels = figure_array(preview_figure([sample()], "epoch 3"))
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        np.testing.assert_array_equal(np.asarray(Image.open(path).convert("RGB")), pixels)
        assert [p.name for p in tmp_path.iterdir()] == [path.name]


def row(epoch: int, *, real: bool = True, steps: int = 1000) -> dict[str, float]:
    left = math.exp(-epoch / 8)
    values = {
        "epoch": epoch,
        "global_step": (epoch + 1) * steps,
        "seconds": 12.0,
        "learning_rate": 1e-4 * left,
        "train/loss": 0.02 + 0.4 * left,
        "validation/loss": 0.03 + 0.4 * left,
        "validation/brain/l1": 0.1 * left,
    }
    places = ["validation"]
    if real:
        places += [f"real/{mm}mm{way}" for mm in (1, 3, 5) for way in ("", "/interpolation")]
    for number, place in enumerate(places):
        for region in ("brain", "head"):
            values[f"{place}/{region}/psnr"] = 28 - number - 12 * left - (region == "head")
            values[f"{place}/{region}/ssim"] = 0.9 - 0.03 * number - 0.4 * left
    return values


def lines(figure: Figure, name: str) -> list[np.ndarray]:
    """Points of the lines of all panels with an axis of this name, `(N, 2)`."""
    return [
        np.stack([np.asarray(x, float) for x in line.get_data()], 1)
        for axes in figure.axes
        if axes.get_ylabel().replace("\n", " ") == name
        for line in axes.lines
    ]


def legends(figure: Figure) -> list[list[str]]:
    found = [axes.get_legend() for axes in figure.axes]
    return [[text.get_text() for text in legend.get_texts()] for legend in found if legend]


class TestCurves:
    def test_lines_are_the_columns_against_the_steps(self):
        rows = [row(epoch) for epoch in range(5)]
        figure = curve_figure(rows)
        for name, columns in (
            ("loss", ["train/loss", "validation/loss"]),
            ("learning rate", ["learning_rate"]),
            ("PSNR (dB)", [c for c in rows[0] if c.endswith("psnr")]),
            ("SSIM", [c for c in rows[0] if c.endswith("ssim")]),
        ):
            wanted = [c for c in columns if "interpolation/head" not in c]
            found = lines(figure, name)
            assert len(found) == len(wanted)
            for points, column in zip(found, wanted, strict=True):
                np.testing.assert_allclose(points, [(r["global_step"], r[column]) for r in rows])

    def test_values_that_are_missing_or_no_numbers_are_left_out(self):
        rows = [row(epoch, real=False) for epoch in range(6)]
        rows[1]["train/loss"], rows[4]["train/loss"] = math.nan, math.inf
        del rows[2]["train/loss"], rows[3]["validation/brain/psnr"]
        figure = curve_figure(rows)
        assert lines(figure, "loss")[0][:, 0].tolist() == [1000, 4000, 6000]
        assert lines(figure, "PSNR (dB)")[0][:, 0].tolist() == [1000, 2000, 3000, 5000, 6000]

    def test_words_are_no_values(self):
        assert lines(curve_figure([{"global_step": 1, "train/loss": "high"}]), "loss") == []

    def test_without_steps_epochs_are_counted(self):
        rows = [{k: v for k, v in row(epoch).items() if k != "global_step"} for epoch in range(3)]
        figure = curve_figure(rows)
        assert lines(figure, "loss")[0][:, 0].tolist() == [0, 1, 2]
        assert figure.axes[-1].get_xlabel() == "epoch"

    @pytest.mark.parametrize(
        ("losses", "scale"),
        [
            ([0.5, 0.049], "log"),
            ([0.5, 0.051], "linear"),
            ([0.5, 0.0], "linear"),
            ([0.5, -0.001], "linear"),
            ([0.5], "linear"),
        ],
    )
    def test_losses_over_more_than_a_decade_have_a_logarithmic_axis(self, losses, scale):
        rows = [{"global_step": k, "train/loss": loss} for k, loss in enumerate(losses)]
        assert curve_figure(rows).axes[0].get_yscale() == scale

    def test_panels_are_those_that_have_values(self):
        def names(rows: list[dict[str, float]]) -> list[str]:
            return [axes.get_ylabel().replace("\n", " ") for axes in curve_figure(rows).axes]

        both = ["PSNR (dB)", "SSIM"]
        assert names([]) == ["loss"]
        assert names([{"global_step": 1, "train/loss": 1.0}]) == ["loss"]
        assert names([row(0, real=False)]) == ["loss", "learning rate", *both]
        assert names([row(0)]) == ["loss", "learning rate", *both, *both]

    def test_lines_of_a_place_have_one_colour_and_regions_their_style(self):
        axes = curve_figure([row(epoch) for epoch in range(3)]).axes[-1]
        styles = [(line.get_color(), line.get_linestyle()) for line in axes.lines]
        assert len(set(styles)) == len(styles)
        by_place = [{colour for colour, _ in styles[k : k + 3]} for k in (0, 3, 6)]
        assert [len(colours) for colours in by_place] == [1, 1, 1]
        assert len(set.union(*by_place)) == 3

    def test_legends_give_the_last_values(self):
        last = row(4)
        found = legends(curve_figure([row(3), last]))
        assert found[0][0] == f"training  {last['train/loss']:.4g}"
        psnr, ssim = (last[f"real/5mm/interpolation/brain/{name}"] for name in ("psnr", "ssim"))
        assert f"5 mm interpolation  {psnr:.2f} dB, {ssim:.3f}" in found[2]
        assert [len(entries) for entries in found] == [2, 2, 9]

    @pytest.mark.parametrize("epochs", [1, 2, 40])
    def test_nothing_overlaps_or_is_cut_off(self, epochs: int):
        figure = curve_figure([row(epoch) for epoch in range(epochs)])
        figure.draw_without_rendering()
        drawn, page = figure.get_tightbbox(), figure.bbox_inches.padded(0.01)
        assert page.containsx(drawn.x0)
        assert page.containsx(drawn.x1)
        assert page.containsy(drawn.y0)
        assert page.containsy(drawn.y1)
        panels = [axes.get_window_extent() for axes in figure.axes]
        found = [axes.get_legend().get_window_extent() for axes in figure.axes if axes.get_legend()]
        for number, box in enumerate(found):
            assert not any(box.overlaps(other) for other in (*panels, *found[:number]))
        for axes in figure.axes:
            inside = axes.get_window_extent().padded(1)
            ticks = [label.get_window_extent() for label in axes.get_xticklabels()]
            ticks = [box for box in ticks if inside.containsx((box.x0 + box.x1) / 2)]
            assert not any(a.overlaps(b) for a, b in pairwise(ticks))

    @pytest.mark.parametrize("rows", [[], [row(0)], [row(epoch) for epoch in range(3)]])
    def test_a_curve_is_written_whole(self, tmp_path: Path, rows: list[dict[str, float]]):
        save_figure(tmp_path / "curve.png", lambda: curve_figure(rows))
        with Image.open(tmp_path / "curve.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 0
        assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
