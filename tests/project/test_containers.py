"""Promises of the images: what they copy exists and is enough, and both hold the same.

`.ci/run` runs `containers/install.sh`, which installs and tries what they hold.
"""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import (
    ROOT,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = ROOT / "containers"


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def dockerfile() -> list[tuple[str, str]]:
    """Instructions and their arguments, lines that go on joined."""
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


@pytest.fixture(scope="module")
def definition() -> dict[str, list[str]]:
    """Lines of each section of the definition for Apptainer."""
    sections: dict[str, list[str]] = {"": []}
    lines = sections[""]
    for line in (FOLDER / "synthsr.def").read_text(encoding="utf-8").splitlines():
        if line.startswith("%"):
            lines = sections.setdefault(line[1:].strip(), [])
        elif line.strip() and not line.startswith("#"):
            lines.append(line.strip())
    return sections


def copied(dockerfile: list[tuple[str, str]]) -> set[str]:
    lines = [rest.split() for word, rest in dockerfile if word == "COPY" and "--from" not in rest]
    return {source for *sources, _ in lines for source in sources}


def test_what_is_copied_exists_and_is_all_that_an_installation_needs(dockerfile, project):
    sources = copied(dockerfile)
    assert [source for source in sources if not (ROOT / source).exists()] == []
    about = project["project"]
    needed = {
        *project["tool"]["setuptools"]["package-dir"].values(),
        *(f"{project['build-system']['build-backend']}.py", "pyproject.toml", "constraints.txt"),
        *(about["readme"], *about["license-files"], "containers/install.sh"),
    }
    assert sources == needed


def test_files_that_are_copied_are_not_ignored(dockerfile):
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text(encoding="utf-8").split("\n*\n")[1]
    lines = ignored.split()
    assert {line[1:] for line in lines if line.startswith("!")} == copied(dockerfile)
    assert any(fnmatch.fnmatch("cli/__pycache__", line) for line in lines)


def test_both_images_hold_the_same(dockerfile, definition):
    pairs = [line.split() for line in definition["files"]]
    assert {source for source, _ in pairs} == copied(dockerfile)
    assert all(target == f"/source/{source}" for source, target in pairs)
    given = {rest for word, rest in dockerfile if word == "ARG" and "=" in rest}
    assert set(definition["arguments"]) == given
    (variables,) = (rest.split() for word, rest in dockerfile if word == "ENV")
    exported = " ".join(definition["environment"]).replace("export ", "")
    assert exported.replace("{{ TAG }}", "${TAG}").split() == variables
    runs = [rest for word, rest in dockerfile if word == "RUN"]
    for line in definition["post"][1:3]:
        assert line.replace("{{ COMPUTE }}", '"${COMPUTE}"') in runs


def test_the_python_of_the_images_is_one_that_the_project_takes(dockerfile, project):
    (version,) = (rest.partition("=")[2] for word, rest in dockerfile if rest.startswith("PYTHON="))
    assert f"Programming Language :: Python :: {version}" in project["project"]["classifiers"]


def test_the_tag_names_the_version(definition, project):
    assert f"TAG=synthsr:{project['project']['version']}" in definition["arguments"]


def test_images_do_not_run_as_root(dockerfile):
    users = [rest for word, rest in dockerfile if word == "USER"]
    assert users == ["1000"]
    last = max(i for i, (word, _) in enumerate(dockerfile) if word in ("RUN", "COPY", "FROM"))
    assert dockerfile.index(("USER", "1000")) > last


def test_the_entry_point_is_a_command_of_the_project(dockerfile, definition, project):
    (entry,) = (rest for word, rest in dockerfile if word == "ENTRYPOINT")
    (command,) = re.findall(r'"([\w-]+)"', entry)
    assert definition["runscript"] == [f'exec {command} "$@"']
    assert command in project["project"]["scripts"]


def test_the_environment_of_conda_is_the_tested_one(project):
    held = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, packages = held["dependencies"]
    version = python.partition("=")[2]
    assert f"Programming Language :: Python :: {version}" in project["project"]["classifiers"]
    assert (pip, packages) == ("pip", {"pip": ["-c constraints.txt", "."]})


def test_the_installer_comes_in_one_known_version():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("uv==")]


@pytest.mark.skipif(sys.platform == "win32", reason="a script of the shell")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "usage"), (["a", "cpu", "b"], "usage"), (["a", "gpu"], "must be cpu or cuda, got gpu.")],
)
def test_the_installer_refuses_what_it_does_not_know(arguments, said, tmp_path):
    script = FOLDER / "install.sh"
    run = subprocess.run(
        ["sh", str(script), *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert run.returncode == 2
    assert said in run.stderr
    assert not list(tmp_path.iterdir())


def test_the_dockerfile_has_no_faults_that_its_linter_knows():
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if linter is None:
        pytest.skip("hadolint is not installed")
    run = subprocess.run(
        [linter, str(FOLDER / "Dockerfile")], capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stdout) == (0, "")
