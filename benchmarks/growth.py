"""How time and memory grow with the size of the work, as plots.

Usage:
  python benchmarks/growth.py measure OUT.json [--device cuda] [--only volume batch ...] [--quick]
  python benchmarks/growth.py plot FOLDER OUT.json [MORE.json ...]

`measure` runs each series in turn and writes figures after every point, with machine, date and
versions: training pairs over size of the patch, batch, number of labels and of channels; passes of
the default model's network over size of the volume and threads; a folder of small scans, files to
files. `plot` draws one picture per series. A point that fails, for lack of memory say, is left out
with a line. `--quick` takes few and small points.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from compare import batch_of, machine, phantom

from synthsr_net.inference.forward import predict_volume
from synthsr_net.inference.memory import Plan
from synthsr_net.models.loading import load_model
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_transforms import Generator, LabelTable, StepConfig, TissueMixture, load_config
from synthsr_transforms.support.threads import num_cores

Work = Callable[[int], Any]


class Point(NamedTuple):
    """One piece of work: its size, how many samples it makes, and a function that does it."""

    x: float
    samples: int
    work: Work


class Series(NamedTuple):
    """Pieces of work of growing size.

    Attributes:
        title: What is done.
        x: What grows.
        points: Makes them, from the device and whether few are wanted.
    """

    title: str
    x: str
    points: Callable[[torch.device, bool], Iterator[Point]]


def _patch(size: int, batch: int, device: torch.device, channels: int = 1) -> Work:
    config = load_config("all_purpose", [f"crop.shape={size}"])
    if channels > 1:
        config = dataclasses.replace(config, steps=_with_channels(config.steps, channels))
    labels = phantom(max(size, 32), device).expand(batch, -1, -1, -1, -1).contiguous()
    generator, subjects = Generator(config), batch_of(labels)
    return lambda seed: generator.run(subjects, seed)[0].images["image"].data


def _with_channels(steps: dict[str, StepConfig], channels: int) -> dict[str, StepConfig]:
    """Steps whose mixture makes several channels, without those that take one."""
    kept = {}
    for name, step in steps.items():
        if name == "mixture":
            params = {**step.params, "num_channels": channels}
            kept[name] = dataclasses.replace(step, params=params)
        elif "contrast" not in name:
            kept[name] = step
    return kept


def pairs_over_size(device: torch.device, quick: bool) -> Iterator[Point]:
    """Training pairs of growing patches."""
    for size in (64, 96) if quick else (96, 128, 160, 192, 224):
        yield Point(size, 1, _patch(size, 1, device))


def pairs_over_batch(device: torch.device, quick: bool) -> Iterator[Point]:
    """Training pairs in growing batches."""
    size = 64 if quick else 160 if device.type == "cuda" else 96
    for batch in (1, 2) if quick else (1, 2, 4, 8):
        yield Point(batch, batch, _patch(size, batch, device))


def pairs_over_channels(device: torch.device, quick: bool) -> Iterator[Point]:
    """Training pairs with a growing number of scans."""
    for channels in (1, 2) if quick else (1, 2, 4, 8):
        size = 64 if quick else 160 if device.type == "cuda" else 96
        yield Point(channels, 1, _patch(size, 1, device, channels))


def mixture_over_labels(device: torch.device, quick: bool) -> Iterator[Point]:
    """The Gaussian mixture with a growing number of labels."""
    size = 64 if quick else 128
    for number in (20, 200) if quick else (20, 50, 100, 200, 500, 1000, 2000):
        values = torch.arange(number, dtype=torch.int16)
        index = torch.randint(number, (1, 1, size, size, size))
        batch = batch_of(values[index].to(device))
        table = LabelTable.from_values(range(number), classes=range(number), sort=False)
        mixture = TissueMixture(label_table=table)
        yield Point(number, 1, lambda seed, b=batch, m=mixture: m(b).images["image"].data)


def _pass(size: int, device: torch.device, network: UNet3d) -> Work:
    x = torch.rand(1, size, size, size, device=device)
    plan = Plan("store", 0)
    precision = "tf32" if device.type == "cuda" else "bf16"
    return lambda _: predict_volume(network, x, plan=plan, precision=precision)


def passes_over_size(device: torch.device, quick: bool) -> Iterator[Point]:
    """Passes of the default model's network over growing volumes."""
    network = load_model("synthsr-t1-v2").network.to(device)
    for size in (32, 64) if quick else (96, 128, 160, 192, 224, 256, 320):
        yield Point(size, 1, _pass(size, device, network))


def passes_over_threads(device: torch.device, quick: bool) -> Iterator[Point]:
    """Passes with a growing number of threads; on a CPU alone."""
    if device.type != "cpu":
        return
    network = UNet3d(UNetConfig(num_features=8 if quick else 24)).eval()
    before, threads = torch.get_num_threads(), 1
    try:
        while threads <= num_cores():
            torch.set_num_threads(threads)
            yield Point(threads, 1, _pass(32 if quick else 128, device, network))
            threads *= 2
    finally:
        torch.set_num_threads(before)


def folders_over_scans(device: torch.device, quick: bool) -> Iterator[Point]:
    """A growing folder of small scans, files to files, by the fast model."""
    from synthsr_net import Predictor
    from synthsr_net.prediction.runs.runner import Batch
    from synthsr_net.prediction.runs.tasks import plan_tasks
    from synthsr_transforms.io.grids import Volume
    from synthsr_transforms.io.volumes import write_volume

    predictor = Predictor.from_file("fast", device=str(device), force=True)
    labels = phantom(200, torch.device("cpu"))[0, 0, 52:148:2, 52:148:2, 52:148:2].numpy()
    noise = np.random.default_rng(0).normal(size=labels.shape)
    voxels = np.clip(labels % 37 * 7 + 4 * noise, 0, None).astype(np.float32)
    scan = Volume(voxels, np.diag([2.0, 2.0, 2.0, 1.0]))
    for number in (1, 2) if quick else (1, 4, 16, 48):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for index in range(number):
                write_volume(folder / "in" / f"scan{index:03d}.nii.gz", scan)

            def run(seed: int, folder: Path = folder) -> object:
                tasks = plan_tasks([folder / "in"], folder / f"out{seed}")
                outcomes = list(Batch(tasks, predictor).run())
                for outcome in outcomes:
                    if outcome.error is not None:
                        raise outcome.error
                return outcomes

            yield Point(number, number, run)


SERIES = {
    "volume": Series(
        "Training pairs (`all_purpose`)", "edge of the patch in voxels", pairs_over_size
    ),
    "batch": Series("Training pairs (`all_purpose`)", "samples in a batch", pairs_over_batch),
    "channels": Series("Training pairs", "scans of one head", pairs_over_channels),
    "labels": Series("Gaussian mixture", "labels", mixture_over_labels),
    "prediction": Series("One pass of synthsr-t1-v2", "edge of the volume", passes_over_size),
    "threads": Series("One pass of a U-Net, 128^3", "threads", passes_over_threads),
    "folder": Series("Folder of scans of 96^3 mm, `fast`", "scans", folders_over_scans),
}


def measured(point: Point, device: torch.device, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds per sample, and MiB beyond what was held before."""
    cuda = device.type == "cuda"
    with _Peak(device) as peak:
        point.work(0)
        if cuda:
            torch.cuda.synchronize(device)
    times: list[float] = []
    while len(times) < 5 and (len(times) < 2 or sum(times) < 2) and sum(times) < 20:
        begin = clock()
        point.work(1 + len(times))
        if cuda:
            torch.cuda.synchronize(device)
        times.append(clock() - begin)
    return {
        "x": point.x,
        "seconds": statistics.median(times) / point.samples,
        "mib": peak.mib,
    }


class _Peak:
    """Memory taken on top while something runs: of the device, or the resident set."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.mib = device, 0.0
        self._stop = threading.Event()

    def __enter__(self) -> _Peak:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
            return self
        self._process = psutil.Process()
        _return_freed_memory(True)
        self._before = self._highest = self._process.memory_info().rss
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self._highest = max(self._highest, self._process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            highest = torch.cuda.max_memory_allocated(self.device)
        else:
            self._stop.set()
            self._watcher.join()
            highest = max(self._highest, self._process.memory_info().rss)
            _return_freed_memory(False)
        self.mib = (highest - self._before) / 2**20


def _return_freed_memory(always: bool) -> None:
    """Let the C library give freed memory back at once, so that growth is seen; on Linux alone."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, 2**16 if always else 2**25)
        library.malloc_trim(0)


_MMAP_THRESHOLD = -3  # of <malloc.h>


def measure(out: Path, names: Sequence[str], device: torch.device, quick: bool, cpu: bool) -> None:
    """Run series and write what was found after each point."""
    clock = time.process_time if cpu else time.perf_counter
    about = machine(device) + (", time of the processor" if cpu else "")
    found: dict[str, Any] = {"machine": about, "series": {}}
    for name in names:
        if cpu and name == "threads":
            continue
        points = found["series"].setdefault(name, [])
        try:
            for point in SERIES[name].points(device, quick):
                points.append(measured(point, device, clock))
                print(name, {k: round(v, 4) for k, v in points[-1].items()}, flush=True)
                out.write_text(json.dumps(found, indent=1))
        except Exception as error:  # the series ends here
            print(f"{name}: {type(error).__name__}: {error}".splitlines()[0], flush=True)


def plot(folder: Path, files: Sequence[Path]) -> None:
    """Draw one picture per series, with a line per file."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    runs = [json.loads(file.read_text()) for file in files]
    folder.mkdir(parents=True, exist_ok=True)
    for name, series in SERIES.items():
        shown = [(run["machine"], run["series"].get(name)) for run in runs]
        shown = [(words, points) for words, points in shown if points]
        if not shown:
            continue
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(7, 2.8), layout="constrained")
        for index, (words, points) in enumerate(shown):
            x = [point["x"] for point in points]
            left.plot(x, [p["seconds"] for p in points], "o-", ms=3, label=words, color=f"C{index}")
            right.plot(x, [p["mib"] for p in points], "o-", ms=3, color=f"C{index}")
        left.set(ylabel="seconds per sample")
        memory = max(p["mib"] for _, points in shown for p in points)
        right.set(ylabel="MiB taken on top", ylim=(0, 1.1 * memory))
        seconds = [p["seconds"] for _, points in shown for p in points]
        if max(seconds) > 5 * min(seconds):
            left.set_yscale("log")
            left.yaxis.set_major_formatter("{x:g}")
            left.yaxis.set_minor_formatter("{x:g}")
        else:
            left.set_ylim(0, 1.1 * max(seconds))
        sizes = sorted({p["x"] for _, points in shown for p in points})
        for axes in (left, right):
            if max(sizes) > 5 * min(sizes):
                axes.set_xscale("log")
            axes.set_xticks(sizes, [f"{size:g}" for size in sizes], minor=False)
            axes.set_xticks([], minor=True)
            axes.set_xlabel(series.x)
            axes.grid(alpha=0.3)
        figure.suptitle(series.title.replace("`", ""), fontsize=9)
        figure.supxlabel("\n".join(words for words, _ in shown), fontsize=7, color="0.4")
        figure.savefig(folder / f"growth_{name}.png", dpi=90)
        pyplot.close(figure)


def main(arguments: Sequence[str]) -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("measure")
    run.add_argument("out", type=Path)
    run.add_argument("--device", default="cpu")
    run.add_argument("--only", nargs="+", choices=SERIES, default=list(SERIES))
    run.add_argument("--quick", action="store_true")
    run.add_argument("--cpu-time", action="store_true", help="for a shared machine")
    draw = commands.add_parser("plot")
    draw.add_argument("folder", type=Path)
    draw.add_argument("files", type=Path, nargs="+")
    chosen = parser.parse_args(arguments)
    if chosen.command == "plot":
        plot(chosen.folder, chosen.files)
        return
    measure(chosen.out, chosen.only, torch.device(chosen.device), chosen.quick, chosen.cpu_time)


if __name__ == "__main__":
    main(sys.argv[1:])
