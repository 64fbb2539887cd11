"""Devices by name."""

from __future__ import annotations

import torch

from synthsr_transforms.support.messages import SynthSRError

DEVICES = ("auto", "cpu", "cuda", "mps")
"""Names of devices; `auto` is CUDA where there is one, else the CPU. `cuda:1` works as well."""


def available_device(name: str = "auto") -> str:
    """Name of a device that this machine has.

    Args:
        name: One of `DEVICES`, or `cuda:` and a number.

    Returns:
        Name that `torch.device` takes.

    Raises:
        SynthSRError: If the name is unknown or the machine lacks the device.

    Examples:
        >>> available_device("cpu")
        'cpu'
    """
    kind, _, index = name.partition(":")
    if kind not in DEVICES or (index and (kind != "cuda" or not index.isdecimal())):
        raise SynthSRError(f"device must be one of {', '.join(DEVICES)}, or cuda:N, got {name!r}.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "auto":
        return "cuda" if count else "cpu"
    if kind == "cuda" and not count:
        raise SynthSRError(
            f"device must be one that this machine has, got {name!r}, but PyTorch"
            f" {torch.__version__} finds no CUDA device. Use --device cpu, or install a driver and"
            " a CUDA build of PyTorch."
        )
    if index and int(index) >= count:
        raise SynthSRError(f"device must be below cuda:{count}, got {name!r}. Choose another.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise SynthSRError(
            f"device must be one that this machine has, got {name!r}, but there is no Apple GPU."
            " Use --device cpu."
        )
    return name
