"""The training of a network, as Lightning runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, cast

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from synthsr_net.metrics.volumes import REGION_MEASURES, VolumeMeans, masks, measure_regions
from synthsr_net.networks.seeding import seeded
from synthsr_net.networks.unet import UNet3d
from synthsr_net.training.config import TrainingConfig
from synthsr_net.training.data.stream import Position
from synthsr_net.training.validation import RealPairs
from synthsr_transforms.generator.generator import Pair
from synthsr_transforms.generator.scans import ExamPair
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.seeds import derive_seed

from .objective import Objective
from .optimisation import MovingAverage, learning_rate_factor, make_optimiser
from .watch import LossWatch


class ShownSample(NamedTuple):
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


def present_scans(pair: Pair) -> Tensor | None:
    """Which scans of each head there are, `(B, N)`; None where all of them are."""
    return pair.present if isinstance(pair, ExamPair) else None


def all_channels(pair: Pair) -> Tensor:
    """Channels of the input, of all scans in a row, `(B, N Cin, X, Y, Z)`."""
    return pair.image.flatten(1, -4)


def freeze_batch_norm(network: torch.nn.Module) -> None:
    """Let batch normalisation use its running statistics, fixed, until `train` is called."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d) and module.training:
            module.eval()


class TrainingTask(LightningModule):
    """Trains a network on pairs, and validates it.

    Args:
        network: The network.
        objective: Training loss.
        config: Settings.
        table: Label table, by which metrics find brain and head.
        position: Counter of batches, shared with the loader.
        real: Real scans of validation.
    """

    def __init__(
        self,
        network: UNet3d,
        objective: Objective,
        config: TrainingConfig,
        *,
        table: LabelTable,
        position: Position,
        real: RealPairs | None = None,
    ) -> None:
        super().__init__()
        network.phased = True  # the same result, faster
        network.multiple = config.run.feature_multiple
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.network = network
        self.objective, self.config, self.position = objective, config, position
        self.table, self.real = table, real
        decay = config.optimiser.ema_decay
        self.average = MovingAverage(network, decay) if decay else None
        self.metrics = VolumeMeans(REGION_MEASURES)
        self.watch = LossWatch()
        self.shown: list[ShownSample] = []
        self.results: dict[str, float] = {}
        self._forward: Callable[..., Tensor] = network.forward
        if config.run.compile:
            mode = {} if config.run.compile is True else {"mode": config.run.compile}
            self._forward = torch.compile(network.forward, **mode)
            objective.image_loss.compile()

    # Training

    def predicted(self, pair: Pair) -> Tensor:
        """Return the prediction `(B, O, X, Y, Z)` in float32 of the network in training."""
        return self._predicted(self._forward, pair.image, present_scans(pair))

    def _predicted(
        self, forward: Callable[..., Tensor], image: Tensor, present: Tensor | None
    ) -> Tensor:
        """Prediction of one scan per element, or mean of the predictions of several.

        With one element all of its scans are there, and the device need not be asked which.
        """
        if image.ndim == 5:
            output = forward(image.contiguous(memory_format=torch.channels_last_3d))
            return self.objective.prediction(output, image)
        scans, counts = image.flatten(0, 1), [image.shape[1]] * len(image)
        if present is not None and len(image) > 1:
            scans, counts = image[present], present.sum(1).tolist()
        torch._dynamo.maybe_mark_dynamic(scans, 0)
        output = forward(scans.contiguous(memory_format=torch.channels_last_3d))
        output = torch.stack([each.mean(0) for each in output.split(counts)])
        return self.objective.prediction(output, image[:, 0])

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        with self.random_state():
            prediction = self.predicted(batch)
        loss: Tensor = self.objective(prediction, batch)
        self.watch.add(self.position.done, loss)
        return loss

    def random_state(self) -> AbstractContextManager[Any]:
        """Seed dropout by the step, so that resumed runs repeat it."""
        if not self.config.network.dropout:
            return nullcontext()
        return seeded(
            derive_seed(self.config.run.seed, self.position.done, self.global_rank), self.device
        )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Freeze batch normalisation from some step on."""
        run = self.config.run
        after, batches = run.freeze_batch_norm_after, run.epochs * self.trainer.num_training_batches
        if after is not None and self.position.done >= after * batches:
            freeze_batch_norm(self.network)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the batch, and prefetch the next pair."""
        self.position.done += 1
        loader = self.trainer.train_dataloader
        if loader is not None and self.position.done % len(loader):
            loader.stream.prefetch(self.position.done)

    def take_losses(self, *, wait: bool = False) -> list[float]:
        """Return the losses that have arrived since the last call, see `LossWatch.read`."""
        return self.watch.read(wait=wait)

    def extra_results(self) -> dict[str, float]:
        """Return further metrics of the epoch."""
        return {}

    def configure_optimizers(self) -> Any:
        """Make the optimiser and its learning rate schedule."""
        settings = self.config.optimiser
        trained = [weight for weight in self.network.parameters() if weight.requires_grad]
        optimiser = make_optimiser(trained, settings)
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
        """Take the learning rate from the settings, not from a state that was resumed."""
        schedule: Any = self.lr_schedulers()
        rate = self.config.optimiser.learning_rate
        schedule.base_lrs = [rate] * len(schedule.base_lrs)
        for group, factor in zip(schedule.optimizer.param_groups, schedule.lr_lambdas, strict=True):
            group["initial_lr"], group["lr"] = rate, rate * factor(schedule.last_epoch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the position of the run."""
        checkpoint["position"] = self.position.done

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the position of the run."""
        self.position.done = int(checkpoint["position"])

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient of all weights; Lightning refuses to for fused optimisers."""
        self.clip_gradient([w for group in optimizer.param_groups for w in group["params"]])

    def clip_gradient(self, weights: Iterable[Tensor]) -> None:
        """Clip the norm of a gradient, if the settings have a limit."""
        if self.config.optimiser.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(weights, self.config.optimiser.clip_norm)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Update the weights, then their average."""
        super().optimizer_step(*args, **kwargs)
        self.update_average()

    def update_average(self) -> None:
        """Update the average of the weights after a step of the optimiser."""
        if self.average is not None:
            self.average.update(self.network, self.position.done)

    # Validation

    @property
    def validated(self) -> UNet3d:
        """The network that is validated and saved: the average, if there is one."""
        return cast(UNet3d, self.network if self.average is None else self.average.network)

    def on_validation_epoch_start(self) -> None:
        """Reset the metrics."""
        self.metrics.reset()
        self.shown, self.results = [], {}

    def validation_step(self, batch: Pair, batch_idx: int) -> None:
        """Measure the prediction of a sample."""
        number = batch_idx * self.trainer.world_size + self.global_rank
        if number >= self.config.validation.samples:
            return  # a repetition, see `FixedPairs`
        output = self._predicted(self.validated, batch.image, present_scans(batch))
        sample = self.measure(batch, output)
        if self.global_rank == 0 and len(self.shown) < self.config.validation.previews:
            self.shown.append(ShownSample(*(tensor[0].float().cpu() for tensor in sample)))

    def measure(self, batch: Pair, prediction: Tensor) -> ShownSample:
        """Add a prediction with all its channels to the metrics; returns what may be shown."""
        prediction = self.objective.intensities(prediction)
        regions = masks(on_grid(batch.labels, batch.target), self.table)
        self.metrics.update(*measure_regions(prediction, batch.target, regions))
        return ShownSample(all_channels(batch), prediction, batch.target, batch.labels)

    def intensities(self, image: Tensor, present: Tensor | None = None) -> Tensor:
        """Return the prediction `(B, C, X, Y, Z)` of the validated network, without scales."""
        return self.objective.intensities(self._predicted(self.validated, image, present))

    def on_validation_epoch_end(self) -> None:
        """Gather the results of all processes."""
        found = self.metrics.compute()
        self.results = {f"validation/{name}": value for name, value in found.items()}
        if self.real is not None and self.global_rank == 0:
            with self.trainer.precision_plugin.forward_context():
                self.results.update(self.real.measure(self.intensities, self.device))


def on_grid(labels: Tensor, target: Tensor) -> Tensor:
    """Return a label map on the grid of the target, which may have another spacing."""
    if labels.shape[2:] == target.shape[2:]:
        return labels
    resized = torch.nn.functional.interpolate(labels.float(), target.shape[2:], mode="nearest")
    return resized.to(labels.dtype)
