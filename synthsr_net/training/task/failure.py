"""Reporting a loss that is not finite: at which sample, and how to make it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from synthsr_net.training.data.bank import names_of
from synthsr_net.training.data.pairs import PairData
from synthsr_net.training.folder import FAILED, RunFolder
from synthsr_transforms.generator.generator import TrainingPair
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.io.volumes import write_volume
from synthsr_transforms.support.messages import WorkFailedError

from .watch import NonFiniteLossError


def report_failure(
    error: NonFiniteLossError, data: PairData, folder: RunFolder, spacing_mm: float
) -> WorkFailedError:
    """Write the pair at which a loss was not finite, and say what is kept.

    Args:
        error: The loss.
        data: What the pair is made from.
        folder: Folder of the run.
        spacing_mm: Voxel spacing of the pair.

    Returns:
        The error to raise.
    """
    plan = data.stream.plan(error.step)
    pair = data.stream.pair(error.step)
    place = folder.path / FAILED / f"step_{error.step:06d}"
    names = names_of([data.stream.bank.entries[index].subject for index in plan.entries])
    record = {"step": error.step, "batch": plan.number, "seed": plan.seed, "label_maps": names}
    try:
        _write(place, pair, spacing_mm, record)
        written = f"The pair lies in {place}"
    except OSError as problem:
        written = f"The pair could not be written ({problem.strerror or problem})"
    last = folder.model_path("last")
    kept = f"The last good model is {last}" if last.exists() else "No epoch was complete"
    return WorkFailedError(
        f"the loss must be finite, got {error.value} at step {error.step}: sample {plan.number}"
        f" (seed {plan.seed}), from {', '.join(names)}. {written}. {kept}. Lower"
        " optimiser.learning_rate or set optimiser.clip_norm=1, and go on with --resume."
    )


def _write(place: Path, pair: TrainingPair, spacing_mm: float, record: dict[str, Any]) -> None:
    """Write the volumes of a pair and what it was made from."""
    place.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*[spacing_mm] * 3, 1.0])
    for name, tensor in pair._asdict().items():
        for element, channel, values in _channels(tensor):
            path = place / f"{name}_{element}_{channel}.nii.gz"
            write_volume(path, Volume(values, affine))
    (place / "pair.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _channels(tensor: Tensor) -> list[tuple[int, int, np.ndarray]]:
    """Each channel of each element, with their numbers."""
    array = tensor.detach().cpu().numpy()
    return [(b, c, array[b, c]) for b in range(array.shape[0]) for c in range(array.shape[1])]
