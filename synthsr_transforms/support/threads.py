"""Threads beside the one that computes: how many there may be, and how they end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


def num_cores() -> int:
    """Cores that this process may use; schedulers often grant fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def threads(number: int) -> Iterator[ThreadPoolExecutor]:
    """Threads whose work in progress is finished, and the rest dropped, whatever happens.

    Each of them begins by asking for PyTorch's number of threads, which sets it there: a product of
    matrices that comes first would use all cores, and so round in another way.

    Args:
        number: How many.
    """
    pool = ThreadPoolExecutor(number, initializer=_take_number_of_threads)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _take_number_of_threads() -> None:
    import torch

    torch.get_num_threads()
