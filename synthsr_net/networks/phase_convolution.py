"""Convolution of a volume whose voxels are repeated, without repeating them.

A 3x3x3 convolution of a volume upsampled by nearest neighbour reads each small voxel several times:
of three neighbouring taps, two always meet the same voxel. For each of the 8 positions of an output
voxel within a small voxel (its *phase*) the taps that meet one voxel are summed beforehand, which
leaves a 2x2x2 convolution of the small volume: 8 products instead of 27. The same is a transposed
convolution with a 4x4x4 kernel and a step of 2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor


def transposed_weight(weight: Tensor) -> Tensor:
    """Kernel of the transposed convolution that makes upsampling and convolution one step.

    It is for `F.conv_transpose3d(small, kernel, stride=2, padding=1)`.

    Args:
        weight: `(O, C, 3, 3, 3)` kernel for the upsampled volume.

    Returns:
        `(C, O, 4, 4, 4)` kernel.
    """
    # Output 2i, the first half of voxel i, meets voxel i - 1 with its first tap and i with the
    # others; output 2i + 1 meets voxel i with its first two taps and i + 1 with the last.
    for axis in (2, 3, 4):
        first, middle, last = weight.unbind(axis)
        weight = torch.stack([last, middle + last, first + middle, first], axis)
    return weight.transpose(0, 1)


def phase_weight(weight: Tensor) -> Tensor:
    """Kernels of all phases, for a convolution of the small volume padded by one.

    The result at position p of `n + 1` along an axis holds two output voxels: `2p - 1` first, then
    `2p`. The first output voxel of all and the last are not part of the upsampled volume.

    Args:
        weight: `(O, C, 3, 3, 3)` kernel for the upsampled volume.

    Returns:
        `(8 O, C, 2, 2, 2)` kernel; outputs are ordered by place along x, y and z, then channel.
    """
    # Windows hold small voxels p - 1 and p, which output 2p - 1 meets with the transposed taps 2
    # and 0, output 2p with 3 and 1: flipped and read in pairs (3, 1) and (2, 0).
    taps = transposed_weight(weight).flip(2, 3, 4)
    pairs = taps.reshape(*taps.shape[:2], 2, 2, 2, 2, 2, 2)  # per axis: window place, phase
    ordered = pairs.flip(3, 5, 7).permute(3, 5, 7, 1, 0, 2, 4, 6)
    return ordered.reshape(-1, *ordered.shape[4:])


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


def can_join(skip: Tensor, small: Tensor, kernel_size: int) -> bool:
    """Whether `convolve_joined` applies: a kernel of 3, and `skip` twice as large as `small`."""
    twice = all(
        size == 2 * half for size, half in zip(skip.shape[2:], small.shape[2:], strict=True)
    )
    return twice and kernel_size == 3


def convolve_joined(
    skip: Tensor,
    small: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    transposed: bool | None = None,
) -> Tensor:
    """Convolution of a skip connection concatenated with an upsampled volume, built from neither.

    It can be differentiated, and keeps channels last where they are.

    Args:
        skip: `(B, C, 2 X, 2 Y, 2 Z)`.
        small: `(B, D, X, Y, Z)`, meant to be repeated twice along each axis.
        weight: `(O, C + D, 3, 3, 3)`.
        bias: `(O,)` or None.
        transposed: Whether to let a transposed convolution put the phases to their places. None:
            where that is faster, on the CPU by a tenth; compiled for a GPU it is slower by 5 %.

    Returns:
        `(B, O, 2 X, 2 Y, 2 Z)`, up to the order of sums what
        `F.conv3d(torch.cat([skip, upsampled], 1), weight, bias, padding=1)` gives.
    """
    channels = skip.shape[1]
    result = F.conv3d(skip, weight[:, :channels], bias, padding=1)
    weight = weight[:, channels:]
    if transposed or (transposed is None and not small.is_cuda):
        kernel = transposed_weight(weight)
        return result.add_(F.conv_transpose3d(small, kernel, stride=2, padding=1))
    phases = F.conv3d(small, phase_weight(weight), padding=1)
    return result.add_(_interleaved(phases, weight.shape[0]))


def _interleaved(phases: Tensor, channels: int) -> Tensor:
    """Phases `(B, 8 O, X + 1, Y + 1, Z + 1)` at their places: `(B, O, 2 X, 2 Y, 2 Z)`."""
    parts = phases.permute(0, 2, 3, 4, 1).unflatten(4, (2, 2, 2, channels))
    whole = parts.permute(0, 1, 4, 2, 5, 3, 6, 7).flatten(1, 2).flatten(2, 3).flatten(3, 4)
    # one padding by less than nothing is one step backward, where three slices would be three
    return F.pad(whole, (0, 0, -1, -1, -1, -1, -1, -1)).permute(0, 4, 1, 2, 3)
