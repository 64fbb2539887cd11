"""Smooth fields of a head, on a lattice that no voxel size changes, and the folded cortex."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import shapes
from .anatomy import CALLOSUM
from .individuals import WARP_RATIO, WARP_SHIFT_MM, Person, expand, sample_noises, sample_warp
from .shapes import FISSURE_MM, Points, chain, euclidean_norm, ramp, smooth_max


class _Sulcus(NamedTuple):
    """A named sulcus: where `sheet` is zero, the hull is folded in by `depth_mm`."""

    name: str
    clearance_mm: float
    depth_mm: float
    sheet: Callable[[Points], Tensor]
    where: Callable[[Points], Tensor]


def _near_midline(p: Points) -> Tensor:
    return 1 - ramp(p.u, 10, 18)


def _behind(p: Points) -> Tensor:
    return _near_midline(p) * (1 - ramp(p.y, -46, -38))


_SULCI = (
    _Sulcus(
        "central", 13, 18,
        lambda p: p.y + 24 - 0.6 * (58 - p.z),
        lambda p: ramp(p.u, 4, 14) * ramp(p.z, -4, 4),
    ),
    _Sulcus(
        "superior temporal", 13, 15,
        lambda p: p.z - shapes.sylvian_height(p) + 15,
        lambda p: ramp(p.u, 34, 44) * ramp(p.y, -55, -45),
    ),
    _Sulcus(
        "cingulate", 11, 11,
        lambda p: chain(p, CALLOSUM) - 12,
        lambda p: _near_midline(p) * ramp(p.z - 0.5 * p.y, -8, -2),
    ),
    _Sulcus("calcarine", 11, 16, lambda p: p.z + 5 + 0.12 * (p.y + 45), _behind),
    _Sulcus(
        "parieto-occipital", 11, 15,
        lambda p: 0.85 * (p.y + 50 + 0.55 * (p.z + 3)),
        lambda p: _behind(p) * ramp(p.z, -4, 2),
    ),
)  # fmt: skip


def _on_hull(p: Points, hull: Tensor) -> Points:
    """The place on the hull of a hemisphere above each position, a little displaced.

    A fold is a function of this place: its walls run from the surface straight inwards, and the
    displacement, which changes with depth, makes them wavy.
    """
    spine = (p.u - 26, p.y - p.y.clamp(-45, 42), p.z - 4)
    radius = euclidean_norm(spine).clamp_min(1)
    medial = ramp(FISSURE_MM - p.u - hull, -8, 4)
    out = [(1 - medial) * s / radius for s in spine]
    rise = 0.93 * torch.minimum(-hull, p.u - FISSURE_MM).clamp(-5, 26)
    return Points(
        p.u + rise * (out[0] - medial) + 1.6 * torch.sin(0.23 * p.y + 0.17 * p.z),
        p.y + rise * out[1] + 1.6 * torch.sin(0.26 * p.z - 0.20 * p.u),
        p.z + rise * out[2] + 1.6 * torch.sin(0.22 * p.u + 0.21 * p.y),
    )


def folding(p: Points, hull: Tensor, person: Person, side: int) -> tuple[Tensor, Tensor]:
    """A field that is zero on the sulci, and the depth of the sulci in mm."""
    q = _on_hull(p, hull)
    noise = sample_noises(person.noises, q, side)
    fold = noise.fold
    depth = 13.5 + 5.5 * noise.depth - 4 * _near_midline(q) - 3.5 * ramp(-q.z, 5, 15)
    for sulcus in _SULCI:
        sheet = sulcus.sheet(q) + 2 * noise.ripple
        near = sulcus.where(q) * torch.exp(-0.5 * (sheet / (0.42 * sulcus.clearance_mm)) ** 2)
        fold = fold + near * (1.4 * torch.sin(sheet * (math.pi / sulcus.clearance_mm)) - fold)
        depth = depth + near * (sulcus.depth_mm - depth)
    return fold, depth.clamp(2, 24)


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
    vault, cerebellum = shapes.vault(p), shapes.cerebellum(p)
    hull = shapes.hemisphere(p, vault)
    fold, depth = folding(p, hull, person, side)
    noise = sample_noises(person.noises, p, side)
    fields = Fields(
        *p,
        skin=shapes.skin(p, vault),
        cavity=shapes.cavity(p, vault, hull, cerebellum),
        skull=(person.skull_mm + 1.6 * warp[3]).clamp_min(3.6),
        hull=smooth_max(hull, FISSURE_MM - p.u, 3),
        fold=fold,
        slope=euclidean_norm(torch.gradient(fold, spacing=_LATTICE_MM)).clamp_min(0.02),
        depth=depth,
        core=shapes.core(p),
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
