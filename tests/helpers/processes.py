"""Processes that have imported everything when they begin, which takes most of their time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from helpers import SECONDS

SERVER = """
import json, os, signal, sys, tempfile, time, traceback
import matplotlib.backends.backend_agg, tensorboardX
import synthsr_cli.main, synthsr_cli.predict, synthsr_cli.train, synthsr_net.training.run

def child(code, words, folder, environment, files, alone):
    if alone:
        os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv, tempfile.tempdir = ["synthsr", *words], None
    for number, path in zip((1, 2), files):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    status = 1
    try:
        exec(code, {})
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

def wait(pid, seconds):
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.005)

for line in sys.stdin:
    what, *rest = json.loads(line)
    if what == "wait":
        print(json.dumps(wait(*rest)), flush=True)
    else:
        pid = os.fork()
        if pid == 0:
            child(*rest)
        print(pid, flush=True)
"""


class Process:
    """A process of a server, which offers what `subprocess.Popen` does."""

    def __init__(self, server: Server, pid: int, files: tuple[Path, Path]) -> None:
        self.server, self.pid, self.files = server, pid, files
        self.returncode: int | None = None

    def poll(self, seconds: float = 0.0) -> int | None:
        """Exit code, negative if a signal ended it; None while it runs."""
        if self.returncode is None:
            self.returncode = self.server.ask("wait", self.pid, seconds)
        return self.returncode

    def wait(self, timeout: float = SECONDS) -> int:
        """Wait for the end, which is made if it does not come."""
        code = self.poll(timeout)
        if code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.poll(SECONDS)
            raise subprocess.TimeoutExpired("a process of a server", timeout, self.said())
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def said(self) -> str:
        """What it has written to standard output until now."""
        return self.files[0].read_text()

    def communicate(self, timeout: float = SECONDS) -> tuple[str, str]:
        """What it wrote to standard output and to standard error, once it has ended."""
        self.wait(timeout)
        return self.said(), self.files[1].read_text()


class Server:
    """Begins processes by forking itself.

    Args:
        folder: For what they write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(self, *what: Any) -> Any:
        """Ask for something, and return the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def begin(
        self, code: str, *words: object, alone: bool = False, **environment: object
    ) -> Process:
        """Begin a process that runs a piece of Python in the working folder.

        Args:
            code: What it runs.
            words: Arguments of its command line.
            alone: Whether it leads a session, as that of a terminal.
            environment: Variables of its own.
        """
        self.number += 1
        out, err = (self.folder / f"{self.number}.{kind}" for kind in ("out", "err"))
        out.touch()
        err.touch()
        variables = {name: str(value) for name, value in environment.items()}
        words = tuple(str(word) for word in words)
        files = [str(out), str(err)]
        pid = self.ask("begin", code, words, os.getcwd(), variables, files, alone)
        return Process(self, pid, (out, err))

    def close(self) -> None:
        """End the server."""
        self.process.kill()
        self.process.communicate(timeout=SECONDS)
