"""Training of a network that tells structures apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from synthsr_net.losses.dice_cross_entropy import DiceCrossEntropyLoss
from synthsr_net.metrics.dice import DiceMetrics
from synthsr_transforms.generator.generator import TrainingPair

from .regression import ShownSample, TrainingTask


class SegmentationTask(TrainingTask):
    """Trains a network on label maps of structures.

    In training, the network gives logits; its model files say that a softmax follows.

    Args:
        values: Value of each structure, in the order of the outputs.
        names: Their names.
        args: See `TrainingTask`.
        kwargs: See `TrainingTask`.
    """

    def __init__(
        self, values: Sequence[int], names: Sequence[str], *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        for network in {self.network, self.validated}:
            network.config = replace(network.config, softmax=False)
        self.dice = DiceMetrics(names)
        self.values: Tensor
        self.register_buffer("values", torch.tensor(values, dtype=torch.int32), persistent=False)

    def on_validation_epoch_start(self) -> None:
        """Reset the metrics."""
        super().on_validation_epoch_start()
        self.dice.reset()

    def measure(self, batch: TrainingPair, logits: Tensor) -> ShownSample:
        """Count voxels of each structure, found and true."""
        found = self.values[logits.argmax(1, keepdim=True)]
        truth = batch.target
        if truth.shape != found.shape:  # a coarser grid
            loss = cast(DiceCrossEntropyLoss, self.objective.image_loss)
            shares = loss.shares(truth, found.shape[2:])
            truth = self.values[shares.argmax(1, keepdim=True)]
        self.dice.update(*((m == self.values.view(1, -1, 1, 1, 1)) for m in (found, truth)))
        return ShownSample(batch.image, found, truth, truth)

    def compute_metrics(self) -> dict[str, float]:
        """Return the Dice coefficients by name."""
        return self.dice.compute()
