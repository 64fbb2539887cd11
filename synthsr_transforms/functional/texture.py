"""Texture that an image and its target share."""

from __future__ import annotations

import torch
from torch import Tensor

from .intensity import total
from .kernels import texture as kernels
from .mixture import look_up


def vary_alike(
    x: Tensor,
    t: Tensor,
    field: Tensor,
    strength: Tensor,
    labels: Tensor | None = None,
    table: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Vary a target by a field, and an image along the line that fits it to the target best.

    With weights m of labels, \(t \leftarrow t (1 + s m f)\) and \(x \leftarrow x + a\, t s m f\),
    where a is the `slope` of x over the first channel of m t, which x follows.

    Args:
        x: Image `(B, C, X, Y, Z)` float32.
        t: Target `(B, D, X, Y, Z)` float32.
        field: f, `(B, 1, X, Y, Z)` float32.
        strength: s, `(B,)`, on the same device.
        labels: `(B, 1, X, Y, Z)` whole numbers, or None: all weights are 1.
        table: Weight of each label, `(1, 1, V)` float32, see `mixture.look_up`.

    Returns:
        The new image and the new target.
    """
    if kernels.can_vary(x, t, field, strength, labels, table):
        return kernels.vary(x, t, field, strength, labels, table)
    masked = t if labels is None or table is None else t * look_up(labels, table)
    change = masked * (field * strength[:, None, None, None, None])
    return x + slope(x, masked[:, :1]) * change[:, :1], t + change


def slope(x: Tensor, t: Tensor) -> Tensor:
    """Slope of the line that fits x to t best, over the voxels where t is above 0.

    Args:
        x: `(B, C, X, Y, Z)`.
        t: `(B, 1, X, Y, Z)`.

    Returns:
        `(B, C, 1, 1, 1)`; 0 where t does not vary.
    """
    inside = (t > 0).float()
    count = total(inside).clamp_min(1)
    centred = (t - total(t * inside) / count).mul_(inside)
    variance = total(centred.square())
    return torch.where(variance > 0, total(x * centred) / variance.clamp_min(1e-12), 0.0)
