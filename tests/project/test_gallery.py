"""Pictures of the documentation are there, small, shown, and as the library makes them today."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
from helpers import (
    ROOT,
)
from PIL import Image

import synthsr_transforms.transforms as transforms

GALLERY = ROOT / "docs" / "images" / "gallery"
MAX_BYTES = 2_000_000
ELSEWHERE = 0.01  # share of pixels that letters and borders of voxels may change on other machines


@pytest.fixture(scope="module")
def gallery() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples"))
        yield importlib.import_module("gallery")


def paths(gallery: ModuleType) -> set[str]:
    return {f"{kind}/{name}.png" for kind, names in gallery.names().items() for name in names}


def test_every_transform_has_a_picture(gallery):
    assert {*gallery.TRANSFORMS} == {*transforms.__all__}


def test_the_folder_holds_the_pictures_and_nothing_else(gallery):
    found = {path.relative_to(GALLERY).as_posix() for path in GALLERY.rglob("*.*")}
    assert found == paths(gallery)


def test_pictures_are_small_and_have_256_colours():
    pictures = list(GALLERY.rglob("*.png"))
    assert sum(path.stat().st_size for path in pictures) <= MAX_BYTES
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.mode in ("L", "P"), path.name


def test_every_picture_is_shown_on_a_page(gallery):
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
    assert [path for path in sorted(paths(gallery)) if f"images/gallery/{path})" not in pages] == []


@pytest.mark.parametrize("name", ["GroupLabels", "GammaContrast", "SliceAcquisition"])
def test_pictures_are_current(gallery, name):
    path, picture = gallery.make(name)
    with Image.open(GALLERY / path) as file:
        made, kept = (np.asarray(each.convert("RGB"), np.int16) for each in (picture, file))
    assert made.shape == kept.shape
    differs = np.abs(made - kept).max(axis=-1) > gallery.GREY_STEP
    assert differs.mean() < ELSEWHERE, f"python examples/gallery.py {name}"
