"""Tensors that depend on shapes alone, made once and cached."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import Any, TypeVar

import torch

Made = TypeVar("Made")


def cached(number: int) -> Callable[[Callable[..., Made]], Callable[..., Made]]:
    """Decorator of a function of shapes whose last argument is a device: cache its last results.

    Results are shared, so nobody may write into them. Each stream of a GPU has results of its own,
    as one stream does not wait for what another makes.

    Args:
        number: Number of results to cache.

    Examples:
        >>> @cached(2)
        ... def count(number, device):
        ...     return torch.arange(number, device=device)
        >>> count(3, "cpu") is count(3, "cpu")
        True
    """

    def decorate(make: Callable[..., Made]) -> Callable[..., Made]:
        @lru_cache(number)
        def made(stream: int, *args: Any) -> Made:
            with torch.inference_mode(False), torch.no_grad():
                return make(*args)

        @wraps(make)
        def call(*args: Any) -> Made:
            device = torch.device(args[-1])
            key = (make, *args[:-1], device)
            held = getattr(_HELD, "results", None)
            if held is None:
                return made(_stream(device), *args[:-1], device)
            if key not in held:
                held[key] = made(_stream(device), *args[:-1], device)
            result: Made = held[key]
            return result

        return call

    return decorate


@contextmanager
def holding(results: dict[Any, Any]) -> Iterator[None]:
    """Hold what cached functions give to this thread, and give the same again.

    Args:
        results: Those that are held already, and after it those that were needed.
    """
    before = getattr(_HELD, "results", None)
    _HELD.results = results
    try:
        yield
    finally:
        _HELD.results = before


_HELD = threading.local()


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


@cached(32)
def voxel_indices(number: int, device: torch.device | str) -> torch.Tensor:
    """Numbers from 0 on, `(number,)` float32."""
    return torch.arange(float(number), device=device)
