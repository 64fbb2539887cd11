"""Lesions: where a random field is high, and what they look like."""

from __future__ import annotations

import torch
from torch import Tensor

from .kernels import voxelwise
from .mixture import look_up


def lesion_share(
    field: Tensor,
    height: Tensor,
    softness: float,
    labels: Tensor,
    table: Tensor,
    near: Tensor | None = None,
    lift: Tensor | None = None,
) -> Tensor:
    r"""Share of lesion in each voxel, \(m\,\mathrm{sigmoid}((f - z) / w)\).

    Near some structures, z is lower by \(h \min(1, 4 s)\), with s their share around a voxel.

    Args:
        field: f, `(B, 1, X, Y, Z)`.
        height: z, `(B,)` on the same device; infinite where there is no lesion.
        softness: w.
        labels: `(B, 1, X, Y, Z)` whole numbers.
        table: Weight m of each label, `(1, 1, V)`, see `mixture.look_up`.
        near: s, `(B, 1, X, Y, Z)`, or None: z is the same everywhere.
        lift: h, `(B,)`.

    Returns:
        `(B, 1, X, Y, Z)` within 0 and 1.
    """
    volumes = [] if near is None or lift is None else [near]
    numbers = (height,) if near is None or lift is None else (height, lift)
    takes = voxelwise.takes(field, *volumes, numbers=numbers) and field.shape == labels.shape
    whole = table.dtype == torch.float32 and len(table) == 1
    if takes and whole and voxelwise.takes_labels(labels, table):
        return voxelwise.lesion_share(field, height, softness, labels, table, near, lift)
    level = height[:, None, None, None, None]
    if near is not None and lift is not None:
        level = level - lift[:, None, None, None, None] * (4 * near).clamp(max=1)
    return torch.sigmoid((field - level) / softness) * look_up(labels, table)


def blend_lesions(
    volume: Tensor, share: Tensor, value: Tensor, std: Tensor, noise: Tensor | None = None
) -> Tensor:
    """Blend an image with lesions of one mean intensity per channel.

    Args:
        volume: `(B, C, X, Y, Z)`.
        share: Share of lesion, `(B, 1, X, Y, Z)`.
        value: Mean intensity inside, `(B, C)` on the same device.
        std: Standard deviation inside, `(B, C)`.
        noise: Standard normal numbers, `(B, C, X, Y, Z)`; None: there is no variation.

    Returns:
        `(B, C, X, Y, Z)`.
    """
    noises = [] if noise is None else [noise]
    takes = voxelwise.takes(volume, *noises, numbers=(value, std)) and voxelwise.takes(share)
    if takes and share.shape == (len(volume), 1, *volume.shape[2:]):
        return voxelwise.blend(volume, share, value, std, noise)
    inside = value[..., None, None, None]
    if noise is not None:
        inside = inside + std[..., None, None, None] * noise
    return torch.lerp(volume, inside.expand_as(volume), share)
