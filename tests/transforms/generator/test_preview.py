"""Promises of the pictures of samples."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import nibabel as nib
import numpy as np
import pytest

from synthsr_transforms.drawing.colours import label_colours
from synthsr_transforms.drawing.panels import save_figure
from synthsr_transforms.drawing.preview import (
    overview_figure,
    preview_figure,
    rows_of,
)
from synthsr_transforms.drawing.slices import LETTERS, intensity_window
from synthsr_transforms.io.grids import Volume

SHAPE = (20, 24, 16)
AFFINE = np.array([[1.0, 0, 0, -9], [0, 1.5, 0, -17], [0, 0, 2, -13], [0, 0, 0, 1]])


def sample(channels: int = 2, affine: np.ndarray = AFFINE) -> dict[str, Volume]:
    random = np.random.default_rng(0)
    labels = np.zeros(SHAPE, np.int16)
    labels[4:14, 5:19, 3:13] = random.choice([2, 3, 41, 42], (10, 14, 10))
    return {
        "target": Volume(random.random(SHAPE, np.float32), affine),
        "image": Volume(random.random((*SHAPE, channels), np.float32), affine),
        "reliability": Volume(random.random((*SHAPE, channels), np.float32), affine),
        "labels": Volume(labels, affine),
    }


def shown(figure: matplotlib.figure.Figure, panel: int) -> np.ndarray:
    return np.asarray(figure.axes[panel].images[0].get_array())


def texts(figure: matplotlib.figure.Figure, panel: int) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].texts]


def test_rows_are_labels_channels_maps_and_target_in_this_order():
    assert [row.title for row in rows_of(sample())] == [
        *("labels", "image 1", "image 2", "reliability 1", "reliability 2", "target"),
    ]
    assert [row.title for row in rows_of({"image": sample(1)["target"]})] == ["image"]


def test_a_sample_has_three_panels_per_row_with_letters_at_their_edges():
    figure = preview_figure(sample(), title="sample_000000")
    assert len(figure.axes) == 18
    for panel in range(18):
        assert list(LETTERS[panel % 3]) == texts(figure, panel)[:4]
    assert "labels" in texts(figure, 0)
    assert any("20 x 24 x 16 voxels of 1 x 1.5 x 2 mm" in text for text in texts(figure, 0))


@pytest.mark.parametrize("axes", [((0, 1), (1, 1), (2, 1)), ((2, -1), (0, 1), (1, -1))])
def test_right_anterior_and_superior_are_right_and_up(axes):
    data = np.zeros(SHAPE, np.float32)
    data[12:, 14:, 10:] = 1.0
    turned = nib.Nifti1Image(data, AFFINE).as_reoriented(np.array(axes, float))
    volume = Volume(np.asarray(turned.dataobj), turned.affine)
    labels = Volume((volume.data > 0).astype(np.int16) * 2, volume.affine)
    figure = preview_figure({"labels": labels, "image": volume})
    for panel in (3, 4, 5):
        picture = shown(figure, panel)
        assert figure.axes[panel].images[0].origin == "lower"
        assert picture[-1, -1] == 1.0
        assert picture[0].max() == picture[:, 0].max() == 0.0


def test_slices_of_other_grids_pass_through_the_same_place():
    """Coarse and fine volumes show the one bright plane across each axis."""
    labels = np.zeros((20, 20, 20), np.int16)
    labels[10:13, 10:13, 10:13] = 2
    coarse = np.zeros((10, 10, 10), np.float32)
    coarse[5], coarse[:, 5], coarse[:, :, 5] = 1.0, 1.0, 1.0
    doubled = np.diag([2.0, 2.0, 2.0, 1.0])
    doubled[:3, 3] = 0.5
    figure = preview_figure(
        {"labels": Volume(labels, np.eye(4)), "target": Volume(coarse, doubled)}
    )
    for panel in (3, 4, 5):
        assert (shown(figure, panel) == 1.0).all()


def test_panels_keep_the_proportions_of_the_head():
    figure = preview_figure(sample())
    for axes, (wide, tall) in zip(figure.axes, [(36, 32), (20, 32), (20, 36)], strict=False):
        assert axes.images[0].get_extent() == pytest.approx((0, wide, 0, tall))
        assert axes.get_aspect() == 1.0


def test_labels_have_the_same_colour_everywhere_and_on_both_sides():
    alone = label_colours(np.array([[17]]))
    among = label_colours(np.array([[0, 2, 17], [53, 1009, 2009]]))
    assert among.shape == (2, 3, 3)
    assert (alone[0, 0] == among[0, 2]).all()
    assert (among[1, 0] == among[0, 2]).all()
    assert (among[1, 1] == among[1, 2]).all()
    assert (among[0, 0] == 0).all()
    many = {tuple(colour) for colour in label_colours(np.arange(1000, 1036)).tolist()}
    assert len(many) == 36


def test_windows_show_nearly_all_values():
    image = np.linspace(0, 1, 8000).reshape(20, 20, 20)
    image[0, 0, 0] = 1e6
    low, high = intensity_window(image, "image")
    assert low == 0.0
    assert 0.9 < high < 2e5
    assert intensity_window(image * 0, "image") == (0.0, 1.0)
    assert intensity_window(image * 0 + 0.3, "reliability") == (0.0, 1.0)


def test_a_label_map_without_labels_is_drawn():
    empty = Volume(np.zeros(SHAPE, np.int16), AFFINE)
    assert len(preview_figure({"labels": empty}).axes) == 3


def test_an_overview_has_one_row_per_sample():
    figure = overview_figure({"sample_000000": sample(), "sample_000001": sample()})
    assert len(figure.axes) == 2 * 4
    assert "sample_000001" in texts(figure, 4)
    assert not any("reliability" in text for panel in range(8) for text in texts(figure, panel))


@pytest.mark.parametrize("size", [12, 32, 64, 160])
@pytest.mark.parametrize("draw", ["overview", "preview"])
def test_no_text_meets_another_or_an_edge(draw, size):
    volume = Volume(np.zeros((size, size, size // 2), np.float32), np.eye(4))
    channels = Volume(np.zeros((size, size, size // 2, 2), np.float32), np.eye(4))
    volumes = {"labels": volume, "image": channels, "reliability": channels, "target": volume}
    if draw == "overview":
        figure = overview_figure({"sample_000000": volumes, "sample_000001": volumes})
    else:
        figure = preview_figure(volumes, title="sample_000000   from brain")
    figure.draw_without_rendering()
    boxes = []
    for axes in figure.axes:
        panel = axes.get_window_extent()
        for text in axes.texts:
            box = text.get_window_extent()
            boxes.append(box)
            assert figure.bbox.x0 <= box.x0
            assert box.x1 <= figure.bbox.x1
            if len(text.get_text()) == 1:
                assert panel.x0 + 2 < box.x0
                assert box.x1 < panel.x1 - 2
                assert panel.y0 + 2 < box.y0
                assert box.y1 < panel.y1 - 2
            else:
                assert not panel.overlaps(box)
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


def test_pictures_are_written_whole_and_the_same_each_time(tmp_path: Path):
    for name in ("a.png", "b.png"):
        save_figure(tmp_path / name, lambda: preview_figure(sample(), title="sample"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    save_figure(tmp_path / "overview.png", lambda: overview_figure({"sample": sample()}))
    assert {p.name for p in tmp_path.iterdir()} == {"a.png", "b.png", "overview.png"}
    red = matplotlib.image.imread(tmp_path / "a.png")
    assert red.shape[0] > 100
    assert red.shape[1] > 100


def test_threads_may_draw_at_once(tmp_path: Path):
    paths = [tmp_path / f"{k}.png" for k in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda path: save_figure(path, lambda: preview_figure(sample())), paths))
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_nothing_is_left_in_the_global_state_of_matplotlib():
    preview_figure(sample())
    assert not matplotlib._pylab_helpers.Gcf.figs


def test_a_target_of_whole_numbers_is_drawn_as_labels():
    structures = np.kron(np.arange(27).reshape(3, 3, 3), np.ones((4, 4, 4))).astype(np.int32)
    for data, kind in ((structures, "labels"), (structures.astype(np.float32), "image")):
        (row,) = rows_of({"target": Volume(data, np.eye(4))})
        assert row.kind == kind
