"""What follows a convolution in one pass over its result, where kernels of Triton run.

PyTorch adds the bias, puts phases to their places, adds them, activates and measures in passes of
their own, each of which takes as long as a GPU needs to read and write the volume.
"""

from __future__ import annotations

import threading
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the customary name

from synthsr_net.networks.normalisation import Statistics
from synthsr_net.networks.phase_convolution import interleave
from synthsr_transforms.functional.kernels.choice import on_device, usable

BLOCK_ROWS, BLOCK_CHANNELS = 256, 32
"""Voxels and channels that a program reads at once; one size for all, so that few are compiled."""
PROGRAMS = 1056
"""Programs for the same channels at most: some for each processor of a GPU."""
_PARTS, _CHANNELS = 64, 16  # of a step of joining statistics


def can_fuse(activation: object, weight: Tensor) -> bool:
    """Whether `activate_` can follow a convolution with this kernel; it waits for `warm_up`."""
    return activation is F.elu_ and usable(weight) and _ready(weight.device, weight.dtype)


def warm_up(device: torch.device, dtype: torch.dtype) -> None:
    """Let kernels be compiled beside other work, where there are any, see `can_fuse`.

    Triton needs about a second for them on a machine where it has not done so before.

    Args:
        device: Where a network will compute.
        dtype: Type of its products; the last ones are float32.
    """
    if device.type == "cuda":
        threading.Thread(target=_warm_up, args=(device, dtype), daemon=True).start()


def _warm_up(device: torch.device, dtype: torch.dtype) -> None:
    with torch.no_grad():
        for each in {dtype, torch.float32}:
            can_fuse(F.elu_, torch.empty(1, dtype=each, device=device))


def _ready(device: torch.device, dtype: torch.dtype) -> bool:
    with _COMPILING:  # one thread compiles what others wait for
        return _runs(device, dtype)


@lru_cache(32)
def _runs(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether kernels of all kinds run, which compiles them."""
    x = torch.zeros(2, 2, 2, BLOCK_CHANNELS, dtype=dtype, device=device)
    bias, phases = x.new_zeros(BLOCK_CHANNELS), x.new_zeros(2, 2, 2, 8 * BLOCK_CHANNELS)
    try:
        activate_(x, bias)
        activate_(x, bias, statistics=Statistics())
        activate_(x, bias, phases=phases)
    except Exception:  # no compiler, or one that is too old: passes of PyTorch do the same
        return False
    return True


_COMPILING = threading.Lock()


def fits(*volumes: Tensor) -> bool:
    """Whether volumes are laid out as `activate_` reads them, and small enough for its numbers."""
    return all(each.is_contiguous() and 0 < each.numel() < 2**31 for each in volumes)


def activate_(
    x: Tensor,
    bias: Tensor,
    *,
    phases: Tensor | None = None,
    statistics: Statistics | None = None,
) -> Tensor:
    """Add a bias, and perhaps the upsampled part of a convolution, and apply ELU, in place.

    Args:
        x: `(X, Y, Z, C)`; all takes several passes unless it `fits`.
        bias: `(C,)`.
        phases: `(X / 2 + 1, Y / 2 + 1, Z / 2 + 1, 8 C)` result of a convolution with
            `phase_convolution.phase_weight`, of which each phase goes to its place, as with
            `phase_convolution.interleave`.
        statistics: Take the result into account.

    Returns:
        `x`.
    """
    if not fits(x, *([] if phases is None else [phases])):
        return _by_passes(x, bias, phases, statistics)
    from .fused_program import activate as program

    height, width, channels = x.shape[1:]
    rows = x.numel() // channels
    number = min(PROGRAMS, -(-rows // BLOCK_ROWS))
    shape = (number, 3, channels) if statistics is not None else (1,)
    parts = torch.empty(shape, device=x.device)
    with on_device(x):
        program[(number, -(-channels // BLOCK_CHANNELS))](
            x,
            bias,
            x if phases is None else phases,
            parts,
            *(rows, channels, height, width),
            block_rows=BLOCK_ROWS,
            block_channels=BLOCK_CHANNELS,
            joins=phases is not None,
            measures=statistics is not None,
            num_warps=8,
        )
    if statistics is not None:
        mean, squares = _joined(parts)
        statistics.join(rows, mean, squares)
    return x


def _by_passes(
    x: Tensor, bias: Tensor, phases: Tensor | None, statistics: Statistics | None
) -> Tensor:
    if phases is not None:
        x += interleave(phases, x.shape[3])[1:-1]
    F.elu_(x.add_(bias))
    if statistics is not None:
        statistics.add(x)
    return x


def _joined(parts: Tensor) -> Tensor:
    """Mean and sum of squared differences `(2, C)` of all parts."""
    from .fused_program import join as program

    number, _, channels = parts.shape
    made = parts.new_empty(2, channels)
    with on_device(parts):
        program[(-(-channels // _CHANNELS),)](
            parts, made, number, channels, block=_PARTS, block_channels=_CHANNELS
        )
    return made
