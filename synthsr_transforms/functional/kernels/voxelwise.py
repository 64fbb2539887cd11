"""Changes of single voxels, several operations in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .choice import on_device, usable
from .painting import LABEL_TYPES

BLOCK = 1024
"""Voxels of a program."""
_KINDS = (torch.float32, torch.bool)


def takes(volume: Tensor, *like: Tensor, numbers: tuple[Tensor, ...] = ()) -> bool:
    """Whether kernels take float32 volumes, and numbers of their elements or channels.

    Args:
        volume: `(B, C, X, Y, Z)`.
        like: Volumes of the same shape.
        numbers: On the same device, `(B, C)` or `(B,)`.
    """
    if not usable(volume, *like, *numbers) or volume.ndim != 5:
        return False
    if any(v.dtype != torch.float32 or not v.is_contiguous() for v in (volume, *like)):
        return False
    batch, channels = volume.shape[:2]
    fit = all(v.shape == volume.shape for v in like)
    few = volume.numel() > 0 and volume[0, 0].numel() < 2**31 and batch * channels < 2**16
    leading = ((batch,), (batch, channels))
    return fit and few and all(tuple(n.shape) in leading and n.dtype in _KINDS for n in numbers)


def takes_labels(labels: Tensor, table: Tensor) -> bool:
    """Whether kernels take whole numbers `(B, 1, X, Y, Z)` and a table for them."""
    if not usable(labels, table) or labels.dtype not in LABEL_TYPES or labels.ndim != 5:
        return False
    few = labels.numel() > 0 and labels[0].numel() < 2**31 and len(labels) < 2**16
    return few and labels.shape[1] == 1 and labels.is_contiguous() and table.is_contiguous()


def _launch(program: Any, like: Tensor, *arguments: Any, **constants: Any) -> None:
    """Run a program on blocks of voxels of every channel of a volume."""
    channels, voxels = like.shape[0] * like.shape[1], like[0, 0].numel()
    with on_device(like):
        program[(-(-voxels // BLOCK), channels)](*arguments, block=BLOCK, **constants)


def rescale(volume: Tensor, clip: tuple[float, float] | None, epsilon: float) -> Tensor:
    """See `intensity.min_max`; `takes` must be true of the volume."""
    from .voxelwise_program import rescale as program

    low, high = volume.flatten(2).aminmax(dim=-1)
    made, voxels = torch.empty_like(volume), volume[0, 0].numel()
    bounds = (0.0, 0.0) if clip is None else (float(clip[0]), float(clip[1]))
    extremes = low.contiguous(), high.contiguous()
    given = volume, *extremes, made, voxels, *bounds, epsilon
    _launch(program, volume, *given, clipped=clip is not None)
    return made


def power(volume: Tensor, exponent: Tensor) -> Tensor:
    """See `intensity.gamma_contrast`; the exponents are `(B, C)`."""
    from .voxelwise_program import power as program

    made = torch.empty_like(volume)
    _launch(program, volume, volume, exponent.contiguous(), made, volume[0, 0].numel())
    return made


def noisy(volume: Tensor, noise: Tensor, std: Tensor, rician: Tensor | None) -> Tensor:
    """See `intensity.add_noise_by_channel`."""
    from .voxelwise_program import noisy as program

    made, voxels, parts = torch.empty_like(volume), volume[0, 0].numel(), noise.shape[2]
    kinds = std if rician is None else rician.to(torch.int32)
    given = volume, noise, std.contiguous(), kinds.contiguous(), made, voxels, parts
    _launch(program, volume, *given, both=rician is not None)
    return made


def relabel(labels: Tensor, table: Tensor) -> Tensor:
    """See `mixture.relabel`; `takes_labels` must be true of them."""
    from .voxelwise_program import relabel as program

    made = torch.empty_like(labels)
    step = table.stride(0) * (len(table) > 1)
    _launch(program, labels, labels, table, made, labels[0].numel(), table.shape[-1], step)
    return made


def lesion_share(
    field: Tensor,
    height: Tensor,
    softness: float,
    labels: Tensor,
    table: Tensor,
    near: Tensor | None,
    lift: Tensor | None,
) -> Tensor:
    """See `lesions.lesion_share`."""
    from .voxelwise_program import lesion_share as program

    made, voxels = torch.empty_like(field), field[0].numel()
    lifted = near is not None and lift is not None
    closer = (near, lift.contiguous()) if near is not None and lift is not None else (field, height)
    given = field, closer[0], labels, table, height.contiguous(), closer[1], made
    _launch(program, field, *given, voxels, table.shape[-1], float(softness), lifted=lifted)
    return made


def blend(
    volume: Tensor, share: Tensor, value: Tensor, std: Tensor, noise: Tensor | None
) -> Tensor:
    """See `lesions.blend_lesions`."""
    from .voxelwise_program import blend as program

    made, voxels = torch.empty_like(volume), volume[0, 0].numel()
    given = volume, volume if noise is None else noise, share, value.contiguous()
    rest = std.contiguous(), made, voxels, volume.shape[1]
    _launch(program, volume, *given, *rest, varies=noise is not None)
    return made
