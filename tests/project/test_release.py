"""Promises of `.ci/check_release.py`, on a small project: each fault of a release is named."""

from __future__ import annotations

import importlib.util
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from helpers import (
    ROOT,
)

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="the script reads TOML")
SCRIPT = ROOT / ".ci" / "check_release.py"
PROJECT = """
[project]
version = "1.2.0"
[tool.setuptools.package-dir]
one = "one"
two = "folder"
"""
PACKAGES = {"one/__init__.py": "1", "folder/table.tsv": "2", "folder/__init__.py": "3"}
OTHERS = {
    **{"pyproject.toml": PROJECT, "CITATION.cff": "version: 1.2.0\n"},
    **{"CHANGELOG.md": "## [1.2.0]\n", "build_backend.py": "", "README.md": "", "LICENSE": ""},
}


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, at a small checkout with `dist/`, in which nothing is wrong."""
    spec = importlib.util.spec_from_file_location("check_release", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    for name, text in (PACKAGES | OTHERS).items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (tmp_path / "folder" / "__pycache__").mkdir()
    (tmp_path / "folder" / "__pycache__" / "table.pyc").write_text("")
    (tmp_path / "dist").mkdir()
    distribute(tmp_path, PACKAGES, [*PACKAGES, *OTHERS])
    return module


def distribute(checkout: Path, wheel: dict[str, str], source: list[str]) -> None:
    with zipfile.ZipFile(checkout / "dist" / "synthsr-1.2.0-py3-none-any.whl", "w") as archive:
        archive.writestr("synthsr-1.2.0.dist-info/RECORD", "")
        for name, text in wheel.items():
            archive.writestr(name.replace("folder/", "two/"), text)
    with tarfile.open(checkout / "dist" / "synthsr-1.2.0.tar.gz", "w:gz") as packed:
        for name in source:
            packed.add(checkout / name, f"synthsr-1.2.0/{name}")


def test_a_whole_release_has_no_faults(script, tmp_path):
    assert script.faults(tmp_path / "dist", "v1.2.0") == []


@pytest.mark.parametrize(
    ("wheel", "said"),
    [
        ({"folder/table.tsv": None}, "lacks two/table.tsv."),
        ({"one/old.py": "4"}, "must not hold one/old.py."),
        ({"one/__init__.py": "9"}, "holds another one/__init__.py than the checkout."),
    ],
)
def test_a_wheel_that_is_not_the_checkout_is_found_out(script, tmp_path, wheel, said):
    held = {name: text for name, text in (PACKAGES | wheel).items() if text is not None}
    distribute(tmp_path, held, [*PACKAGES, *OTHERS])
    assert script.faults(tmp_path / "dist") == [f"synthsr-1.2.0-py3-none-any.whl {said}"]


def test_a_source_distribution_must_hold_what_builds(script, tmp_path):
    held = [name for name in [*PACKAGES, *OTHERS] if name != "build_backend.py"]
    distribute(tmp_path, PACKAGES, held)
    assert script.faults(tmp_path / "dist") == ["synthsr-1.2.0.tar.gz lacks build_backend.py."]


def test_versions_must_agree(script, tmp_path):
    (tmp_path / "CITATION.cff").write_text("version: 1.1.0\n")
    (tmp_path / "CHANGELOG.md").write_text("## [Unreleased]\n")
    assert script.faults(tmp_path / "dist", "v1.3.0") == [
        "CITATION.cff must name version 1.2.0, names 1.1.0.",
        "the tag must be v1.2.0, got v1.3.0.",
        "CHANGELOG.md must have a section [1.2.0].",
    ]


def test_distributions_that_are_missing_are_named(script, tmp_path):
    for path in (tmp_path / "dist").iterdir():
        path.unlink()
    assert len(script.faults(tmp_path / "dist")) == 2
