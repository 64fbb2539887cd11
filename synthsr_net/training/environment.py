"""What a run runs on: versions, state of the source, hardware."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

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


def environment(device: torch.device, num_devices: int, num_nodes: int) -> dict[str, Any]:
    """What is needed to know where the results of a run come from.

    Args:
        device: Where it computes.
        num_devices: Number of devices per node.
        num_nodes: Number of nodes.
    """
    cuda = device.type == "cuda"
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": {name: _version(name) for name in PACKAGES},
        "cuda": torch.version.cuda if cuda else None,
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or "cpu",
        "devices_per_node": num_devices,
        "nodes": num_nodes,
        "threads": torch.get_num_threads(),
        "source": source_state(Path(__file__).resolve().parent),
    }


def source_state(folder: Path) -> dict[str, Any] | None:
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


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
