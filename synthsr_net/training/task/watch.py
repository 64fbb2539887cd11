"""Reading losses without making the device wait."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor

from synthsr_transforms.support.messages import WorkFailedError


class NonFiniteLossError(WorkFailedError):
    """A loss that is NaN or infinite.

    Attributes:
        step: Step of the run at which it came up.
        value: The loss.
    """

    def __init__(self, step: int, value: float) -> None:
        super().__init__(f"the loss must be finite, got {value} at step {step}.")
        self.step, self.value = step, value


class Reading(NamedTuple):
    """The loss of a step."""

    step: int
    value: float


class LossWatch:
    """Losses on their way from the device.

    On a GPU, each loss is copied beside the computation and read when it has arrived, a few steps
    later; on the CPU at once.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def add(self, step: int, loss: Tensor) -> None:
        """Note the loss of a step."""
        value, event = loss.detach(), None
        if value.is_cuda:
            value = torch.empty((), dtype=value.dtype, pin_memory=True)
            value.copy_(loss.detach(), non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._waiting.append((step, value, event))

    def read(self, *, wait: bool = False) -> list[Reading]:
        """Losses that have arrived, in order.

        Args:
            wait: Whether to wait for all of them.

        Raises:
            NonFiniteLossError: If one is NaN or infinite.
        """
        readings = []
        while self._waiting:
            step, value, event = self._waiting[0]
            if event is not None and not event.query():
                if not wait:
                    break
                event.synchronize()
            self._waiting.popleft()
            reading = Reading(step, float(value))
            if not math.isfinite(reading.value):
                raise NonFiniteLossError(*reading)
            readings.append(reading)
        return readings
