"""A procedural head: the label map of a whole head, made from mathematics and a seed.

Every structure is a signed distance in mm (negative inside), every chance is a smooth field with
a seed, both functions of world position: any voxel spacing samples the same head, and no file is
needed. Smooth functions are evaluated once, on a lattice of 3 mm that does not depend on the
voxels, and interpolated; thin and small structures are evaluated at the voxels.

*World space* is RAS mm with the origin in the middle of the head. *Head space* is the space of
the tables below: an average head, origin between the thalami, and `u`, the distance from the
mid-sagittal plane, instead of `x`. A smooth random map from world to head makes the individuals.

Labels are those of FreeSurfer, with the extracerebral labels of the SynthSeg training maps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import torch
import torchio as tio
from torch import Tensor
from torch.nn.functional import grid_sample

Label = tuple[int, int]
"""Left and right value of a structure; twice the same value for a structure without sides."""
Triple = tuple[float, float, float]
Knots = tuple[tuple[float, float, float, float], ...]
"""Positions `(u, y, z)` in head space and a radius, all in mm."""

_FIELD_OF_VIEW_MM = (184.0, 240.0, 208.0)
_HEAD_CENTRE_MM = (0.0, 8.0, -14.0)  # head-space position of the world origin
_NECK_CUT_MM = -100.0  # the neck ends at this height in world space
_SKIN_MM = 3.6
_FISSURE_MM = 1.2  # half width of the gap between the hemispheres
_BRICK_VOXELS = 48

_AIR, _CSF, _BRAINSTEM = (0, 0), (24, 24), (16, 16)
_WHITE, _CORTEX, _LESION = (2, 41), (3, 42), (25, 57)
_CEREBELLUM_WHITE, _CEREBELLUM_CORTEX = (7, 46), (8, 47)
_VENTRICLE, _TEMPORAL_HORN = (4, 43), (5, 44)
_ARTERY, _EYE, _SOFT, _EYE_MUSCLE = (502, 502), (506, 506), (507, 507), (508, 508)
_MUCOSA, _SKIN, _CORD, _VEIN = (509, 509), (511, 511), (512, 512), (514, 514)
_BONE, _MARROW, _NERVE = (515, 515), (516, 516), (530, 530)


class _Points(NamedTuple):
    """Positions in head space, in mm: three tensors of one shape."""

    u: Tensor
    y: Tensor
    z: Tensor


@dataclass(frozen=True)
class _Organ:
    """A chain of round cones from knot to knot, stretched along the axes."""

    name: str
    label: Label
    knots: Knots
    stretch: Triple = (1.0, 1.0, 1.0)
    shell: tuple[Label, float] | None = None
    """A second label around the organ, and its thickness in mm."""
    over: tuple[Label, ...] = ()
    """Paint only voxels that have one of these labels; empty: all voxels."""
    grain: float | None = None
    """Paint only where a fine noise of unit variance is above this value."""
    grows: bool = False
    """Grow by the individual's `ventricle_mm`, and stay off the mid-sagittal plane."""

    def box_mm(self) -> tuple[list[float], list[float]]:
        """Corners of a box in head space that holds the organ, its shell and its growth."""
        knots = torch.tensor(self.knots)
        extra = (self.shell[1] if self.shell else 0.0) + (4.0 if self.grows else 0.0)
        reach = knots[:, 3].max() * torch.tensor(self.stretch) + extra
        low, high = knots[:, :3].amin(0) - reach, knots[:, :3].amax(0) + reach
        return low.tolist(), high.tolist()


# --- anatomy: later rows are painted over earlier ones -------------------------------------------
# fmt: off

_FACE = (
    _Organ("clivus", _MARROW, ((0, 18, -53, 7), (0, 4, -64, 6)), (1.5, 1, 1), (_BONE, 1.5)),
    _Organ("orbit", _SOFT, ((15, 42, -34, 5), (30, 63, -39, 16.5)), shell=(_BONE, 2)),
    _Organ("zygomatic arch", _BONE, ((40, 66, -52, 5), (56, 48, -52, 3.5), (62, 24, -48, 3),
                                     (60, 2, -46, 4)), (0.7, 1, 1)),
    _Organ("maxillary sinus", _AIR, ((27, 56, -66, 13), (25, 66, -64, 9)), (1, 1, 1.25),
           (_BONE, 1.6)),
    _Organ("nasal cavity", _MUCOSA, ((0, 38, -58, 8), (0, 60, -58, 10), (0, 84, -62, 7)),
           (1.2, 1, 1.9), (_BONE, 1.2)),
    _Organ("lateral meatus", _AIR, ((6, 42, -66, 1.2), (5, 84, -68, 1.2)), (1, 1, 8),
           over=(_MUCOSA,), grain=-0.6),
    _Organ("medial meatus", _AIR, ((1.5, 42, -52, 0.8), (1.5, 80, -58, 0.8)), (1, 1, 9),
           over=(_MUCOSA,), grain=-0.2),
    _Organ("ethmoid cells", _AIR, ((0, 50, -34, 6.5), (0, 70, -34, 6.5)), (1.5, 1, 1.2),
           (_BONE, 1.2)),
    _Organ("ethmoid mucosa", _MUCOSA, ((0, 46, -34, 7), (0, 72, -34, 7)), (1.5, 1, 1.2),
           over=(_AIR,), grain=0.7),
    _Organ("sphenoid sinus", _AIR, ((0, 30, -43, 7), (0, 36, -43, 7)), (1.7, 1, 1), (_BONE, 1.5)),
    _Organ("frontal sinus", _AIR, ((4, 85, -19, 6), (15, 83, -20, 5)), (1.3, 0.8, 1.7),
           over=(_BONE, _MARROW)),
    _Organ("pharynx", _AIR, ((0, 30, -64, 7), (0, 20, -80, 7), (0, 14, -118, 7)), (1.4, 0.8, 1)),
    _Organ("hard palate", _BONE, ((0, 80, -83, 3), (14, 74, -82, 3), (20, 50, -81, 3)),
           (1.2, 1, 0.7)),
    _Organ("teeth", _BONE, ((4, 90, -88, 3.5), (16, 82, -88, 3.5), (24, 56, -88, 4)), (1, 1, 1.8)),
    _Organ("mandible", _MARROW, ((46, 16, -58, 4), (45, 22, -84, 5), (42, 32, -118, 6)),
           (0.6, 1.6, 1), (_BONE, 1.5)),
    _Organ("superior rectus", _EYE_MUSCLE, ((14, 44, -28, 1.4), (26, 60, -27, 2.2),
                                            (30, 72, -29, 1.6))),
    _Organ("inferior rectus", _EYE_MUSCLE, ((14, 44, -38, 1.4), (27, 60, -51, 2.2),
                                            (31, 72, -52, 1.6))),
    _Organ("medial rectus", _EYE_MUSCLE, ((12, 44, -33, 1.4), (17, 60, -38, 2.2),
                                          (19, 72, -40, 1.6))),
    _Organ("lateral rectus", _EYE_MUSCLE, ((17, 44, -33, 1.4), (39, 60, -38, 2.2),
                                           (43, 70, -40, 1.6))),
    _Organ("eye", _EYE, ((30.5, 71, -40, 11.6),)),
    _Organ("atlas", _BONE, ((9, -28, -84, 6), (12, -16, -84, 5)), (1, 1, 0.9)),
    _Organ("vertebral bodies", _MARROW, ((0, -6, -80, 5), (0, -4, -119, 8)), (1.3, 1, 1),
           (_BONE, 1.8)),
    _Organ("neural arch", _BONE, ((13, -18, -99, 5), (0, -44, -103, 4)), (1, 1, 0.8)),
)

_SKULL_BASE = (
    _Organ("spinal canal", _CSF, ((0, -22, -70, 11), (0, -24, -88, 9), (0, -23, -119, 8.5))),
    _Organ("spinal cord", _CORD, ((0, -24, -76, 5.2), (0, -24, -119, 5)), (1.15, 1, 1)),
    _Organ("petrous bone", _BONE, ((24, -9, -45, 7), (40, -14, -46, 11), (55, -20, -46, 12),
                                   (55, -20, -60, 8)), over=(_CSF, _SOFT)),
    _Organ("mastoid cells", _AIR, ((44, -18, -46, 8), (56, -22, -46, 10), (55, -20, -60, 7)),
           over=(_BONE,), grain=0.5),
    _Organ("ear canal", _AIR, ((48, -12, -46, 2.2), (67, -13, -46, 2.3)), over=(_BONE, _SOFT)),
    _Organ("transverse sinus", _VEIN, ((0, -84, -14, 2.5), (26, -77, -22, 3), (48, -56, -29, 3.4),
                                       (53, -34, -34, 4)), (1, 1, 1.2)),
    _Organ("jugular vein", _VEIN, ((53, -34, -34, 4), (44, -27, -48, 4), (32, -18, -62, 4),
                                   (31, -18, -119, 4.5))),
    _Organ("straight sinus", _VEIN, ((0, -36, -4, 1.8), (0, -84, -14, 2))),
    _Organ("carotid artery", _ARTERY, ((27, -8, -119, 2.8), (27, -4, -76, 2.8), (22, 6, -54, 2.8),
                                       (14, 14, -46, 2.6), (12, 27, -40, 2.5), (12, 27, -32, 2.3),
                                       (11, 20, -25, 1.8))),
    _Organ("middle cerebral artery", _ARTERY, ((11, 20, -25, 1.6), (24, 23, -21, 1.4),
                                               (38, 22, -17, 1.2))),
    _Organ("vertebral, basilar artery", _ARTERY, ((0, 10, -24, 1.6), (0, 12, -46, 1.8),
                                                  (9, -6, -66, 1.8), (17, -14, -84, 1.9))),
    _Organ("optic nerve", _NERVE, ((5, 24, -22, 1.6), (14, 42, -31, 1.8), (24, 54, -37, 2),
                                   (28, 62, -39, 2))),
    _Organ("optic chiasm", (85, 85), ((0, 21, -22, 2.6), (6, 24, -22, 2.1)), (1, 1.4, 1)),
)

_CALLOSUM: Knots = (
    (0, 32, -7, 1.8), (0, 43, -1, 3.6), (0, 43, 9, 4), (0, 30, 18.5, 3.2), (0, 10, 23, 2.8),
    (0, -10, 23, 2.8), (0, -25, 17.5, 3), (0, -35, 9, 4.5), (0, -34, 5, 3.6),
)

_DEEP = (
    _Organ("septum and fornix", _WHITE, ((0, 33, 3, 9), (0, 9, 9, 11), (0, -22, 8, 9)),
           (0.2, 1, 1)),
    _Organ("quadrigeminal cistern", _CSF, ((0, -29, 0, 4), (0, -25, -9, 4)), (1.5, 1, 1)),
    _Organ("ventral diencephalon", (28, 60), ((5, 12, -15, 6.5), (9, 3, -14, 7.5),
                                              (20, 0, -13, 5.5)), (1.1, 1.25, 0.8)),
    _Organ("midbrain", _BRAINSTEM, ((0, -9, -16, 10), (0, -6, -24, 10.5)), (1.25, 0.9, 1)),
    _Organ("pons", _BRAINSTEM, ((0, -3, -31, 12.5), (0, -5, -40, 12)), (1.2, 0.95, 1)),
    _Organ("medulla", _BRAINSTEM, ((0, -12, -48, 9), (0, -20, -64, 7.5), (0, -24, -78, 6)),
           (1.1, 1, 1)),
    _Organ("cerebellar peduncle", _CEREBELLUM_WHITE, ((13, -10, -36, 5), (20, -26, -37, 7)),
           (0.8, 1, 1), over=(_CSF, _CEREBELLUM_CORTEX)),
    _Organ("thalamus", (10, 49), ((8.5, 9, 1.5, 8), (13, -8, 2.5, 11)), (1, 1.05, 0.95)),
    _Organ("medial thalamus", (10, 49), ((6, 7, -4, 5), (7, -8, -4, 6))),
    _Organ("putamen", (12, 51), ((21, 28, -8, 7.5), (27, 13, -4, 8), (30, 0, 0, 4.5)),
           (0.7, 1.1, 1.25)),
    _Organ("pallidum", (13, 52), ((17, 21, -6, 5), (22, 9, -4, 5.5)), (0.75, 1.1, 0.95)),
    _Organ("caudate", (11, 50), ((12.5, 33, 1, 8), (15, 24, 7, 7), (16, 8, 13, 5),
                                 (20, -10, 14, 3.4), (28, -20, 9, 2.4), (31, -20, 0, 1.8)),
           (0.85, 1, 1)),
    _Organ("accumbens", (26, 58), ((9.5, 30, -11, 5.2),), (0.9, 1, 0.85)),
    _Organ("hippocampus", (17, 53), ((18, -25, -3, 3.5), (26, -19, -10, 4.5), (29, -6, -19, 5.2),
                                     (27, 6, -24, 6), (23, 11, -25, 5.5)), (1.05, 1, 0.85)),
    _Organ("amygdala", (18, 54), ((24, 17, -23, 7.5),), (1, 0.85, 1)),
    _Organ("frontal horn", _VENTRICLE, ((7, 44, 3, 3), (5.5, 34, 7, 5.5), (5, 18, 11, 5.5),
                                        (6, 2, 16, 4.5)), (0.8, 1, 1.15), grows=True),
    _Organ("lateral ventricle", _VENTRICLE, ((6, 16, 14.5, 3.8), (8, 0, 17, 4.2),
                                             (12, -18, 16, 4.8), (22, -29, 9, 6), (25, -43, 3, 3.8),
                                             (23, -58, 0, 1.7)), (1.2, 1, 0.85), grows=True),
    _Organ("temporal horn", _TEMPORAL_HORN, ((26, -28, 2, 3.5), (33, -20, -9, 2.6),
                                             (36, -6, -19, 2.1), (33, 8, -26, 2.4)), grows=True),
    _Organ("choroid plexus", (136, 163), ((12, -8, 15, 1.5), (17, -22, 13, 2.2), (24, -29, 6, 3.2)),
           over=(_VENTRICLE,)),
    _Organ("temporal choroid plexus", (137, 164), ((28, -27, -2, 2), (34, -18, -11, 1.8)),
           over=(_TEMPORAL_HORN,)),
    _Organ("third ventricle", (14, 14), ((0, 16, -13, 6.5), (0, -3, -3, 7)), (0.33, 1, 1)),
    _Organ("fourth ventricle", (15, 15), ((0, -13, -13, 1.3), (0, -16, -24, 2), (0, -23, -35, 5),
                                          (0, -24, -45, 3), (0, -27, -54, 1.5)), (1.2, 0.9, 1)),
    _Organ("striatal vessel", (30, 62), ((25, 13, -13.5, 1.8), (28, 8, -12.5, 1.8))),
    _Organ("frontal cap", _LESION, ((14, 46, 6, 3.4), (16, 41, 12, 2.8)), over=(_WHITE,)),
    _Organ("occipital cap", _LESION, ((28, -38, 11, 3.2), (28, -46, 7, 2.8)), over=(_WHITE,)),
)

# fmt: on

PHANTOM_LABELS: tuple[int, ...] = tuple(
    sorted(
        {
            *_AIR, *_SKIN, *_SOFT, *_BONE, *_MARROW, *_WHITE, *_CORTEX, *_CEREBELLUM_CORTEX,
            *(v for organ in (*_FACE, *_SKULL_BASE, *_DEEP) for v in organ.label),
        }
    )
)  # fmt: skip
"""Every label of a head of 1 mm: the labels that all SynthSeg training maps have in common."""


# --- signed distances, in mm, negative inside -----------------------------------------------------


def _smooth_min(a: Tensor, b: Tensor, width_mm: float) -> Tensor:
    """Union of two shapes whose seam is rounded over `width_mm`."""
    overlap = (width_mm - (a - b).abs()).clamp_min(0)
    return torch.minimum(a, b) - overlap * overlap / (4 * width_mm)


def _smooth_max(a: Tensor, b: Tensor, width_mm: float) -> Tensor:
    """Intersection of two shapes whose edge is rounded over `width_mm`."""
    return -_smooth_min(-a, -b, width_mm)


def _ramp(x: Tensor, start: float, stop: float) -> Tensor:
    """Smooth step from 0 at `start` to 1 at `stop`."""
    t = ((x - start) / (stop - start)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _norm(axes: Sequence[Tensor]) -> Tensor:
    return (axes[0] ** 2 + axes[1] ** 2 + axes[2] ** 2).sqrt()


def _cone(p: _Points, a: Sequence[float], b: Sequence[float], stretch: Triple) -> Tensor:
    """Distance to a round cone between two knots; to first order where stretched."""
    start = [c / s for c, s in zip(a[:3], stretch, strict=True)]
    along = [c / s - d for c, s, d in zip(b[:3], stretch, start, strict=True)]
    rel = [c / s - d for c, s, d in zip(p, stretch, start, strict=True)]
    length_squared = max(sum(c * c for c in along), 1e-9)
    t = (rel[0] * along[0] + rel[1] * along[1] + rel[2] * along[2]) / length_squared
    t = t.clamp(0, 1)
    rel = [r - d * t for r, d in zip(rel, along, strict=True)]
    norm = _norm(rel)
    gap = norm - (a[3] + (b[3] - a[3]) * t)
    if stretch == (1.0, 1.0, 1.0):
        return gap
    slope = _norm([r / s for r, s in zip(rel, stretch, strict=True)])
    return gap * norm / slope.clamp_min(1e-6)


def _chain(p: _Points, knots: Knots, stretch: Triple = (1.0, 1.0, 1.0)) -> Tensor:
    """Distance to the union of the cones between successive knots."""
    pairs = pairwise(knots) if len(knots) > 1 else [(knots[0], knots[0])]
    return reduce(torch.minimum, (_cone(p, a, b, stretch) for a, b in pairs))


def _ellipsoid(p: _Points, centre: Triple, radii: Triple) -> Tensor:
    return _chain(p, ((*centre, 1.0),), radii)


def _vault(p: _Points) -> Tensor:
    """The egg that the upper brain fills: wider behind, with steep sides."""
    radii = (67, 86, 58)
    a = (p.u * (1 + 0.0012 * (p.y + 20)) / 67, (p.y + 3) / 86, (p.z - 3) / 58)
    side = a[0] * a[0].sqrt()
    norm = (a[0] * side + a[1] ** 2 + a[2] ** 2).sqrt()
    slope = _norm([g / r for g, r in zip((1.25 * side, a[1], a[2]), radii, strict=True)])
    return (norm - 1) * norm / slope.clamp_min(1e-6)


def _tentorium_height(p: _Points) -> Tensor:
    return -9 - 0.40 * p.u - 0.3 * (-40 - p.y).clamp_min(0)


def _hemisphere(p: _Points, vault: Tensor) -> Tensor:
    """Smooth hull of one cerebral hemisphere, with its temporal lobe, open at the midline."""
    front, back = -24 + 0.004 * (p.u - 10).clamp_min(0) ** 2, _tentorium_height(p)
    base = back + (front - back) * _ramp(p.y, -28, 15)
    lateral: Knots = ((42, 28, -26, 15), (46, 5, -25, 19), (48, -22, -18, 19), (46, -45, -8, 17))
    medial: Knots = ((27, 18, -24, 11), (28, 0, -22, 12), (25, -24, -10, 12))
    temporal = _smooth_min(_chain(p, lateral), _chain(p, medial), 8)
    return _smooth_min(_smooth_max(vault, base - p.z, 7), temporal, 8)


def _cerebellum(p: _Points) -> Tensor:
    lobe = _ellipsoid(p, (25, -42, -41), (30, 30, 25))
    vermis = _ellipsoid(p, (0, -36, -34), (17, 28, 26))
    return _smooth_max(_smooth_min(lobe, vermis, 8), p.z - _tentorium_height(p) + 2.5, 5)


def _cavity(p: _Points, vault: Tensor, hull: Tensor, cerebellum: Tensor) -> Tensor:
    """Inside of the skull: the brain, a layer of fluid, and the way out for the brainstem."""
    floor = -27 - 4 * (1 - _ramp(p.y, 15, 32)) - 9 * (1 - _ramp(p.y, -8, 12))
    top = _smooth_min(_smooth_max(vault - 1.2, floor - p.z, 8), hull - 1.2, 3)
    fossa = _smooth_min(cerebellum - 2, _ellipsoid(p, (0, -41, -44), (50, 33, 25)), 4)
    stem = _chain(p, ((0, -2, -34, 17), (0, -16, -56, 14), (0, -22, -80, 10)))
    return _smooth_min(top, _smooth_min(fossa, stem, 12), 8)


def _skin(p: _Points, vault: Tensor) -> Tensor:
    """Outer surface of the head, with face, nose, ears and neck."""
    head = _smooth_min(vault - 15, _ellipsoid(p, (0, -33, -28), (72, 62, 60)), 15)
    cheek = _chain(p, ((29, 64, -34, 21), (30, 60, -66, 22)))
    face = _smooth_min(_ellipsoid(p, (0, 38, -62), (63, 53, 66)), cheek, 20)
    neck = _chain(p, ((0, -12, -60, 50), (0, -8, -135, 54)), (1.05, 1.1, 1))
    chin = _chain(p, ((0, 72, -114, 25),))
    head = _smooth_min(_smooth_min(head, face, 25), _smooth_min(neck, chin, 25), 25)
    nose = _chain(p, ((0, 92, -30, 5), (0, 108, -58, 7), (0, 94, -66, 10)))
    ear = _chain(p, ((75, -16, -36, 11), (73, -14, -50, 9)), (0.45, 1, 1.2))
    return _smooth_min(_smooth_min(head, nose, 8), ear, 4)


def _core(p: _Points) -> Tensor:
    """The middle of a hemisphere, which has no cortex: stem, basal ganglia, ventricles."""
    return _ellipsoid(p, (0, 8, 3), (36, 45, 22))


def _sylvian_height(p: _Points) -> Tensor:
    return -5 - 0.43 * p.y + 1.6 * torch.sin(0.16 * p.y) + 1.2 * torch.sin(0.3 * p.u)


def _sylvian(p: _Points) -> Tensor:
    """The fluid of the lateral fissure: a sheet from the side, and one over the insula."""
    up = (p.z - _sylvian_height(p)) * 0.9
    fissure = torch.hypot((39 - p.u).clamp_min(0), up)
    fissure = torch.hypot(fissure, ((p.y - 5).abs() - 38).clamp_min(0))
    out = p.u - 39 + 0.12 * (p.y - 12) + torch.sin(0.3 * p.y) - 0.12 * up
    insula = torch.hypot(out, ((up - 1).abs() - 11).clamp_min(0))
    insula = torch.hypot(insula, ((p.y - 12).abs() - 22).clamp_min(0))
    return _smooth_min(fissure, insula, 2) - 0.7


# --- individuals ----------------------------------------------------------------------------------

_NOISE_MM, _NOISE_SHAPE, _NOISE_START_MM = 2.5, (72, 96, 80), (-90.0, -115.0, -110.0)
_WARP_MM, _WARP_SHAPE, _WARP_START_MM = 35.0, (9, 11, 10), (-140.0, -175.0, -190.0)
_WARP_LIMIT = 1.2  # bound of the warp fields, which have a standard deviation of about 0.4
_WARP_RATIO, _WARP_SHIFT_MM = 0.05, 2.5  # effect of a unit of warp: on u, and on y and z
_WARP_MARGIN_MM = 5.5  # more than the warp moves any point of the head


class _Noises(NamedTuple):
    """Random fields of unit variance over head space, with signed `x`, as one tensor."""

    fold: Tensor
    depth: Tensor
    ripple: Tensor
    grain: Tensor


@dataclass(frozen=True)
class _Person:
    """What makes an individual."""

    scale: Triple
    """Size along R, A, S relative to the average head."""
    warp: Tensor
    """Spline coefficients `(4, *_WARP_SHAPE)`: shape along u, y, z, and thickness of the skull."""
    noises: Tensor
    """`_Noises`, stacked."""
    ventricle_mm: float
    """Growth of the ventricles."""
    sulcus_mm: float
    """Half width of a sulcus in its depth."""
    cortex_mm: float
    skull_mm: float


def _band_noise(wavelength_mm: float, bandwidth: float, generator: torch.Generator) -> Tensor:
    """White noise through a ring in frequency: bumps of one size, unit variance."""
    axes = [torch.fft.fftfreq(n, _NOISE_MM) for n in _NOISE_SHAPE[:2]]
    axes.append(torch.fft.rfftfreq(_NOISE_SHAPE[2], _NOISE_MM))
    cycles = wavelength_mm * _norm([axes[0][:, None, None], axes[1][:, None], axes[2]])
    gain = torch.exp(-0.5 * ((cycles - 1) / bandwidth) ** 2)
    white = torch.randn(_NOISE_SHAPE, generator=generator)
    noise = torch.fft.irfftn(torch.fft.rfftn(white) * gain, s=_NOISE_SHAPE)
    return noise / noise.std()


def _draw_person(seed: int) -> _Person:
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    noises = _Noises(
        fold=_band_noise(22, 0.28, generator),
        depth=_band_noise(36, 0.5, generator),
        ripple=_band_noise(28, 0.5, generator),
        grain=_band_noise(8, 0.4, generator),
    )
    return _Person(
        scale=(uniform(0.95, 1.05), uniform(0.95, 1.05), uniform(0.95, 1.05)),
        warp=torch.randn((4, *_WARP_SHAPE), generator=generator),
        noises=torch.stack(noises),
        ventricle_mm=uniform(-0.5, 3),
        sulcus_mm=uniform(0.2, 0.8),
        cortex_mm=uniform(2.4, 2.9),
        skull_mm=uniform(5, 6.8),
    )


def _sample(noises: Tensor, p: _Points, side: int) -> _Noises:
    """Noises at positions of shape `(X, Y, Z)`, linearly interpolated."""
    signed = (p.u * (2 * side - 1), p.y, p.z)
    grid = [
        (a - start) * (2 / (_NOISE_MM * (n - 1))) - 1
        for a, start, n in zip(signed, _NOISE_START_MM, _NOISE_SHAPE, strict=True)
    ]
    flow = torch.stack(grid[::-1], -1)[None]
    return _Noises(*grid_sample(noises[None], flow, padding_mode="border", align_corners=True)[0])


def _warp(person: _Person, axes: Sequence[Tensor], side: int) -> Tensor:
    """Bounded cubic spline `(4, X, Y, Z)` at the positions of three axes."""
    axes = (axes[0] * (2 * side - 1), *axes[1:])
    weights = []
    for a, start, n in zip(axes, _WARP_START_MM, _WARP_SHAPE, strict=True):
        d = ((a[:, None] - start) / _WARP_MM - torch.arange(n)).abs()
        weights.append(torch.where(d < 1, 2 / 3 - d**2 + d**3 / 2, (2 - d).clamp_min(0) ** 3 / 6))
    field = _expand(person.warp, weights)
    return _WARP_LIMIT * torch.tanh(field / _WARP_LIMIT)


def _expand(field: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Interpolate `(C, I, J, K)` to `(C, X, Y, Z)` with weights `(X, I)`, `(Y, J)` and `(Z, K)`."""
    field = weights[1] @ (field @ weights[2].T)
    return (weights[0] @ field.flatten(2)).unflatten(2, field.shape[2:])


# --- folds ----------------------------------------------------------------------------------------


class _Sulcus(NamedTuple):
    """A named sulcus: where `sheet` is zero, the hull is folded in by `depth_mm`."""

    name: str
    clearance_mm: float
    depth_mm: float
    sheet: Callable[[_Points], Tensor]
    where: Callable[[_Points], Tensor]


def _near_midline(p: _Points) -> Tensor:
    return 1 - _ramp(p.u, 10, 18)


def _behind(p: _Points) -> Tensor:
    return _near_midline(p) * (1 - _ramp(p.y, -46, -38))


_SULCI = (
    _Sulcus(
        "central", 13, 18,
        lambda p: p.y + 24 - 0.6 * (58 - p.z),
        lambda p: _ramp(p.u, 4, 14) * _ramp(p.z, -4, 4),
    ),
    _Sulcus(
        "superior temporal", 13, 15,
        lambda p: p.z - _sylvian_height(p) + 15,
        lambda p: _ramp(p.u, 34, 44) * _ramp(p.y, -55, -45),
    ),
    _Sulcus(
        "cingulate", 11, 11,
        lambda p: _chain(p, _CALLOSUM) - 12,
        lambda p: _near_midline(p) * _ramp(p.z - 0.5 * p.y, -8, -2),
    ),
    _Sulcus("calcarine", 11, 16, lambda p: p.z + 5 + 0.12 * (p.y + 45), _behind),
    _Sulcus(
        "parieto-occipital", 11, 15,
        lambda p: 0.85 * (p.y + 50 + 0.55 * (p.z + 3)),
        lambda p: _behind(p) * _ramp(p.z, -4, 2),
    ),
)  # fmt: skip


def _on_hull(p: _Points, hull: Tensor) -> _Points:
    """The place on the hull of a hemisphere above each position, a little displaced.

    A fold is a function of this place: its walls run from the surface straight inwards, and the
    displacement, which changes with depth, makes them wavy.
    """
    spine = (p.u - 26, p.y - p.y.clamp(-45, 42), p.z - 4)
    radius = _norm(spine).clamp_min(1)
    medial = _ramp(_FISSURE_MM - p.u - hull, -8, 4)
    out = [(1 - medial) * s / radius for s in spine]
    rise = 0.93 * torch.minimum(-hull, p.u - _FISSURE_MM).clamp(-5, 26)
    return _Points(
        p.u + rise * (out[0] - medial) + 1.6 * torch.sin(0.23 * p.y + 0.17 * p.z),
        p.y + rise * out[1] + 1.6 * torch.sin(0.26 * p.z - 0.20 * p.u),
        p.z + rise * out[2] + 1.6 * torch.sin(0.22 * p.u + 0.21 * p.y),
    )


def _folding(p: _Points, hull: Tensor, person: _Person, side: int) -> tuple[Tensor, Tensor]:
    """A field that is zero on the sulci, and the depth of the sulci in mm."""
    q = _on_hull(p, hull)
    noise = _sample(person.noises, q, side)
    fold = noise.fold
    depth = 13.5 + 5.5 * noise.depth - 4 * _near_midline(q) - 3.5 * _ramp(-q.z, 5, 15)
    for sulcus in _SULCI:
        sheet = sulcus.sheet(q) + 2 * noise.ripple
        near = sulcus.where(q) * torch.exp(-0.5 * (sheet / (0.42 * sulcus.clearance_mm)) ** 2)
        fold = fold + near * (1.4 * torch.sin(sheet * (math.pi / sulcus.clearance_mm)) - fold)
        depth = depth + near * (sulcus.depth_mm - depth)
    return fold, depth.clamp(2, 24)


# --- smooth fields on the lattice -----------------------------------------------------------------

_LATTICE_MM = 3.0
_LATTICE = tuple(_LATTICE_MM * torch.arange(*ends) for ends in ((0, 32), (-40, 41), (-35, 36)))


class _Fields(NamedTuple):
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


def _lattice_fields(person: _Person, side: int) -> Tensor:
    """`_Fields` of one side, stacked, on the lattice."""
    axes = [(a + c) / s for a, c, s in zip(_LATTICE, _HEAD_CENTRE_MM, person.scale, strict=True)]
    warp = _warp(person, axes, side)
    p = _Points(
        axes[0][:, None, None] * (1 + _WARP_RATIO * warp[0]),
        axes[1][:, None] + _WARP_SHIFT_MM * warp[1],
        axes[2] + _WARP_SHIFT_MM * warp[2],
    )
    vault, cerebellum = _vault(p), _cerebellum(p)
    hull = _hemisphere(p, vault)
    fold, depth = _folding(p, hull, person, side)
    noise = _sample(person.noises, p, side)
    fields = _Fields(
        *p,
        skin=_skin(p, vault),
        cavity=_cavity(p, vault, hull, cerebellum),
        skull=(person.skull_mm + 1.6 * warp[3]).clamp_min(3.6),
        hull=_smooth_max(hull, _FISSURE_MM - p.u, 3),
        fold=fold,
        slope=_norm(torch.gradient(fold, spacing=_LATTICE_MM)).clamp_min(0.02),
        depth=depth,
        core=_core(p),
        callosum=_chain(p, _CALLOSUM, (4, 1, 1)),
        cerebellum=cerebellum,
        ripple=noise.ripple,
        grain=noise.grain,
    )
    return torch.stack(fields)


def _interpolate(lattice: Tensor, axes: Sequence[Tensor]) -> _Fields | None:
    """Fields at the voxels of three axes, or `None` if the skin is nowhere near."""
    weights = []
    for dim, (a, nodes) in enumerate(zip(axes, _LATTICE, strict=True), start=1):
        w = (1 - (a[:, None] - nodes).abs() / _LATTICE_MM).clamp_min(0)
        used = w.any(0).nonzero().flatten()
        first, stop = int(used[0]), int(used[-1]) + 1
        lattice = lattice.narrow(dim, first, stop - first)
        weights.append(w[:, first:stop])
    if _Fields(*lattice).skin.min() >= 0:
        return None
    return _Fields(*_expand(lattice, weights))


# --- painting -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Brick:
    """A box of voxels of one side of the head, to be painted."""

    axes: tuple[Tensor, ...]
    """World positions: `|x|`, y and z, each ascending."""
    fields: _Fields
    labels: Tensor
    side: int
    person: _Person

    def put(self, where: Tensor, label: Label) -> None:
        self.labels[where] = label[self.side]

    def has(self, labels: Sequence[Label]) -> Tensor:
        return reduce(torch.logical_or, (self.labels == label[self.side] for label in labels))

    def crop(self, low_mm: Sequence[float], high_mm: Sequence[float]) -> _Brick | None:
        """The part of the brick that can meet a box of head space: a view, or `None`."""
        slices = []
        bounds = zip(self.axes, _HEAD_CENTRE_MM, self.person.scale, low_mm, high_mm, strict=True)
        for a, centre, scale, low, high in bounds:
            ends = torch.tensor([low - _WARP_MARGIN_MM, high + _WARP_MARGIN_MM]) * scale - centre
            first, stop = torch.searchsorted(a, ends).tolist()
            if first == stop:
                return None
            slices.append(slice(first, stop))
        part = tuple(slices)
        return _Brick(
            axes=tuple(a[s] for a, s in zip(self.axes, slices, strict=True)),
            fields=_Fields(*(f[part] for f in self.fields)),
            labels=self.labels[part],
            side=self.side,
            person=self.person,
        )


def _paint_organ(brick: _Brick, organ: _Organ) -> None:
    part = brick.crop(*organ.box_mm())
    if part is None:
        return
    distance = _chain(_Points(*part.fields[:3]), organ.knots, organ.stretch)
    if organ.grows:
        distance = torch.maximum(distance - part.person.ventricle_mm, 0.9 - part.fields.u)
    where = distance < 0
    if organ.shell:
        label, thickness_mm = organ.shell
        part.put((distance < thickness_mm) & ~where & ~part.has((_AIR,)), label)
    if organ.over:
        where &= part.has(organ.over)
    if organ.grain is not None:
        where &= part.fields.grain > organ.grain
    part.put(where, organ.label)


def _paint_outside(brick: _Brick) -> None:
    """Soft tissue, and a skull with marrow where it is thick."""
    f = brick.fields
    brick.put(f.skin < 0, _SOFT)
    bone = (f.cavity < f.skull) & (f.skin < -4)
    brick.put(bone, _BONE)
    half = f.skull / 2
    brick.put(bone & ((f.cavity - half).abs() + 0.8 * f.grain < half - 2.6), _MARROW)


def _paint_cavity(brick: _Brick) -> None:
    """Inner table of the skull, fluid, and the superior sagittal sinus."""
    f = brick.fields
    brick.put((f.cavity < 1.2) & brick.has((_AIR, _SOFT, _MUCOSA)), _BONE)
    brick.put(f.cavity < 0, _CSF)
    above = (f.z > -12) & (f.z + 0.35 * f.y > -45)
    brick.put((f.cavity < 0) & (f.u < 3.8 + 0.55 * f.cavity) & above, _VEIN)


def _enclose(brick: _Brick) -> None:
    """Close the skin over all structures so far, and the fluid around the brain."""
    f = brick.fields
    brick.put(f.skin >= 0, _AIR)
    brick.put((f.skin < 0) & (f.skin > -_SKIN_MM), _SKIN)
    film = torch.minimum(f.hull, f.cerebellum) < 1.4
    brick.put(film & brick.has((_BONE, _MARROW, _AIR)), _CSF)


def _paint_cerebrum(brick: _Brick) -> None:
    """Sulci, a ribbon of cortex around them, and white matter inside.

    `pial` is the distance to the fluid, positive in the brain: the fluid outside the hull, in
    the sulci, in the lateral fissure and above the corpus callosum.
    """
    f, person = brick.fields, brick.person
    inside = -f.hull
    width_mm = person.sulcus_mm + 0.7 * torch.exp(-inside.clamp_min(0) / 4)
    sulcus = torch.hypot(f.fold.abs() / f.slope, (inside - f.depth).clamp_min(0)) - width_mm
    pial = _smooth_min(inside, sulcus, 3.5)
    pial = _smooth_min(pial, _sylvian(_Points(*f[:3])), 3)
    pial = torch.minimum(pial, torch.maximum(f.callosum - 1.3, f.u - 8))
    pial = torch.maximum(pial, -f.core)
    hemisphere = inside > 0
    brick.put(hemisphere, _CSF)
    brick.put(hemisphere & (pial > 0), _CORTEX)
    brick.put(hemisphere & (pial > person.cortex_mm * (1 + 0.1 * f.ripple)), _WHITE)
    brick.put((f.callosum < 0) & (f.u < 14), _WHITE)


def _paint_cerebellum(brick: _Brick) -> None:
    """Leaves that fan out from the fourth ventricle: fissures outside, white branches inside."""
    f = brick.fields
    inside = -f.cerebellum
    angle = torch.atan2(f.z + 38 - 0.1 * f.u, -(f.y + 20)) + 0.003 * f.u
    lobule = torch.cos(11 * angle + 0.8 * f.ripple)
    leaf = torch.cos(34 * angle + 1.2 * f.ripple)
    fissure = 60 * (-lobule - 0.9).clamp_min(0) + 12.5 * (-leaf - 0.8).clamp_min(0)
    brick.put(inside > fissure, _CEREBELLUM_CORTEX)
    brick.put(inside > 4 + 6 * (1 - lobule) + 1.5 * (1 - leaf), _CEREBELLUM_WHITE)


def _paint(brick: _Brick) -> None:
    """All structures, from outside to inside."""
    _paint_outside(brick)
    for organ in _FACE:
        _paint_organ(brick, organ)
    _paint_cavity(brick)
    for organ in _SKULL_BASE:
        _paint_organ(brick, organ)
    _enclose(brick)
    if (brick.fields.hull < 0).any():
        _paint_cerebrum(brick)
    if (brick.fields.cerebellum < 0).any():
        _paint_cerebellum(brick)
    for organ in _DEEP:
        _paint_organ(brick, organ)
    brick.labels[..., brick.axes[2] < _NECK_CUT_MM] = 0


def _half_head(axes: tuple[Tensor, ...], person: _Person, side: int) -> Tensor:
    """Labels of the voxels of one side; the first axis is the distance from the midline."""
    labels = torch.zeros([len(a) for a in axes], dtype=torch.int16)
    lattice = _lattice_fields(person, side)
    for corner in product(*(range(0, len(a), _BRICK_VOXELS) for a in axes)):
        part = tuple(slice(i, i + _BRICK_VOXELS) for i in corner)
        brick_axes = tuple(a[s] for a, s in zip(axes, part, strict=True))
        fields = _interpolate(lattice, brick_axes)
        if fields is not None:
            _paint(_Brick(brick_axes, fields, labels[part], side, person))
    return labels


# --- public ---------------------------------------------------------------------------------------


def head_phantom(
    *,
    spacing_mm: float | Sequence[float] = 1.0,
    shape: Sequence[int] | None = None,
    seed: int = 0,
) -> tio.LabelMap:
    """Make the label map of a head.

    The head has a folded cortex, a foliated cerebellum, deep nuclei, ventricles, vessels, skull,
    face, skin and a neck that is cut flat, with the FreeSurfer and SynthSeg labels of
    `PHANTOM_LABELS` (left structures at `x < 0`, right ones at `x >= 0`). It is plausible, not
    anatomical truth: use it for tests and first steps, not to measure anatomy.

    Args:
        spacing_mm: Voxel size in mm, one number or one per axis (R, A, S). Any spacing samples
            the same head; structures thinner than a voxel may vanish.
        shape: Number of voxels per axis. By default as many as cover a field of view of
            184 x 240 x 208 mm, which holds every individual. The grid is centred on the head.
        seed: The individual. The same seed gives the same voxels; different seeds give heads of
            different size, shape, folds, ventricles, atrophy and skull.

    Returns:
        Label map with a tensor of shape `(1, *shape)`, dtype `int16`, and an RAS affine in mm
        whose origin is the middle of the head and of the grid.

    Examples:
        >>> head = head_phantom(spacing_mm=4.0, seed=1)
        >>> head.shape
        (1, 46, 60, 52)
        >>> left, right = (int((head.data == label).sum()) for label in (2, 41))
        >>> 0.8 < left / right < 1.25
        True
    """
    spacing = _spacing(spacing_mm)
    size = _size(shape, spacing)
    centres = [(torch.arange(n) - (n - 1) / 2) * s for n, s in zip(size, spacing, strict=True)]
    near = [
        slice(int((a < -f / 2).sum()), int((a <= f / 2).sum()))
        for a, f in zip(centres, _FIELD_OF_VIEW_MM, strict=True)
    ]
    x, y, z = (a[s] for a, s in zip(centres, near, strict=True))
    person = _draw_person(seed)
    left = _half_head((x[x < 0].abs().flip(0), y, z), person, side=0)
    right = _half_head((x[x >= 0], y, z), person, side=1)
    labels = torch.zeros(size, dtype=torch.int16)
    labels[tuple(near)] = torch.cat([left.flip(0), right])
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * s for n, s in zip(size, spacing, strict=True)]
    return tio.LabelMap(labels[None], affine=affine)


def _spacing(spacing_mm: float | Sequence[float]) -> Triple:
    values = [spacing_mm] * 3 if isinstance(spacing_mm, (int, float)) else list(spacing_mm)
    if len(values) != 3 or not all(0 < value < math.inf for value in values):
        msg = (
            f"spacing_mm must be one or three positive numbers, got {spacing_mm}. "
            f"Give the voxel size in mm along R, A and S."
        )
        raise ValueError(msg)
    return values[0], values[1], values[2]


def _size(shape: Sequence[int] | None, spacing_mm: Triple) -> tuple[int, ...]:
    if shape is None:
        return tuple(math.ceil(f / s) for f, s in zip(_FIELD_OF_VIEW_MM, spacing_mm, strict=True))
    size = tuple(int(n) for n in shape)
    if len(size) != 3 or size != tuple(shape) or min(size) < 1:
        msg = (
            f"shape must be three positive whole numbers, got {tuple(shape)}. "
            f"Give the number of voxels along R, A and S, or None for the whole head."
        )
        raise ValueError(msg)
    return size
