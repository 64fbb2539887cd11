"""Painting of labels in boxes of voxels, structure by structure, from outside to inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from . import shapes
from .anatomy import (
    AIR,
    BONE,
    CEREBELLUM_CORTEX,
    CEREBELLUM_WHITE,
    CORTEX,
    CSF,
    DEEP,
    FACE,
    MARROW,
    MUCOSA,
    SKIN,
    SKULL_BASE,
    SOFT,
    VEIN,
    WHITE,
    Label,
    Organ,
)
from .fields import HEAD_CENTRE_MM, Fields
from .individuals import WARP_MARGIN_MM, Person
from .shapes import Points, chain, smooth_min


@dataclass(frozen=True)
class Brick:
    """A box of voxels of one side of the head, to be painted."""

    axes: tuple[Tensor, ...]
    """World positions: `|x|`, y and z, each ascending."""
    fields: Fields
    labels: Tensor
    side: int
    person: Person

    def put(self, where: Tensor, label: Label) -> None:
        """Give these voxels a label."""
        self.labels[where] = label[self.side]

    def has(self, labels: Sequence[Label]) -> Tensor:
        """Mask of the voxels that have one of these labels."""
        return reduce(torch.logical_or, (self.labels == label[self.side] for label in labels))

    def crop(self, low_mm: Sequence[float], high_mm: Sequence[float]) -> Brick | None:
        """The part of the brick that can meet a box of head space: a view, or `None`."""
        slices = []
        bounds = zip(self.axes, HEAD_CENTRE_MM, self.person.scale, low_mm, high_mm, strict=True)
        for a, centre, scale, low, high in bounds:
            ends = torch.tensor([low - WARP_MARGIN_MM, high + WARP_MARGIN_MM]) * scale - centre
            first, stop = torch.searchsorted(a, ends).tolist()
            if first == stop:
                return None
            slices.append(slice(first, stop))
        part = tuple(slices)
        return Brick(
            axes=tuple(a[s] for a, s in zip(self.axes, slices, strict=True)),
            fields=Fields(*(f[part] for f in self.fields)),
            labels=self.labels[part],
            side=self.side,
            person=self.person,
        )


_NECK_CUT_MM = -100.0  # the neck ends at this height in world space
_SKIN_MM = 3.6


def _paint_organ(brick: Brick, organ: Organ) -> None:
    part = brick.crop(*organ.box_mm())
    if part is None:
        return
    distance = chain(Points(*part.fields[:3]), organ.knots, organ.stretch)
    if organ.grows:
        distance = torch.maximum(distance - part.person.ventricle_mm, 0.9 - part.fields.u)
    where = distance < 0
    if organ.shell:
        label, thickness_mm = organ.shell
        part.put((distance < thickness_mm) & ~where & ~part.has((AIR,)), label)
    if organ.over:
        where &= part.has(organ.over)
    if organ.grain is not None:
        where &= part.fields.grain > organ.grain
    part.put(where, organ.label)


def _paint_outside(brick: Brick) -> None:
    """Soft tissue, and a skull with marrow where it is thick."""
    f = brick.fields
    brick.put(f.skin < 0, SOFT)
    bone = (f.cavity < f.skull) & (f.skin < -4)
    brick.put(bone, BONE)
    half = f.skull / 2
    brick.put(bone & ((f.cavity - half).abs() + 0.8 * f.grain < half - 2.6), MARROW)


def _paint_cavity(brick: Brick) -> None:
    """Inner table of the skull, fluid, and the superior sagittal sinus."""
    f = brick.fields
    brick.put((f.cavity < 1.2) & brick.has((AIR, SOFT, MUCOSA)), BONE)
    brick.put(f.cavity < 0, CSF)
    above = (f.z > -12) & (f.z + 0.35 * f.y > -45)
    brick.put((f.cavity < 0) & (f.u < 3.8 + 0.55 * f.cavity) & above, VEIN)


def _enclose(brick: Brick) -> None:
    """Close the skin over all structures so far, and the fluid around the brain."""
    f = brick.fields
    brick.put(f.skin >= 0, AIR)
    brick.put((f.skin < 0) & (f.skin > -_SKIN_MM), SKIN)
    film = torch.minimum(f.hull, f.cerebellum) < 1.4
    brick.put(film & brick.has((BONE, MARROW, AIR)), CSF)


def _paint_cerebrum(brick: Brick) -> None:
    """Sulci, a ribbon of cortex around them, and white matter inside.

    `pial` is the distance to the fluid, positive in the brain: the fluid outside the hull, in
    the sulci, in the lateral fissure and above the corpus callosum.
    """
    f, person = brick.fields, brick.person
    inside = -f.hull
    width_mm = person.sulcus_mm + 0.7 * torch.exp(-inside.clamp_min(0) / 4)
    sulcus = torch.hypot(f.fold.abs() / f.slope, (inside - f.depth).clamp_min(0)) - width_mm
    pial = smooth_min(inside, sulcus, 3.5)
    pial = smooth_min(pial, shapes.sylvian(Points(*f[:3])), 3)
    pial = torch.minimum(pial, torch.maximum(f.callosum - 1.3, f.u - 8))
    pial = torch.maximum(pial, -f.core)
    hemisphere = inside > 0
    brick.put(hemisphere, CSF)
    brick.put(hemisphere & (pial > 0), CORTEX)
    brick.put(hemisphere & (pial > person.cortex_mm * (1 + 0.1 * f.ripple)), WHITE)
    brick.put((f.callosum < 0) & (f.u < 14), WHITE)


def _paint_cerebellum(brick: Brick) -> None:
    """Leaves that fan out from the fourth ventricle: fissures outside, white branches inside."""
    f = brick.fields
    inside = -f.cerebellum
    angle = torch.atan2(f.z + 38 - 0.1 * f.u, -(f.y + 20)) + 0.003 * f.u
    lobule = torch.cos(11 * angle + 0.8 * f.ripple)
    leaf = torch.cos(34 * angle + 1.2 * f.ripple)
    fissure = 60 * (-lobule - 0.9).clamp_min(0) + 12.5 * (-leaf - 0.8).clamp_min(0)
    brick.put(inside > fissure, CEREBELLUM_CORTEX)
    brick.put(inside > 4 + 6 * (1 - lobule) + 1.5 * (1 - leaf), CEREBELLUM_WHITE)


def paint(brick: Brick) -> None:
    """All structures, from outside to inside."""
    _paint_outside(brick)
    for organ in FACE:
        _paint_organ(brick, organ)
    _paint_cavity(brick)
    for organ in SKULL_BASE:
        _paint_organ(brick, organ)
    _enclose(brick)
    if (brick.fields.hull < 0).any():
        _paint_cerebrum(brick)
    if (brick.fields.cerebellum < 0).any():
        _paint_cerebellum(brick)
    for organ in DEEP:
        _paint_organ(brick, organ)
    brick.labels[..., brick.axes[2] < _NECK_CUT_MM] = 0
