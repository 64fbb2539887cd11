"""Time and peak memory of predictions of one head, 192x256x160 voxels of 1 mm.

Not part of a plain test run:

    pytest tests/benchmarks/test_prediction_speed.py -n 0 [--device cuda]

The network has the published architecture and random weights, which take as long as trained ones.
`command` is the whole process `synthsr predict` on a CPU, from its start to the written file, with
flip averaging; the passes are one pass of the network, `layer_by_layer` that of `UNet3d.forward`.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from synthsr_net.inference.forward import predict_volume
from synthsr_net.inference.memory import Plan
from synthsr_net.models.checkpoint import ModelConfig, save_model
from synthsr_net.networks.unet import UNet3d
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.io.volumes import write_volume
from synthsr_transforms.phantom import head_phantom

SHAPE = (192, 256, 160)
PASSES = [("store", "fp32"), ("recompute", "fp32"), ("store", "bf16")]


def note(benchmark: Any, device: torch.device, peak_bytes: int | None) -> None:
    cuda = device.type == "cuda"
    benchmark.extra_info["size"] = "x".join(map(str, SHAPE))
    benchmark.extra_info["threads"] = torch.get_num_threads()
    if peak_bytes is not None:
        benchmark.extra_info["peak_mib"] = peak_bytes / 2**20
    benchmark.extra_info["machine"] = (
        torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine()
    )


def head() -> Volume:
    """A head with the contrast of a T2 scan, noise, and the shape of the benchmark."""
    labels = head_phantom(spacing_mm=1).data[0].numpy()
    generator = np.random.default_rng(0)
    table = generator.uniform(20, 200, int(labels.max()) + 1).astype(np.float32)
    table[0] = 0
    image = table[labels] + 5 * generator.standard_normal(labels.shape, dtype=np.float32)
    data = np.zeros(SHAPE, np.float32)
    part = tuple(slice(0, min(m, n)) for m, n in zip(SHAPE, labels.shape, strict=True))
    data[part] = image[part]
    return Volume(np.round(np.clip(data, 0, None)).astype(np.uint16), np.eye(4))


@pytest.fixture(scope="module")
def network(device: torch.device) -> UNet3d:
    torch.manual_seed(0)
    return UNet3d().eval().requires_grad_(False).to(device)


@pytest.mark.parametrize(("strategy", "precision"), [*PASSES, ("store", "tf32")])
def test_pass(
    strategy: Any, precision: str, benchmark: Any, network: UNet3d, device: torch.device
) -> None:
    if precision == "tf32" and device.type != "cuda":
        pytest.skip("tf32 is a precision of GPUs")
    x = torch.rand(1, *SHAPE, device=device)
    measure(
        benchmark,
        device,
        lambda: predict_volume(network, x, plan=Plan(strategy, 0), precision=precision),
    )


def test_layer_by_layer(benchmark: Any, network: UNet3d, device: torch.device) -> None:
    x = torch.rand(1, 1, *SHAPE, device=device)
    with torch.no_grad():
        measure(benchmark, device, lambda: network(x))


def measure(benchmark: Any, device: torch.device, work: Any) -> None:
    cuda = device.type == "cuda"

    def once() -> None:
        work()
        if cuda:
            torch.cuda.synchronize(device)

    if cuda:
        once()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    benchmark.pedantic(once, rounds=10 if cuda else 3, iterations=1, warmup_rounds=0)
    peak = torch.cuda.max_memory_allocated(device) - before if cuda else None
    note(benchmark, device, peak)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_command(precision: str, benchmark: Any, device: torch.device, tmp_path: Path) -> None:
    scan, model = tmp_path / "scan.nii.gz", tmp_path / "model.safetensors"
    write_volume(scan, head())
    torch.manual_seed(0)
    save_model(model, ModelConfig(), UNet3d().state_dict())
    program = "from synthsr_cli.main import main; main()"
    arguments = ["--model", str(model), "--device", device.type, "--precision", precision]
    command = [sys.executable, "-c", program, "predict", str(scan), str(tmp_path / "out.nii.gz")]
    peaks = [0]

    def once() -> None:
        peaks.append(peak_of([*command, *arguments, "--overwrite"]))

    benchmark.pedantic(once, rounds=3, iterations=1, warmup_rounds=0)
    note(benchmark, device, max(peaks))


def peak_of(command: list[str]) -> int:
    """Run a command; its largest resident set in bytes."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as process:
        peak, watched = [0], psutil.Process(process.pid)

        def watch() -> None:
            while process.poll() is None:
                try:
                    peak[0] = max(peak[0], watched.memory_info().rss)
                except psutil.NoSuchProcess:
                    return
                time.sleep(0.01)

        thread = threading.Thread(target=watch)
        thread.start()
        process.wait()
        thread.join()
    assert process.returncode == 0
    return peak[0]
