"""Networks that predict a difference from their input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def add_residual(prediction: Tensor, image: Tensor, channels: Sequence[int]) -> Tensor:
    """Add channels of the input to the first channels of the output.

    Args:
        prediction: `(B, O, X, Y, Z)` output of the network.
        image: `(B, C, X, Y, Z)` its input.
        channels: For each of the first output channels, the number of the input channel that is
            added to it, counted from 0 among all channels of `image`.

    Returns:
        `(B, O, X, Y, Z)`; channels beyond those given, such as scales, are as they were.

    Raises:
        ValueError: If sizes differ, a channel does not exist, or there are more than O.

    Examples:
        >>> ones = torch.ones(1, 2, 1, 1, 1)
        >>> add_residual(ones, torch.tensor([5.0, 7.0]).reshape(ones.shape), [1]).flatten().tolist()
        [8.0, 1.0]
    """
    count, available = len(channels), image.shape[1]
    if not count:
        return prediction
    if prediction.shape[:1] + prediction.shape[2:] != image.shape[:1] + image.shape[2:]:
        raise ValueError(
            "prediction and image must agree in all but channels, got"
            f" {tuple(prediction.shape)} and {tuple(image.shape)}."
        )
    if count > prediction.shape[1] or not all(0 <= channel < available for channel in channels):
        raise ValueError(
            f"residual channels must be at most {prediction.shape[1]} numbers from 0 to"
            f" {available - 1}, got {list(channels)}."
        )
    added = torch.cat([image[:, channel : channel + 1] for channel in channels], dim=1)
    return torch.cat([prediction[:, :count] + added, prediction[:, count:]], dim=1)
