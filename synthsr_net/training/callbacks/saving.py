"""Stop requests, and saving of the state and the models of a run."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from synthsr_net.models.checkpoint import ModelConfig, save_model
from synthsr_net.training.config import TrainingConfig
from synthsr_net.training.folder import RunFolder
from synthsr_net.training.task.regression import TrainingTask
from synthsr_transforms.support.atomic import replacing
from synthsr_transforms.support.messages import WorkFailedError, is_full
from synthsr_transforms.support.stopping import take_signals

STOP_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
]
"""Signals of users and of schedulers that ask a run to end."""
STEPS_BETWEEN_AGREEMENTS = 50
"""Batches between those at which processes agree whether to save or to stop."""


class StopRequest:
    """Stop request of a user or scheduler, honoured before the next batch.

    A second signal is left to the handlers that were there when the object was made.

    Attributes:
        made: Whether there is one.
    """

    def __init__(self) -> None:
        self.made = False
        self._before: dict[int, Any] = {n: signal.getsignal(n) for n in STOP_SIGNALS}

    def listen(self) -> None:
        """Take over the signals, which only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            take_signals(STOP_SIGNALS, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        before = self._before[number]
        if self.made and callable(before):
            before(number, frame)
        elif self.made:
            raise KeyboardInterrupt
        self.made = True


class SaveState(Callback):
    """Saves the state of a run, from which it can be resumed, between two batches.

    Args:
        folder: Folder of the run.
        config: Settings.
        stop: Request to end the run.
    """

    def __init__(self, folder: RunFolder, config: TrainingConfig, stop: StopRequest) -> None:
        self.folder, self.config, self.stop = folder, config, stop
        self._saved_at = time.monotonic()
        self._saved_position = -1
        self._stopping = False

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Take signals back from Lightning, which ends without saving."""
        self.stop.listen()
        self._saved_position = pl_module.position.done

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time, after the batch before and before anything of this one."""
        done = pl_module.position.done
        stopping = self._is_stopping(trainer, done, batch_idx)
        if batch_idx % self.config.optimiser.accumulate_batches:
            return  # gradients of the batches before wait for their step
        if stopping:
            self.save(trainer, done)
            raise KeyboardInterrupt
        if done != self._saved_position and self._is_due(trainer, done, batch_idx):
            self.save(trainer, done)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Save the state at the end."""
        self.save(trainer, pl_module.position.done)

    def _is_stopping(self, trainer: Trainer, done: int, batch_idx: int) -> bool:
        """Whether to stop; several processes agree on it at the same batch."""
        if trainer.world_size == 1:
            return self.stop.made
        if done % STEPS_BETWEEN_AGREEMENTS == 0 or batch_idx == 0:
            made = trainer.strategy.reduce_boolean_decision(self.stop.made, all=False)
            self._stopping = self._stopping or made
        return self._stopping

    def _is_due(self, trainer: Trainer, done: int, batch_idx: int) -> bool:
        if done == 0:
            return False
        every = self.config.run.save_every_steps
        if every is not None:
            return done - self._saved_position >= every or batch_idx == 0
        passed = time.monotonic() - self._saved_at > 60 * self.config.run.save_every_minutes
        if trainer.world_size > 1:  # clocks differ, and all processes save or none
            agree = done % STEPS_BETWEEN_AGREEMENTS < self.config.optimiser.accumulate_batches
            passed = trainer.strategy.reduce_boolean_decision(passed) if agree else False
        return passed or batch_idx == 0

    def save(self, trainer: Trainer, done: int) -> None:
        """Save now; the file appears whole or not at all.

        Weights that are not finite are not saved: the next loss will say so.
        """
        task: Any = trainer.lightning_module
        if not are_finite(task.network.state_dict()):
            return
        path = self.folder.state_path
        writing = replacing(path) if trainer.is_global_zero else nullcontext(path)
        with saving(self.folder), writing as temporary:
            trainer.save_checkpoint(temporary)
        self._saved_at, self._saved_position = time.monotonic(), done


def write_models(
    folder: RunFolder, config: ModelConfig, task: TrainingTask, epoch: int, *, best: bool, keep: int
) -> None:
    """Write the model file of an epoch, and the last and best one.

    Args:
        folder: Folder of the run.
        config: Description in the model files.
        task: The training.
        epoch: Number of the epoch, from 1.
        best: Whether it is the best so far.
        keep: Number of last epochs whose files stay; -1 means all.
    """
    state = task.validated.state_dict()
    if not are_finite(state):
        raise WorkFailedError(
            f"weights must be finite, but are not after epoch {epoch}. The model files of the"
            " epochs before are kept. Lower optimiser.learning_rate, or set optimiser.clip_norm=1."
        )
    path = folder.epoch_model_path(epoch)
    about = {**config.training, "epochs": epoch, "global_step": task.position.done}
    about["results"] = {name: float(f"{value:.4g}") for name, value in task.results.items()}
    with saving(folder):
        save_model(path, replace(config, training=about), state)
        for name in ("last", "best") if best else ("last",):
            _copy(path, folder.model_path(name))
    for old in range(1, epoch - keep + 1) if keep >= 0 else ():
        folder.epoch_model_path(old).unlink(missing_ok=True)


def are_finite(state: Mapping[str, Tensor]) -> bool:
    """Whether all weights are finite."""
    floats = [tensor for tensor in state.values() if tensor.is_floating_point()]
    return bool(torch.stack([tensor.isfinite().all() for tensor in floats]).all())


def _copy(source: Path, path: Path) -> None:
    """Copy a file, as a second name of it where the file system can."""
    with replacing(path) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


@contextmanager
def saving(folder: RunFolder) -> Iterator[None]:
    """Turn a full disk and the like into an error that says what to do.

    Raises:
        WorkFailedError: If what is done inside cannot be written.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        full = is_full(error) or "file write failed" in str(error)
        if not isinstance(error, OSError) and not full:
            raise
        reason = "the disk is full" if full else getattr(error, "strerror", None) or str(error)
        raise WorkFailedError(
            f"the run could not be saved in {folder.path}: {reason}. What was saved before is"
            " kept. Free some space, then go on with --resume."
        ) from error
