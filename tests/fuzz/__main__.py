"""Damage files and use them, for a while, in processes that cannot take the machine down."""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import psutil

GIGABYTE = 2**30
PATIENCE, STARTING = 30, 300
"""Seconds of computing, or of waiting, after which a silent process counts as one that hangs."""


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--files", type=int, default=10**9, help="how many files at most")
    parser.add_argument("--seed", type=int, default=0, help="seed of all damage (default: 0)")
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--only", default="", help="names of originals, with commas between them")
    parser.add_argument("--keep", type=Path, help="folder for files with a fault")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        work(options)
    else:
        sys.exit(1 if watch(options) else 0)


# The process that works --------------------------------------------------------------------------


def work(options: argparse.Namespace) -> None:
    """Use one damaged file after the other, and write what became of each as a line of JSON."""
    import torch

    from .originals import write_originals
    from .uses import Case

    torch.set_num_threads(1)
    (options.worker / "originals").mkdir()
    paths = write_originals(options.worker / "originals")
    chosen = [p for p in paths if not options.only or p.name in options.only.split(",")]
    for path in chosen:  # so that nothing is loaded for the first time later
        list(_used(Case(path, paths[0].parent, options.worker / "out")))
    limit = _virtual_bytes() + 3 * GIGABYTE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    number = options.first
    while True:
        random = Random(f"{options.seed}/{number}")
        path = random.choice(chosen)
        print(json.dumps({"begin": number, "name": path.name}), flush=True)
        for line in _one(path, random, options.worker):
            print(json.dumps({"number": number, "name": path.name, **line}), flush=True)
        print(json.dumps({"end": number}), flush=True)
        number += options.jobs


def _one(path: Path, random: Random, folder: Path) -> Iterator[dict[str, Any]]:
    """Damage one file and use it in every way."""
    from .mutations import damaged
    from .uses import Case

    damage, content = damaged(path, random)
    case = Case(folder / "damaged" / path.name, path.parent, folder / "out")
    case.path.parent.mkdir(exist_ok=True)
    case.path.write_bytes(content)
    _forget_peak()
    before = _resident_peak()
    for outcome in _used(case):
        line = {**asdict(outcome), "damage": damage, "bytes": _resident_peak() - before}
        if line["bytes"] > GIGABYTE and line["result"] in ("read", "refused"):
            line.update(result="memory", detail=f"{line['bytes'] / GIGABYTE:.1f} GiB")
        _forget_peak()
        yield line


def _used(case: Any) -> Iterator[Any]:
    from synthsr_transforms.io.volumes import read_volume

    from .uses import outcomes

    name = case.path.name.partition(".")[0]
    volume = name in ("scan", "labels")
    voxels = read_volume(case.originals / case.path.name).data if volume else None
    yield from outcomes(case, name, voxels)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def _virtual_bytes() -> int:
    return _status("VmSize")


def _resident_peak() -> int:
    return _status("VmHWM")


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


# The process that watches ------------------------------------------------------------------------


def watch(options: argparse.Namespace) -> int:
    """Start processes, start those again that die or hang, and report; return the faults."""
    tally, faults = Counter[tuple[str, str]](), dict[str, list[dict[str, Any]]]()
    worst = {"seconds": 0.0, "bytes": 0.0}
    until, files = time.monotonic() + options.seconds, 0
    workers = [_Worker(options, options.first + k) for k in range(options.jobs)]
    try:
        while time.monotonic() < until and files < options.files:
            for worker in workers:
                for line in worker.lines():
                    if "result" in line:
                        _count(line, tally, faults, worst, worker, options.keep)
                    if "end" in line:
                        files += 1
                        for kind in (worker.name.partition(".")[2], "all"):
                            tally[kind, "files"] += 1
    finally:
        for worker in workers:
            worker.close()
    print("| Kind of file | Damaged files | Uses | Read | Refused | Faults |")
    print("| --- | --- | --- | --- | --- | --- |")
    for kind in [*sorted({kind for kind, _ in tally} - {"all"}), "all"]:
        counts = [tally[kind, what] for what in ("files", "uses", "read", "refused", "faults")]
        print(f"| {kind} | {' | '.join(map('{:,}'.format, counts))} |")
    print(f"Most: {worst['seconds']:.1f} s, {worst['bytes'] / 2**20:.0f} MiB.")
    for what, lines in sorted(faults.items(), key=lambda item: -len(item[1])):
        first = lines[0]
        where = f"file {first['number']}, {first['name']}, {first['damage']}"
        print(f"{len(lines)} x {what}\n    {where}: {first['detail']}")
    return len(faults)


def _count(
    line: dict[str, Any],
    tally: Counter[tuple[str, str]],
    faults: dict[str, list[dict[str, Any]]],
    worst: dict[str, float],
    worker: _Worker,
    keep: Path | None,
) -> None:
    good = line["result"] in ("read", "refused")
    for kind in (line["name"].partition(".")[2], "all"):
        tally[kind, "uses"] += 1
        tally[kind, line["result"] if good else "faults"] += 1
    for key in worst:
        worst[key] = max(worst[key], line[key])
    if not good:
        faults.setdefault(f"{line['result']}: {line['use']}: {line['detail'][:60]}", []).append(
            line
        )
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            source = worker.folder / "damaged" / line["name"]
            if source.exists():
                shutil.copy(source, keep / f"{line['number']}-{line['name']}")
    for text in line["noise"]:
        faults.setdefault(f"noise: {line['use']}: {text[:60]}", []).append({**line, "detail": text})


class _Worker:
    """A process that works, started again when it dies.

    Args:
        options: Options of the command.
        number: Number of its first file.
    """

    def __init__(self, options: argparse.Namespace, number: int) -> None:
        self.options, self.number = options, number
        self._start()

    def _start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="synthsr-fuzz-"))
        options = self.options
        command = [sys.executable, "-m", "tests.fuzz", "--worker", str(self.folder)]
        command += ["--seed", str(options.seed), "--jobs", str(options.jobs)]
        command += ["--first", str(self.number), "--only", options.only]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.rest = b""
        self.counter = psutil.Process(self.process.pid)
        self.heard, self.computed, self.name = time.monotonic(), 0.0, ""

    def lines(self) -> Iterator[dict[str, Any]]:
        """What it wrote; a fault if it died or hangs, after which it goes on with the next file."""
        assert self.process.stdout is not None
        pipe = self.process.stdout.fileno()
        while select.select([pipe], [], [], 0.05)[0]:
            piece = os.read(pipe, 2**16)
            if not piece:
                yield from self._again("died", f"exit code {self.process.wait()}")
                return
            self.heard = time.monotonic()
            self.computed = sum(self.counter.cpu_times()[:2])
            *texts, self.rest = (self.rest + piece).split(b"\n")
            for line in map(json.loads, texts):
                if "begin" in line:
                    self.number, self.name = line["begin"], line["name"]
                yield line
        busy = sum(self.counter.cpu_times()[:2]) - self.computed
        if (self.name and busy > PATIENCE) or time.monotonic() - self.heard > STARTING:
            yield from self._again("hangs", f"no word for {busy:.0f} s of computing")

    def _again(self, result: str, detail: str) -> Iterator[dict[str, Any]]:
        fault = {"use": "", "result": result, "detail": detail, "seconds": 0, "bytes": 0}
        yield {**fault, "noise": [], "number": self.number, "name": self.name, "damage": ""}
        self.close()
        self.number += self.options.jobs
        self._start()

    def close(self) -> None:
        """Stop it and remove what it wrote."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
