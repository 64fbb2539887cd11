"""Base class of image losses; all sums are done in float32 at least."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn


class ImageLoss(nn.Module):
    """Distance of a prediction from its target; smaller is better.

    A loss of its own is one file with a subclass that has `measure`, and a line in `registry.py`.
    It must be a mean over elements, channels and voxels, so that its size does not depend on
    their numbers.
    """

    outputs_per_target: ClassVar[int] = 1
    """Number of channels that the network must have for each channel of the target."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compare a batch with its target.

        Args:
            prediction: `(B, outputs_per_target * C, X, Y, Z)` output of the network.
            target: `(B, C, X, Y, Z)`.

        Returns:
            One number, float32 (float64 if an argument is), in autocast too.

        Raises:
            ValueError: If shapes do not fit each other or the loss.
        """
        _check_shapes(prediction, target, self.outputs_per_target)
        with without_autocast(prediction):
            return self.measure(at_least_float32(prediction), at_least_float32(target))

    def compared(self, prediction: Tensor) -> Tensor:
        """Return the channels that are compared with the target, without predicted scales."""
        return prediction[:, : prediction.shape[1] // self.outputs_per_target]

    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss of tensors in full precision, whose shapes fit each other.

        Args:
            prediction: `(B, outputs_per_target * C, X, Y, Z)`.
            target: `(B, C, X, Y, Z)`.
        """
        raise NotImplementedError


def _check_shapes(prediction: Tensor, target: Tensor, outputs_per_target: int) -> None:
    if target.ndim != 5:
        raise ValueError(f"target must be (B, C, X, Y, Z), got {tuple(target.shape)}.")
    elements, channels, *size = target.shape
    expected = (elements, outputs_per_target * channels, *size)
    if prediction.shape != expected:
        each = "" if outputs_per_target == 1 else f" with {outputs_per_target} channels per target"
        raise ValueError(
            f"prediction must be {expected}{each}, got {tuple(prediction.shape)}. Change the"
            " number of output channels of the network or the target."
        )


def at_least_float32(x: Tensor) -> Tensor:
    """Same numbers as float32, or as float64 where they are already.

    Examples:
        >>> at_least_float32(torch.ones(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def without_autocast(x: Tensor) -> torch.autocast:
    """Context in which operations on the device of a tensor keep their precision."""
    return torch.autocast(x.device.type, enabled=False)
