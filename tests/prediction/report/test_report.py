"""Promises of quality pictures and of the report, also in a real browser."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from helpers import (
    SHARED_DATA,
)
from matplotlib.figure import Figure
from PIL import Image

from synthsr_net.prediction.report import picture, write_report
from synthsr_net.prediction.report.entries import (
    ReportEntry,
    picture_path,
    read_entries,
    save_entry,
)
from synthsr_net.prediction.report.picture import write_picture
from synthsr_transforms.drawing.panels import save_figure
from synthsr_transforms.drawing.planes import View, frame_of, scan_window, slice_through, view_of
from synthsr_transforms.drawing.slices import LETTERS
from synthsr_transforms.io.grids import Volume, reorient
from synthsr_transforms.io.volumes import read_volume

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
NASTY = "sub-<b>1</b> & \"two\" 'three' </script><script>document.title='hacked'</script> $x_1$.nii"
TIMES = "\N{MULTIPLICATION SIGN}"
ORIENTATIONS = [
    np.array(list(zip(axes, signs, strict=True)), float)
    for axes, signs in zip(
        permutations((0, 1, 2)), list(product((1, -1), repeat=3))[1:7], strict=True
    )
]


def head(shape: tuple[int, int, int], affine: np.ndarray) -> Volume:
    """An ellipsoid around (3, -5, 10) mm whose right, anterior, superior part is brighter."""
    voxels = np.moveaxis(np.indices(shape), 0, -1)
    points = voxels @ affine[:3, :3].T + affine[:3, 3] - (3, -5, 10)
    inside = ((points / (30, 40, 35)) ** 2).sum(axis=-1) < 1
    data = 50.0 * inside + 50.0 * (inside & (points > 0).all(axis=-1))
    return Volume(data.astype(np.float32), affine)


def grid(spacing_mm: tuple[float, float, float]) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine of a grid that covers `head`, about its middle."""
    shape = tuple(int(100 / mm) for mm in spacing_mm)
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = np.array((3, -5, 10)) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return shape, affine


THICK = head(*grid((0.8, 0.8, 5.0)))
FINE = head(*grid((1.0, 1.0, 1.0)))


def oriented(volume: Volume, orientation: np.ndarray) -> Volume:
    turned = nib.Nifti1Image(volume.data, volume.affine).as_reoriented(orientation)
    return Volume(np.asarray(turned.dataobj), turned.affine)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Figure]:
    """Maker of pictures that gives the figure back, and writes a file only if it is `saved`."""
    figures: list[Figure] = []
    saved = False

    def keep(path: Path, make: Callable[[], Figure], **options: Any) -> None:
        figures.append(make())
        if saved:
            save_figure(path, lambda: figures[-1], **options)

    monkeypatch.setattr(picture, "save_figure", keep)

    def draw(*args: Any, save: bool = False, **options: Any) -> Figure:
        nonlocal saved
        saved = save
        write_picture(tmp_path / "p.png", *args, **options)
        return figures[-1]

    return draw


def texts(figure: Figure, panel: int) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].texts]


def shown(figure: Figure, panel: int) -> np.ndarray:
    return np.ma.filled(figure.axes[panel].images[0].get_array(), -1.0)


class TestPicture:
    def test_three_planes_of_the_scan_above_those_of_the_prediction(self, drawn):
        figure = drawn(THICK, FINE, title="sub-01")
        assert len(figure.axes) == 6
        for panel, letters in enumerate(LETTERS * 2):
            assert texts(figure, panel)[:4] == list(letters)
        assert "input" in texts(figure, 0)
        assert any("125 x 125 x 20 voxels of 0.8 x 0.8 x 5 mm" in t for t in texts(figure, 0))
        assert "prediction" in texts(figure, 3)
        assert any("100 x 100 x 100 voxels of 1 x 1 x 1 mm" in t for t in texts(figure, 3))
        assert figure.texts[0].get_text().startswith("sub-01")

    def test_the_expected_error_lies_below_the_prediction(self, drawn):
        figure = drawn(THICK, FINE, uncertainty=Volume(0.1 * FINE.data, FINE.affine))
        assert len(figure.axes) == 9
        assert "uncertainty" in texts(figure, 6)
        assert any("shown 0 to " in text for text in texts(figure, 6))

    def test_orientation_does_not_matter(self, drawn):
        """Right, anterior and superior are right and up; six panels as without turning."""
        expected = drawn(THICK, FINE)
        for orientation in ORIENTATIONS[::2]:
            figure = drawn(oriented(THICK, orientation), oriented(FINE, orientation[::-1]))
            for panel in range(6):
                picture = shown(figure, panel)
                np.testing.assert_array_equal(picture, shown(expected, panel))
                middle = [n // 2 for n in picture.shape]
                up_right = picture[middle[0] + 5 :, middle[1] + 5 :]
                down_left = picture[: middle[0] - 5, : middle[1] - 5]
                assert up_right.max() >= down_left.max() > 0

    def test_right_anterior_and_superior_are_right_and_up(self):
        for volume in (THICK, FINE):
            view = View(np.eye(3), *(np.array((3.0, -5, 10)) + d for d in (-40, 40, 3)))
            for plane in range(3):
                picture = slice_through(volume, view, plane, 0.5)
                bright = np.argwhere(picture == 100)
                assert bright.min(axis=0) == pytest.approx([80, 80], abs=6)
                assert bright.shape[0] > 1000

    def test_both_rows_show_the_same_place(self):
        """The edge of the head is at the same pixels, to half a voxel of the coarser volume."""
        view = view_of([THICK], FINE)
        for plane in range(3):
            a, b = (slice_through(volume, view, plane, 0.5) > 0 for volume in (THICK, FINE))
            assert (a != b).mean() < 0.05
            assert a.mean() > 0.3

    def test_slices_pass_through_the_centre_of_the_head(self):
        view = view_of([THICK], FINE)
        assert view.axes @ view.centre == pytest.approx([3, -5, 10], abs=1)

    def test_neck_and_shoulders_do_not_pull_the_centre_down(self):
        shape, affine = (60, 60, 180), np.diag([2.0, 2.0, 2.0, 1.0])
        data = np.zeros(shape, np.float32)
        data[10:50, 10:50, 90:170] = 100.0
        data[5:55, 5:55, :70] = 100.0
        volume = Volume(data, affine)
        assert view_of([volume], volume).centre[2] == pytest.approx(2 * 130, abs=10)

    def test_thick_slices_look_thick(self):
        view = view_of([THICK], FINE)
        for plane, thickness_pixels in ((0, 10), (1, 10), (2, 1.6)):
            picture = np.ma.filled(slice_through(THICK, view, plane, 0.5), -1)
            edges = np.flatnonzero((np.diff(picture, axis=0) != 0).any(axis=1))
            assert np.diff(edges).min() >= int(thickness_pixels)

    def test_lengths_have_one_scale_in_all_directions(self, drawn):
        figure = drawn(THICK, FINE, save=True)
        for axes in figure.axes:
            box, picture = axes.get_window_extent(), axes.images[0]
            left, right, bottom, top = picture.get_extent()
            assert box.width / (right - left) == pytest.approx(box.height / (top - bottom), 1e-3)
            height, width = picture.get_array().shape
            assert (box.width, box.height) == pytest.approx((width, height), abs=0.6)

    def test_what_lies_outside_the_volume_is_not_black(self):
        view = view_of([THICK], FINE)._replace(upper=np.array((100.0, 100, 100)))
        picture = slice_through(FINE, view, 2, 1.0)
        assert picture.mask.any()
        assert not picture.mask.all()
        assert picture.mask[-1, -1]

    @pytest.mark.parametrize("shear", [0.0, 0.3])
    def test_oblique_and_sheared_scans_are_cut_where_they_lie(self, shear):
        angle = np.deg2rad(15)
        turn = np.eye(4)
        turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        oblique = np.diag([1.0, 1, 4, 1])
        oblique[1, 2] = 4 * shear
        oblique = turn @ oblique
        shape = (100, 130, 30)
        oblique[:3, 3] = np.array((3, -5, 10)) - oblique[:3, :3] @ (np.array(shape) - 1) / 2
        scan = head(shape, oblique)
        view = view_of([scan], FINE)
        assert view.axes == pytest.approx(np.eye(3))
        for plane in range(3):
            a, b = (slice_through(volume, view, plane, 1.0) > 0 for volume in (scan, FINE))
            overlap = 2 * (a & b).sum() / (a.sum() + b.sum())
            assert overlap > 0.93

    def test_frames_are_rotations_along_the_axes_of_the_volume(self):
        rng = np.random.default_rng(0)
        for _ in range(20):
            affine = np.eye(4)
            affine[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.uniform(0.5, 5, 3)
            axes = frame_of(Volume(np.zeros((2, 2, 2)), affine))
            assert axes.T @ axes == pytest.approx(np.eye(3))
            ras = reorient(Volume(np.zeros((2, 2, 2)), affine)).affine[:3, :3]
            assert axes.T @ ras == pytest.approx(np.diag(np.linalg.norm(ras, axis=0)))

    def test_intensities_are_windowed_robustly(self, drawn):
        data = FINE.data.copy()
        data[0, 0, 0] = 1e9
        figure = drawn(Volume(data, FINE.affine), FINE)
        assert figure.axes[0].images[0].get_clim()[1] <= 100
        assert any("0 to 1e+09, shown 0 to 100" in text for text in texts(figure, 0))

    def test_a_ct_is_shown_as_brains_are_looked_at(self, drawn):
        hounsfield = Volume(FINE.data * 10 - 1000, FINE.affine)
        figure = drawn(hounsfield, FINE)
        assert figure.axes[0].images[0].get_clim() == (0, 80)
        assert figure.axes[3].images[0].get_clim() != (0, 80)

    def test_a_window_can_be_given(self, drawn):
        figure = drawn(FINE, FINE, windows={"input": (10, 20)})
        assert figure.axes[0].images[0].get_clim() == (10, 20)
        assert figure.axes[3].images[0].get_clim() != (10, 20)

    def test_several_scans_have_a_row_each(self, drawn):
        figure = drawn({"T1": THICK, r"$\bad$": FINE}, FINE)
        assert len(figure.axes) == 9
        assert "T1" in texts(figure, 0)
        assert r"$\bad$" in texts(figure, 3)

    @pytest.mark.parametrize(
        "data",
        [
            np.zeros((5, 6, 7)),
            np.full((5, 6, 7), 3.5),
            np.full((5, 6, 7), np.nan),
            np.full((1, 1, 1), 2),
            np.arange(210).reshape(5, 6, 7) - 5.0e8,
            np.random.default_rng(0).normal(size=(40, 3, 90)),
        ],
        ids=["zero", "constant", "nan", "voxel", "offset", "noise"],
    )
    def test_strange_volumes_are_drawn(self, drawn, data):
        volume = Volume(data, np.eye(4))
        assert len(drawn({"a": volume, "b": FINE}, volume, save=True).axes) == 9

    def test_volumes_far_apart_are_drawn(self, drawn):
        affine = FINE.affine.copy()
        affine[:3, 3] += 5000
        assert len(drawn(FINE, Volume(FINE.data, affine), save=True).axes) == 6

    @pytest.mark.parametrize("title", [NASTY, "脑", "a\nb", "x" * 500, "\udcff", ""])
    def test_any_title_is_written(self, drawn, title):
        figure = drawn(THICK, FINE, title=title, save=True)
        box = figure.texts[0].get_window_extent()
        assert box.x1 < figure.bbox.x1
        assert "\n" not in figure.texts[0].get_text()

    def test_pictures_are_small_and_the_same_each_time(self, tmp_path):
        noisy = FINE._replace(data=FINE.data + np.random.default_rng(0).normal(0, 5, (100,) * 3))
        for name in ("a.png", "b.png"):
            write_picture(tmp_path / name, THICK, noisy, title="sub-01")
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
        assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png"}
        with Image.open(tmp_path / "a.png") as picture:
            assert picture.format == "PNG"
            assert 600 < picture.width < 1100
        assert (tmp_path / "a.png").stat().st_size < 250_000

    def test_threads_may_draw_at_once(self, tmp_path):
        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(write_picture, tmp_path / f"{k}.png", FINE, FINE) for k in range(4)]
        assert [job.result() for job in jobs] == [None] * 4
        assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1

    @pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=f"there are no scans in {SHARED_DATA}")
    @pytest.mark.parametrize("name", ["sub-01_FLAIR.nii.gz", "ct/head_ct_gantry_tilt.nii.gz"])
    def test_pictures_of_real_scans_are_small(self, tmp_path, name):
        volume = read_volume(SHARED_DATA / "real" / name)
        write_picture(tmp_path / "p.png", volume, volume, title=name)
        assert (tmp_path / "p.png").stat().st_size < 250_000
        with Image.open(tmp_path / "p.png") as picture:
            assert 900 < picture.width < 1100


def test_windows_of_empty_and_constant_images_have_an_extent():
    assert scan_window(np.full((2, 2, 2), np.inf)) == (0, 1)
    assert scan_window(np.full((2, 2, 2), 7.0)) == (7, 8)


# Entries -----------------------------------------------------------------------------------------


def entry(name: str = "sub-01", path: str = "/data/sub-01.nii.gz", **changes: Any) -> ReportEntry:
    values: dict[str, Any] = {
        "output": "/out/sub-01_synthsr.nii.gz",
        "input_shape": (256, 256, 30),
        "input_spacing_mm": (0.9, 0.9, 5.0),
        "output_shape": (230, 230, 150),
        "output_spacing_mm": (1.0, 1.0, 1.0),
        "seconds": 12.5,
        "warnings": ("its sform and qform disagree",),
    }
    return ReportEntry(name, path, **(values | changes))


class TestEntries:
    def test_they_come_back_as_they_were(self, tmp_path):
        given = entry(input_spacing_mm=tuple(np.float32([0.5, 0.5, 4])), seconds=np.float64(3))
        save_entry(tmp_path, given)
        assert read_entries(tmp_path) == [given]
        assert isinstance(read_entries(tmp_path)[0].input_shape, tuple)

    def test_a_scan_processed_again_replaces_its_entry(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        save_entry(tmp_path, entry(path="a.nii", error="broken"))
        save_entry(tmp_path, entry(path=str(tmp_path / "a.nii")))
        (only,) = read_entries(tmp_path)
        assert only.error is None

    def test_files_of_one_name_in_two_folders_do_not_collide(self, tmp_path):
        paths = ["/a/scan.nii.gz", "/b/scan.nii.gz"]
        for path in paths:
            save_entry(tmp_path, entry(path=path))
            picture_path(tmp_path, path).write_bytes(b"")
        assert [e.input for e in read_entries(tmp_path)] == paths
        assert len(list((tmp_path / "pictures").iterdir())) == 2

    @pytest.mark.parametrize("name", [NASTY, "脑.nii", "." * 300, "a" * 250 + "/b", "\udcff.nii"])
    def test_any_path_makes_a_file(self, tmp_path, name):
        save_entry(tmp_path, entry(name, f"/data/{name}"))
        assert read_entries(tmp_path)[0].name == name

    def test_numbers_in_names_sort_as_numbers(self, tmp_path):
        names = ["sub-1", "sub-2", "sub-10", "Sub-11", "x"]
        for name in reversed(names):
            save_entry(tmp_path, entry(name, f"/data/{name}.nii"))
        assert [e.name for e in read_entries(tmp_path)] == names

    def test_files_that_are_no_entries_are_left_out(self, tmp_path):
        save_entry(tmp_path, entry())
        for number, text in enumerate(["", "{", "[1]", '{"other": 1}', "{}"]):
            (tmp_path / "entries" / f"{number}.json").write_text(text)
        (tmp_path / "entries" / ".hidden-half.json").write_text("{")
        assert len(read_entries(tmp_path)) == 1

    def test_a_folder_without_entries_has_none(self, tmp_path):
        assert read_entries(tmp_path / "nowhere") == []

    def test_only_the_entry_is_left_behind(self, tmp_path):
        path = save_entry(tmp_path, entry())
        assert list((tmp_path / "entries").iterdir()) == [path]
        assert json.loads(path.read_text())["seconds"] == 12.5


# Page --------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Elements of a page: (tag, attributes, text)."""

    VOID = frozenset({"meta", "img", "br", "input", "link"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[int] = []
        self.feed(html)
        assert not self.open, "elements are not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in self.VOID:
            self.open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for number in self.open:
            self.elements[number][2].append(data)

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        found = [(a, " ".join("".join(t).split())) for name, a, t in self.elements if name == tag]
        assert found, f"there is no {tag}"
        return found


DETAILS = {"Model": "synthsr-v2", "Options": '<none> & "more"'}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of four scans: one with a warning, one that failed, one with a nasty name."""
    folder = tmp_path_factory.mktemp("report")
    for number, (name, changes) in enumerate(
        {
            "sub-10": {"warnings": (), "seconds": 100.0},
            "sub-2": {"seconds": 20.0},
            "sub-3": {"error": "it is not an image.", "warnings": (), "seconds": 0.7},
            NASTY: {"warnings": ("<i>odd</i>",), "seconds": None},
        }.items()
    ):
        path = f"/data/{number}/{name}"
        picture = None
        if "error" not in changes:
            picture = picture_path(folder, path)
            write_picture(picture, THICK, FINE, title=name)
            picture = f"pictures/{picture.name}"
        save_entry(folder, entry(name, path, picture=picture, **changes))
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the report to work on."""
    return Path(shutil.copytree(prepared, tmp_path / "report"))


def page_of(folder: Path, **options: Any) -> Page:
    path = write_report(folder, title="Study <A>", details=DETAILS, **options)
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


class TestPage:
    def test_it_has_a_title_details_and_figures(self, folder):
        page = page_of(folder)
        assert page.all("title")[0][1] == page.all("h1")[0][1] == "Study <A>"
        terms = dict(zip(*([t for _, t in page.all(tag)] for tag in ("dt", "dd")), strict=True))
        assert terms == DETAILS
        summary = [text for _, text in page.all("li")]
        assert summary[:3] == ["4 scans", "1 failed", "2 with warnings"]
        assert summary[3] == "2 min 1 s time of all scans"

    def test_the_table_has_a_row_per_scan_and_the_failed_first(self, folder):
        page = page_of(folder)
        heads = [text for a, text in page.all("th") if a.get("scope") == "row"]
        assert [head.split(" /data")[0] for head in heads] == [
            *("sub-3", "sub-2", NASTY, "sub-10"),
        ]
        rows = [text.replace(TIMES, "x") for _, text in page.all("tr")][1:]
        assert "it is not an image." in rows[0]
        assert "256 x 256 x 30 voxels 0.9 x 0.9 x 5 mm" in rows[1]
        assert "230 x 230 x 150 voxels 1 x 1 x 1 mm" in rows[1]
        assert "20.0 s" in rows[1]
        assert "its sform and qform disagree" in rows[1]
        assert "/out/sub-01_synthsr.nii.gz" in rows[1]
        assert "/out/sub-01_synthsr.nii.gz" not in rows[0], "what failed has no output"

    def test_every_row_leads_to_its_section(self, folder):
        page = page_of(folder)
        targets = [a["href"] for a, _ in page.all("a") if str(a["href"]).startswith("#scan-")]
        sections = {f"#{a['id']}": text for a, text in page.all("article")}
        assert len(targets) == len(set(targets)) == len(sections) == 4
        assert set(targets) == set(sections)

    def test_it_can_be_used_without_seeing(self, folder):
        page = page_of(folder)
        assert page.all("html")[0][0]["lang"] == "en"
        assert page.all("caption")[0][1]
        assert all(a.get("scope") in ("col", "row") for a, _ in page.all("th"))
        assert all(a.get("alt") for a, _ in page.all("img"))
        assert len(page.all("label")) == len(page.all("input")) + len(page.all("select"))
        assert len(page.all("main")) == len(page.all("h1")) == 1

    def test_names_cannot_become_markup(self, folder):
        page = page_of(folder)
        assert len(page.all("script")) == 1
        assert not any(name in ("b", "i") for name, _, _ in page.elements)
        assert any("<i>odd</i>" in text for _, text in page.all("p"))
        assert any(NASTY in str(a["alt"]) for a, _ in page.all("img"))

    def test_nothing_is_loaded_from_elsewhere(self, folder):
        page = page_of(folder)
        for name, attributes, _ in page.elements:
            assert name not in ("link", "iframe", "object", "base")
            assert str(attributes.get("src", "data:")).startswith("data:image/png;base64,") or (
                "src" not in attributes
            )
            assert str(attributes.get("href", "#")).startswith("#")
        assert "@import" not in page.all("style")[0][1]
        assert "url(" not in page.all("style")[0][1]

    def test_pictures_have_their_size(self, folder):
        for attributes, _ in page_of(folder).all("img"):
            assert int(attributes["width"]) > 600
            assert int(attributes["height"]) > 300
            assert attributes["loading"] == "lazy"

    def test_many_pictures_stay_in_their_files(self, folder):
        page = page_of(folder, embedded_bytes=1000)
        sources = [str(a["src"]) for a, _ in page.all("img")]
        assert len(sources) == 3
        assert all((folder / source).is_file() for source in sources)
        assert "keep it beside this page" in (folder / "report.html").read_text()
        assert "keep it beside this page" not in str(page_of(folder).all("p"))

    def test_pictures_may_lie_elsewhere(self, folder, tmp_path_factory):
        other = tmp_path_factory.mktemp("other") / "my picture#1.png"
        write_picture(other, FINE, FINE)
        save_entry(folder, entry("elsewhere", "/e.nii", picture=str(other)))
        page = page_of(folder, embedded_bytes=0)
        (source,) = (str(a["src"]) for a, _ in page.all("img") if "elsewhere" in str(a["alt"]))
        assert source.endswith("my%20picture%231.png")
        assert source.startswith("../")

    @pytest.mark.parametrize("content", [None, b"", b"not a picture"])
    def test_a_picture_that_is_gone_or_broken_is_left_out(self, tmp_path, content):
        if content is not None:
            (tmp_path / "p.png").write_bytes(content)
        save_entry(tmp_path, entry(picture="p.png"))
        assert "No picture." in str(page_of(tmp_path).all("p"))

    def test_a_report_without_scans(self, tmp_path):
        page = page_of(tmp_path / "new")
        assert "No scan has been processed yet." in str(page.all("td"))

    def test_names_that_are_not_unicode_are_written(self, tmp_path):
        save_entry(tmp_path, entry("\udcff", "/\udcff.nii"))
        page_of(tmp_path)

    def test_a_page_that_fails_leaves_the_old_one(self, folder):
        page_of(folder)
        before = (folder / "report.html").read_bytes()
        with pytest.raises(TypeError):
            write_report(folder, title="x", details={"a": "b"}, embedded_bytes="many")  # type: ignore[arg-type]
        assert (folder / "report.html").read_bytes() == before
        assert {path.name for path in folder.iterdir()} == {"report.html", "entries", "pictures"}

    def test_several_processes_add_to_one_report(self, tmp_path):
        with ThreadPoolExecutor(4) as pool:

            def work(number: int) -> None:
                save_entry(tmp_path, entry(f"sub-{number}", f"/data/{number}.nii"))
                write_report(tmp_path, title="t", details={})

            list(pool.map(work, range(8)))
        assert len(page_of(tmp_path).all("article")) == 8


# Browser -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chrome() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"there is no browser: install one of {', '.join(BROWSERS)}")
    return found


class Browser:
    """A headless browser."""

    def __init__(self, chrome: str, folder: Path) -> None:
        self.chrome, self.folder = chrome, folder

    def run(self, path: Path, *options: str) -> tuple[str, list[str]]:
        """What it prints for a page, and what was written to the console."""
        command = [
            *(self.chrome, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update"),
            *("--disable-sync", "--disable-default-apps", "--disable-extensions"),
            *("--enable-logging=stderr", "--v=0", "--window-size=1300,1000"),
            *(f"--user-data-dir={self.folder / 'profile'}", "--virtual-time-budget=5000"),
            *options,
            path.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    def dom(self, path: Path, *options: str) -> tuple[Page, list[str]]:
        """The page as it is after its script ran, and the console."""
        html, console = self.run(path, "--dump-dom", *options)
        return Page(html), console

    def probe(self, path: Path, *scripts: str, options: Sequence[str] = ()) -> list[Any]:
        """What functions return that run in a copy of a page, once all pictures are there.

        The copy may load anything from anywhere, and loads pictures at once.
        """
        html = path.read_text(encoding="utf-8").replace('loading="lazy"', 'loading="eager"')
        html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
        calls = ", ".join(f"(() => {{ {script} }})()" for script in scripts)
        script = (
            f"<script>addEventListener('load', () => {{ const result = [{calls}];"
            " document.body.setAttribute('data-result', JSON.stringify(result)); });</script>"
        )
        copy = path.with_name("probed.html")
        copy.write_text(f"{html.removesuffix('</html>')}{script}", encoding="utf-8")
        page, console = self.dom(copy, *options)
        assert console == []
        found: list[Any] = json.loads(str(page.all("body")[0][0]["data-result"]))
        return found


@pytest.fixture(scope="module")
def browser(chrome: str, tmp_path_factory: pytest.TempPathFactory) -> Browser:
    return Browser(chrome, tmp_path_factory.mktemp("browser"))


PICTURES = """
return [...document.images].map((picture) => [picture.naturalWidth, picture.naturalHeight]);
"""

REQUESTS = """
return performance.getEntriesByType("resource").map((request) => request.name);
"""

COLOURS = """
const colours = new Set();
for (const node of document.querySelectorAll("h1, p, a, dt, dd, td, th, caption, .state")) {
  let back = node, fill = "rgba(0, 0, 0, 0)";
  while (back && fill === "rgba(0, 0, 0, 0)") {
    fill = getComputedStyle(back).backgroundColor;
    back = back.parentElement;
  }
  colours.add(getComputedStyle(node).color + "|" + fill);
}
return [...colours];
"""

CONTROLS = """
const names = () => [...document.querySelectorAll("tbody tr:not([hidden]) th a")]
  .map((link) => link.textContent);
const search = document.getElementById("search"), states = document.getElementById("states");
const change = (control, value) => {
  control.value = value;
  control.dispatchEvent(new Event("input"));
  control.dispatchEvent(new Event("change"));
};
const result = {};
change(search, "DISAGREE sub-2");
result.searched = names();
result.count = document.getElementById("count").textContent;
result.sections = document.querySelectorAll("article:not([hidden])").length;
change(search, "");
change(states, "failed");
result.failed = names();
change(states, "");
const heads = document.querySelectorAll("thead button");
heads[0].click();
result.byName = names();
heads[4].click();
result.byTime = names();
heads[4].click();
result.byTimeDown = names();
result.sort = document.querySelectorAll("thead th")[4].getAttribute("aria-sort");
return result;
"""


def scheme_option(scheme: str) -> str:
    return f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"


@pytest.fixture(scope="module")
def probed(
    browser: Browser, prepared: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the browser finds in the report, by name of the script."""
    folder = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("probed") / "report"))
    page_of(folder)
    scripts = {"requests": REQUESTS, "pictures": PICTURES, "light": COLOURS, "controls": CONTROLS}
    options = [scheme_option("light")]
    found = browser.probe(folder / "report.html", *scripts.values(), options=options)
    return dict(zip(scripts, found, strict=True))


class TestBrowser:
    def test_the_checks_see_errors_and_requests(self, browser, tmp_path):
        """Pages that do what reports must not do, so that the tests below can fail."""
        page = tmp_path / "bad.html"
        page.write_text("<html><body><script>nothing.here</script></body></html>")
        assert any("ReferenceError" in line for line in browser.dom(page)[1])
        write_picture(tmp_path / "x.png", FINE, FINE)
        handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
            threading.Thread(target=http.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{http.server_port}/x.png"
            page.write_text(f"<html><body><img src='{address}'></body></html>")
            assert browser.probe(page, REQUESTS) == [[address]]
            http.shutdown()

    def test_the_page_works_and_asks_for_nothing(self, browser, folder, probed):
        page_of(folder)
        page, console = browser.dom(folder / "report.html")
        assert console == []
        assert page.all("title")[0][1] == "Study <A>"
        assert len(page.all("tr")) == 5
        assert "hidden" not in controls(page)
        assert "4 of 4 scans" in str(page.all("span"))
        assert probed["requests"] == []

    def test_pictures_are_shown_embedded_and_linked(self, browser, folder, probed):
        images = page_of(folder, embedded_bytes=0).all("img")
        sizes = [[int(str(a["width"])), int(str(a["height"]))] for a, _ in images]
        assert len(sizes) == 3
        assert browser.probe(folder / "report.html", PICTURES) == [sizes]
        assert probed["pictures"] == sizes

    def test_a_linked_picture_that_is_gone_says_so(self, browser, folder):
        page_of(folder, embedded_bytes=0)
        shutil.rmtree(folder / "pictures")
        text = (folder / "report.html").read_text(encoding="utf-8")
        path = folder / "eager.html"
        path.write_text(text.replace('loading="lazy"', ""), encoding="utf-8")
        page, _ = browser.dom(path)
        assert [a.get("class") for a, _ in page.all("article")].count("missing") == 3

    def test_linked_pictures_are_allowed_by_the_page_itself(self, browser, folder):
        """The page forbids itself to load anything but pictures; those beside it are let in."""
        page_of(folder, embedded_bytes=0)
        screenshot = folder / "shot.png"
        _, console = browser.run(
            folder / "report.html", f"--screenshot={screenshot}", "--window-size=1300,4000"
        )
        assert not [line for line in console if "Content Security Policy" in line]
        with Image.open(screenshot) as picture:
            below_the_table = np.asarray(picture.convert("L"))[1000:]
        assert (below_the_table < 30).mean() > 0.2, "pictures are dark"

    def test_rows_can_be_searched_filtered_and_sorted(self, probed):
        assert probed["controls"] == {
            "searched": ["sub-2"],
            "count": "1 of 4 scans",
            "sections": 1,
            "failed": ["sub-3"],
            "byName": [NASTY, "sub-2", "sub-3", "sub-10"],
            "byTime": [NASTY, "sub-3", "sub-2", "sub-10"],
            "byTimeDown": ["sub-10", "sub-2", "sub-3", NASTY],
            "sort": "descending",
        }

    def test_the_page_works_without_its_script(self, browser, folder):
        page_of(folder)
        path = folder / "plain.html"
        html = (folder / "report.html").read_text(encoding="utf-8")
        path.write_text(re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL), "utf-8")
        page, console = browser.dom(path)
        assert console == []
        assert len(page.all("tr")) == 5
        assert "hidden" in controls(page)

    def test_thousands_of_scans_stay_usable(self, browser, tmp_path):
        (tmp_path / "p.png").write_bytes(large_png())
        for number in range(2000):
            save_entry(tmp_path, entry(f"sub-{number}", f"/data/{number}.nii", picture="p.png"))
        path = write_report(tmp_path, title="many", details={})
        assert path.stat().st_size < 5_000_000
        page, console = browser.dom(path)
        assert console == []
        assert len(page.all("tr")) == 2001
        assert "2000 of 2000 scans" in str(page.all("span"))

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_can_be_read_in_light_and_dark(self, browser, folder, probed, scheme):
        """Contrast of at least 4.5 to 1 (WCAG 2.2, level AA)."""
        page_of(folder)
        options = [scheme_option(scheme)]
        colours = (
            probed.get(scheme)
            or (browser.probe(folder / "report.html", COLOURS, options=options)[0])
        )
        backgrounds = set()
        for pair in colours:
            text, back = (
                [int(n) for n in re.findall(r"\d+", colour)[:3]] for colour in pair.split("|")
            )
            light, low = sorted((luminance(text), luminance(back)), reverse=True)
            assert (light + 0.05) / (low + 0.05) >= 4.5, pair
            backgrounds.add(luminance(back) > 0.5)
        assert backgrounds == {scheme == "light"}


def controls(page: Page) -> dict[str, str | None]:
    """Attributes of the controls over the table."""
    return next(
        attributes for _, attributes, _ in page.elements if attributes.get("id") == "controls"
    )


def large_png() -> bytes:
    """A picture of some size."""
    noise = np.random.default_rng(0).integers(0, 255, (400, 400), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "png")
    return stream.getvalue()


def luminance(colour: list[int]) -> float:
    parts = [c / 255 for c in colour]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_templates_are_beside_the_package() -> None:
    """They must be declared as package data: without them there is no report."""
    from synthsr_net.prediction import report

    folder = Path(os.path.dirname(str(report.__file__))) / "templates"
    assert {path.name for path in folder.iterdir()} >= {
        *("report.html.jinja", "report.css", "report.js"),
    }
