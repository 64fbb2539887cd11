"""Inverse contrast: scans in which bright tissues of a T1 are dark, as in a T2, turned round.

Networks know scans of the contrast of their prediction best. Where a first prediction says that a
scan has the inverse contrast, the second pass of flip averaging sees it inverted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..checkpoint import ScanConfig
from .intensities import correlation, percentile
from .regions import HEAD_ABOVE, brain_of, closed, filled

CORRELATION = -0.4
"""Correlation of scan and prediction in the brain below which the contrast is inverse."""
BRAIN_MM = 4.0
"""Voxel spacing at which the brain is found, for speed."""
CLOSING_MM = 2.0
"""Radius by which gaps of the head, which is what is inverted, are closed; what it encloses belongs
to it as well. More would invert the dark air beside it, which predictions would show as tissue."""
HIGH_PERCENTILE = 99.5
"""Percentile of the head that becomes 0."""
_MIN_BRAIN_ML = 50.0  # less is no brain


def second_input(x: Tensor, output: Tensor, settings: ScanConfig) -> Tensor:
    """What the second pass of flip averaging sees, before it is mirrored.

    Args:
        x: `(1, X, Y, Z)`, input of the first pass.
        output: `(O, X, Y, Z)`, what `finisher` made of its output.
        settings: Of the model.

    Returns:
        `(1, X, Y, Z)`: the input, inverted if its contrast is inverse.
    """
    t1 = output[0] if settings.clip_each_pass else settings.output_scale * output[0]
    return turned_round(x[0], t1, settings.spacing_mm)[None]


def turned_round(scan: Tensor, t1: Tensor, spacing_mm: float = 1.0) -> Tensor:
    """Invert a scan if its contrast is the inverse of that of its prediction.

    Args:
        scan: `(X, Y, Z)` float32, any unit.
        t1: Prediction from it, on the same grid, white matter near 110.
        spacing_mm: Voxel spacing of the grid.

    Returns:
        The inverted scan, see `inverted`, or the scan itself.
    """
    if not _is_inverse(scan, t1, spacing_mm):
        return scan
    return inverted(scan, filled(closed(t1 > HEAD_ABOVE, CLOSING_MM / spacing_mm)))


def _is_inverse(scan: Tensor, t1: Tensor, spacing_mm: float) -> bool:
    step = max(1, round(BRAIN_MM / spacing_mm))
    scan, t1 = (volume[::step, ::step, ::step] for volume in (scan, t1))
    brain = brain_of(t1, step * spacing_mm)
    millilitres = float(brain.sum()) * (step * spacing_mm) ** 3 / 1000
    if millilitres < _MIN_BRAIN_ML:
        return False
    return correlation(scan, t1, brain) < CORRELATION  # not where it is not a number


def inverted(scan: Tensor, head: Tensor) -> Tensor:
    """A scan whose bright tissues are dark and dark ones bright; its background stays.

    Args:
        scan: `(X, Y, Z)`.
        head: Mask of the head, bool. In it, an intensity becomes percentile 99.5 of the head minus
            the intensity, but at least 0.

    Examples:
        >>> scan = torch.tensor([0.0, 1.0, 3.0])
        >>> inverted(scan, scan > 0).tolist()
        [0.0, 1.9900000095367432, 0.0]
    """
    inside = scan[head]
    if not inside.numel():
        return scan
    return torch.where(head, (percentile(inside, HIGH_PERCENTILE) - scan).clamp(min=0), scan)
