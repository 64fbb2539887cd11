"""Signed distances of simple shapes, in mm, negative inside, and ways to join them."""

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
