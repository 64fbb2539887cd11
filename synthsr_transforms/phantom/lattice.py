"""Smooth fields: evaluated once, on a lattice that does not depend on the voxels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import surfaces
from .anatomy import CALLOSUM
from .distances import Points, chain, euclidean_norm, smooth_max
from .folds import folding
from .individuals import WARP_RATIO, WARP_SHIFT_MM, Person, expand, sample_noises, sample_warp
from .surfaces import FISSURE_MM

HEAD_CENTRE_MM = (0.0, 8.0, -14.0)
"""Head-space position of the world origin."""


_LATTICE_MM = 3.0
_LATTICE = tuple(_LATTICE_MM * torch.arange(*ends) for ends in ((0, 32), (-40, 41), (-35, 36)))


class Fields(NamedTuple):
    """Smooth functions of world position, for one side: distances in mm unless said otherwise."""

    u: Tensor
    y: Tensor
    z: Tensor
    skin: Tensor
    cavity: Tensor
    skull: Tensor
    """Thickness of the skull."""
    hull: Tensor
    fold: Tensor
    """Distance to the middle of the nearest sulcus is `|fold| / slope`."""
    slope: Tensor
    depth: Tensor
    """Depth of the sulci."""
    core: Tensor
    callosum: Tensor
    cerebellum: Tensor
    ripple: Tensor
    """Noise of unit variance, coarse."""
    grain: Tensor
    """Noise of unit variance, fine."""


def lattice_fields(person: Person, side: int) -> Tensor:
    """`Fields` of one side, stacked, on the lattice."""
    axes = [(a + c) / s for a, c, s in zip(_LATTICE, HEAD_CENTRE_MM, person.scale, strict=True)]
    warp = sample_warp(person, axes, side)
    p = Points(
        axes[0][:, None, None] * (1 + WARP_RATIO * warp[0]),
        axes[1][:, None] + WARP_SHIFT_MM * warp[1],
        axes[2] + WARP_SHIFT_MM * warp[2],
    )
    vault, cerebellum = surfaces.vault(p), surfaces.cerebellum(p)
    hull = surfaces.hemisphere(p, vault)
    fold, depth = folding(p, hull, person, side)
    noise = sample_noises(person.noises, p, side)
    fields = Fields(
        *p,
        skin=surfaces.skin(p, vault),
        cavity=surfaces.cavity(p, vault, hull, cerebellum),
        skull=(person.skull_mm + 1.6 * warp[3]).clamp_min(3.6),
        hull=smooth_max(hull, FISSURE_MM - p.u, 3),
        fold=fold,
        slope=euclidean_norm(torch.gradient(fold, spacing=_LATTICE_MM)).clamp_min(0.02),
        depth=depth,
        core=surfaces.core(p),
        callosum=chain(p, CALLOSUM, (4, 1, 1)),
        cerebellum=cerebellum,
        ripple=noise.ripple,
        grain=noise.grain,
    )
    return torch.stack(fields)


def interpolate(lattice: Tensor, axes: Sequence[Tensor]) -> Fields | None:
    """Fields at the voxels of three axes, or `None` if the skin is nowhere near."""
    weights = []
    for dim, (a, nodes) in enumerate(zip(axes, _LATTICE, strict=True), start=1):
        w = (1 - (a[:, None] - nodes).abs() / _LATTICE_MM).clamp_min(0)
        used = w.any(0).nonzero().flatten()
        first, stop = int(used[0]), int(used[-1]) + 1
        lattice = lattice.narrow(dim, first, stop - first)
        weights.append(w[:, first:stop])
    if Fields(*lattice).skin.min() >= 0:
        return None
    return Fields(*expand(lattice, weights))
