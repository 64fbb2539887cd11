"""Tables read by label, with noise added, in one pass over the voxels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .choice import on_device, usable

LABEL_TYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)
TABLE_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int16, torch.int32, torch.int64)
BLOCK = 1024
"""Voxels of a program."""


def can_paint(labels: Tensor, tables: Sequence[Tensor], noises: Sequence[Tensor] = ()) -> bool:
    """Whether `paint` takes a label map, tables, and noise to paint it with."""
    if not usable(labels, *tables, *noises) or labels.dtype not in LABEL_TYPES:
        return False
    batch, _, *shape = labels.shape
    kind, size = tables[0].dtype, tables[0].shape[1:]
    tables_fit = all(
        t.dtype == kind and t.shape[0] in (1, batch) and t.shape[1:] == size for t in tables
    )
    full = (batch, size[0], *shape)
    noise_fits = all(noise.dtype == kind and tuple(noise.shape) == full for noise in noises)
    few = labels.numel() > 0 and labels[0].numel() < 2**31 and batch < 2**16
    return tables_fit and noise_fits and few and kind in TABLE_TYPES and labels.is_contiguous()


def paint(
    labels: Tensor, means: Tensor, stds: Tensor | None = None, noise: Tensor | None = None
) -> Tensor:
    """Image of a label map, see `mixture.tissue_mixture` and `mixture.look_up`.

    Args:
        labels: `(B, 1, X, Y, Z)`; see `can_paint`. Values beyond a table read its first or last
            entry.
        means: `(B or 1, C, V)`.
        stds: The same shape, with noise.
        noise: `(B, C, X, Y, Z)`.

    Returns:
        `(B, C, X, Y, Z)` of the type of the tables.
    """
    from .painting_program import paint as program

    voxels, channels = labels[0].numel(), means.shape[1]
    made = means.new_empty(len(labels), channels, *labels.shape[2:])
    spread = means if stds is None else stds
    tables = [table.contiguous() for table in (means, spread)]
    steps = [(t.stride(0) * (t.shape[0] > 1), t.stride(1)) for t in tables]
    with on_device(labels):
        program[(-(-voxels // BLOCK), len(labels))](
            labels,
            *tables,
            made if noise is None else noise.contiguous(),
            made,
            *(voxels, means.shape[2], channels),
            *(*steps[0], *steps[1]),
            noisy=noise is not None,
            block=BLOCK,
        )
    return made
