"""The training of a network, as Lightning runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from synthsr_net.metrics.volumes import VolumeMetrics, masks
from synthsr_net.networks.seeding import seeded
from synthsr_net.networks.unet import UNet3d
from synthsr_net.training.config import TrainingConfig
from synthsr_net.training.data.stream import Position
from synthsr_net.training.validation import RealPairs
from synthsr_transforms.generator.generator import TrainingPair
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.seeds import derive_seed

from .averaging import MovingAverage
from .objective import Objective
from .optimisers import learning_rate_factor, make_optimiser
from .watch import LossWatch, Reading


class Shown(NamedTuple):
    """A validation sample and its prediction, on the CPU.

    Attributes:
        image: Input `(Cin, X, Y, Z)`.
        prediction: `(C, X, Y, Z)`.
        target: `(C, X, Y, Z)`.
        labels: `(1, X, Y, Z)`.
    """

    image: Tensor
    prediction: Tensor
    target: Tensor
    labels: Tensor


def channels_last(network: UNet3d) -> UNet3d:
    """A network whose kernels lie in memory as convolutions of volumes with channels last want."""
    module: Any = network
    module.to(memory_format=torch.channels_last_3d)
    return network


def freeze_batch_norm(network: torch.nn.Module) -> None:
    """Let batch normalisation use its running statistics, and keep them, until `train` is called.

    Args:
        network: Changed in place; its other layers stay as they are.
    """
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d) and module.training:
            module.eval()


class TrainingTask(LightningModule):
    """Trains a network on pairs, and validates it.

    Args:
        network: The network.
        objective: What it is trained for.
        config: Settings.
        table: Label table, by which metrics find brain and head.
        position: Counter of batches, shared with the loader.
    """

    def __init__(
        self,
        network: UNet3d,
        objective: Objective,
        config: TrainingConfig,
        *,
        table: LabelTable,
        position: Position,
    ) -> None:
        super().__init__()
        network.phased = True  # the same result, sooner
        network.multiple = config.run.feature_multiple
        self.network = channels_last(network)
        self.objective, self.config, self.position = objective, config, position
        self.table = table
        decay = config.optimiser.ema_decay
        self.average = MovingAverage(network, decay) if decay else None
        self.metrics = VolumeMetrics()
        self.watch = LossWatch()
        self.shown: list[Shown] = []
        self.results: dict[str, float] = {}
        self.real: RealPairs | None = None
        self._forward = _compiled(network.forward, config.run.compile)
        if config.run.compile:
            objective.image_loss.compile()

    # Training

    def predicted(self, image: Tensor) -> Tensor:
        """Prediction `(B, O, X, Y, Z)` in float32 of the network in training."""
        output = self._forward(image.contiguous(memory_format=torch.channels_last_3d))
        return self.objective.prediction(output, image)

    def training_step(self, batch: TrainingPair, batch_idx: int) -> Tensor:
        """Loss of a batch."""
        with self.chance():
            prediction = self.predicted(batch.image)
        loss: Tensor = self.objective(prediction, batch)
        self.watch.add(self.position.done, loss)
        return loss

    def chance(self) -> AbstractContextManager[Any]:
        """Chance of dropout: that of the step, so that resumed runs repeat it."""
        if not self.config.network.dropout:
            return nullcontext()
        return seeded(
            derive_seed(self.config.run.seed, self.position.done, self.global_rank), self.device
        )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Freeze the statistics of batch normalisation once it is time."""
        run = self.config.run
        share, batches = run.freeze_batch_norm_after, run.epochs * self.trainer.num_training_batches
        if share is not None and self.position.done >= share * batches:
            freeze_batch_norm(self.network)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count, and begin to make the next pair."""
        self.position.done += 1
        loader = self.trainer.train_dataloader
        if loader is not None and self.position.done % len(loader):
            loader.stream.prefetch(self.position.done)

    def take_readings(self, *, wait: bool = False) -> list[Reading]:
        """Losses that have arrived since the last call, see `LossWatch.read`."""
        return self.watch.read(wait=wait)

    def extra_results(self) -> dict[str, float]:
        """Further numbers of the epoch, for its row of metrics."""
        return {}

    def configure_optimizers(self) -> Any:
        """Optimiser and learning rate of each step."""
        settings = self.config.optimiser
        optimiser = make_optimiser(self.network.parameters(), settings)
        run = self.config.run
        steps = run.epochs * -(-run.steps_per_epoch // settings.accumulate_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, learning_rate_factor(settings, steps)
        )
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_train_start(self) -> None:
        """Let the learning rate of the settings hold, not that of a state that was resumed."""
        schedule: Any = self.lr_schedulers()
        rate = self.config.optimiser.learning_rate
        schedule.base_lrs = [rate] * len(schedule.base_lrs)
        for group, factor in zip(schedule.optimizer.param_groups, schedule.lr_lambdas, strict=True):
            group["initial_lr"], group["lr"] = rate, rate * factor(schedule.last_epoch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save how far the run is."""
        checkpoint["position"] = self.position.done

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from there."""
        self.position.done = int(checkpoint["position"])

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Limit the norm of the gradient of all weights."""
        self.limit_gradient(_weights(optimizer))

    def limit_gradient(self, weights: Iterable[Tensor]) -> None:
        """Scale the gradients of some weights down where their norm exceeds the limit, if any."""
        limit = self.config.optimiser.clip_norm
        if limit is not None:
            torch.nn.utils.clip_grad_norm_(weights, limit)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        """Drop the gradients, which takes the optimiser itself longer."""
        for weight in _weights(optimizer):
            weight.grad = None

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Update the weights, then their average."""
        super().optimizer_step(*args, **kwargs)
        self.follow()

    def follow(self) -> None:
        """Update the average of the weights after a step of the optimiser."""
        if self.average is not None:
            self.average.update(self.network, self.position.done)

    # Validation

    @property
    def validated(self) -> UNet3d:
        """The network that is validated and saved: the average, if there is one."""
        if self.average is None:
            return self.network
        assert isinstance(self.average.network, UNet3d)
        return self.average.network

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self.metrics.reset()
        self.shown, self.results = [], {}

    def validation_step(self, batch: TrainingPair, batch_idx: int) -> None:
        """Measure the prediction of a sample."""
        number = batch_idx * self.trainer.world_size + self.global_rank
        if number >= self.config.validation.samples:
            return  # a repetition, see `FixedPairs`
        prediction = self.intensities(batch.image)
        brain, head = masks(_on_grid(batch.labels, batch.target), self.table)
        self.metrics.update(prediction, batch.target, brain, head)
        if self.global_rank == 0 and len(self.shown) < self.config.validation.previews:
            tensors = (batch.image, prediction, batch.target, batch.labels)
            self.shown.append(Shown(*(tensor[0].float().cpu() for tensor in tensors)))

    def intensities(self, image: Tensor) -> Tensor:
        """Prediction `(B, C, X, Y, Z)` of the validated network, without spreads."""
        output = self.validated(image.contiguous(memory_format=torch.channels_last_3d))
        return self.objective.intensities(self.objective.prediction(output, image))

    def on_validation_epoch_end(self) -> None:
        """Gather the results of all processes."""
        found = self.metrics.compute()
        self.results = {f"validation/{name}": float(value) for name, value in found.items()}
        if self.real is not None and self.global_rank == 0:
            with self.trainer.precision_plugin.forward_context():
                self.results.update(self.real.measure(self.intensities, self.device))


def _compiled(forward: Callable[[Tensor], Tensor], wish: bool | str) -> Callable[[Tensor], Tensor]:
    """A network as it is, compiled, or compiled in a mode of `torch.compile`."""
    if not wish:
        return forward
    return torch.compile(forward) if wish is True else torch.compile(forward, mode=str(wish))


def _weights(optimizer: Any) -> list[Tensor]:
    """What an optimiser changes."""
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _on_grid(labels: Tensor, target: Tensor) -> Tensor:
    """Label map on the grid of the target, where that has another spacing."""
    if labels.shape[2:] == target.shape[2:]:
        return labels
    resized = torch.nn.functional.interpolate(labels.float(), target.shape[2:], mode="nearest")
    return resized.to(labels.dtype)
