"""Promises of what commands say: how much, where, and in the file of ``--log``."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import SCAN_MM, SCAN_SHAPE, one_error, python, run, save, save_tiny_model

from synthsr_cli.common.messages import PACKAGES, Terminal, keep, log, shown, terminal

LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d [A-Z]+ +synthsr_\w+ \[[^]]+:\d+[^]]*\] \S.*"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ship) -> Path:
    """Working folder with two scans, of which the second warns, one damaged file and a model."""
    monkeypatch.chdir(tmp_path)
    ship(save_tiny_model(tmp_path / "tiny.safetensors"))
    for k in range(2):
        voxels = np.random.default_rng(k).random(SCAN_SHAPE, np.float32)
        voxels[0, 0, 0] = np.nan if k else 0.0
        save(tmp_path / "scans" / f"s{k}.nii.gz", voxels, np.diag([SCAN_MM] * 3 + [1.0]))
    return tmp_path


def test_quiet_says_nothing_and_verbose_says_more(folder):
    plain = run("predict", "scans", "plain")
    assert plain.exit_code == 0, plain.output
    assert "Warning: s1.nii.gz: " in plain.stderr
    assert "wrote" not in plain.stderr
    quiet = run("predict", "scans", "quiet", "--quiet")
    assert (quiet.exit_code, quiet.output) == (0, "")
    verbose = run("predict", "scans", "verbose", "--verbose")
    assert verbose.stderr.count("Warning: ") == plain.stderr.count("Warning: ")
    for k in range(2):
        assert f"s{k}.nii.gz: wrote {Path('verbose', f's{k}_synthsr.nii.gz')}" in verbose.stderr
    assert verbose.stdout.startswith("Predicted 2 scans in ")


def test_quiet_keeps_errors_and_says_which_scan_failed(folder):
    Path("scans/bad.nii.gz").write_bytes(b"no scan")
    result = run("predict", "scans", "out", "--quiet")
    failed, error = result.stderr.splitlines()
    assert (result.exit_code, result.stdout) == (1, "")
    assert failed.startswith("Failed: bad.nii.gz: ")
    assert error.startswith("Error: 1 of 3 scans failed")


def test_they_exclude_each_other(folder):
    assert "exclude each other" in one_error(run("predict", "a", "b", "--quiet", "--verbose"))


@pytest.mark.parametrize("more", [[], ["--quiet"], ["--verbose"]])
def test_a_log_holds_everything_in_lines_with_times(more, folder):
    Path("scans/bad.nii.gz").write_bytes(b"no scan")
    for out in ("a", "b"):  # the second is appended
        assert run("predict", "scans", out, "--log", "run.log", *more).exit_code == 1
    lines = Path("run.log").read_text().splitlines()
    assert not [line for line in lines if not LINE.fullmatch(line)]
    text = "\n".join(lines)
    for said in (": synthsr 0", "ERROR   synthsr_cli", "exit code 1"):
        said = said.replace(": synthsr", " synthsr")
        assert text.count(said) >= 2, said
    for out in ("a", "b"):
        assert f"s1.nii.gz: wrote {Path(out, 's1_synthsr.nii.gz')}" in text
    assert text.count("WARNING synthsr_net") == 2
    assert text.count("Predicted 2 scans in ") == 2
    assert ("DEBUG" in text) == (more == ["--verbose"])


def test_a_message_of_several_lines_is_one_in_the_file(folder):
    with shown():
        keep(Path("x.log"), "synthsr")
        log.warning("first\nsecond \udcff")
    last = Path("x.log").read_text().splitlines()[-1]
    assert LINE.fullmatch(last)
    assert last.endswith("first second \\udcff")


def test_a_log_that_cannot_be_written_is_one_line(folder):
    error = one_error(run("predict", "scans", "out", "--log", "none/run.log"))
    assert "--log must be a file that can be written, got none/run.log (No such file" in error
    assert not Path("out").exists()


def test_nothing_is_left_of_a_command_in_the_loggers(folder):
    before = [(logging.getLogger(n).level, list(logging.getLogger(n).handlers)) for n in PACKAGES]
    run("predict", "scans", "out", "--log", "run.log", "--verbose")
    after = [(logging.getLogger(n).level, list(logging.getLogger(n).handlers)) for n in PACKAGES]
    assert before == after
    assert isinstance(terminal(), Terminal)


def test_several_processes_share_a_log(folder):
    """Lines of two hundred messages each are whole, whoever wrote them."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from synthsr_cli.common.messages import keep, log, shown\n"
        "with shown() as terminal:\n"
        "    terminal.amount = -1\n    keep(Path('all.log'), 'test')\n"
        "    for k in range(200):\n        log.info('%s', sys.argv[1] * 300 + str(k))\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, word]) for word in "abc"]
    assert [process.wait(60) for process in started] == [0] * 3
    lines = Path("all.log").read_text().splitlines()
    assert not [line for line in lines if not LINE.fullmatch(line)]
    said = sorted(line.split("] ")[1] for line in lines if "Python" not in line)
    assert said == sorted(word * 300 + str(k) for word in "abc" for k in range(200))


def test_a_library_without_a_program_says_nothing(folder):
    code = (
        "import logging, synthsr_net, synthsr_transforms, synthsr_cli.common.messages\n"
        "for name in ('synthsr_net', 'synthsr_transforms', 'synthsr_cli'):\n"
        "    logging.getLogger(name).warning(name)\n"
    )
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
