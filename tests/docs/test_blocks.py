"""Code in the documentation does what it says.

The blocks of a tutorial run as they stand there, on smaller phantoms than a reader's.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("[0-9]*.md"))
SECONDS = 300

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


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like that of a checkout, with the data of the tutorials, of 2 mm."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "examples").symlink_to(ROOT / "examples")
    for name, words in {"python": "", "synthsr": "-m synthsr_cli"}.items():
        program = folder / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        program.chmod(0o755)
    run_in(folder, "python examples/tutorial_data.py tutorial_data --spacing-mm 2")
    (folder / "tutorial_2mm").symlink_to("tutorial_data")
    return folder


def run_in(folder: Path, script: str) -> None:
    """Run a script of the shell, whose first failure is the last line."""
    variables = {**os.environ, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def in_shell(block: Block) -> str:
    """A block as lines of a script of the shell."""
    if block.language == "python":
        return f"python - <<'PYTHON'\n{block.code}PYTHON\n"
    return block.code


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_tutorials_run(page: Path, checkout: Path) -> None:
    blocks = [block for block in blocks_of(page) if block.language in ("bash", "python")]
    assert blocks
    run_in(checkout, "".join(in_shell(block) for block in blocks if block.why is None))
