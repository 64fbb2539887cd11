"""Part (d): lesions, which a prediction of healthy anatomy should not show.

The contrast of a lesion is its mean minus that of the white matter around it, in units of the
difference between white and grey matter of the same volume: 0 where nothing is seen of it, -1 where
it is as dark as grey matter in a T1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from synthsr_net.metrics.comparison import RANGE_PERCENTILES
from synthsr_net.prediction.intensities import percentile
from synthsr_net.prediction.refinement.brain_mask import Regions, dilated, eroded
from synthsr_transforms.io.grids import Volume

from .network import EvaluationError, HeadNetwork
from .pictures import Pictures
from .scans import Seen
from .world import Affine, read_on

KINDS = {"bright": 0.6, "dark": -0.6}
"""Synthetic lesions: intensity above white matter, as a share of the range of the brain."""
NUMBER, RADII_MM = 8, (3.0, 6.0)
"""How many lesions are inserted at once, and their radii."""
SHELL_MM = (2.0, 6.0)
"""Distances between which the surroundings of a lesion lie."""
APART_MM = 20.0
"""Least distance between the centres of inserted lesions."""
_MIN_VOXELS = 10


def contrast(volume: Tensor, lesions: Tensor, regions: Regions, spacing_mm: float) -> float:
    """Contrast of lesions, see the head of this module.

    Args:
        volume: `(X, Y, Z)`, scan or prediction.
        lesions: Mask, bool.
        regions: Of the head, found in the prediction from the scan without lesions where there is
            one.
        spacing_mm: Voxel spacing.

    Returns:
        The contrast; NaN if there is no lesion, or too little white or grey matter.
    """
    near, far = (mm / spacing_mm for mm in SHELL_MM)
    others = ~dilated(lesions, near)
    shell = dilated(lesions, far) & others & regions.white
    masks = (lesions, shell, regions.white & others, regions.grey & others)
    if min(int(mask.sum()) for mask in masks) < _MIN_VOXELS:
        return math.nan
    inside, around, white, grey = (float(volume[mask].mean()) for mask in masks)
    unit = abs(white - grey)
    return (inside - around) / unit if unit > 0 else math.nan


def evaluate_synthetic(
    seen: Seen,
    network: HeadNetwork,
    seed: int,
    pictures: Pictures | None = None,
    *,
    on_row: Callable[[], object] | None = None,
) -> list[dict[str, Any]]:
    """Insert lesions into the white matter of a scan, and look for them in the prediction.

    Args:
        seen: A scan, from `evaluation.scans.see`.
        network: The model.
        seed: Of places and sizes.
        pictures: Where to draw the scan with lesions and its prediction.
        on_row: Called after each prediction, to show progress.

    Returns:
        One row per kind of lesion: `scan`, `lesions` (`bright` or `dark`), `count`, and contrasts
        `input`, `prediction`, and `without`: in the prediction from the scan without lesions at
        the same places, which is what a perfect prediction shows.
    """
    spacing_mm = network.spacing_mm
    weights, count = blobs(seen.regions, spacing_mm, seed)
    if not count:
        return []
    lesions = weights > 0.5
    rows = []
    for kind, share in KINDS.items():
        image = with_lesions(seen.image, weights, seen.regions, share)
        t1 = network(image, slices=seen.slices)
        rows.append(
            {
                "scan": seen.name,
                "lesions": kind,
                "count": count,
                **{
                    what: contrast(volume, lesions, seen.regions, spacing_mm)
                    for what, volume in (("input", image), ("prediction", t1), ("without", seen.t1))
                },
            }
        )
        if pictures is not None:
            shown = {"input": image, "prediction": t1, "prediction without lesions": seen.t1}
            _draw(pictures, seen, kind, lesions, shown)
        if on_row is not None:
            on_row()
    return rows


def draw_lesions(
    pictures: Pictures,
    name: str,
    title: str,
    affine: Affine,
    lesions: Tensor,
    volumes: Mapping[str, Tensor],
) -> None:
    """Draw slices of volumes through the largest lesion.

    Args:
        pictures: Where to.
        name: Of the file, without its ending.
        title: Of the picture.
        affine: `(4, 4)` of mask and volumes.
        lesions: Mask, `(X, Y, Z)` bool, of one lesion at least.
        volumes: What to draw, by name.
    """
    numbers, count = ndimage.label(lesions.cpu().numpy())
    largest = 1 + int(np.argmax(np.bincount(numbers.ravel(), minlength=count + 1)[1:]))
    voxel = np.argwhere(numbers == largest).mean(0)
    rows = {each: Volume(volume.cpu().numpy(), affine) for each, volume in volumes.items()}
    pictures.add_around(name, rows, affine[:3, :3] @ voxel + affine[:3, 3], title)


def _draw(
    pictures: Pictures, seen: Seen, kind: str, lesions: Tensor, volumes: dict[str, Tensor]
) -> None:
    name, title = f"lesions_{kind}_{seen.name}", f"{seen.name} with {kind} lesions"
    draw_lesions(pictures, name, title, seen.grid[1], lesions, volumes)


def blobs(regions: Regions, spacing_mm: float, seed: int) -> tuple[Tensor, int]:
    """Balls at random places of the deep white matter, with soft borders.

    Args:
        regions: Of the head.
        spacing_mm: Voxel spacing.
        seed: Of places and sizes.

    Returns:
        Weights `(X, Y, Z)` from 0 to 1, and how many balls there are.
    """
    deep = eroded(regions.white, 2.0 / spacing_mm)
    places = torch.nonzero(deep).cpu().numpy()
    random = np.random.default_rng(seed)
    chosen: list[Any] = []
    for place in random.permutation(places)[:5000]:
        if all(np.linalg.norm(place - other) * spacing_mm >= APART_MM for other in chosen):
            chosen.append(place)
        if len(chosen) == NUMBER:
            break
    weights = torch.zeros(deep.shape, device=deep.device)
    axes = [torch.arange(n, device=deep.device, dtype=torch.float32) for n in deep.shape]
    for place in chosen:
        radius = random.uniform(*RADII_MM) / spacing_mm
        x, y, z = (a - float(p) for a, p in zip(axes, place, strict=True))
        away = (x[:, None, None] ** 2 + y[:, None] ** 2 + z**2).sqrt()
        weights = torch.maximum(weights, (radius + 0.5 - away).clamp(0, 1))
    return weights, len(chosen)


def with_lesions(image: Tensor, weights: Tensor, regions: Regions, share: float) -> Tensor:
    """A scan with lesions.

    Args:
        image: `(X, Y, Z)`.
        weights: Of the lesions, from `blobs`.
        regions: Of the head.
        share: Intensity of lesions above white matter, as a share of the range between percentiles
            1 and 99 of the brain; not below 0.
    """
    brain, white = image[regions.brain], image[regions.white]
    low, high = (percentile(brain, p) for p in RANGE_PERCENTILES)
    value = max(0.0, float(white.median()) + share * (high - low))
    return torch.lerp(image, torch.full_like(image, value), weights)


def evaluate_own(
    seen: Seen,
    mask: Volume,
    registration: Affine | None,
    network: HeadNetwork,
    pictures: Pictures | None = None,
) -> dict[str, Any]:
    """Look for the lesions that a scan shows in its prediction.

    Args:
        seen: The scan, from `evaluation.scans.see`.
        mask: Lesions, above 0.5, on any grid of the common world.
        registration: From points of the common world to those of the scan; None if they agree.
        network: The model.
        pictures: Where to draw the scan, the lesions and the prediction.

    Returns:
        `scan`, `lesions` (`own`), `count` of connected lesions, contrasts `input` and `prediction`
        of all together, and `each`: volume `ml` and contrasts of the largest, at most eight.

    Raises:
        EvaluationError: If no lesion lies in the scan.
    """
    back = None if registration is None else np.asarray(np.linalg.inv(registration), np.float64)
    data = torch.from_numpy(np.array(mask.data > 0.5, dtype=np.float32)).to(network.device)
    weights, inside = read_on(data, mask.affine, seen.grid, back)
    lesions = (weights > 0.5) & inside
    numbers, count = ndimage.label(lesions.cpu().numpy(), np.ones((3, 3, 3)))
    if not count:
        raise EvaluationError(
            f"the lesion mask must mark lesions in {seen.name}, but marks none there. Check that"
            " both lie in one space."
        )
    volumes = {"input": seen.image, "prediction": seen.t1}
    if pictures is not None:
        image = seen.image / (2 * seen.image.max()).clamp(min=1e-6)
        shown = {"input": seen.image, "lesions": torch.maximum(image, lesions.float())}
        _draw(pictures, seen, "own", lesions, shown | {"prediction": seen.t1})

    def contrasts(part: Tensor) -> dict[str, float]:
        return {
            what: contrast(volume, part, seen.regions, network.spacing_mm)
            for what, volume in volumes.items()
        }

    sizes = np.bincount(numbers.ravel())[1:]
    each = []
    for place in np.argsort(-sizes, kind="stable")[:NUMBER]:
        part = torch.from_numpy(numbers == place + 1).to(lesions.device)
        millilitres = float(sizes[place]) * network.spacing_mm**3 / 1000
        each.append({"ml": millilitres, **contrasts(part)})
    together = contrasts(lesions)
    return {"scan": seen.name, "lesions": "own", "count": count, **together, "each": each}
