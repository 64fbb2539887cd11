"""Mean of the features of scans that come one after the other, weighted as in `UNet3d`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .slabs import Slabs


class ScanMean:
    """Features of one level, averaged over scans while they come.

    Of the scans so far it holds the mean and, for each voxel, the logarithm of the sum of their
    weights, so that no weight overflows.

    Args:
        room: `(X, Y, Z, C)`, filled with the mean.
        gate: `(C,)` float32, of which the logits of the weights are made; None: there is one scan.

    Attributes:
        mean: `room`.
    """

    def __init__(self, room: Tensor, gate: Tensor | None) -> None:
        self.mean = room
        self._gate = gate
        self._log_sum: Tensor | None = None

    def joined(self, slabs: Slabs) -> Iterator[Tensor]:
        """Pass the slabs of the next scan on, and take them into the mean."""
        first = self._log_sum is None
        if self._log_sum is None and self._gate is not None:
            self._log_sum = self._gate.new_empty(*self.mean.shape[:3], 1)
        at = 0
        for slab in slabs:
            here = slice(at, at + slab.shape[0])
            at += slab.shape[0]
            if first:
                self.mean[here] = slab
            if self._gate is not None and self._log_sum is not None:
                logits = _logits(slab, self._gate)
                if first:
                    self._log_sum[here] = logits
                else:
                    _join(self.mean[here], self._log_sum[here], slab, logits)
            yield slab


def averaged(scans: Sequence[Slabs], gate: Tensor) -> Iterator[Tensor]:
    """Slabs of the mean of scans, in the memory of those of the first.

    Args:
        scans: Slabs of each scan, of equal thickness.
        gate: `(C,)` float32.
    """
    for mean, *others in zip(*scans, strict=True):
        log_sum = _logits(mean, gate)
        for slab in others:
            _join(mean, log_sum, slab, _logits(slab, gate))
        yield mean


def _logits(slab: Tensor, gate: Tensor) -> Tensor:
    return (slab.float() @ gate)[..., None]


def _join(mean: Tensor, log_sum: Tensor, slab: Tensor, logits: Tensor) -> None:
    """Take a slab of one more scan into the mean and the sum of weights, in place."""
    share = torch.sigmoid(logits - log_sum)  # exp(logit) / (sum + exp(logit))
    mean.lerp_(slab, share.to(mean.dtype))
    torch.logaddexp(log_sum, logits, out=log_sum)
