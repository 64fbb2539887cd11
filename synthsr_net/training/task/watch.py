"""Losses read without making the device wait, and the report of one that is not finite."""

from __future__ import annotations

import json
import math
from collections import deque
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from synthsr_net.training.data.stream import PairStream
from synthsr_net.training.folder import FAILED, RunFolder
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.io.volumes import write_volume
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

    def read(self, *, wait: bool = False) -> list[float]:
        """Losses that have arrived, in order.

        Args:
            wait: Whether to wait for all of them.

        Raises:
            NonFiniteLossError: If one is NaN or infinite.
        """
        losses = []
        while self._waiting:
            step, value, event = self._waiting[0]
            if event is not None and not event.query():
                if not wait:
                    break
                event.synchronize()
            self._waiting.popleft()
            loss = float(value)
            if not math.isfinite(loss):
                raise NonFiniteLossError(step, loss)
            losses.append(loss)
        return losses


def report_failure(
    error: NonFiniteLossError, stream: PairStream, folder: RunFolder, spacing_mm: float
) -> WorkFailedError:
    """Write the pair at which a loss was not finite.

    Args:
        error: The loss.
        stream: Makes the pair.
        folder: Folder of the run.
        spacing_mm: Voxel spacing of the pair.

    Returns:
        The error to raise.
    """
    plan, pair = stream.plan(error.step), stream.pair(error.step)
    entries = stream.maker(error.step)[1].entries
    names = [entries[index].subject.name for index in plan.entries]
    record = {"step": error.step, "batch": plan.number, "seed": plan.seed, "label_maps": names}
    place = folder.path / FAILED / f"step_{error.step:06d}"
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name in ("image", "target", "labels"):
            _write_channels(place, name, getattr(pair, name).flatten(1, -4), spacing_mm)
        (place / "pair.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        written = f"The pair lies in {place}"
    except OSError as problem:
        written = f"The pair could not be written ({problem.strerror or problem})"
    last = folder.model_path("last")
    saved = f"The last good model is {last}" if last.exists() else "No epoch was complete"
    return WorkFailedError(
        f"the loss must be finite, got {error.value} at step {error.step}: sample {plan.number}"
        f" (seed {plan.seed}), from {', '.join(names)}. {written}. {saved}. Lower"
        " optimiser.learning_rate or set optimiser.clip_norm=1, and go on with --resume."
    )


def _write_channels(place: Path, name: str, tensor: Tensor, spacing_mm: float) -> None:
    """Write each channel of each element of a batch as a volume."""
    affine = np.diag([*[spacing_mm] * 3, 1.0])
    for element, channels in enumerate(tensor.detach().cpu().numpy()):
        for channel, values in enumerate(channels):
            write_volume(place / f"{name}_{element}_{channel}.nii.gz", Volume(values, affine))
