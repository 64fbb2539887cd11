"""Contrast inversion, for scans in which bright tissues of a T1 are dark, as in a T2.

Networks work best on scans of the contrast of their prediction. Where a first prediction shows
that a scan has the inverse contrast, the second pass of test-time augmentation gets it inverted.
Bone and air, dark in both contrasts, are bright in it, so that the pass counts at the brain alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from synthsr_net.models.checkpoint import ScanConfig
from synthsr_net.prediction.intensities import correlation, percentile
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
    brain = _coarse_brain(t1, settings.spacing_mm)
    again = [
        with_t1_contrast(scan, t1, settings.spacing_mm, reached=mask, brain=brain)
        for scan, mask in zip(scans, reached, strict=True)
    ]
    if all(new is scan for new, scan in zip(again, scans, strict=True)):
        return x, None
    near = brain_proximity(t1, settings.spacing_mm, brain)
    return torch.stack(again).view_as(x), 0.5 * near


def brain_proximity(t1: Tensor, spacing_mm: float = 1.0, brain: Tensor | None = None) -> Tensor:
    """From 1 at the brain of a prediction to 0 away from it, `(X, Y, Z)`.

    Args:
        t1: `(X, Y, Z)` float32, white matter near 110.
        spacing_mm: Voxel spacing.
        brain: The brain on some of the voxels, if it was found, see `with_t1_contrast`.
    """
    step = _step(spacing_mm)
    brain = _coarse_brain(t1, spacing_mm) if brain is None else brain
    near = on_device(dilated(brain, NEAR_MM / (step * spacing_mm)).float(), t1.device)
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
    brain: Tensor | None = None,
) -> Tensor:
    """Invert a scan if its contrast is the inverse of that of its prediction.

    Args:
        scan: `(X, Y, Z)` float32, any unit.
        t1: Prediction from it, on the same grid, white matter near 110.
        spacing_mm: Voxel spacing of the grid.
        reached: Voxels that the scan shows, of which the others stay; None: all.
        brain: The brain of the prediction on voxels about `BRAIN_MM` apart, on the CPU; None: to be
            found.

    Returns:
        The inverted scan, see `inverted`, or the scan itself.
    """
    brain = _coarse_brain(t1, spacing_mm) if brain is None else brain
    if not _is_inverse(scan, t1, spacing_mm, reached, brain):
        return scan
    head = filled(closed(t1 > HEAD_ABOVE, CLOSING_MM / spacing_mm))
    return inverted(scan, head if reached is None else head & reached)


def _is_inverse(
    scan: Tensor, t1: Tensor, spacing_mm: float, reached: Tensor | None, brain: Tensor
) -> bool:
    step = _step(spacing_mm)
    if reached is not None:
        brain = brain & _coarse(reached, step)
    millilitres = float(brain.sum()) * (step * spacing_mm) ** 3 / 1000
    if millilitres < _MIN_BRAIN_ML:
        return False
    # not where it is not a number
    return correlation(_coarse(scan, step), _coarse(t1, step), brain) < CORRELATION


def _coarse_brain(t1: Tensor, spacing_mm: float) -> Tensor:
    """The brain, on every so many voxels that they are about `BRAIN_MM` apart, on the CPU."""
    step = _step(spacing_mm)
    return find_brain(_coarse(t1, step), step * spacing_mm)


def _coarse(volume: Tensor, step: int) -> Tensor:
    """Every so many voxels, on the CPU, which takes less time there than one wait for a GPU."""
    return torch.from_numpy(on_host(volume[::step, ::step, ::step]))


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
