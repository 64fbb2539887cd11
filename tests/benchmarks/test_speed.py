"""Time and peak memory per sample of every transform and every preset.

Not part of a plain test run:

    pytest tests/benchmarks -n 0 [--device cuda] [-k all_purpose] [--benchmark-json FILE]

Transforms have the arguments of the first preset that uses them and always act (`p=1`); presets
make a patch of 128^3 voxels on a CPU and 160^3 on a GPU. The memory of a CPU run is the growth of
the peak resident set of a fresh process, that of a GPU run the peak that torch allocated.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torchio as tio
from torch import Tensor
from torchio.data.batch import SubjectsBatch

import synthsr_transforms as synth
from synthsr_transforms.transforms.base import registered_transforms, shallow_copy
from synthsr_transforms.transforms.build import build_transform

TABLE = "synthseg"
EXTRA_ARGUMENTS: dict[str, dict[str, Any]] = {"ScannerNoise": {"std": [0.01, 0.1]}}
Work = Callable[[int], Any]


def typical_arguments() -> dict[str, dict[str, Any]]:
    """Arguments of every transform: those of the first preset that has it."""
    found = {name: dict(params) for name, params in EXTRA_ARGUMENTS.items()}
    for preset in synth.preset_names():
        for step in synth.load_config(preset).steps.values():
            found.setdefault(step.name, step.params)
    return {name: found.get(name, {}) for name in registered_transforms()}


def head_labels(size: int | None = None) -> tio.LabelMap:
    """The phantom at 1 mm, or boxes of labels where there is no phantom; whole or a cube."""
    try:
        from synthsr_transforms.phantom import head_phantom

        labels = head_phantom(spacing_mm=1)
    except ImportError:
        values = torch.tensor(synth.LabelTable.ready(TABLE).values, dtype=torch.int16)
        x, y, z = (torch.arange(n) // 20 for n in (184, 240, 208))
        labels = tio.LabelMap(values[(x[:, None, None] + 3 * y[:, None] + z) % len(values)][None])
    return labels if size is None else tio.CropOrPad(target_shape=size)(labels)


def transform_batch(size: int) -> SubjectsBatch:
    """A cube with all images and notes that any transform may ask for."""
    labels = head_labels(size)
    image = 100 * torch.rand(2, size, size, size, generator=torch.Generator().manual_seed(0))
    images = {name: tio.ScalarImage(image.clone()) for name in ("image", "target", "reliability")}
    batch = SubjectsBatch.from_subjects([tio.Subject(labels=labels, **images)])
    batch = synth.AcquisitionResolution(max_isotropic_mm=9)(batch)
    return synth.SliceAcquisition(spacing_mm=3, thickness_mm=3)(batch)


def transform_work(name: str, batch: SubjectsBatch) -> Work:
    """One transform, drawing and acting."""
    params = {k: v for k, v in typical_arguments()[name].items() if k != "channels"}
    params = {**params, "p": 1.0, **({"channels": [1]} if name == "SelectChannels" else {})}
    if name == "PatchCrop":
        params["shape"] = batch.images["image"].data.shape[-1] // 2
    spec: Mapping[str, Any] = {"name": name, "params": params}
    transform = build_transform(spec, label_table=TABLE, check_labels=False)

    def work(seed: int) -> Tensor:
        own = shallow_copy(batch)
        transform.run(own, torch.Generator().manual_seed(seed))
        return next(reversed(own.images.values())).data

    return work


def preset_batch(preset: str) -> SubjectsBatch:
    """A whole head, with a real target where the preset wants one."""
    labels = head_labels()
    images: dict[str, tio.Image] = {"labels": labels}
    if synth.load_config(preset).real_target:
        images["target"] = tio.ScalarImage(labels.data.float(), affine=labels.affine)
    return SubjectsBatch.from_subjects([tio.Subject(**images)])


def preset_work(preset: str, batch: SubjectsBatch, size: int) -> Work:
    """A training pair of a preset."""
    config = synth.load_config(preset)
    change = [f"crop.shape={size}"] if "crop" in config.steps else []
    generator = synth.Generator.from_preset(preset, change)
    return lambda seed: generator.pair(batch, seed).image


def make_work(kind: str, name: str, size: int, batch: SubjectsBatch) -> Work:
    return preset_work(name, batch, size) if kind == "preset" else transform_work(name, batch)


def cpu_peak_mib(kind: str, name: str, size: int, batch: SubjectsBatch) -> float:
    """Growth of the peak resident set of a fresh process that makes one sample after a first."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "batch.pt"
        torch.save(batch, path)
        command = [sys.executable, __file__, kind, name, str(size), str(path)]
        at_once = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # freed memory leaves the set
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=at_once)
    return float(json.loads(done.stdout)["peak_mib"])


def cuda_peak_mib(work: Work, device: torch.device) -> float:
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work(1)
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def run(benchmark: Any, kind: str, name: str, batch: SubjectsBatch, device: torch.device) -> None:
    """Time one kind of sample and note its memory."""
    size = 160 if device.type == "cuda" else 128
    work = make_work(kind, name, size, batch.to(device))
    seeds = iter(range(10**6))

    def once() -> None:
        work(next(seeds))
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    benchmark.extra_info["size"] = f"{size}^3"
    benchmark.extra_info["threads"] = torch.get_num_threads()
    cuda = device.type == "cuda"
    benchmark.extra_info["machine"] = (
        torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine()
    )
    benchmark.pedantic(once, rounds=10 if cuda else 5, iterations=1, warmup_rounds=2)
    peak = cuda_peak_mib(work, device) if cuda else cpu_peak_mib(kind, name, size, batch)
    benchmark.extra_info["peak_mib"] = peak


@pytest.fixture(scope="module")
def cube(device: torch.device) -> SubjectsBatch:
    return transform_batch(160 if device.type == "cuda" else 128)


@pytest.mark.parametrize("name", registered_transforms())
def test_transform(name: str, benchmark: Any, cube: SubjectsBatch, device: torch.device) -> None:
    run(benchmark, "transform", name, cube, device)


@pytest.mark.parametrize("name", synth.preset_names())
def test_preset(name: str, benchmark: Any, device: torch.device) -> None:
    run(benchmark, "preset", name, preset_batch(name), device)


def peak_rss_mib() -> float:
    """Peak resident set of this process; Linux counts that of the parent in `ru_maxrss`."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [s for s in status.read_text().splitlines() if s.startswith("VmHWM")]
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def forget_peak() -> None:
    """Let the peak begin anew, where the system can (Linux), so that loading does not count."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def main(kind: str, name: str, size: str, path: str) -> None:
    """Print the growth of the peak resident set of this process, as JSON."""
    batch = torch.load(path, weights_only=False)
    if kind == "preset":
        make_work(kind, name, 32, batch)(0)
    forget_peak()
    before = peak_rss_mib()
    make_work(kind, name, int(size), batch)(1)
    print(json.dumps({"peak_mib": peak_rss_mib() - before}))


if __name__ == "__main__":
    main(*sys.argv[1:])
