"""Metrics, pictures, events and progress of a run."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback, Trainer

from synthsr_net.training.folder import RunFolder
from synthsr_net.training.setup.prepare import Prepared
from synthsr_net.training.task.regression import TrainingTask
from synthsr_transforms.drawing.panels import figure_array, save_figure

from .curves import curve_figure
from .metrics_file import MetricsFile
from .previews import preview_figure
from .saving import saving, write_models

log = logging.getLogger("synthsr_net")
STEPS_BETWEEN_EVENTS = 50
"""Steps between the losses that TensorBoard shows, which are means over them."""
_LOSSES = "losses_of_epoch"


class Progress(NamedTuple):
    """Progress of a run.

    Attributes:
        done: Number of batches so far.
        total: Number of batches of the run.
        epoch: Number of the epoch, from 1.
        epochs: Number of epochs.
        loss: Mean of the last losses, NaN before the first.
    """

    done: int
    total: int
    epoch: int
    epochs: int
    loss: float


class EpochResults(NamedTuple):
    """Results of an epoch.

    Attributes:
        epoch: Its number, from 1.
        row: Its row of `metrics.csv`.
        best: Whether its model is the best so far.
    """

    epoch: int
    row: dict[str, float]
    best: bool


class RunLog(Callback):
    """Writes metrics and pictures after each epoch, and reports progress.

    Args:
        folder: Folder of the run.
        prepared: The run.
        on_step: Called after each batch.
        on_epoch: Called after each epoch.

    Attributes:
        batches: Batches that this process has trained.
    """

    def __init__(
        self,
        folder: RunFolder,
        prepared: Prepared,
        *,
        on_step: Callable[[Progress], object] | None = None,
        on_epoch: Callable[[EpochResults], object] | None = None,
    ) -> None:
        self.folder, self.prepared, self.training = folder, prepared, prepared.training
        self.batches_per_epoch = prepared.batches_per_epoch
        self.on_step, self.on_epoch = on_step, on_epoch
        self.metrics = MetricsFile(folder.metrics_path)
        self._begin, self._first_step = time.perf_counter(), 0
        self._losses: list[float] = []
        self._recent = math.nan
        self.batches = 0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Drop the rows of epochs that are trained again."""
        if trainer.is_global_zero:
            with saving(self.folder):
                self.metrics.truncate(pl_module.position.done // self.batches_per_epoch)
        self._restart_clock(pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Save the losses of the epoch so far; none of them may be missing or not finite."""
        self._take_losses(pl_module, wait=True)
        checkpoint[_LOSSES] = list(self._losses)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the losses of the epoch so far."""
        self._losses = list(checkpoint.get(_LOSSES, []))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Let the last epoch be validated, whatever its number."""
        every = max(self.training.validation.every_epochs, 1)
        last = trainer.current_epoch + 1 == self.training.run.epochs
        trainer.check_val_every_n_epoch = 1 if last else every

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Collect the losses that have arrived."""
        self.batches += 1
        last = self._take_losses(pl_module)
        done = batch_idx + 1 + trainer.current_epoch * self.batches_per_epoch
        if last:
            mean = sum(last) / len(last)
            self._recent = mean if math.isnan(self._recent) else 0.95 * self._recent + 0.05 * mean
        if done % STEPS_BETWEEN_EVENTS == 0 and self._losses:
            recent = self._losses[-STEPS_BETWEEN_EVENTS:]
            self._event(trainer, "train/loss", sum(recent) / len(recent), done)
            self._event(trainer, "learning_rate", _learning_rate(trainer), done)
        if self.on_step is not None and trainer.is_global_zero:
            epochs = self.training.run.epochs
            total, epoch = epochs * self.batches_per_epoch, trainer.current_epoch + 1
            self.on_step(Progress(done, total, epoch, epochs, self._recent))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the row, the model files and the pictures of the epoch."""
        self._take_losses(pl_module, wait=True)
        epoch = trainer.current_epoch + 1
        row = self._row(trainer, pl_module, epoch)
        if trainer.is_global_zero:
            best = self._is_best(row)
            keep = self.training.run.keep_models
            write_models(self.folder, self.prepared.model, pl_module, epoch, best=best, keep=keep)
            with saving(self.folder):
                self.metrics.append(row)
                save_figure(self.folder.curve_path, partial(curve_figure, self.metrics.rows()))
                self._write_events(trainer, pl_module, row, epoch)
            log.info("epoch %d: %s", epoch, row)
            if self.on_epoch is not None:
                self.on_epoch(EpochResults(epoch, row, best))
        pl_module.results = {}
        self._losses = []
        self._restart_clock(pl_module)

    def _take_losses(self, task: TrainingTask, *, wait: bool = False) -> list[float]:
        losses = task.take_losses(wait=wait)
        self._losses += losses
        return losses

    def _restart_clock(self, task: TrainingTask) -> None:
        self._begin, self._first_step = time.perf_counter(), task.position.done

    def _row(self, trainer: Trainer, task: TrainingTask, epoch: int) -> dict[str, float]:
        seconds = time.perf_counter() - self._begin
        steps = task.position.done - self._first_step
        samples = steps * self.training.run.batch_size * trainer.world_size
        loss = sum(self._losses) / len(self._losses) if self._losses else math.nan
        mean = torch.tensor(loss, dtype=torch.float32, device=task.device)
        mean = trainer.strategy.reduce(mean, reduce_op="mean")
        row = {
            "epoch": epoch,
            "global_step": task.position.done,
            "train/loss": float(mean),
            "learning_rate": _learning_rate(trainer),
            **task.results,
            **task.extra_results(),
            "seconds": seconds,
            "samples_per_second": samples / seconds,
        }
        if not self._losses:  # as long as the critic alone learns
            del row["train/loss"]
        if task.device.type == "cuda":
            row["gpu_memory_gb"] = torch.cuda.max_memory_allocated(task.device) / 1e9
        return row

    def _is_best(self, row: dict[str, float]) -> bool:
        """Whether no earlier epoch was better by the chosen metric, or by its loss without any."""
        metric, earlier = self.training.validation.metric, self.metrics.rows()
        name = metric if metric.startswith("real/") else f"validation/{metric}"
        if name not in row:
            if any(name in old for old in earlier):
                return False
            name = "train/loss"
        sign = 1 if name.endswith(("l1", "loss")) else -1
        before = [float(old[name]) for old in earlier if name in old]
        own = sign * float(row.get(name, math.nan))
        return all(own <= sign * value for value in before if math.isfinite(value))

    def _write_events(
        self, trainer: Trainer, task: TrainingTask, row: dict[str, float], epoch: int
    ) -> None:
        done = task.position.done
        for name, value in row.items():
            if name not in ("epoch", "global_step"):
                self._event(trainer, f"epoch/{name}", float(value), done)
        if not task.shown:
            return
        draw = partial(
            preview_figure,
            task.shown,
            f"epoch {epoch}",
            spacing_mm=self.prepared.model.scan.spacing_mm,
            segmentation=self.prepared.structures is not None,
            reliability=self.prepared.fitted.generator.config.reliability is not None,
        )
        save_figure(self.folder.preview_path(epoch), draw)
        trainer.logger.experiment.add_image(  # type: ignore[union-attr]
            "previews", figure_array(draw()), done, dataformats="HWC"
        )
        task.shown = []

    def _event(self, trainer: Trainer, name: str, value: float, step: int) -> None:
        if trainer.logger is not None and trainer.is_global_zero and math.isfinite(value):
            trainer.logger.experiment.add_scalar(name, value, step)  # type: ignore[attr-defined]


def _learning_rate(trainer: Trainer) -> float:
    return float(trainer.optimizers[0].param_groups[0]["lr"])
