"""Likeness of a prediction and a real scan, which may show different contrasts.

Before they are compared, the intensities of the prediction are mapped to those of the scan by the
cubic polynomial that fits best (in the least-squares sense) inside a mask, the brain or the head,
and what lies outside is left out of both. How well the prediction tells tissues apart is measured
on its own intensities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from synthsr_transforms.functional.layout import bounding_box

from .volumes import MEASURES, SSIM_WINDOW, measure

GROUPS: Mapping[str, str] = {"wm": "white_matter", "gm": "grey_matter", "csf": "csf"}
"""Tissues that predictions are divided into, by the ends of the names of their Dice scores."""
RANGE_PERCENTILES = (1.0, 99.0)
"""Percentiles of the brain that are 0 and 1 in the measures."""
OUTSIDE, OTHER = 0, 1
"""Voxels outside the brain, and of its other tissues, in maps of tissues; the groups follow."""


class Reference(NamedTuple):
    """What predictions of a scan are compared with, `(X, Y, Z)`.

    Attributes:
        image: float32; 0 and 1 are percentiles 1 and 99 of the brain.
        head: bool.
        tissues: uint8: `OUTSIDE`, `OTHER`, then numbers of `GROUPS` from 2 on.
    """

    image: Tensor
    head: Tensor
    tissues: Tensor


def compare(prediction: Tensor, reference: Reference) -> dict[str, float]:
    """Measure a prediction.

    Args:
        prediction: `(X, Y, Z)` in any contrast.
        reference: What it should show, on the CPU or the same device.

    Returns:
        L1, PSNR and SSIM in brain and head (`brain/l1`, ..., `head/ssim`), in intensities of the
        reference; and, for the tissues that occur, the Dice scores `brain/dice_wm`,
        `brain/dice_gm` and `brain/dice_csf`: voxels of these tissues are divided by which mean of
        the prediction in a tissue they are nearest to. All are NaN if the prediction is not finite.
    """
    prediction = prediction.cpu() if prediction.device.type == "mps" else prediction
    image, head, tissues = (volume.to(prediction.device) for volume in reference)
    results: dict[str, float] = {}
    for region, mask in (("brain", tissues > OUTSIDE), ("head", head)):
        mapped = torch.zeros_like(image)
        mapped[mask] = fit_cubic(prediction[mask].double(), image[mask].double()).float()
        values = measure_inside(mapped, image, mask)
        results |= {f"{region}/{name}": value for name, value in values.items()}
    return results | _dice_scores(prediction, tissues)


def measure_inside(volume: Tensor, truth: Tensor, mask: Tensor) -> dict[str, float]:
    """L1, PSNR and SSIM inside a mask, without any mapping; 1 is the range of intensities.

    What lies outside the mask is left out of both volumes.

    Args:
        volume: `(X, Y, Z)`.
        truth: Likewise.
        mask: Likewise, bool.

    Returns:
        `l1`, `psnr` and `ssim`.
    """
    box = (None, None, *_surroundings(mask))
    first, second = (torch.where(mask, v.to(mask.device), 0.0)[box] for v in (volume, truth))
    values = measure(first, second, [mask[box]])[0, 0].tolist()
    return dict(zip(MEASURES, values, strict=True))


def _surroundings(mask: Tensor) -> list[slice]:
    """Box of all voxels that the windows of SSIM around those of a mask reach."""
    first, end = bounding_box(mask[None, None])[0].tolist()
    reach = SSIM_WINDOW // 2
    return [slice(max(0, a - reach), b + reach) for a, b in zip(first, end, strict=True)]


def fit_cubic(values: Tensor, goal: Tensor) -> Tensor:
    """Cubic polynomial of values that is nearest to a goal in the least-squares sense.

    Args:
        values: `(N,)` float64; of equal ones the mean of the goal is all that can be said.
        goal: `(N,)` float64.

    Returns:
        `(N,)` float64, NaN if a value is not finite.

    Examples:
        >>> x = torch.linspace(-1, 2, 9, dtype=torch.float64)
        >>> torch.allclose(fit_cubic(x, 3 - x + x**3), 3 - x + x**3)
        True
    """
    if not bool(torch.isfinite(values).all()):
        return torch.full_like(goal, math.nan)
    centred = values - values.mean()
    powers = torch.stack([(centred / centred.abs().max().clamp(min=1e-12)) ** k for k in range(4)])
    normal, right = (powers @ powers.T).cpu(), (powers @ goal).cpu()
    solution = torch.linalg.pinv(normal, rtol=1e-12, hermitian=True) @ right
    return torch.as_tensor(solution.to(values.device) @ powers)


def _dice_scores(prediction: Tensor, tissues: Tensor) -> dict[str, float]:
    """How well the three tissues can be told apart by their intensities, for those that occur."""
    inside = tissues > OTHER
    values, truth = prediction[inside].double(), tissues[inside]
    present = [number for number in range(2, 2 + len(GROUPS)) if bool((truth == number).any())]
    names = {number: f"brain/dice_{end}" for number, end in enumerate(GROUPS, start=2)}
    if not bool(torch.isfinite(values).all()):
        return {names[number]: math.nan for number in present}
    means = [values[truth == number].mean() for number in present]
    distances = torch.stack([(values - mean).abs() for mean in means])
    nearest = torch.tensor(present, device=truth.device)[distances.argmin(0)]
    scores = {}
    for number in present:
        ours, theirs = nearest == number, truth == number
        scores[names[number]] = float(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()))
    return scores
