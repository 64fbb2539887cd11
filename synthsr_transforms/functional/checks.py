"""Argument checks that name what was expected, what came and what to do."""

from __future__ import annotations

from torch import Tensor


def check_volume(volume: Tensor, name: str = "volume") -> None:
    """Raise unless `volume` is `(B, C, X, Y, Z)`.

    Raises:
        ValueError: If the tensor does not have five dimensions.
    """
    if volume.ndim != 5:
        raise ValueError(
            f"{name} must have shape (B, C, X, Y, Z), got {tuple(volume.shape)}."
            " Add the batch and channel dimensions with tensor[None, None]."
        )


def check_coordinates(coordinates: Tensor, batch_size: int) -> None:
    """Raise unless `coordinates` is `(batch_size, 3, X, Y, Z)`.

    Raises:
        ValueError: If the shape is another one.
    """
    if coordinates.ndim != 5 or coordinates.shape[:2] != (batch_size, 3):
        raise ValueError(
            f"coordinates must have shape ({batch_size}, 3, X, Y, Z), got"
            f" {tuple(coordinates.shape)}. Give one voxel coordinate per axis and output voxel."
        )
