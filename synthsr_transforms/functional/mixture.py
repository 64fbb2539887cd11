"""Gaussian mixture images by table look-up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .cache import cached
from .kernels import painting, voxelwise


def tissue_mixture(labels: Tensor, means: Tensor, stds: Tensor, noise: Tensor) -> Tensor:
    r"""Image \(\mu_{l(x)} + \sigma_{l(x)} z(x)\); the cost does not depend on the number of labels.

    Args:
        labels: `(B, 1, X, Y, Z)` whole numbers that index the last axis of the tables; see
            `look_up`.
        means: `(B, C, V)` one mean per value.
        stds: `(B, C, V)` one standard deviation per value.
        noise: `(B, C, X, Y, Z)` standard normal numbers z.

    Returns:
        `(B, C, X, Y, Z)` float32.

    Examples:
        >>> labels = torch.tensor([0, 1]).reshape(1, 1, 2, 1, 1)
        >>> means, stds = torch.tensor([[[10.0, 20.0]]]), torch.tensor([[[0.0, 1.0]]])
        >>> tissue_mixture(labels, means, stds, torch.ones(1, 1, 2, 1, 1)).flatten().tolist()
        [10.0, 21.0]
    """
    if painting.can_paint(labels, [means, stds], [noise]):
        return painting.paint(labels, means, stds, noise)
    return torch.addcmul(look_up(labels, means), look_up(labels, stds), noise)


def tissue_mixtures(
    labels: Tensor, tables: Tensor, noises: Sequence[Tensor | None]
) -> list[Tensor]:
    """Several mixtures of one label map, see `tissue_mixture`.

    Args:
        labels: `(B, 1, X, Y, Z)` whole numbers.
        tables: `(B, K, V)`: means of every mixture, then deviations of those with noise.
        noises: `(B, 1, X, Y, Z)` or None for each of them.

    Returns:
        `(B, 1, X, Y, Z)` for each of them.
    """
    given = [noise for noise in noises if noise is not None]
    means, stds = tables.split([len(noises), len(given)], 1)
    if painting.can_paint(labels, [tables[:, :1]], given):
        spread = iter(stds.split(1, 1))
        return [
            painting.paint(labels, mean, None if noise is None else next(spread), noise)
            for mean, noise in zip(means.split(1, 1), noises, strict=True)
        ]
    picked = look_up_each(labels, tables)
    each = iter(picked[len(noises) :])
    return [
        mean if noise is None else mean.addcmul_(next(each), noise)
        for mean, noise in zip(picked, noises, strict=False)
    ]


def look_up(labels: Tensor, table: Tensor) -> Tensor:
    """Replace each label by its entry in a table.

    Args:
        labels: `(B, 1, X, Y, Z)` whole numbers; beyond the table, its first or last entry is read.
        table: `(B or 1, C, V)`, any dtype.

    Returns:
        `(B, C, X, Y, Z)` of the dtype of the table.
    """
    if painting.can_paint(labels, [table]):
        return painting.paint(labels, table)
    picked = look_up_each(labels, table)
    return picked[0] if len(picked) == 1 else torch.cat(picked, dim=1)


def look_up_each(labels: Tensor, table: Tensor) -> list[Tensor]:
    """Like `look_up`, each channel of the table by itself, `(B, 1, X, Y, Z)`."""
    batch, channels, values = table.shape
    index = labels.int().clamp(0, values - 1).flatten(1)
    if batch > 1:
        index = index + _first_entries(batch, values, labels.device)
    index, flat = index.flatten(), table.transpose(0, 1).reshape(channels, -1)
    shape = (len(labels), 1, *labels.shape[2:])
    return [channel.index_select(0, index).view(shape) for channel in flat.unbind()]


def relabel(labels: Tensor, table: Tensor) -> Tensor:
    """Exchange labels by a table.

    Args:
        labels: `(B, 1, X, Y, Z)`.
        table: `(B, V)` the label that each becomes; those beyond the table stay.

    Returns:
        Same shape and dtype.

    Examples:
        >>> labels = torch.tensor([0, 1, 7]).reshape(1, 1, 3, 1, 1)
        >>> relabel(labels, torch.tensor([[5, 6]])).flatten()
        tensor([5, 6, 7])
    """
    if len(table) == len(labels) and voxelwise.takes_labels(labels, table):
        return voxelwise.relabel(labels, table)
    index = labels.int().clamp(0, table.shape[-1] - 1)
    return torch.where(index == labels, look_up(index, table[:, None]).to(labels.dtype), labels)


@cached(16)
def _first_entries(batch: int, values: int, device: torch.device) -> Tensor:
    """Place of the first entry of each element in a flat table, `(B, 1)`."""
    return torch.arange(0, batch * values, values, dtype=torch.int32, device=device)[:, None]
