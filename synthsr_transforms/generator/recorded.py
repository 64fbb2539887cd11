"""Work that is recorded once and repeated with what its tensors and generators hold by then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from synthsr_transforms.functional.cache import holding
from synthsr_transforms.seeds import Seeds

Work = Callable[[], dict[str, Tensor]]


class NotRepeatableError(RuntimeError):
    """Work that differs from one time to the next."""


class KeptSeeds(Seeds):
    """Seeds of fields of recorded work, whose generators are set before it is repeated.

    Args:
        numbers: `(B,)` whole numbers, on the CPU.
        device: Where fields are drawn.
    """

    def __init__(self, numbers: Tensor, device: torch.device) -> None:
        super().__init__(numbers)
        self.kept = [torch.Generator(device=device) for _ in range(len(numbers))]
        self.set(numbers)

    def set(self, numbers: Tensor) -> None:
        """Set the generators, each of which draws one field then."""
        self._drawn = False
        for generator, seed in zip(self.kept, numbers.tolist(), strict=True):
            generator.manual_seed(seed)

    def generators(self, device: torch.device | str) -> Iterator[torch.Generator]:
        """The generators, once."""
        if self._drawn:
            raise NotRepeatableError("two fields are drawn from one seed")
        self._drawn = True
        return iter(self.kept)


class Again:
    """Work that is done again, where it cannot be recorded.

    Args:
        work: What to do; it returns tensors by name.
        seeds: Seeds that it draws from.
    """

    def __init__(self, work: Work, seeds: Sequence[KeptSeeds]) -> None:
        self.repeat = work

    def alone(self) -> AbstractContextManager[None]:
        """While the work is prepared and repeated."""
        return nullcontext()


class Graph:
    """Work on an NVIDIA GPU, recorded as a CUDA graph.

    Args:
        work: What to do, without waiting for the GPU or copying from the host; it returns tensors
            by name.
        seeds: Seeds that it draws from.
        device: The GPU.
        turns: Of graphs that share memory, as only one of them runs at a time.
    """

    def __init__(
        self, work: Work, seeds: Sequence[KeptSeeds], *, device: torch.device, turns: Turns
    ) -> None:
        self._turns, self._device = turns, device
        self._graph = torch.cuda.CUDAGraph()
        for own in seeds:
            for generator in own.kept:
                self._graph.register_generator_state(generator)
        self._constants: dict[Any, Any] = {}
        stream, current = turns.stream, torch.cuda.current_stream(device)
        stream.wait_stream(current)
        with torch.cuda.device(device), holding(self._constants):
            with torch.cuda.stream(stream):
                work()  # libraries start, and constants are made
            for own in seeds:
                own.set(own.numbers)
            known = len(self._constants)
            with torch.cuda.graph(
                self._graph, pool=turns.pool, stream=stream, capture_error_mode="thread_local"
            ):
                self._made = work()
        if len(self._constants) > known:
            raise NotRepeatableError("constants differ from one time to the next")
        current.wait_stream(stream)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While the work is prepared and repeated: after others that share the memory."""
        current = torch.cuda.current_stream(self._device)
        current.wait_event(self._turns.last)
        yield
        self._turns.last.record(current)

    def repeat(self) -> dict[str, Tensor]:
        """Repeat the work; the tensors hold the same until it is repeated the next time."""
        self._graph.replay()
        return self._made


class Turns:
    """Memory that graphs share, of which only one runs at a time.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream(device)
        self.last = torch.cuda.Event()
