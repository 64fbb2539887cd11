"""Memory of this machine: how much there is, what is given back, and sizes in words."""

from __future__ import annotations

import ctypes
import re
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from synthsr_transforms.support.messages import SynthSRError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes(device: str | torch.device = "cpu") -> int:
    """Memory that is free now, limits of containers and batch systems included."""
    if str(device).startswith("cuda"):
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(psutil.virtual_memory().available, *_limits())


def return_freed() -> None:
    """Give memory that was freed back to the system, where the C library of Linux keeps it."""
    trim = _trimmer()
    if trim is not None:
        trim(0)


@cache
def _trimmer() -> Callable[[int], object] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def left_within(limit: int, device: str | torch.device = "cpu") -> int:
    """Bytes left for a prediction within a limit of this process, less those it holds already.

    Args:
        limit: Bytes that the process may hold, in all on a CPU, on the device elsewhere.
        device: Where to compute.
    """
    kind = str(device).partition(":")[0]
    if kind == "cuda":
        import torch

        return limit - torch.cuda.memory_allocated(device)
    return limit - psutil.Process().memory_info().rss if kind == "cpu" else limit


def _limits() -> list[int]:
    """Bytes that the control groups of Linux (version 2, then 1) leave."""
    left = [2**62]
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            left.append(int((_CGROUP / limit).read_text()) - int((_CGROUP / used).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return left


def parse_size(text: str) -> int:
    """Bytes from a text such as `4GB`, `800 MB` or `2GiB`.

    Raises:
        SynthSRError: If it is not a number above 0 with a known unit.

    Examples:
        >>> parse_size("1.5GB"), parse_size("2 GiB")
        (1500000000, 2147483648)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]i?)?b?\s*", text.lower())
    number = round(float(match[1]) * _UNITS[match[2] or ""]) if match else 0
    if number <= 0:
        raise SynthSRError(
            f"memory must be a number and a unit, such as 4GB or 800MB, got {text!r}."
        )
    return number
