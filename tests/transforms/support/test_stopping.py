"""Promises of the end: what is in the making is undone, and nothing of a living process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import abandoned

from synthsr_transforms.support import atomic
from synthsr_transforms.support.atomic import HOURS_KEPT, replacing, temporary_folder, write_text
from synthsr_transforms.support.stopping import undoing

PROGRAM = """
import os, sys, time
from synthsr_transforms.support.atomic import replacing, temporary_folder
from synthsr_transforms.support.stopping import end_on_signals, on_stop, undoing
end_on_signals()
{before}
with replacing("a.txt") as temporary, temporary_folder() as folder, on_stop(lambda: "Half done."):
    temporary.write_text("half")
    (folder / "b.txt").write_text("more")
    print("ready", flush=True)
    {then}
"""


def start(folder: Path, then: str = "time.sleep(60)", before: str = "") -> subprocess.Popen[str]:
    """A process that is writing a file and a temporary folder in a folder."""
    code = PROGRAM.format(before=before, then=then)
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "TMPDIR": str(folder)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "then",
    [
        "time.sleep(60)",
        "while True:\n        try: time.sleep(60)\n        except BaseException: pass",
        "import threading; threading.Thread(target=time.sleep, args=[60]).start()",
    ],
    ids=["asleep", "deaf", "in a thread"],
)
def test_a_signal_ends_a_program_at_once_and_undoes_what_is_half_done(tmp_path, number, then):
    process = start(tmp_path, then)
    process.send_signal(number)
    process.send_signal(number)
    _, errors = process.communicate(timeout=40)  # of the 60 seconds that it would sleep
    assert process.returncode == 130
    assert errors == "Half done.\n" if "thread" not in then else errors.startswith(("Half", "Stop"))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_processes_that_are_being_started(tmp_path, number):
    kill = f"import os; os.kill(os.getppid(), {int(number)}); import time; time.sleep(0.2)"
    then = f"""
    import subprocess, threading
    from synthsr_transforms.support.stopping import signals_held
    threading.Thread(target=time.sleep, args=[1], daemon=True).start()  # which may take the signal
    with signals_held():
        subprocess.run([sys.executable, "-c", {kill!r}])
        print("started", flush=True)
    print("never", flush=True)
    time.sleep(60)"""
    output, errors = start(tmp_path, then).communicate(timeout=40)
    assert (output, errors) == ("started\n", "Half done.\n")
    assert not list(tmp_path.glob(".*"))


def test_processes_started_meanwhile_get_ctrl_c_once_they_have_taken_signals(tmp_path):
    child = """
import os, signal
from synthsr_transforms.support.stopping import end_on_signals
os.kill(os.getpid(), signal.SIGINT)
print("held", flush=True)
end_on_signals()
print("never")
"""
    then = f"""
    import subprocess
    from synthsr_transforms.support.stopping import signals_held
    with signals_held():
        process = subprocess.Popen([sys.executable, "-c", {child!r}])
    os._exit(process.wait())"""
    process = start(tmp_path, then)
    assert process.communicate(timeout=40) == ("held\n", "Stopped.\n")
    assert process.returncode == 130


def test_an_error_undoes_it_as_well(tmp_path):
    done = []
    for ends in (None, ValueError, KeyboardInterrupt):
        try:
            with undoing(lambda: done.append(1)), replacing(tmp_path / "a.txt") as temporary:
                temporary.write_text("half")
                if ends is not None:
                    raise ends
        except (ValueError, KeyboardInterrupt):
            pass
    assert done == [1, 1]
    assert os.listdir(tmp_path) == ["a.txt"]


class TestLeftovers:
    def test_those_of_a_killed_process_are_removed_by_the_next_that_writes(self, tmp_path):
        process = start(tmp_path)
        process.kill()
        process.communicate()
        assert len(list(tmp_path.glob(".*"))) == 2  # a file and a folder
        write_text(tmp_path / "another.txt", "")
        assert os.listdir(tmp_path) == ["another.txt"]

    def test_those_of_a_living_process_stay(self, tmp_path):
        process = start(tmp_path)
        write_text(tmp_path / "another.txt", "")
        assert len(list(tmp_path.glob(".*"))) == 2
        with replacing(tmp_path / "b.txt") as temporary:  # of this process
            temporary.write_text("half")
            atomic.remove_leftovers(tmp_path)
            assert temporary.exists()
        process.kill()
        process.communicate()

    def test_a_number_that_another_process_got_since_does_not_keep_them(self, tmp_path):
        with replacing(tmp_path / "b.txt") as temporary:
            temporary.write_text("half")
            os.utime(temporary, (0, 0))  # before this process began
            atomic.remove_leftovers(tmp_path)
            assert not temporary.exists()
            temporary.write_text("whole")

    @pytest.mark.parametrize(("hours", "kept"), [(0, True), (23, True), (25, False)])
    def test_those_of_other_machines_stay_for_a_day(self, tmp_path, hours, kept):
        left = abandoned(tmp_path / "a.nii.gz", machine="0" * 8)
        since = time.time() - 3600 * hours
        os.utime(left, (since, since))
        write_text(tmp_path / "another.txt", "")
        assert left.exists() == kept
        assert HOURS_KEPT == 24

    def test_other_hidden_files_stay(self, tmp_path):
        names = {".gitignore", ".bashrc", ".0123456789abcdef-notes", f".{'5e' * 16}"}
        for name in names:
            (tmp_path / name).write_text("mine")
        write_text(tmp_path / "another.txt", "")
        assert set(os.listdir(tmp_path)) == {*names, "another.txt"}

    def test_a_folder_that_cannot_be_read_is_no_obstacle(self, tmp_path):
        atomic.remove_leftovers(tmp_path / "missing")
        with temporary_folder() as folder:
            assert folder.is_dir()
        assert not folder.exists()
