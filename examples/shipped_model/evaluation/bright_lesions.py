"""Lesions that are bright in a scan, such as those in a FLAIR, found by a threshold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from synthsr_transforms.io.grids import Volume

from .network import EvaluationError
from .scans import Seen

NEARBY_MM = 10.0
"""Standard deviation of the neighbourhood whose white matter a voxel is compared with."""
DEVIATIONS = 3.0
"""Lesions are brighter than white matter nearby by so many of its standard deviations."""
SMALLEST_MM3 = 10.0
WHITE_SHARE = 0.7
"""Share of white matter in the surroundings of a lesion, from `SHELL_MM` on all sides."""
SHELL_MM = (1.0, 3.0)
_LEAST_WHITE = 1e-3  # weight of white matter nearby, below which there is none to compare with
_TO_STD = 1.4826  # from the median absolute deviation of a normal law

Mask = npt.NDArray[np.bool_]


def find_bright_lesions(seen: Seen) -> Volume:
    """Find lesions that are brighter than the white matter around them.

    What is brighter than white matter nearby by three standard deviations of white matter is a
    lesion if it has 10 mm^3 and its surroundings are white matter, as far as the prediction says:
    cortex is bright in a FLAIR as well, but has white matter on one side only.

    Args:
        seen: The scan, from `evaluation.scans.see`.

    Returns:
        Mask, float32 0 and 1, on the grid of the prediction.

    Raises:
        EvaluationError: If there is none.

    References:
        Roura et al., A toolbox for multiple sclerosis lesion segmentation, Neuroradiology 57
        (2015), for a threshold on FLAIR and the share of white matter around. They set the
        threshold by grey matter and for the whole scan.
    """
    white, brain = seen.regions.white.cpu().numpy(), seen.regions.brain.cpu().numpy()
    bright = brain & (_deviations(seen.image.cpu().numpy(), white, seen) > DEVIATIONS)
    numbers, _ = ndimage.label(bright)
    found = np.zeros(bright.shape, dtype=np.float32)
    for number, box in enumerate(ndimage.find_objects(numbers), start=1):
        wider = _widened(box, seen)
        part = numbers[wider] == number
        if _is_lesion(part, white[wider], seen):
            found[wider][part] = 1
    if not found.any():
        raise EvaluationError(
            f"there must be lesions that are brighter than white matter in {seen.name}, but none"
            " was found. Give a mask of them instead."
        )
    return Volume(found, seen.grid[1])


def _deviations(image: npt.NDArray[np.float32], white: Mask, seen: Seen) -> npt.NDArray[np.float32]:
    """Share above white matter nearby, in standard deviations of that share in white matter."""
    sigma = NEARBY_MM / _spacing_mm(seen)
    weight = ndimage.gaussian_filter(white.astype(np.float32), sigma)
    nearby = ndimage.gaussian_filter(np.where(white, image, 0), sigma) / weight.clip(_LEAST_WHITE)
    share = image / nearby.clip(1e-6) - 1
    inside = share[white]
    if not inside.size:
        return np.zeros_like(share)
    std = _TO_STD * np.median(np.abs(inside - np.median(inside)))
    return np.where(weight > _LEAST_WHITE, share / max(float(std), 1e-6), 0)


def _is_lesion(part: Mask, white: Mask, seen: Seen) -> bool:
    if part.sum() * _spacing_mm(seen) ** 3 < SMALLEST_MM3:
        return False
    near, far = (ndimage.binary_dilation(part, np.ones((3, 3, 3)), n) for n in _shell(seen))
    around = white[far & ~near]
    return around.size > 0 and float(around.mean()) >= WHITE_SHARE


def _shell(seen: Seen) -> tuple[int, int]:
    """`SHELL_MM` in voxels, at least one of them thick."""
    near, far = (max(1, round(mm / _spacing_mm(seen))) for mm in SHELL_MM)
    return near, max(far, near + 1)


def _widened(box: tuple[slice, ...], seen: Seen) -> tuple[slice, ...]:
    """A box with room for the surroundings; it may reach beyond the end of the volume."""
    margin = _shell(seen)[1]
    return tuple(slice(max(0, each.start - margin), each.stop + margin) for each in box)


def _spacing_mm(seen: Seen) -> float:
    return float(np.linalg.norm(seen.grid[1][:3, 0]))
