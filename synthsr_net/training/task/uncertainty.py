"""Training of the scale of the error, with everything else as it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from synthsr_net.losses.intensity import log_scale
from synthsr_net.metrics.calibration import TenthsOfScales
from synthsr_net.metrics.volumes import masks
from synthsr_net.training.config import CALIBRATION_L1
from synthsr_transforms.generator.generator import Pair

from .regression import ShownSample, TrainingTask, on_grid


class UncertaintyTask(TrainingTask):
    """Trains the second head of a network, and nothing else.

    The other weights get no gradient, and the statistics of batch normalisation stay as well, so
    that the network predicts the same images as before, bit for bit. Validation compares the mean
    absolute error with the mean predicted scale in each tenth of the predicted scales within the
    head: `calibration/1` to `calibration/10` are their ratios, `calibration/l1` is the largest
    deviation of one from 1.

    Args:
        args: See `TrainingTask`.
        kwargs: See `TrainingTask`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.network.requires_grad_(False)
        self.network.scales.requires_grad_(True)
        self.tenths = TenthsOfScales()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Keep statistics and dropout as in prediction."""
        self.network.eval()

    def on_validation_epoch_start(self) -> None:
        """Reset the metrics."""
        super().on_validation_epoch_start()
        self.tenths.reset()

    def measure(self, batch: Pair, prediction: Tensor) -> ShownSample:
        """Compare errors with their scales as well."""
        intensity, scale_output = prediction.chunk(2, dim=1)
        head = masks(on_grid(batch.labels, batch.target), self.table).head
        error = (intensity - batch.target).abs()
        head = head.expand_as(error)
        self.tenths.update(log_scale(scale_output)[head], error[head])
        return super().measure(batch, prediction)

    def on_validation_epoch_end(self) -> None:
        """Add the ratios of the tenths."""
        super().on_validation_epoch_end()
        ratios = self.tenths.compute()
        known = ratios[torch.isfinite(ratios)]
        worst = (known - 1).abs().max().item() if len(known) else float("nan")
        found = {f"calibration/{n}": ratio for n, ratio in enumerate(ratios.tolist(), 1)}
        found[CALIBRATION_L1] = worst
        self.results.update({f"validation/{name}": value for name, value in found.items()})
