"""Convolution of a volume whose voxels are repeated, without repeating them.

A 3x3x3 convolution of a volume upsampled by nearest neighbour reads each small voxel several times:
of three neighbouring taps, two always meet the same voxel. For each of the 8 positions of an output
voxel within a small voxel (its *phase*) the taps that meet one voxel are summed beforehand, which
leaves a 2x2x2 convolution of the small volume: 8 products instead of 27.
"""

from __future__ import annotations

import torch
from torch import Tensor


def phase_weight(weight: Tensor) -> Tensor:
    """Kernels of all phases, for a convolution of the small volume padded by one.

    The result at position p of `n + 1` along an axis holds two output voxels: `2p - 1` first, then
    `2p`. The first output voxel of all and the last are not part of the upsampled volume.

    Args:
        weight: `(O, C, 3, 3, 3)` kernel for the upsampled volume.

    Returns:
        `(8 O, C, 2, 2, 2)` kernel; outputs are ordered by place along x, y and z, then channel.
    """
    # Along an axis, windows hold small voxels p - 1 and p. Output 2p - 1, the second half of voxel
    # p - 1, meets it with its first two taps and p with the last; output 2p meets p - 1 with its
    # first tap.
    sums = weight.new_tensor([[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]])
    phases = torch.einsum("oxijk,pai,qbj,rck->pqroxabc", weight, sums, sums, sums)
    return phases.reshape(-1, *phases.shape[4:])


def interleave(planes: Tensor, channels: int) -> Tensor:
    """Bring the phases of small planes to their places in the upsampled volume.

    Args:
        planes: `(n, Y + 1, Z + 1, 8 O)` result of a convolution with `phase_weight`.
        channels: O.

    Returns:
        `(2 n, 2 Y, 2 Z, O)` planes; the first is output plane `2p - 1` of the first position p.
    """
    n, height, width, _ = planes.shape
    parts = planes.reshape(n, height, width, 2, 2, 2, channels)
    whole = parts.permute(0, 3, 1, 4, 2, 5, 6).reshape(2 * n, 2 * height, 2 * width, channels)
    return whole[:, 1:-1, 1:-1]
