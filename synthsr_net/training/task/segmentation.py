"""Training of a network that tells structures apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from synthsr_net.losses.segmentation import DiceCrossEntropyLoss
from synthsr_net.metrics.volumes import DiceMeans, dice
from synthsr_transforms.generator.generator import Pair

from .regression import ShownSample, TrainingTask, all_channels


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
        self.metrics = DiceMeans([f"dice/{name}" for name in names[1:]])
        self.values: Tensor
        self.register_buffer("values", torch.tensor(values, dtype=torch.int32), persistent=False)

    def measure(self, batch: Pair, logits: Tensor) -> ShownSample:
        """Count voxels of each structure, found and true."""
        found = self.values[logits.argmax(1, keepdim=True)]
        truth = batch.target
        if truth.shape != found.shape:  # a coarser grid
            loss = cast(DiceCrossEntropyLoss, self.objective.image_loss)
            shares = loss.shares(truth, found.shape[2:])
            truth = self.values[shares.argmax(1, keepdim=True)]
        structures = self.values[1:].view(1, -1, 1, 1, 1)  # the first is the background
        self.metrics.update(*dice(found == structures, truth == structures))
        return ShownSample(all_channels(batch), found, truth, truth)
