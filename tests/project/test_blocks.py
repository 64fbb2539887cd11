"""Code in the documentation does what it says.

The blocks of tutorials run as they stand there, on smaller data than a reader's, and so do blocks
of Python on all pages. Other commands are read: their names and options must exist.
A block that is not run says why in a comment above it, `<!-- not run: REASON -->`.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from helpers import (
    ROOT,
    run,
    save,
    save_tiny_model,
)

from synthsr_cli.group import synthsr
from synthsr_net.training.setup.experiment import RunPlan
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.support.plugins import import_module

pytestmark = pytest.mark.usefixtures("own_registry")

DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md"]
RUN = [DOCS / "start.md", *sorted((DOCS / "tutorials").glob("[0-9]*.md"))]
"""Pages whose blocks of the shell run, one after the other."""
ELSEWHERE = DOCS / "export.md"  # tests/net/test_onnx.py runs its blocks

_FENCE = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n)?"
    r"``` ?(?P<language>[^\n]*)\n(?P<code>.*?)^```$",
    re.M | re.S,
)


class Block(NamedTuple):
    """A block of code on a page.

    Attributes:
        page: File.
        line: Where it begins, from 1.
        language: As written behind the fence.
        code: What it holds.
        why: Why it is not run, if the page says so in a comment above.
    """

    page: Path
    line: int
    language: str
    code: str
    why: str | None

    @property
    def name(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """The blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start("code"))
        yield Block(page, line, found["language"], found["code"], found["why"])


TOLD = """
import json, sys
words = sys.argv[1:]
code = sys.stdin.read() if words[1:] == ["-"] else ""
with open("commands.txt", "a") as file:
    print(json.dumps([words, code]), file=file)
"""
"""Stands for a program: adds its words, and what it gets, to a list."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like that of a checkout, with the data of the tutorials, of 4 mm."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "told.py").write_text(TOLD)
    (folder / "bin").mkdir()
    for name in ("python", "synthsr"):
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S told.py {name} "$@"\n')
        program.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_here(["python", "examples/tutorial_data.py", "tutorial_data", "--spacing-mm", "4"])
    (folder / "tutorial_2mm").symlink_to("tutorial_data")
    return folder


def read_by_shell(folder: Path, script: str) -> None:
    """Let a shell read a script, whose programs are stand-ins."""
    variables = {**os.environ, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    words = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(words, cwd=folder, env=variables, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


def run_here(words: list[str], code: str = "") -> None:
    """Run a command in this process: `synthsr`, or `python` with a file or a piece of code.

    Training is shorter than a reader's, and the example smaller.
    """
    program, *arguments = words
    if program == "synthsr":
        if arguments[0] == "train":
            arguments += ["--set", "run.steps_per_epoch=2"]
        result = run(*arguments)
        assert result.exit_code == 0, result.output
        if arguments[0] == "example":
            nib.save(nib.load(arguments[1]).slicer[40:-40, 40:-40, 10:-10], arguments[1])
    elif arguments == ["-"]:
        exec(code, {})
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", arguments)
            runpy.run_path(arguments[0], run_name="__main__")


def script_of(page: Path) -> str:
    """What is run of a page, as a script of the shell."""
    blocks = [block for block in blocks_of(page) if block.language in ("bash", "python")]
    assert blocks
    return "".join(
        f"python - <<'PYTHON'\n{block.code}PYTHON\n" if block.language == "python" else block.code
        for block in blocks
        if block.why is None
    )


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.usefixtures("without_curves")
def test_pages_run(page: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell reads their commands; they run here, where everything is imported."""
    read_by_shell(checkout, script_of(page))
    monkeypatch.chdir(checkout)
    told = Path("commands.txt")
    commands = [json.loads(line) for line in told.read_text().splitlines()]
    told.unlink()
    assert commands
    for words, code in commands:
        run_here(words, code)


# Python


def python_blocks(page: Path) -> list[Block]:
    """Blocks of Python that are run."""
    return [block for block in blocks_of(page) if block.language == "python" and not block.why]


@pytest.fixture(scope="module")
def desk(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that blocks read, all small."""
    folder = tmp_path_factory.mktemp("desk")
    data = checkout / "tutorial_data"
    for name, there in {"label_maps": "labels", "T1w": "T1w", "predictions": "T1w"}.items():
        (folder / name).symlink_to(data / there)
    image = np.random.default_rng(0).random((16, 18, 17), np.float32)
    for name in ("scan", "t1", "t2", "flair"):
        save(folder / f"{name}.nii.gz", image, np.diag([3.5, 3.5, 3.5, 1]))
    LabelTable.ready("freesurfer_aseg").write(folder / "tumour.tsv")
    with (folder / "tumour.tsv").open("a") as file:
        file.write("300\ttumour\tneutral\t16\tlesion\n")
    synthsr_table = LabelTable.ready("synthsr")
    np.save(folder / "generation_labels.npy", synthsr_table.values)
    np.save(folder / "generation_classes.npy", synthsr_table.classes)
    for name in ("prior_means_t1_hr", "prior_stds_t1_hr"):
        np.save(folder / f"{name}.npy", np.ones((2, 14)))
    save_tiny_model(folder / "my_model.safetensors")
    done = run("generate", "all_purpose", "-n", 4, "--labels", folder / "label_maps",
               "--set", "crop.shape=32", "--out", folder / "heads")  # fmt: skip
    assert done.exit_code == 0, done.output
    return folder


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page not in (*RUN, ELSEWHERE) and python_blocks(page)],
    ids=lambda page: page.stem,
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # the scans show nobody
def test_blocks_of_python_run(page: Path, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    monkeypatch.syspath_prepend(str(ROOT))
    image = nib.load("scan.nii.gz")
    names: dict[str, Any] = {"image": image, "t1": image, "t2": image, "flair": image}
    names["tensor"] = torch.rand(1, 32, 32, 32)
    for block in python_blocks(page):
        exec(compile("\n" * block.line + block.code, str(block.page), "exec"), names)


# Commands and settings that are read


def commands_of(block: Block) -> Iterator[list[str]]:
    """Words of the commands of this package in a block, without `synthsr`."""
    text = re.sub(r"\\\n\s*(?:> )?", " ", block.code)
    for line in text.splitlines():
        if block.language == "console":
            if not line.startswith("$ "):
                continue
            line = line[2:]
        if "synthsr" not in line:
            continue
        line = re.sub(r"\$\w+", "1", line).replace(" ... ", " ")  # variables of the shell
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;>")
        lexer.whitespace_split = True
        words = [word if word.strip("&|;>") else "&&" for word in lexer]
        for _, part in itertools.groupby(words, key="&&".__eq__):
            command = [*part]
            if "synthsr" in command:
                yield command[command.index("synthsr") + 1 :]


SHOWN = [
    (block, words)
    for page in PAGES
    for block in blocks_of(page)
    if block.language in ("bash", "console")
    for words in commands_of(block)
]


@pytest.mark.parametrize(
    ("block", "words"), SHOWN, ids=[f"{b.name} {' '.join(w[:2])}" for b, w in SHOWN]
)
def test_commands_have_such_options(block: Block, words: list[str]) -> None:
    try:
        context = synthsr.make_context("synthsr", [words[0]], resilient_parsing=True)
        command = synthsr.get_command(context, words[0])
        assert command is not None, f"{block.name}: no command {words[0]}"
        command.make_context(words[0], words[1:])
    except click.exceptions.Exit:  # an option such as --list-presets ends it
        pass
    except click.ClickException as error:
        pytest.fail(f"{block.name}: {error.format_message()}")


SETTINGS = [block for page in PAGES for block in blocks_of(page) if block.language == "yaml"]


@pytest.mark.parametrize("block", SETTINGS, ids=lambda block: block.name)
def test_settings_are_valid(block: Block, tmp_path: Path) -> None:
    settings = yaml.safe_load(block.code)
    if "steps" not in settings:  # a part of a file: a section, or one step
        part = settings if "training" in settings else {"steps": settings}
        settings = {"base": "all_purpose", **part}
    if block.why is None:
        for file in re.findall(r"--import (examples/\S+\.py)", block.page.read_text()):
            import_module(str(ROOT / file), "--import")
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump(settings, sort_keys=False))
        RunPlan.from_source(path)


def test_blocks_say_in_which_language_they_are() -> None:
    known = {"bash", "console", "python", "yaml", "toml", "text", "{ .python }", "{ .bash }"}
    unknown = [b.name for page in PAGES for b in blocks_of(page) if b.language not in known]
    assert unknown == []
