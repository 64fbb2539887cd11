"""Signals to every command, at random moments: one line and code 130 within two seconds.

    python -m tests.fuzz.stops --seconds 600 --seed 1

Signals are SIGINT and SIGTERM to the process, SIGINT to all processes of the command, as Ctrl-C in
a terminal sends it, and SIGINT twice. No process and no temporary file may be left.
"""

from __future__ import annotations

import argparse
import getpass
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

import psutil

from .originals import write_originals

PROGRAM = "from synthsr_cli.main import main; main()"
STARTING = 0.1
"""Seconds that Python may take to start, in which it ends by the signal as all programs do."""
SECONDS = 2.0
OF_OTHERS = (".ses", f"torchinductor_{getpass.getuser()}")
"""Caches of other libraries in the folder for temporary files."""
_PREDICT = "predict IN/list.txt OUT --model IN/model.safetensors --device cpu"
_PRIORS = "estimate-priors --images IN/scan.nii.gz --labels IN/labels.nii.gz"
COMMANDS = {
    "predict": f"{_PREDICT} --report OUT/report",
    "predict --devices": f"{_PREDICT} --devices 2",
    "generate": "generate IN/generator.yaml --labels IN/labels.nii.gz -n 40 --preview --out OUT",
    "train": "train IN/training.yaml --labels IN/labels.nii.gz --out OUT/run --device cpu"
    " --set run.steps_per_epoch=20",
    "estimate-priors": f"{_PRIORS} --out OUT/priors",
    "estimate-priors --workers": f"{_PRIORS} --images IN/scan.mgz --workers 2 --plot --out OUT",
    "evaluate": "evaluate IN/scan.nii.gz IN/scan.mgz --out OUT",
    "labels": "labels IN/labels.nii.gz --write-table OUT/table.tsv",
    "models": "models IN/model.safetensors",
    "export": "export IN/model.safetensors OUT/model.onnx",
    "convert-weights": "convert-weights IN/keras.h5 OUT/model.safetensors",
}


def main() -> None:
    """Stop commands, and report what was not as promised."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.stops", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="how long (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    parser.add_argument("--only", default=",".join(COMMANDS), help="commands, with commas")
    options = parser.parse_args()
    random, names = Random(options.seed), options.only.split(",")
    tally, slowest, until = Counter[str](), 0.0, time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory(prefix="synthsr-stops-") as folder:
        originals = Path(folder, "originals")
        originals.mkdir()
        write_originals(originals)
        longest = dict.fromkeys(names, 0.0)
        while time.monotonic() < until:
            name, kind = random.choice(names), random.choice(("INT", "TERM", "GROUP", "TWICE"))
            delay = random.random() * longest[name] if longest[name] else 300.0
            found, seconds, code = stop(COMMANDS[name], kind, delay, originals)
            if code == "ended":  # a look at how long it takes comes first
                longest[name] = max(longest[name], seconds)
                continue
            for what in (name, "all", *(["faults"] if found else [])):
                tally[what] += 1
            slowest = max(slowest, seconds)
            if found:
                print(f"{name}, {kind} after {delay:.2f} s: {found}", flush=True)
    for name in (*names, "all", "faults"):
        print(f"{name}: {tally[name]}")
    print(f"the slowest took {slowest:.2f} s")
    sys.exit(1 if tally["faults"] else 0)


def stop(words: str, kind: str, delay: float, originals: Path) -> tuple[str, float, str]:
    """Stop a command; what was wrong, how long it took, and its exit code in words."""
    with tempfile.TemporaryDirectory(prefix="synthsr-stop-") as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        (folder / "out").mkdir()
        words = re.sub(r"\bIN\b", str(originals), re.sub(r"\bOUT\b", str(folder / "out"), words))
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words.split()],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, "TMPDIR": str(folder / "tmp"), "MPLCONFIGDIR": name},
        )  # fmt: skip
        begin = time.monotonic()
        try:
            process.communicate(timeout=delay)
            return "", time.monotonic() - begin, "ended"
        except subprocess.TimeoutExpired:
            begin = time.monotonic()
        _send(process.pid, kind)
        try:
            _, errors = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            _, errors = process.communicate()
        seconds, code = time.monotonic() - begin, process.returncode
        wrong = _wrong(errors, code, delay) + _left(process.pid, folder)
        if seconds > SECONDS:
            wrong.append(f"took {seconds:.1f} s")
        return "; ".join(wrong), seconds, str(code)


def _send(pid: int, kind: str) -> None:
    if kind == "GROUP":
        os.killpg(pid, signal.SIGINT)
        return
    os.kill(pid, signal.SIGTERM if kind == "TERM" else signal.SIGINT)
    if kind == "TWICE":
        time.sleep(0.01)
        try:
            os.kill(pid, signal.SIGINT)
        except ProcessLookupError:
            return


def _wrong(errors: str, code: int, delay: float) -> list[str]:
    lines = errors.splitlines()
    silent = delay <= STARTING and code in (-signal.SIGINT, -signal.SIGTERM)
    if silent or ("Traceback" in errors and "synthsr_cli" not in errors):  # Python itself starts
        return []
    if "Traceback" in errors or "rror" in errors:
        return [errors[-500:]]
    if code == 0:
        return []  # its work was done
    if code != 130 or sum("Stopped" in line for line in lines) != 1 or "Stopped" not in lines[-1]:
        return [f"code {code}, {lines[-3:]}"]
    return []


def _left(session: int, folder: Path) -> list[str]:
    """Processes and temporary files that are left; caches of other libraries are not ours."""
    time.sleep(0.05)
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"process {process.pid} is left")
                process.kill()
        except (OSError, psutil.Error):
            continue
    hidden = [path.name for path in (folder / "out").rglob(".*")]
    temporary = [
        path.name for path in (folder / "tmp").iterdir() if not path.name.endswith(OF_OTHERS)
    ]
    return found + [f"{name} is left" for name in (*hidden, *temporary)]


if __name__ == "__main__":
    main()
