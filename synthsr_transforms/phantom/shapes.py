"""Surfaces of a head and simple shapes, as signed distances in mm, negative inside."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

Triple = tuple[float, float, float]
Knots = tuple[tuple[float, float, float, float], ...]
"""Positions `(u, y, z)` in head space and a radius, all in mm."""


class Points(NamedTuple):
    """Positions in head space, in mm: three tensors of one shape."""

    u: Tensor
    y: Tensor
    z: Tensor


def smooth_min(a: Tensor, b: Tensor, width_mm: float) -> Tensor:
    """Union of two shapes whose seam is rounded over `width_mm`."""
    overlap = (width_mm - (a - b).abs()).clamp_min(0)
    return torch.minimum(a, b) - overlap * overlap / (4 * width_mm)


def smooth_max(a: Tensor, b: Tensor, width_mm: float) -> Tensor:
    """Intersection of two shapes whose edge is rounded over `width_mm`."""
    return -smooth_min(-a, -b, width_mm)


def ramp(x: Tensor, start: float, stop: float) -> Tensor:
    """Smooth step from 0 at `start` to 1 at `stop`."""
    t = ((x - start) / (stop - start)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def euclidean_norm(axes: Sequence[Tensor]) -> Tensor:
    """Length of the vectors with these three components."""
    return (axes[0] ** 2 + axes[1] ** 2 + axes[2] ** 2).sqrt()


def _cone(p: Points, a: Sequence[float], b: Sequence[float], stretch: Triple) -> Tensor:
    """Distance to a round cone between two knots; to first order where stretched."""
    start = [c / s for c, s in zip(a[:3], stretch, strict=True)]
    along = [c / s - d for c, s, d in zip(b[:3], stretch, start, strict=True)]
    rel = [c / s - d for c, s, d in zip(p, stretch, start, strict=True)]
    length_squared = max(sum(c * c for c in along), 1e-9)
    t = (rel[0] * along[0] + rel[1] * along[1] + rel[2] * along[2]) / length_squared
    t = t.clamp(0, 1)
    rel = [r - d * t for r, d in zip(rel, along, strict=True)]
    norm = euclidean_norm(rel)
    gap = norm - (a[3] + (b[3] - a[3]) * t)
    if stretch == (1.0, 1.0, 1.0):
        return gap
    slope = euclidean_norm([r / s for r, s in zip(rel, stretch, strict=True)])
    return gap * norm / slope.clamp_min(1e-6)


def chain(p: Points, knots: Knots, stretch: Triple = (1.0, 1.0, 1.0)) -> Tensor:
    """Distance to the union of the cones between successive knots."""
    pairs = pairwise(knots) if len(knots) > 1 else [(knots[0], knots[0])]
    return reduce(torch.minimum, (_cone(p, a, b, stretch) for a, b in pairs))


def ellipsoid(p: Points, centre: Triple, radii: Triple) -> Tensor:
    """Distance to an ellipsoid, to first order."""
    return chain(p, ((*centre, 1.0),), radii)


FISSURE_MM = 1.2
"""Half width of the gap between the hemispheres."""


def vault(p: Points) -> Tensor:
    """The egg that the upper brain fills: wider behind, with steep sides."""
    radii = (67, 86, 58)
    a = (p.u * (1 + 0.0012 * (p.y + 20)) / 67, (p.y + 3) / 86, (p.z - 3) / 58)
    side = a[0] * a[0].sqrt()
    norm = (a[0] * side + a[1] ** 2 + a[2] ** 2).sqrt()
    slope = euclidean_norm([g / r for g, r in zip((1.25 * side, a[1], a[2]), radii, strict=True)])
    return (norm - 1) * norm / slope.clamp_min(1e-6)


def _tentorium_height(p: Points) -> Tensor:
    return -9 - 0.40 * p.u - 0.3 * (-40 - p.y).clamp_min(0)


def hemisphere(p: Points, vault: Tensor) -> Tensor:
    """Smooth hull of one cerebral hemisphere, with its temporal lobe, open at the midline."""
    front, back = -24 + 0.004 * (p.u - 10).clamp_min(0) ** 2, _tentorium_height(p)
    base = back + (front - back) * ramp(p.y, -28, 15)
    lateral: Knots = ((42, 28, -26, 15), (46, 5, -25, 19), (48, -22, -18, 19), (46, -45, -8, 17))
    medial: Knots = ((27, 18, -24, 11), (28, 0, -22, 12), (25, -24, -10, 12))
    temporal = smooth_min(chain(p, lateral), chain(p, medial), 8)
    return smooth_min(smooth_max(vault, base - p.z, 7), temporal, 8)


def cerebellum(p: Points) -> Tensor:
    """Both hemispheres of the cerebellum and the vermis, below the tentorium."""
    lobe = ellipsoid(p, (25, -42, -41), (30, 30, 25))
    vermis = ellipsoid(p, (0, -36, -34), (17, 28, 26))
    return smooth_max(smooth_min(lobe, vermis, 8), p.z - _tentorium_height(p) + 2.5, 5)


def cavity(p: Points, vault: Tensor, hull: Tensor, cerebellum: Tensor) -> Tensor:
    """Inside of the skull: the brain, a layer of fluid, and the way out for the brainstem."""
    floor = -27 - 4 * (1 - ramp(p.y, 15, 32)) - 9 * (1 - ramp(p.y, -8, 12))
    top = smooth_min(smooth_max(vault - 1.2, floor - p.z, 8), hull - 1.2, 3)
    fossa = smooth_min(cerebellum - 2, ellipsoid(p, (0, -41, -44), (50, 33, 25)), 4)
    stem = chain(p, ((0, -2, -34, 17), (0, -16, -56, 14), (0, -22, -80, 10)))
    return smooth_min(top, smooth_min(fossa, stem, 12), 8)


def skin(p: Points, vault: Tensor) -> Tensor:
    """Outer surface of the head, with face, nose, ears and neck."""
    head = smooth_min(vault - 15, ellipsoid(p, (0, -33, -28), (72, 62, 60)), 15)
    cheek = chain(p, ((29, 64, -34, 21), (30, 60, -66, 22)))
    face = smooth_min(ellipsoid(p, (0, 38, -62), (63, 53, 66)), cheek, 20)
    neck = chain(p, ((0, -12, -60, 50), (0, -8, -135, 54)), (1.05, 1.1, 1))
    chin = chain(p, ((0, 72, -114, 25),))
    head = smooth_min(smooth_min(head, face, 25), smooth_min(neck, chin, 25), 25)
    nose = chain(p, ((0, 92, -30, 5), (0, 108, -58, 7), (0, 94, -66, 10)))
    ear = chain(p, ((75, -16, -36, 11), (73, -14, -50, 9)), (0.45, 1, 1.2))
    return smooth_min(smooth_min(head, nose, 8), ear, 4)


def core(p: Points) -> Tensor:
    """The middle of a hemisphere, which has no cortex: stem, basal ganglia, ventricles."""
    return ellipsoid(p, (0, 8, 3), (36, 45, 22))


def sylvian_height(p: Points) -> Tensor:
    """Height of the lateral fissure."""
    return -5 - 0.43 * p.y + 1.6 * torch.sin(0.16 * p.y) + 1.2 * torch.sin(0.3 * p.u)


def sylvian(p: Points) -> Tensor:
    """The fluid of the lateral fissure: a sheet from the side, and one over the insula."""
    up = (p.z - sylvian_height(p)) * 0.9
    fissure = torch.hypot((39 - p.u).clamp_min(0), up)
    fissure = torch.hypot(fissure, ((p.y - 5).abs() - 38).clamp_min(0))
    out = p.u - 39 + 0.12 * (p.y - 12) + torch.sin(0.3 * p.y) - 0.12 * up
    insula = torch.hypot(out, ((up - 1).abs() - 11).clamp_min(0))
    insula = torch.hypot(insula, ((p.y - 12).abs() - 22).clamp_min(0))
    return smooth_min(fissure, insula, 2) - 0.7
