"""Part (c), continued: co-registered scans of one person must give nearly the same T1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from torch import Tensor

from synthsr_net.metrics.comparison import RANGE_PERCENTILES, measure_inside
from synthsr_net.metrics.volumes import MEASURES
from synthsr_net.prediction.intensities import correlation, percentile

from .pictures import Pictures
from .scans import Seen
from .world import Affine, read_on

_MIN_VOXELS = 1000  # of brain, to be measured

Placed = tuple[Tensor, Tensor, Tensor]


def evaluate_patient(
    scans: Sequence[Seen], registrations: Sequence[Affine | None]
) -> list[dict[str, Any]]:
    """Compare the predictions of co-registered scans, pair by pair.

    Args:
        scans: At least two, from `evaluation.scans.see`.
        registrations: For each, a matrix from points of the common world to those of its own, or
            None where they are the same; see `evaluation.world.read_registration`.

    Returns:
        One row per pair: `pair` (two names), and measures in the brain that both scans cover, on
        the grid of the prediction that lies in the common world: `correlation` and `ssim` of the
        predictions, `psnr` and `l1` likewise (the range of the first one's intensities from
        percentile 1 to 99 counts as 1; nothing is mapped), and `inputs`, the correlation of the
        scans themselves.
    """
    first = next((k for k, matrix in enumerate(registrations) if matrix is None), 0)
    together = [
        _on_grid_of(scan, scans[first], matrix)
        for scan, matrix in zip(scans, registrations, strict=True)
    ]
    rows = []
    for a, b in combinations(range(len(scans)), 2):
        inside = scans[first].regions.brain & together[a][2] & together[b][2]
        pair = {"pair": [scans[a].name, scans[b].name]}
        rows.append({**pair, **_agreement(together[a], together[b], inside)})
    return rows


def _agreement(first: Placed, second: Placed, inside: Tensor) -> dict[str, float]:
    if int(inside.sum()) < _MIN_VOXELS:
        return dict.fromkeys(("correlation", *MEASURES, "inputs"), math.nan)
    low, high = (percentile(first[0][inside], p) for p in RANGE_PERCENTILES)
    pair = [(t1 - low) / max(high - low, 1e-6) for t1 in (first[0], second[0])]
    return {
        "correlation": correlation(pair[0], pair[1], inside),
        **measure_inside(pair[1], pair[0], inside),
        "inputs": correlation(first[1], second[1], inside),
    }


def _on_grid_of(scan: Seen, goal: Seen, registration: Affine | None) -> Placed:
    """Prediction and scan on the grid of another, and where they lie."""
    t1, inside = read_on(scan.t1, scan.grid[1], goal.grid, registration)
    image, _ = read_on(scan.image, scan.grid[1], goal.grid, registration)
    return t1, image, inside


def draw_patient(scans: Sequence[Seen], pictures: Pictures) -> None:
    """Draw each scan with its prediction."""
    for scan in scans:
        above = {"input": scan.scan.volume}
        pictures.add(f"patient_{scan.name}", above, scan.prediction, scan.name)
