"""Sliding-window inference: overlapping windows cover a volume, their outputs are blended."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def window_starts(size: int, window: int, overlap: int) -> list[int]:
    """First voxels of windows along an axis, evenly spread, overlapping by at least `overlap`.

    Examples:
        >>> window_starts(200, 96, 32)
        [0, 52, 104]
    """
    if window >= size:
        return [0]
    number = -(-(size - overlap) // (window - overlap))
    return [round(i * (size - window) / (number - 1)) for i in range(number)]


def window_weight(shape: Sequence[int], overlap: int, device: torch.device | str) -> Tensor:
    """Weight of the voxels of a window: 1 inside, falling linearly towards its faces.

    Args:
        shape: `(x, y, z)` of the window.
        overlap: Width of the fall in voxels.
        device: Where the weights are.

    Returns:
        `(x, y, z)`, above 0 everywhere.
    """
    weight = torch.ones(tuple(shape), device=device)
    for axis, size in enumerate(shape):
        place = torch.arange(size, device=device)
        distance = torch.minimum(place, size - 1 - place) + 1
        ramp = (distance / (overlap + 1)).clamp(max=1)
        weight *= ramp.view([-1 if a == axis else 1 for a in range(3)])
    return weight


def sliding_window(
    network: Callable[[Tensor], Tensor], x: Tensor, window: Sequence[int], overlap: int
) -> Tensor:
    """Apply a network to windows and blend the results where they overlap.

    Args:
        network: Takes `(..., C, x, y, z)` and gives `(O, x, y, z)`.
        x: `(..., C, X, Y, Z)`; zeros are added where a window is larger than the volume.
        window: Shape of a window in voxels.
        overlap: Least overlap of neighbouring windows in voxels.

    Returns:
        `(O, X, Y, Z)`. Far from the faces of windows it is what the whole volume gives; near them
        the network sees less of its surroundings.
    """
    shape = x.shape[-3:]
    missing = [max(0, t - n) for t, n in zip(window, shape, strict=True)]
    if any(missing):
        x = torch.nn.functional.pad(x, [p for m in reversed(missing) for p in (0, m)])
    starts = [window_starts(n, t, overlap) for n, t in zip(x.shape[-3:], window, strict=True)]
    weight = window_weight(window, overlap, x.device)
    total = torch.zeros(x.shape[-3:], device=x.device)
    result: Tensor | None = None
    for corner in itertools.product(*starts):
        place = tuple(slice(start, start + t) for start, t in zip(corner, window, strict=True))
        output = network(x[..., place[0], place[1], place[2]])
        if result is None:
            result = output.new_zeros(output.shape[0], *x.shape[-3:])
        result[(slice(None), *place)] += output * weight
        total[place] += weight
    assert result is not None
    return (result / total)[:, : shape[0], : shape[1], : shape[2]]
