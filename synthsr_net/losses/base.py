"""What losses share: their base class, precision, the residual and the central box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

MAX_SIZE = 4096
"""Most voxels along an axis of a box."""


class ImageLoss(nn.Module):
    """Distance of a prediction from its target; smaller is better.

    A loss of its own is a subclass that has `measure`, and a line in `registry.py`. It must be a
    mean over elements, channels and voxels, so that its size does not depend on their numbers.
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


def central_crop(volume: Tensor, size: int | Sequence[int] | None) -> Tensor:
    """Central box of a volume; where it cannot be exactly central, it lies half a voxel lower.

    Args:
        volume: `(..., X, Y, Z)`.
        size: Size of the box in voxels, one number or three; None or 0 keeps the whole axis.

    Returns:
        `(..., *size)`, a view.

    Raises:
        ValueError: If the size is not of these kinds, or the box larger than the volume.

    Examples:
        >>> central_crop(torch.arange(7).reshape(7, 1, 1), (4, 0, 0)).flatten().tolist()
        [1, 2, 3, 4]
    """
    sizes = crop_sizes(size)
    given = tuple(volume.shape[-3:])
    box = tuple(crop or n for crop, n in zip(sizes, given, strict=True))
    if any(crop > n for crop, n in zip(box, given, strict=True)):
        raise ValueError(
            f"loss crop must fit into the volume, got {box} for {given} voxels. Make it smaller,"
            " or the patches larger."
        )
    for axis, (crop, n) in enumerate(zip(box, given, strict=True)):
        volume = volume.narrow(axis - 3, (n - crop) // 2, crop)
    return volume


def crop_sizes(size: int | Sequence[int] | None, what: str = "loss crop") -> tuple[int, int, int]:
    """Size of a box along each axis; 0 means the whole axis.

    Args:
        size: One number for all axes, three numbers, or None for the whole volume.
        what: Name of the size, for the error.

    Raises:
        ValueError: If it is something else.

    Examples:
        >>> crop_sizes(96), crop_sizes(None)
        ((96, 96, 96), (0, 0, 0))
    """
    sizes = tuple(size) if isinstance(size, Sequence) else (size or 0,) * 3
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in sizes)
    if len(sizes) != 3 or not whole or min(sizes) < 0 or max(sizes) > MAX_SIZE:
        raise ValueError(
            f"{what} must be a whole number of voxels or three, up to {MAX_SIZE}, got {size!r}."
        )
    return sizes[0], sizes[1], sizes[2]
