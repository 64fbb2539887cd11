"""Comparison of a prediction with a reference image, which may show different contrasts.

Intensities of the prediction can be mapped to those of the reference by the polynomial that fits
best (least squares) inside a mask, the brain or the head; what lies outside is left out of both.
Dice scores of tissues are computed from the prediction's own intensities.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from synthsr_net.losses.ssim import WINDOW_SIZE
from synthsr_transforms.functional.layout import bounding_box
from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.labels.table import LabelTable

from .volumes import MEASURES, measure

Name = TypeVar("Name", bound=Hashable)

MAPPINGS: Mapping[str, int] = {"none": 0, "linear": 1, "cubic": 3}
"""Degrees of the polynomials that intensities can be mapped by; `none` leaves them as they are."""
DICE_TISSUES: Mapping[str, str] = {
    "dice_wm": "white_matter",
    "dice_gm": "grey_matter",
    "dice_csf": "csf",
}
"""Dice scores, and the tissues that they are computed of."""
RANGE_PERCENTILES = (1.0, 99.0)
"""Percentiles of the reference in the brain that count as 0 and 1."""
OUTSIDE, OTHER = 0, 1
"""Voxels outside the brain, and of its other tissues, in tissue maps; those of Dice follow."""

_TABLES = ("freesurfer_aparc_aseg", "freesurfer_a2009s_aseg", "synthseg")  # all of FreeSurfer
_HEAD_SHARE = 0.1  # of the median of the brain, above the minimum
_MARGIN = 8  # voxels kept around the head


class Reference(NamedTuple):
    """Reference of a prediction, `(X, Y, Z)`.

    Attributes:
        image: float32; 0 and 1 are percentiles 1 and 99 of the brain.
        head: bool.
        tissues: uint8: `OUTSIDE`, `OTHER`, then numbers of `DICE_TISSUES` from 2 on.
        low: Original intensity that is 0 in `image`.
        high: Original intensity that is 1 in `image`.
    """

    image: Tensor
    head: Tensor
    tissues: Tensor
    low: float = 0.0
    high: float = 1.0

    @property
    def brain(self) -> Tensor:
        """Mask of the brain, bool."""
        return self.tissues > OUTSIDE

    def in_range(self, volume: Tensor) -> Tensor:
        """Original intensities in the unit of `image`."""
        return (volume - self.low) / (self.high - self.low)

    def to(self, device: torch.device | str) -> Reference:
        """The same on a device, contiguous."""
        image, head, tissues = (volume.contiguous().to(device) for volume in self[:3])
        return self._replace(image=image, head=head, tissues=tissues)


def tissue_map(labels: Tensor) -> Tensor:
    """Divide a label map into the tissues of `Reference`.

    Args:
        labels: FreeSurfer values; unknown ones count as other brain.

    Returns:
        uint8 of the same shape.
    """
    tissues = torch.full(labels.shape, OTHER, dtype=torch.uint8)
    tissue_of: dict[int, str] = {}
    for table in (LabelTable.ready(name) for name in _TABLES):
        tissue_of |= dict(zip(table.values, table.tissues, strict=True))
    numbers = {"background": OUTSIDE, "extracerebral": OUTSIDE}
    numbers |= {tissue: number for number, tissue in enumerate(DICE_TISSUES.values(), start=2)}
    for value in torch.unique(labels).tolist():
        tissues[labels == value] = numbers.get(tissue_of.get(value, ""), OTHER)
    return tissues


def reference_of(name: str, image: Tensor, tissues: Tensor) -> tuple[Reference, tuple[slice, ...]]:
    """Make a reference of an image.

    Args:
        name: Of the image, for errors.
        image: `(X, Y, Z)` float32, in any unit.
        tissues: From `tissue_map`, or a mask of the brain.

    Returns:
        The reference, cropped to the head and a margin, and the box that it was cropped to.

    Raises:
        VolumeError: If there is no brain, or the image has no contrast there.
    """
    brain: npt.NDArray[np.float32] = image[tissues > OUTSIDE].numpy()
    low, high = np.percentile(brain, RANGE_PERCENTILES).tolist() if brain.size else (0.0, 0.0)
    if not high > low:
        raise VolumeError(
            f"{name} must label a brain, and its scan must show it, got {brain.size} voxels of"
            f" intensities {low:g} to {high:g}. Check the pair, or remove it."
        )
    least = float(image.min())
    head = image > least + _HEAD_SHARE * (float(np.median(brain)) - least)
    head |= tissues > OUTSIDE
    box = _box_around(head, _MARGIN)
    scaled = (image - low) / (high - low)
    return Reference(scaled[box], head[box], tissues[box], low, high), box


def compare(
    prediction: Tensor, reference: Reference, *, mapping: str = "cubic", head: bool = True
) -> dict[str, float]:
    """Measure a prediction.

    Args:
        prediction: `(X, Y, Z)` in any contrast.
        reference: The image to be predicted, on the CPU or the same device.
        mapping: One of `MAPPINGS`, fitted in each region; `"none"` for a prediction in the original
            unit of the reference.
        head: Whether to measure the head as well as the brain.

    Returns:
        L1, PSNR and SSIM in brain and head (`brain/l1`, ..., `head/ssim`), in intensities of the
        reference; and, for the tissues that occur, the Dice scores `brain/dice_wm`,
        `brain/dice_gm` and `brain/dice_csf`, see `dice_scores`. All are NaN if the prediction is
        not finite.
    """
    prediction = prediction.cpu() if prediction.device.type == "mps" else prediction
    reference = reference.to(prediction.device)
    regions = {"brain": reference.brain} | ({"head": reference.head} if head else {})
    results: dict[str, float] = {}
    for region, mask in regions.items():
        mapped = mapped_inside(prediction, reference, mask, mapping)
        values = measure_inside(mapped, reference.image, mask)
        results |= {f"{region}/{name}": value for name, value in values.items()}
    scores = dice_scores(prediction, reference.tissues)
    return results | {f"brain/{name}": value for name, value in scores.items()}


def mapped_inside(
    prediction: Tensor, reference: Reference, mask: Tensor, mapping: str = "cubic"
) -> Tensor:
    """A prediction in the intensities of a reference, and 0 outside a mask.

    Args:
        prediction: `(X, Y, Z)`.
        reference: On the same device.
        mask: `(X, Y, Z)` bool.
        mapping: See `compare`.
    """
    mapped = torch.zeros_like(reference.image)
    values, degree = prediction[mask], MAPPINGS[mapping]
    if degree:
        goal = reference.image[mask].double()
        mapped[mask] = fit_polynomial(values.double(), goal, degree).float()
    else:
        mapped[mask] = reference.in_range(values)
    return mapped


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
    box = (None, None, *_box_around(mask, WINDOW_SIZE // 2))  # all that windows of SSIM reach
    first, second = (torch.where(mask, v.to(mask.device), 0.0)[box] for v in (volume, truth))
    values = measure(first, second, [mask[box]])[0, 0].tolist()
    return dict(zip(MEASURES, values, strict=True))


def _box_around(mask: Tensor, margin: int) -> tuple[slice, ...]:
    first, end = bounding_box(mask[None, None])[0].tolist()
    return tuple(slice(max(0, a - margin), b + margin) for a, b in zip(first, end, strict=True))


def fit_polynomial(values: Tensor, goal: Tensor, degree: int = 3) -> Tensor:
    """Polynomial of values that is nearest to a goal in the least-squares sense.

    Args:
        values: `(N,)` float64; equal ones give the mean of the goal.
        goal: `(N,)` float64.
        degree: Of the polynomial.

    Returns:
        `(N,)` float64, NaN if a value is not finite.

    Examples:
        >>> x = torch.linspace(-1, 2, 9, dtype=torch.float64)
        >>> torch.allclose(fit_polynomial(x, 3 - x + x**3), 3 - x + x**3)
        True
    """
    if not bool(torch.isfinite(values).all()):
        return torch.full_like(goal, math.nan)
    centred = values - values.mean()
    unit = centred / centred.abs().max().clamp(min=1e-12)
    powers = torch.stack([unit**k for k in range(degree + 1)])
    normal, right = (powers @ powers.T).cpu(), (powers @ goal).cpu()
    solution = torch.linalg.pinv(normal, rtol=1e-12, hermitian=True) @ right
    return torch.as_tensor(solution.to(values.device) @ powers)


def dice_scores(prediction: Tensor, tissues: Tensor) -> dict[str, float]:
    """Dice scores of the three tissues, separated by the intensities of a prediction.

    Voxels of white matter, grey matter and fluid are assigned to the one whose mean intensity in
    the prediction they are nearest to. The scores do not depend on scale or contrast.

    Args:
        prediction: `(X, Y, Z)`.
        tissues: From `tissue_map`.

    Returns:
        Scores by the names in `DICE_TISSUES`, for tissues that occur; NaN if the prediction is not
        finite there.
    """
    inside = tissues > OTHER
    values, truth = prediction[inside].double(), tissues[inside]
    names = dict(enumerate(DICE_TISSUES, start=2))
    present = [number for number in names if bool((truth == number).any())]
    if not present or not bool(torch.isfinite(values).all()):
        return {names[number]: math.nan for number in present}
    means = [values[truth == number].mean() for number in present]
    distances = torch.stack([(values - mean).abs() for mean in means])
    nearest = torch.tensor(present, device=truth.device)[distances.argmin(0)]
    scores = {}
    for number in present:
        ours, theirs = nearest == number, truth == number
        scores[names[number]] = float(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()))
    return scores


def mean_of(rows: Iterable[Mapping[Name, float]]) -> dict[Name, float]:
    """Mean of each measure over the rows that have it.

    Examples:
        >>> mean_of([{"ssim": 1.0}, {"ssim": 0.5, "l1": 2.0}])
        {'ssim': 0.75, 'l1': 2.0}
    """
    found: dict[Name, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    return {name: math.fsum(values) / len(values) for name, values in found.items()}
