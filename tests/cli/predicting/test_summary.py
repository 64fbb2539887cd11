"""Promises of ``summary.tsv``, ``--only-failed`` and ``--dry-run``."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers import PROGRAM, SCAN_MM, SCAN_SHAPE, one_error, run, save, save_tiny_model, until

from synthsr_net.models.loading import load_model
from synthsr_net.prediction.runs.summary import COLUMNS
from synthsr_transforms.support.append import append_row, read_rows
from synthsr_transforms.support.messages import SynthSRError

MODEL = ("--model", "tiny.safetensors")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with three scans, the second of which is damaged, and a model."""
    monkeypatch.chdir(tmp_path)
    save_tiny_model(tmp_path / "tiny.safetensors")
    for k in range(3):
        save(tmp_path / "scans" / f"s{k}.nii.gz", voxels(k), np.diag([SCAN_MM] * 3 + [1.0]))
    (tmp_path / "scans" / "s1.nii.gz").write_bytes(b"no scan")
    return tmp_path


def voxels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(SCAN_SHAPE, np.float32)


def mend() -> None:
    save(Path("scans/s1.nii.gz"), voxels(1), np.diag([SCAN_MM] * 3 + [1.0]))


def rows(path: str = "out/summary.tsv") -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def states(path: str = "out/summary.tsv") -> list[tuple[str, str]]:
    return [(Path(row["scan"]).name, row["status"]) for row in rows(path)]


class TestSummary:
    def test_every_scan_has_a_row(self, folder):
        assert run("predict", "scans", "out", *MODEL).exit_code == 1
        assert sorted(states()) == [
            ("s0.nii.gz", "done"),
            ("s1.nii.gz", "failed"),
            ("s2.nii.gz", "done"),
        ]
        for row in rows():
            assert tuple(row) == COLUMNS
            assert bool(row["error"]) == (row["status"] == "failed")
            assert Path(row["output"]).exists() == (row["status"] == "done")
            assert row["version"]
            assert row["model"] == load_model("tiny.safetensors").config.name
            assert len(row["model_sha256"]) == 64
            assert 0 <= float(row["seconds"]) < 60

    def test_only_failed_scans_are_done_again(self, folder):
        run("predict", "scans", "out", *MODEL)
        before = Path("out/s0_synthsr.nii.gz").stat().st_mtime_ns
        again = ("--only-failed", "out/summary.tsv")
        assert run("predict", "scans", "out", *MODEL, *again).exit_code == 2  # as of one scan
        mend()
        result = run("predict", "scans", "out", *MODEL, *again)
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("Predicted 1 scan in ")
        assert Path("out/s0_synthsr.nii.gz").stat().st_mtime_ns == before
        assert Counter(states())["s1.nii.gz", "failed"] == 2
        assert states()[-1] == ("s1.nii.gz", "done")
        result = run("predict", "scans", "out", *MODEL, *again)
        assert result.stdout.startswith("Nothing to do: no scan of this run failed")

    def test_a_folder_that_was_moved_is_known(self, folder, monkeypatch):
        """Outputs are known by their place, however they are written."""
        run("predict", "scans", "out", *MODEL)
        mend()
        monkeypatch.chdir("out")
        again = ("--only-failed", folder / "out" / "summary.tsv", "--model", "../tiny.safetensors")
        Path("summary.tsv").write_text(
            Path("summary.tsv").read_text().replace("\tout/", f"\t{folder / 'out'}/")
        )
        assert run("predict", "../scans", ".", *again).stdout.startswith("Predicted 1 scan")

    def test_what_a_killed_process_made_gets_its_row_later(self, folder):
        mend()
        assert run("predict", "scans", "out", *MODEL).exit_code == 0
        kept = [
            line for line in Path("out/summary.tsv").read_text().splitlines() if "s1" not in line
        ]
        Path("out/summary.tsv").write_text("\n".join(kept))  # nor is the last line whole
        assert run("predict", "scans", "out", *MODEL, "--resume").exit_code == 0
        assert sorted(states()) == [(f"s{k}.nii.gz", "done") for k in range(3)]
        assert "earlier run" in rows()[-1]["warnings"]
        run("predict", "scans", "out", *MODEL, "--resume")
        assert len(rows()) == 3

    def test_one_scan_and_another_table(self, folder):
        assert run("predict", "scans/s0.nii.gz", "t1.nii.gz", *MODEL).exit_code == 0
        assert not Path("summary.tsv").exists()
        Path("out").mkdir()
        Path("out/summary.tsv").write_text("participant\tage\n1\t30\n")
        error = one_error(run("predict", "scans", "out", *MODEL))
        assert "out/summary.tsv must be a table with the columns scan, output" in error
        error = one_error(run("predict", "scans", "out2", *MODEL, "--only-failed", "no.tsv"))
        assert "no.tsv does not exist" in error

    def test_four_processes_of_which_one_is_killed_lose_nothing(self, folder, server):
        """Parts of an array; the second is killed, and started again as a scheduler does."""
        for k in range(12):
            save(Path("many") / f"s{k}.nii.gz", voxels(k), np.diag([SCAN_MM] * 3 + [1.0]))
        words = ["predict", "many", "out", *MODEL, "--resume"]
        parts = [(PROGRAM, *words, "--shard", f"{k}/4") for k in (1, 2, 3, 4)]
        started = [server.begin(*part) for part in parts]
        until(lambda: list(Path("out").glob("s1*")), started[1])
        started[1].send_signal(signal.SIGKILL)
        assert [process.wait() for process in started] == [0, -signal.SIGKILL, 0, 0]
        assert server.begin(*parts[1]).wait() == 0
        done = Counter(name for name, status in states() if status == "done")
        assert done == {f"s{k}.nii.gz": 1 for k in range(12)}
        assert len(list(Path("out").glob("*_synthsr.nii.gz"))) == 12
        assert not [path for path in Path("out").iterdir() if path.name.startswith(".")]


class TestDryRun:
    @pytest.mark.parametrize("command", ["predict", "segment"])
    def test_it_says_what_would_be_made_and_writes_nothing(self, command, folder):
        more = MODEL if command == "predict" else ()
        result = run(command, "scans", "out", "--dry-run", *more)
        assert result.exit_code == 0, result.output
        head, *lines = result.stdout.splitlines()
        assert head == "scan\toutput\twould"
        ending = "_synthsr" if command == "predict" else "_synthsr_seg"
        assert lines == [f"scans/s{k}.nii.gz\tout/s{k}{ending}.nii.gz\tmake" for k in range(3)]
        assert not Path("out").exists()

    def test_what_is_there_is_kept_or_replaced(self, folder):
        assert run("predict", "scans", "out", *MODEL).exit_code == 1
        before = {path: path.stat().st_mtime_ns for path in Path("out").iterdir()}
        assert "--resume" in one_error(run("predict", "scans", "out", *MODEL, "--dry-run"))
        kept = run("predict", "scans", "out", *MODEL, "--dry-run", "--resume")
        assert kept.stdout.splitlines()[1:] == ["scans/s1.nii.gz\tout/s1_synthsr.nii.gz\tmake"]
        assert "2 scans would be kept" in kept.stderr
        over = run("predict", "scans", "out", *MODEL, "--dry-run", "--overwrite")
        assert [line.split("\t")[2] for line in over.stdout.splitlines()[1:]] == [
            "replace",
            "make",
            "replace",
        ]
        assert {path: path.stat().st_mtime_ns for path in Path("out").iterdir()} == before

    def test_samples(self, folder):
        result = run("generate", "all_purpose", "--set", "crop.shape=16", "-n", 3, "--dry-run")
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        assert lines == ["sample\tlabel_map", *(f"sample_00000{k}\tphantom" for k in range(3))]
        assert not Path("synthetic").exists()


# The table itself --------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from synthsr_transforms.support.append import append_row
path = Path("all.tsv")
print("ready", flush=True)
sys.stdin.readline()
for k in range(300):
    append_row(path, ("name", "text"), (f"{sys.argv[1]}{k}", sys.argv[1] * (1 + k * 7 % 5000)))
"""


class TestTable:
    @pytest.mark.parametrize("killed", [False, True])
    def test_processes_append_whole_rows_and_one_header(self, killed, tmp_path, monkeypatch):
        """Killing one of them takes nothing but its own rows, and no lock stays."""
        monkeypatch.chdir(tmp_path)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        command = [sys.executable, "-c", WRITER]
        started = [subprocess.Popen([*command, word], text=True, **pipes) for word in "abcd"]
        for process in started:
            process.stdout.readline()
        for process in started:
            process.stdin.write("\n")
            process.stdin.flush()
        if killed:
            path = Path("all.tsv")
            until(lambda: path.exists() and "b10\t" in path.read_text())
            started[1].kill()
        for process in started:
            process.communicate(timeout=60)
        lines = Path("all.tsv").read_text().splitlines()
        assert lines[0] == "name\ttext"
        found = dict(line.split("\t") for line in lines[1:])
        assert len(found) == len(lines) - 1
        whole = {f"{w}{k}": w * (1 + k * 7 % 5000) for w in "abcd" for k in range(300)}
        if killed:
            assert {n for n in whole if n not in found} <= {f"b{k}" for k in range(300)}
            assert found.items() <= whole.items()
        else:
            assert found == whole

    def test_a_row_that_was_cut_is_left_out_and_does_not_spoil_the_next(self, tmp_path):
        path = tmp_path / "t.tsv"
        append_row(path, ("a", "b"), (1, 2))
        with path.open("ab") as file:
            file.write(b"half")
        append_row(path, ("a", "b"), ("x\ty", 'line 1\nline "2"'))
        assert read_rows(path, ("a", "b")) == [
            {"a": "1", "b": "2"},
            {"a": "x\ty", "b": 'line 1 line "2"'},
        ]
        with pytest.raises(SynthSRError, match="must be a table with the columns c"):
            read_rows(path, ("c",))

    def test_a_file_that_a_stop_left_empty_has_no_rows(self, tmp_path):
        path = tmp_path / "t.tsv"
        path.touch()
        assert read_rows(path, ("a",)) == []
        append_row(path, ("a",), (1,))
        assert path.read_text() == "a\n1\n"

    def test_names_that_are_no_characters_are_written_out(self, tmp_path):
        append_row(tmp_path / "t.tsv", ("a",), (os.fsdecode(b"\xff"),))
        assert read_rows(tmp_path / "t.tsv", ("a",)) == [{"a": "\\udcff"}]
