"""Seeds, and standard normal fields that a recorded seed brings back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Generator, Tensor


def sample_seeds(count: int, generator: Generator | None = None) -> Tensor:
    """Sample one seed per element.

    Args:
        count: Number of elements B.
        generator: Random generator on the CPU.

    Returns:
        `(B,)` int64 within 0..2^53-1, so that JSON and YAML readers keep them exactly.
    """
    return torch.randint(2**53, (count,), generator=generator)


def derive_seed(seed: int, *path: int) -> int:
    """Seed of one part of a job, independent of the seeds of its other parts.

    Args:
        seed: Seed of the job.
        path: Position of the part, such as the number of a sample.

    Returns:
        A number within 0..2^53-1.

    Examples:
        >>> derive_seed(0, 1) == derive_seed(0, 1), derive_seed(0, 1) == derive_seed(0, 2)
        (True, False)
        >>> derive_seed(0) == derive_seed(0, 0)
        False
    """
    state = np.random.SeedSequence(seed, spawn_key=path)
    return int(state.generate_state(1, np.uint64)[0] >> np.uint64(11))


class Seeds:
    """Seeds of fields, which stay on the host where other parameters go to a device.

    Args:
        numbers: `(B,)` whole numbers, on the CPU.
    """

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def generators(self, device: torch.device | str) -> Iterator[Generator]:
        """A generator that stands at each seed, to be used before the next is asked for."""
        generator = torch.Generator(device=device)
        for seed in self.numbers.tolist():
            yield generator.manual_seed(int(seed))


def normal_field(
    seeds: Tensor | Seeds, shape: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """Standard normal numbers, each element from its own seed.

    An element of a batch is the same as that element alone. The numbers depend on the type of
    the device (CPU, CUDA, MPS), so small fields that steer geometry are drawn on the CPU.

    Args:
        seeds: `(B,)` whole numbers, on the CPU.
        shape: Shape of one element.
        device: Where to draw.

    Returns:
        `(B, *shape)` float32.

    Examples:
        >>> field = normal_field(torch.tensor([1, 2]), (3,))
        >>> torch.equal(field[1:], normal_field(torch.tensor([2]), (3,)))
        True
    """
    size = math.prod(shape)
    return normal_numbers(seeds, [size] * len(seeds), device).view(-1, *shape)


def normal_numbers(
    seeds: Tensor | Seeds, counts: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """Standard normal numbers in a row, so many of each seed; see `normal_field`.

    Args:
        seeds: `(B,)` whole numbers, on the CPU.
        counts: How many numbers of each.
        device: Where to draw.

    Returns:
        `(sum of counts,)` float32.
    """
    result = torch.empty(sum(counts), device=device)
    own = seeds if isinstance(seeds, Seeds) else Seeds(seeds)
    parts = result.split(list(counts))
    for part, generator in zip(parts, own.generators(device), strict=True):
        part.normal_(generator=generator)
    return result
