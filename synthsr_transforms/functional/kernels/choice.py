"""Where kernels run in place of plain operations of torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

_device_types: tuple[str, ...] = ("cuda",)


@contextmanager
def kernels_on(*device_types: str) -> Iterator[None]:
    """Use kernels on some types of devices only, in all threads; without any, use none.

    Args:
        device_types: `"cuda"`, which is how it is outside; `"cpu"` needs Triton's interpreter.

    Examples:
        >>> with kernels_on():
        ...     usable(torch.ones(1))
        False
    """
    global _device_types
    before, _device_types = _device_types, device_types
    try:
        yield
    finally:
        _device_types = before


def usable(*tensors: Tensor) -> bool:
    """Whether kernels can take tensors: on one device that runs them, with no gradient to follow.

    Args:
        tensors: At least one. Tensors that are traced, as by `torch.compile` or `torch.func`, are
            left to plain operations.
    """
    device = tensors[0].device
    if device.type not in _device_types or any(tensor.device != device for tensor in tensors):
        return False
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    if any(type(tensor) is not Tensor for tensor in tensors):
        return False
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return False
    return _runs_kernels(device)


@lru_cache(64)
def _runs_kernels(device: torch.device) -> bool:
    """Whether Triton is installed, and compiles and starts a kernel that asks much of it."""
    if device.type == "cuda" and (
        torch.version.cuda is None or torch.cuda.get_device_capability(device) < (8, 0)
    ):
        return False
    try:
        from .choice_program import product

        matrix = torch.zeros(16, 16, device=device)
        number = torch.zeros(1, dtype=torch.int32, device=device)
        with on_device(matrix):
            product[(1,)](matrix, number, torch.empty_like(matrix))
    except Exception:  # no Triton, no compiler, or one of them is too old
        return False
    return True


@contextmanager
def on_device(tensor: Tensor) -> Iterator[None]:
    """Launch kernels where a tensor is: Triton takes the current device."""
    if tensor.device.type != "cuda" or tensor.device.index == torch.cuda.current_device():
        yield
        return
    with torch.cuda.device(tensor.device):
        yield
