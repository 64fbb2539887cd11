"""Devices and processes of a run, and the record of versions, source and hardware."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from synthsr_transforms.support.devices import available_device
from synthsr_transforms.support.messages import SynthSRError

PACKAGES = (
    "synthsr",
    "torch",
    "torchio",
    "pytorch-lightning",
    "torchmetrics",
    "nibabel",
    "numpy",
    "scipy",
)


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Devices that a run computes on."""

    device: str = "cpu"
    """Name of the device, see `synthsr_transforms.support.devices.available_device`."""
    devices: int = 1
    """Number of devices per node, each with a process of its own."""
    num_nodes: int = 1
    """Number of nodes; the scheduler starts a process for each device of each node."""

    def available(self) -> torch.device:
        """Return the device, checked.

        Raises:
            SynthSRError: If there are fewer devices, or nothing starts processes on other nodes,
                for which the first one would wait forever.
        """
        device = torch.device(available_device(self.device))
        count = torch.cuda.device_count() if device.type == "cuda" else 1
        if self.devices > count and device.type != "cpu":
            raise SynthSRError(
                f"devices must be at most the {count} of this machine, got {self.devices}. Lower"
                " --devices."
            )
        if self.num_nodes > 1 and not is_launched():
            raise SynthSRError(
                f"num-nodes must be 1 outside a cluster, got {self.num_nodes}. Start the command on"
                " every machine by a scheduler, such as srun, or a launcher, such as torchrun."
            )
        return device


def is_launched() -> bool:
    """Whether a scheduler or launcher started this process, as one of several machines needs."""
    names = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "SLURM_NTASKS", "LSB_JOBID", "JSM_NAMESPACE_RANK")
    return any(name in os.environ for name in names)


def environment(device: torch.device, num_devices: int, num_nodes: int) -> dict[str, Any]:
    """Describe versions, command, hardware and source, so that results can be traced.

    Args:
        device: Device to compute on.
        num_devices: Number of devices per node.
        num_nodes: Number of nodes.
    """
    cuda = device.type == "cuda"
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": {name: version(name) for name in PACKAGES},
        "cuda": torch.version.cuda if cuda else None,
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or "cpu",
        "devices_per_node": num_devices,
        "nodes": num_nodes,
        "threads": torch.get_num_threads(),
        "source": _source_state(Path(__file__).resolve().parent),
    }


def _source_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that a folder lies in, and whether files differ from it.

    Returns:
        None if the folder is not under version control, as in an installed package.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    tracked = _git(folder, "ls-files", "--error-unmatch", __file__)
    if commit is None or tracked is None:
        return None
    return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain", "-uno"))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
