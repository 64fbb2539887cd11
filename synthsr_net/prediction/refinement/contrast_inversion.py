"""Contrast inversion, for scans in which bright tissues of a T1 are dark, as in a T2.

Networks work best on scans of the contrast of their prediction. Where a first prediction shows
that a scan has the inverse contrast, the second pass of test-time augmentation gets it inverted.
Bone and air, dark in both contrasts, are bright in it, so that the pass counts at the brain alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from synthsr_net.models.checkpoint import ScanConfig
from synthsr_net.prediction.intensities import correlation_of, percentile
from synthsr_transforms.support.devices import on_device, on_host

from .brain_mask import HEAD_ABOVE, closed, dilated, filled, find_brain

CORRELATION = -0.4
"""Correlation of scan and prediction in the brain below which the contrast is inverse."""
BRAIN_MM = 4.0
"""Voxel spacing at which the brain is found, for speed."""
CLOSING_MM = 2.0
"""Radius by which gaps of the head, which is what is inverted, are closed; what it encloses belongs
to it as well. More would invert the dark air beside it, which predictions would show as tissue."""
NEAR_MM = 8.0
"""Distance from the brain up to which the second pass counts fully; it fades out within another
`BRAIN_MM`."""
HIGH_PERCENTILE = 99.5
"""Percentile of the head that becomes 0."""
_MIN_BRAIN_ML = 50.0  # less is no brain

Array = npt.NDArray[Any]


def second_input(x: Tensor, output: Tensor, settings: ScanConfig) -> tuple[Tensor, Tensor | None]:
    """Input of the second pass of test-time augmentation, before it is mirrored, and its weight.

    Args:
        x: `(1, X, Y, Z)`, input of the first pass, or `(N, 1, X, Y, Z)`, scans of an exam, which
            are 0 where they do not reach.
        output: `(O, X, Y, Z)`, what `pass_finisher` made of its output.
        settings: Of the model.

    Returns:
        The input in the shape of `x`, of which scans of inverse contrast are inverted, and the
        share of the second pass in the mean of both, `(X, Y, Z)`: a half at the brain, 0 away from
        it. None, for a half everywhere, if nothing was inverted.
    """
    t1 = output[0] if settings.clip_each_pass else settings.output_scale * output[0]
    scans = [x[0]] if x.ndim == 4 else list(x[:, 0])
    reached = [None] if len(scans) == 1 else [scan > 0 for scan in scans]
    coarse = _Coarse.of(t1, scans, settings.spacing_mm)
    again = [
        with_t1_contrast(scan, t1, settings.spacing_mm, reached=mask, coarse=seen)
        for scan, mask, seen in zip(scans, reached, coarse, strict=True)
    ]
    if all(new is scan for new, scan in zip(again, scans, strict=True)):
        return x, None
    near = brain_proximity(t1, settings.spacing_mm, coarse[0].brain)
    return torch.stack(again).view_as(x), 0.5 * near


class _Coarse(NamedTuple):
    """A scan and its prediction on every so many voxels that they are about `BRAIN_MM` apart.

    They are on the host, where so few take less time than one wait for a GPU.

    Attributes:
        scan: `(X, Y, Z)` float32.
        t1: The prediction, likewise.
        brain: The brain that it shows, bool.
    """

    scan: Array
    t1: Array
    brain: Array

    @classmethod
    def of(cls, t1: Tensor, scans: Sequence[Tensor], spacing_mm: float) -> list[_Coarse]:
        """Of several scans with one prediction, read in one go."""
        every = (slice(None, None, _step(spacing_mm)),) * 3
        seen, *each = on_host(torch.stack([volume[every] for volume in (t1, *scans)]))
        brain = find_brain(seen, _step(spacing_mm) * spacing_mm)
        return [cls(scan, seen, brain) for scan in each]


def brain_proximity(t1: Tensor, spacing_mm: float = 1.0, brain: Array | None = None) -> Tensor:
    """From 1 at the brain of a prediction to 0 away from it, `(X, Y, Z)`.

    Args:
        t1: `(X, Y, Z)` float32, white matter near 110.
        spacing_mm: Voxel spacing.
        brain: The brain on voxels about `BRAIN_MM` apart, if it was found.
    """
    step = _step(spacing_mm)
    if brain is None:
        (coarse,) = _Coarse.of(t1, [t1], spacing_mm)
        brain = coarse.brain
    grown = dilated(brain, NEAR_MM / (step * spacing_mm)).astype(np.float32)
    near = on_device(torch.from_numpy(grown), t1.device)
    reached = [step * (n - 1) + 1 for n in near.shape]
    fine = F.interpolate(near[None, None], size=reached, mode="trilinear", align_corners=True)
    margins: list[int] = []
    for size, end in zip(reversed(t1.shape), reversed(reached), strict=True):
        margins += [0, size - end]
    return F.pad(fine, margins, mode="replicate")[0, 0]


def with_t1_contrast(
    scan: Tensor,
    t1: Tensor,
    spacing_mm: float = 1.0,
    *,
    reached: Tensor | None = None,
    coarse: _Coarse | None = None,
) -> Tensor:
    """Invert a scan if its contrast is the inverse of that of its prediction.

    Args:
        scan: `(X, Y, Z)` float32, any unit.
        t1: Prediction from it, on the same grid, white matter near 110.
        spacing_mm: Voxel spacing of the grid.
        reached: Voxels that the scan shows, those above 0, of which the others stay; None: all.
        coarse: Both on some of the voxels, if they were read.

    Returns:
        The inverted scan, see `inverted`, or the scan itself.
    """
    if coarse is None:
        (coarse,) = _Coarse.of(t1, [scan], spacing_mm)
    if not _is_inverse(coarse, spacing_mm, reached is not None):
        return scan
    head = filled(closed(t1 > HEAD_ABOVE, CLOSING_MM / spacing_mm))
    return inverted(scan, head if reached is None else head & reached)


def _is_inverse(coarse: _Coarse, spacing_mm: float, where_above_0: bool) -> bool:
    brain = coarse.brain & (coarse.scan > 0) if where_above_0 else coarse.brain
    millilitres = float(brain.sum()) * (_step(spacing_mm) * spacing_mm) ** 3 / 1000
    if millilitres < _MIN_BRAIN_ML:
        return False
    # not where it is not a number
    return correlation_of(np.stack([coarse.scan[brain], coarse.t1[brain]])) < CORRELATION


def _step(spacing_mm: float) -> int:
    return max(1, round(BRAIN_MM / spacing_mm))


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
