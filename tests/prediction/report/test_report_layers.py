"""Promises of the layers of a report: sides, borders, edges, and that they lie over each other."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from synthsr_net.prediction.report import picture, write_report
from synthsr_net.prediction.report.entries import ReportEntry, layers_stem, save_entry
from synthsr_net.prediction.report.layers import tiles_of, write_layers
from synthsr_net.prediction.report.picture import write_picture
from synthsr_transforms.drawing.edges import edges
from synthsr_transforms.drawing.planes import view_of
from synthsr_transforms.drawing.slices import borders
from synthsr_transforms.io.grids import Volume

SHAPE = (40, 48, 44)
LEFT_VOXEL = (8, 24, 22)
"""Far on the left of the head, where x is lowest."""


def head() -> Volume:
    """An ellipsoid of 2 mm voxels, around the origin."""
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = [-(n - 1) for n in SHAPE]
    points = np.moveaxis(np.indices(SHAPE), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    inside = ((points / (30, 38, 34)) ** 2).sum(-1) < 1
    return Volume(50 * inside.astype(np.float32), affine)


def marked(volume: Volume) -> Volume:
    """The volume, with bright voxels at the left."""
    data = volume.data.copy()
    data[LEFT_VOXEL[0] - 1 : LEFT_VOXEL[0] + 2, 6:-6, 6:-6] = 200
    return volume._replace(data=data)


def turned_about(volume: Volume) -> Volume:
    """The same head, stored from right to left."""
    affine = volume.affine @ np.diag([-1.0, 1, 1, 1])
    affine[:3, 3] = volume.affine[:3, :3] @ [SHAPE[0] - 1, 0, 0] + volume.affine[:3, 3]
    return Volume(volume.data[::-1], affine)


CONVENTIONS = [("neurological", "LR"), ("radiological", "RL")]


class TestSides:
    @pytest.mark.parametrize(("convention", "letters"), CONVENTIONS)
    @pytest.mark.parametrize("stored", [lambda volume: volume, turned_about])
    def test_a_marker_at_the_left_is_drawn_on_the_side_of_the_convention(
        self, convention, letters, stored
    ):
        volume = stored(marked(head()))
        seen = 0
        for tile in tiles_of(volume, view_of([volume], head()), (0, 200), convention):
            bright = np.argwhere(np.ma.filled(tile.panel.pixels, 0) > 150)
            if tile.panel.letters[:2] == "PA" or not len(bright):
                continue
            seen += 1
            assert tile.panel.letters[:2] == letters
            on_left = bright[:, 1].mean() < tile.panel.pixels.shape[1] / 2
            assert on_left == (convention == "neurological")
        assert seen >= 6

    @pytest.mark.parametrize(("convention", "letters"), CONVENTIONS)
    def test_the_picture_has_the_same_sides(self, tmp_path, monkeypatch, convention, letters):
        figures = []
        monkeypatch.setattr(picture, "save_figure", lambda path, make, grey: figures.append(make()))
        labels = Volume((head().data > 0) * 3, head().affine)
        write_picture(tmp_path / "p", marked(head()), head(), labels, convention=convention)
        for number, axes in enumerate(figures[0].axes):
            if number % 3 == 0:
                assert [text.get_text() for text in axes.texts[:2]] == ["P", "A"]
                continue
            assert "".join(text.get_text() for text in axes.texts[:2]) == letters
            shown = np.ma.filled(axes.images[0].get_array(), 0)
            if number < 3:
                columns = np.argwhere(shown > 150)[:, 1]
                on_left = columns.mean() < shown.shape[1] / 2
                assert on_left == (convention == "neurological")

    def test_conventions_are_mirror_images(self):
        view = view_of([head()], head())
        for one, other in zip(
            tiles_of(marked(head()), view, (0, 1), "neurological"),
            tiles_of(marked(head()), view, (0, 1), "radiological"),
            strict=True,
        ):
            mirrored = other.panel.pixels
            if one.panel.letters[0] != "P":
                mirrored = mirrored[:, ::-1]
            np.testing.assert_array_equal(one.panel.pixels, mirrored)


class TestLines:
    def test_outlines_lie_on_the_borders_of_labels(self):
        labels = np.zeros((20, 30), int)
        labels[5:15, 5:15], labels[5:15, 15:25] = 3, 42
        found = borders(labels)
        inner = np.zeros_like(found)
        for value in (3, 42):
            here = labels == value
            inner |= here & ~ndimage.binary_erosion(here)
        np.testing.assert_array_equal(found, inner)

    @pytest.mark.parametrize("contrast", [1.0, -1.0, 1e-3, 1e5])
    def test_edges_lie_on_the_border_of_an_ellipse_and_nowhere_else(self, contrast):
        rows, columns = np.indices((120, 140))
        inside = ((rows - 60) / 40) ** 2 + ((columns - 70) / 50) ** 2 < 1
        found = edges(contrast * inside)
        border = inside ^ ndimage.binary_erosion(inside)
        from_border = ndimage.distance_transform_edt(~border)
        from_edges = ndimage.distance_transform_edt(~found)
        assert from_border[found].max() <= 2
        assert from_edges[border].max() <= 2

    def test_a_constant_slice_and_missing_values_have_no_edges(self):
        assert not edges(np.full((20, 20), 3.0)).any()
        assert not edges(np.full((20, 20), np.nan)).any()
        outside = np.zeros((40, 40), bool)
        outside[:, 20:] = True
        masked = np.ma.masked_array(np.where(outside, 0, 100.0), outside)
        assert not edges(masked).any()


def read(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGBA")).astype(int)


class TestLayers:
    @pytest.mark.parametrize("convention", ["neurological", "radiological"])
    def test_all_layers_have_the_same_pixels(self, tmp_path, convention):
        """Outlines of the head lie on its border in the prediction, in either convention."""
        volume = marked(head())
        labels = Volume((head().data > 0).astype(np.int16) * 3, head().affine)
        paths = write_layers(tmp_path / "s", volume, head(), labels, convention=convention)
        assert list(paths) == ["scan", "prediction", "outlines", "edges"]
        found = {name: read(path) for name, path in paths.items()}
        assert len({pixels.shape for pixels in found.values()}) == 1
        bright = ndimage.median_filter(found["prediction"][..., 0], 5) > 120
        rim = bright ^ ndimage.binary_erosion(bright)
        distance = ndimage.distance_transform_edt(~rim)
        opacity = found["outlines"][..., 3]
        assert np.percentile(distance[opacity > 0], 95) <= 3
        assert set(np.unique(opacity)) == {0, 255}

    def test_without_a_prediction_there_are_scan_and_outlines(self, tmp_path):
        labels = Volume((head().data > 0).astype(np.int16) * 3, head().affine)
        assert list(write_layers(tmp_path / "s", head(), None, labels)) == ["scan", "outlines"]
        assert list(write_layers(tmp_path / "t", head(), None)) == ["scan"]

    @pytest.mark.parametrize(
        "data",
        [np.zeros((5, 6, 7)), np.full((5, 6, 7), np.nan), np.full((1, 1, 1), 2.0)],
        ids=["zero", "nan", "voxel"],
    )
    def test_strange_volumes_and_volumes_far_apart_are_drawn(self, tmp_path, data):
        affine = head().affine.copy()
        affine[:3, 3] += 5000
        write_layers(tmp_path / "s", Volume(data, np.eye(4)), Volume(data, affine))
        with Image.open(tmp_path / "s-scan.webp") as image:
            assert max(image.size) < 4000

    def test_layers_are_small(self, tmp_path):
        noisy = head()._replace(
            data=head().data + np.random.default_rng(0).normal(0, 5, SHAPE).astype(np.float32)
        )
        paths = write_layers(tmp_path / "s", noisy, noisy)
        assert sum(path.stat().st_size for path in paths.values()) < 400_000


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report of scans with and without a score, with layers, but for its page."""
    place = tmp_path_factory.mktemp("report")
    rows = {
        "low": (0.2, ()),
        "high": (0.9, ("odd",)),
        "doubt": (None, ("odd",)),
        "none": (None, ()),
    }
    for name, (score, warnings) in rows.items():
        stem = layers_stem(place, f"/d/{name}.nii")
        paths = write_layers(stem, head(), head(), convention="radiological")
        inside = {key: path.relative_to(place).as_posix() for key, path in paths.items()}
        entry = ReportEntry(
            name, f"/d/{name}.nii", score=score, warnings=warnings, layers=inside,
            picture=inside["scan"], convention="radiological",
        )  # fmt: skip
        save_entry(place, entry)
    save_entry(place, ReportEntry("broken", "/d/broken.nii", error="no image"))
    return place


@pytest.fixture
def report(made, tmp_path):
    """A copy of it."""
    return shutil.copytree(made, tmp_path / "report")


class TestPage:
    def test_the_worst_come_first(self, report):
        html = write_report(report, title="t", details={}).read_text()
        order = sorted(
            ("low", "high", "doubt", "none", "broken"), key=lambda n: html.index(f">{n}</a")
        )
        assert order == ["broken", "doubt", "low", "high", "none"]

    def test_the_page_names_the_convention_and_needs_no_other_file(self, report):
        html = write_report(report, title="t", details={}).read_text()
        assert "on the right (radiological convention)" in " ".join(html.split())
        assert html.count('src="data:image/webp;base64,') == 4 * 4
        assert 'src="pictures/' not in html
        linked = write_report(report, title="t", details={}, embedded_bytes=0).read_text()
        assert 'src="pictures/' in linked
        assert "data:image" not in linked

    def test_a_layer_that_is_gone_is_left_out(self, report):
        for path in (report / "pictures").glob("*-edges.webp"):
            path.unlink()
        html = write_report(report, title="t", details={}).read_text()
        assert 'value="edges">' not in html
        assert 'value="blink"' in html
