"""Check the distributions of a release: the wheel holds the packages of the checkout, and no more.

usage: python .ci/check_release.py FOLDER [TAG]

FOLDER holds one wheel and one source distribution, TAG is that of the release, such as v0.1.0.
Python from 3.11 is enough to run it.
"""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[1]
LARGEST_BYTES = 100_000_000  # of a file that the package index takes
NOT_INSTALLED = ("__pycache__", ".mypy_cache", ".ruff_cache")


def checkout_files(folders: Mapping[str, str]) -> dict[str, int]:
    """Names of the files of packages, as in a wheel, and their checksums."""
    found = {}
    for package, folder in folders.items():
        for path in (ROOT / folder).rglob("*"):
            hidden = path.name.startswith(".") or set(path.parts) & set(NOT_INSTALLED)
            if path.is_file() and not hidden:
                name = f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
                found[name] = zlib.crc32(path.read_bytes())
    return found


def faults_of_wheel(path: Path, expected: Mapping[str, int]) -> Iterator[str]:
    """Say what a wheel lacks, holds too much, or holds with other content."""
    with zipfile.ZipFile(path) as wheel:
        held = {
            item.filename: item.CRC
            for item in wheel.infolist()
            if ".dist-info/" not in item.filename
        }
    yield from (f"{path.name} lacks {name}." for name in sorted(expected.keys() - held.keys()))
    yield from (f"{path.name} must not hold {name}." for name in sorted(held.keys() - expected))
    for name in sorted(held.keys() & expected):
        if held[name] != expected[name]:
            yield f"{path.name} holds another {name} than the checkout."


def faults_of_source(
    path: Path, folders: Mapping[str, str], expected: Mapping[str, int]
) -> set[str]:
    """Say which files of packages a source distribution lacks, and what builds them."""
    with tarfile.open(path) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    tops = [name.partition("/") for name in expected]
    needed = {f"{folders[top]}/{rest}" for top, _, rest in tops}
    needed |= {"pyproject.toml", "build_backend.py", "README.md", "LICENSE"}
    return {f"{path.name} lacks {name}." for name in needed - held}


def faults_of_versions(version: str, tag: str | None) -> Iterator[str]:
    """Say where another version is named than in `pyproject.toml`."""
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    cited = re.search(r"^version: (\S+)$", citation, re.MULTILINE)
    if cited is None or cited[1] != version:
        yield f"CITATION.cff must name version {version}, names {cited and cited[1]}."
    if tag is None:
        return
    if tag != f"v{version}":
        yield f"the tag must be v{version}, got {tag}."
    if f"## [{version}]" not in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"):
        yield f"CHANGELOG.md must have a section [{version}]."


def faults(folder: Path, tag: str | None = None) -> list[str]:
    """Everything that is wrong with the distributions in a folder, one line each."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    version = project["project"]["version"]
    folders = project["tool"]["setuptools"]["package-dir"]
    expected = checkout_files(folders)
    wheel = folder / f"synthsr-{version}-py3-none-any.whl"
    source = folder / f"synthsr-{version}.tar.gz"
    missing = [path for path in (wheel, source) if not path.is_file()]
    if missing:
        return [f"{path} must exist." for path in missing]
    large = [path for path in (wheel, source) if path.stat().st_size > LARGEST_BYTES]
    return [
        *(f"{path.name} must have at most {LARGEST_BYTES} bytes." for path in large),
        *faults_of_versions(version, tag),
        *faults_of_wheel(wheel, expected),
        *sorted(faults_of_source(source, folders, expected)),
    ]


if __name__ == "__main__":
    found = faults(Path(sys.argv[1]), *sys.argv[2:3])
    print("\n".join(found) or "Wheel and source distribution hold what the checkout does.")
    sys.exit(bool(found))
