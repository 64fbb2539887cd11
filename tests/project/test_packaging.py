"""Promises of what is installed: every module and every file that the code reads."""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    ROOT,
    python,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ASIDE = ("__pycache__", ".mypy_cache", ".ruff_cache")


@pytest.fixture(scope="module")
def setuptools() -> dict[str, Any]:
    """What pyproject.toml says of packages and their data."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]


def folder_of(package: str, folders: dict[str, str]) -> Path:
    top, *rest = package.split(".")
    return ROOT.joinpath(folders[top], *rest)


def files_of(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith(".") and not set(path.parts) & set(ASIDE):
            yield path


def test_every_module_is_in_a_package(setuptools):
    folders = setuptools["package-dir"]
    packages = {folder_of(name, folders) for name in setuptools["packages"]}
    for top in folders.values():
        modules = {path.parent for path in files_of(ROOT / top) if path.suffix == ".py"}
        assert modules <= packages


def test_every_other_file_is_package_data(setuptools):
    """Weights and their checksums, the example, presets, tables, templates."""
    folders, data = setuptools["package-dir"], setuptools["package-data"]
    declared = set()
    for package in setuptools["packages"]:
        folder = folder_of(package, folders)
        for pattern in [*data["*"], *data.get(package, [])]:
            declared |= set(folder.glob(pattern))
    found = {p for top in folders.values() for p in files_of(ROOT / top) if p.suffix != ".py"}
    assert found <= declared
    names = {path.relative_to(ROOT).as_posix() for path in declared}
    for wanted in (
        "synthsr_net/weights/synthsr-t1-v2.safetensors",
        "synthsr_net/weights/synthsr-t1-fast-v1.safetensors",
        "synthsr_net/weights/SHA256SUMS",
        "synthsr_net/example/flair_5mm.nii.gz",
    ):
        assert wanted in names


def test_the_tour_for_newcomers_names_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tour = text.partition("### Where do I change")[2].partition("\n## ")[0]
    paths = re.findall(r"`([\w/.]+)` \|$", tour, re.MULTILINE)
    assert len(paths) >= 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_type_checkers_find_the_packages_of_an_editable_install(tmp_path):
    """They read path files of an environment, and run no import hook."""
    pytest.importorskip("setuptools", minversion="77")
    code = f"import build_backend; build_backend.build_editable({str(tmp_path)!r})"
    python(code, check=True, cwd=ROOT)
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        files = {name: wheel.read(name).decode() for name in wheel.namelist()}
    (paths,) = (text for name, text in files.items() if name.endswith(".pth"))
    assert paths == f"{ROOT}\n"
    assert not [name for name in files if "finder" in name]
    place: dict[str, Any] = {}
    exec(files["synthsr_cli/__init__.py"], place)
    assert place["__path__"] == [str(ROOT / "cli")]
    record = next(text for name, text in files.items() if name.endswith("/RECORD"))
    assert {line.split(",")[0] for line in record.splitlines()} == set(files)
