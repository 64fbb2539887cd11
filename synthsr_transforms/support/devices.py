"""Devices by name, and numbers that the host reads from them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

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


def computes_all(device: torch.device) -> bool:
    """Whether launches cost more on a device than computing what is not needed.

    There, elements of a batch that a step leaves alone are computed with the others, and tensors
    are as large as they can be with any random numbers, so that work is the same for all.
    """
    return device.type != "cpu"


def is_on_host(tensor: Tensor) -> bool:
    """Whether the host reads a tensor without waiting for a device."""
    return tensor.device.type == "cpu"


def on_host(tensor: Tensor) -> npt.NDArray[Any]:
    """A tensor as an array of the same layout, for which the host waits if it is elsewhere.

    From an NVIDIA GPU it comes through page-locked memory, several times as fast as through other
    memory; PyTorch uses that again once the array is gone.
    """
    return on_host_together([tensor])[0]


def on_host_together(tensors: Sequence[Tensor]) -> list[npt.NDArray[Any]]:
    """Several tensors of one device as arrays, see `on_host`, for which the host waits once."""
    copies = []
    for tensor in tensors:
        if not tensor.is_cuda:
            copies.append(tensor.detach().cpu())
            continue
        copies.append(torch.empty_like(tensor, device="cpu", pin_memory=True))
        copies[-1].copy_(tensor.detach(), non_blocking=True)
    for device in {tensor.device for tensor in tensors if tensor.is_cuda}:
        torch.cuda.current_stream(device).synchronize()
    return [copy.numpy() for copy in copies]


def on_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on a device, for which nobody waits, also where it comes from the host."""
    device = torch.device(device)
    if device.type == "cuda" and is_on_host(tensor):
        return page_locked(tensor, pin=True).to(device, non_blocking=True)
    return tensor.to(device)


def page_locked(tensor: Tensor, *, pin: bool) -> Tensor:
    """A copy of a tensor of the host, of the same layout, in memory that a GPU reads by itself.

    NumPy makes it in this thread: PyTorch would start all of its own, and wait for those that other
    work keeps from a core.

    Args:
        tensor: The tensor, of a type that NumPy knows.
        pin: Whether the memory is page-locked, for which there must be a GPU.
    """
    copy = torch.empty_like(tensor, pin_memory=pin)
    np.copyto(copy.numpy(), tensor.detach().numpy())
    return copy


@contextmanager
def beside(device: torch.device, after: torch.cuda.Event | None = None) -> Iterator[None]:
    """Let what this thread does on an NVIDIA GPU run beside what other threads do there.

    Each thread has a stream of its own, so that small work need not wait for a network that was
    started before. At the end the thread waits until all is done, and others may use the results,
    see `shared_here`. Nothing changes on other devices.

    Args:
        device: The GPU.
        after: What to wait for at the beginning, see `mark`.
    """
    if device.type != "cuda":
        yield
        return
    stream = getattr(_OWN, str(device), None)
    if stream is None:
        stream = torch.cuda.Stream(device, priority=-1)
        setattr(_OWN, str(device), stream)
    if after is not None:
        stream.wait_event(after)
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()


def mark(device: torch.device) -> torch.cuda.Event | None:
    """A mark after all that this thread has started on an NVIDIA GPU; None on other devices."""
    return torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None


def shared_here(*tensors: Tensor) -> None:
    """Keep the memory of tensors of other threads until what this one starts with them is done."""
    for tensor in tensors:
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))


_OWN = threading.local()
