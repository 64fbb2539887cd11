"""A texture that two images share, in two passes over the voxels."""

from __future__ import annotations

import torch
from torch import Tensor

from .choice import on_device, usable
from .painting import LABEL_TYPES

BLOCK, WARPS = 2048, 8
"""Voxels, and groups of 32 threads, of a program."""
SLOPE_BLOCK = 256


def can_vary(
    x: Tensor,
    t: Tensor,
    field: Tensor,
    strength: Tensor,
    labels: Tensor | None,
    table: Tensor | None,
) -> bool:
    """Whether `vary` takes images and what varies them."""
    images = [x, t, field]
    given = [tensor for tensor in (labels, table) if tensor is not None]
    if not usable(*images, strength, *given) or not x.numel():
        return False
    for image in images:
        if image.dtype != torch.float32 or not image.is_contiguous():
            return False
    batch, _, *shape = x.shape
    one = (batch, 1, *shape)
    if tuple(t.shape) != (batch, t.shape[1], *shape) or tuple(field.shape) != one:
        return False
    if strength.dtype != torch.float32 or tuple(strength.shape) != (batch,):
        return False
    return x[0, 0].numel() < 2**31 and batch < 2**16 and _labels_fit(one, labels, table)


def _labels_fit(shape: tuple[int, ...], labels: Tensor | None, table: Tensor | None) -> bool:
    if labels is None or table is None:
        return labels is None and table is None
    if table.dtype != torch.float32 or tuple(table.shape[:2]) != (1, 1):
        return False
    fits = labels.dtype in LABEL_TYPES and tuple(labels.shape) == shape
    return fits and labels.is_contiguous() and table.is_contiguous()


def vary(
    x: Tensor,
    t: Tensor,
    field: Tensor,
    strength: Tensor,
    labels: Tensor | None,
    table: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Image and target with texture, see `texture.vary_alike` of `functional`."""
    from . import texture_program as programs

    (batch, channels), t_channels, voxels = x.shape[:2], t.shape[1], field[0].numel()
    masked = labels is not None and table is not None
    where = (labels, table) if masked else (t, t)
    values = 1 if table is None else table.shape[-1]
    number = -(-voxels // BLOCK)
    parts = torch.empty(batch, number, 3 + 2 * channels, dtype=torch.float64, device=x.device)
    slopes = x.new_empty(batch, channels)
    made = torch.empty_like(x), torch.empty_like(t)
    with on_device(x):
        programs.part_sums[(number, batch)](
            *(x, t, *where, parts, voxels, values, channels, t.stride(0)),
            masked=masked,
            block=BLOCK,
            num_warps=WARPS,
        )
        programs.slopes[(batch, channels)](parts, slopes, number, channels, block=SLOPE_BLOCK)
        programs.vary[(number, batch)](
            *(x, t, field, *where, strength.contiguous(), slopes, *made),
            *(voxels, values, channels, t_channels),
            masked=masked,
            block=BLOCK,
            num_warps=WARPS,
        )
    return made
