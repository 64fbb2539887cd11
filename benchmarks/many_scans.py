"""A folder of many small scans by an array of processes and by Dask, with one process killed.

Prints the time of each way, and what the summary and the folder say: nothing may be lost, and
nothing made twice. A scan is 14 x 12 x 11 voxels, and the network tiny: what is measured is
everything but the network.

    python benchmarks/many_scans.py array --scans 1000
    python benchmarks/many_scans.py dask --scans 1000
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import nibabel as nib
import numpy as np

from synthsr_net.models.checkpoint import ModelConfig, ScanConfig, save_model
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_net.prediction.runs.summary import COLUMNS, SUMMARY
from synthsr_transforms.support.append import read_rows

SPACING_MM = 8.0
COMMAND = [sys.executable, "-m", "synthsr_cli", "predict", "scans", "out", "--resume", "--quiet"]
MODEL = ["--model", "tiny.safetensors", "--threads", "1"]


def make(number: int) -> None:
    """Write the scans and the model into the working folder."""
    Path("scans").mkdir()
    affine = np.diag([SPACING_MM] * 3 + [1.0])
    for k in range(number):
        voxels = np.random.default_rng(k).random((14, 12, 11), np.float32)
        nib.save(nib.Nifti1Image(voxels, affine), f"scans/s{k:04}.nii.gz")
    network = UNetConfig(num_levels=2, num_features=4)
    config = ModelConfig(
        name="tiny", network=network, scan=ScanConfig(spacing_mm=SPACING_MM, divisor=4)
    )
    save_model(Path("tiny.safetensors"), config, UNet3d(network).state_dict())


def wait_for(number: int) -> None:
    """Wait until so many predictions are there."""
    while len(list(Path("out").glob("s*.nii.gz"))) < number:
        time.sleep(0.05)


def by_array(number: int, processes: int) -> int:
    """Parts of an array, of which the second is killed in the middle and started again."""
    parts = [[*COMMAND, *MODEL, "--shard", f"{k + 1}/{processes}"] for k in range(processes)]
    started = [subprocess.Popen(part) for part in parts]
    wait_for(number // 2)
    started[1].send_signal(signal.SIGKILL)
    codes = [process.wait() for process in started]
    print("exit codes:", codes)
    return subprocess.run(parts[1], check=False).returncode


def by_dask(number: int, processes: int) -> int:
    """Workers of a local cluster, of which one is killed in the middle; Dask starts another."""
    from distributed import LocalCluster

    with closing(
        LocalCluster(n_workers=processes, threads_per_worker=1, dashboard_address="127.0.0.1:0")
    ) as cluster:
        command = [*COMMAND, *MODEL, "--dask", cluster.scheduler_address]
        started = subprocess.Popen(command)
        wait_for(number // 2)
        os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)
        return started.wait()


def main() -> None:
    """Run one way, and check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("way", choices=["array", "dask"])
    parser.add_argument("--scans", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=4)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make(given.scans)
        begin = time.perf_counter()
        run = by_array if given.way == "array" else by_dask
        code = run(given.scans, given.processes)
        seconds = time.perf_counter() - begin
        rows = read_rows(Path("out", SUMMARY), COLUMNS)
        done = Counter(Path(row["scan"]).name for row in rows if row["status"] == "done")
        files = list(Path("out").glob("*_synthsr.nii.gz"))
        hidden = [path.name for path in Path("out").iterdir() if path.name.startswith(".")]
        spent = sum(float(row["seconds"] or 0) for row in rows)
        early = sum("earlier run" in r["warnings"] or "died" in r["warnings"] for r in rows)
        print(
            f"{given.way}, {given.processes} processes, {os.cpu_count()} cores of"
            f" {platform.machine()}: exit code {code}, {seconds:.0f} s, {len(files)} predictions,"
            f" {len(done)} scans in {len(rows)} rows, most of one scan {max(done.values())},"
            f" {early} made before a death, {len(hidden)} hidden files, {spent:.0f} s in scans"
        )
        os.chdir("/")


if __name__ == "__main__":
    main()
