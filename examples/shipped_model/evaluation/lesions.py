"""Part (d): lesions, which a prediction of healthy anatomy should not show.

The contrast of a lesion is its mean minus that of the white matter around it, in units of the
difference between white and grey matter of the same volume: 0 where nothing is seen of it, -1 where
it is as dark as grey matter in a T1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from synthsr_net.metrics.comparison import RANGE_PERCENTILES
from synthsr_net.prediction.intensities import percentile
from synthsr_net.prediction.refinement.brain_mask import Regions, dilated, eroded
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.subjects.files import SubjectFiles
from synthsr_transforms.support.messages import SynthSRError

from .contrasts import CONTRASTS, LATERAL_VENTRICLES
from .heads import Head
from .network import HeadNetwork
from .pictures import Pictures
from .scans import Seen, read_on
from .slices import AXES, Affine, linear, predict_from
from .truth import Setting, SimulationPlan, head_for, scan_of_head, seed_of

KINDS = {"bright": 0.6, "dark": -0.6}
"""Synthetic lesions: intensity above white matter, as a share of the range of the brain."""
NUMBER, RADII_MM = 8, (3.0, 6.0)
"""Number of lesions inserted at once, and their radii."""
SHELL_MM = (2.0, 6.0)
"""Distances between which the surroundings of a lesion lie."""
APART_MM = 20.0
"""Least distance between the centres of inserted lesions."""
_MIN_VOXELS = 10

NEARBY_MM = 10.0
"""Standard deviation of the neighbourhood whose white matter a voxel is compared with."""
DEVIATIONS = 3.0
"""Lesions are brighter than white matter nearby by so many of its standard deviations."""
SMALLEST_MM3 = 10.0
WHITE_SHARE = 0.7
"""Share of white matter in the surroundings of a lesion, from `AROUND_MM` on all sides."""
AROUND_MM = (1.0, 3.0)
_LEAST_WHITE = 1e-3  # weight of white matter nearby, below which there is none to compare with
_TO_STD = 1.4826  # from the median absolute deviation of a normal distribution

NEAR_MM = 6.0
"""Distance from the lateral ventricles up to which lesions count as beside them."""
NEAR, FAR = "beside the ventricles", "elsewhere"
_TRACE = 0.05  # share of lesion up to which a voxel is healthy
_TABLE = "synthseg"  # of tissues; other labels belong to none

Mask = npt.NDArray[np.bool_]


class NoLesionsError(SynthSRError):
    """There are no lesions where they are looked for."""


def contrast(volume: Tensor, lesions: Tensor, regions: Regions, spacing_mm: float) -> float:
    """Contrast of lesions, see the top of this module.

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


def contrasts(
    volumes: Mapping[str, Tensor], lesions: Tensor, regions: Regions, spacing_mm: float
) -> dict[str, float]:
    """`contrast` of the same lesions in several volumes, by their names."""
    return {
        name: contrast(volume, lesions, regions, spacing_mm) for name, volume in volumes.items()
    }


# Inserted into real scans ------------------------------------------------------------------------


def evaluate_synthetic(
    seen: Seen, network: HeadNetwork, seed: int, pictures: Pictures | None = None
) -> Iterator[dict[str, Any]]:
    """Insert lesions into the white matter of a scan, and look for them in the prediction.

    Args:
        seen: A scan, from `scans.see`.
        network: The model.
        seed: Of places and sizes.
        pictures: Where to draw the scan with lesions and its prediction.

    Yields:
        One row per kind of lesion: `scan`, `lesions` (`bright` or `dark`), `count`, and contrasts
        `input`, `prediction`, and `without`: in the prediction from the scan without lesions at
        the same places, which is what a perfect prediction shows.
    """
    weights, count = blobs(seen.regions, network.spacing_mm, seed)
    lesions = weights > 0.5
    for kind, share in KINDS.items() if count else ():
        image = with_lesions(seen.image, weights, seen.regions, share)
        t1 = network(image, slices=seen.slices)
        volumes = {"input": image, "prediction": t1, "without": seen.t1}
        yield {
            "scan": seen.name,
            "lesions": kind,
            "count": count,
            **contrasts(volumes, lesions, seen.regions, network.spacing_mm),
        }
        if pictures is not None:
            shown = {"input": image, "prediction": t1, "prediction without lesions": seen.t1}
            _draw(pictures, seen, kind, lesions, shown)


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


# Of the patient ----------------------------------------------------------------------------------


def evaluate_own(
    seen: Seen,
    mask: Volume,
    registration: Affine | None,
    network: HeadNetwork,
    pictures: Pictures | None = None,
) -> dict[str, Any]:
    """Look for the lesions that a scan shows in its prediction.

    Args:
        seen: The scan, from `scans.see`.
        mask: Lesions, above 0.5, on any grid of the common world.
        registration: From points of the common world to those of the scan; None if they agree.
        network: The model.
        pictures: Where to draw the scan, the lesions and the prediction.

    Returns:
        `scan`, `lesions` (`own`), `count` of connected lesions, contrasts `input` and `prediction`
        of all together, and `each`: volume `ml` and contrasts of the largest, at most eight.

    Raises:
        NoLesionsError: If no lesion lies in the scan.
    """
    back = None if registration is None else np.asarray(np.linalg.inv(registration), np.float64)
    data = torch.from_numpy(np.array(mask.data > 0.5, dtype=np.float32)).to(network.device)
    weights, inside = read_on(data, mask.affine, seen.grid, back)
    lesions = (weights > 0.5) & inside
    numbers, count = ndimage.label(lesions.cpu().numpy(), np.ones((3, 3, 3)))
    if not count:
        raise NoLesionsError(
            f"the lesion mask must mark lesions in {seen.name}, but marks none there. Check that"
            " both lie in one space."
        )
    volumes = {"input": seen.image, "prediction": seen.t1}
    if pictures is not None:
        image = seen.image / (2 * seen.image.max()).clamp(min=1e-6)
        shown = {"input": seen.image, "lesions": torch.maximum(image, lesions.float())}
        _draw(pictures, seen, "own", lesions, shown | {"prediction": seen.t1})

    units = (seen.regions, network.spacing_mm)
    sizes = np.bincount(numbers.ravel())[1:]
    each = []
    for place in np.argsort(-sizes, kind="stable")[:NUMBER]:
        part = torch.from_numpy(numbers == place + 1).to(lesions.device)
        millilitres = float(sizes[place]) * network.spacing_mm**3 / 1000
        each.append({"ml": millilitres, **contrasts(volumes, part, *units)})
    together = contrasts(volumes, lesions, *units)
    return {"scan": seen.name, "lesions": "own", "count": count, **together, "each": each}


def find_bright_lesions(seen: Seen) -> Volume:
    """Find lesions that are brighter than the white matter around them.

    What is brighter than white matter nearby by three standard deviations of white matter is a
    lesion if it has 10 mm^3 and its surroundings are white matter, as far as the prediction says:
    cortex is bright in a FLAIR as well, but has white matter on one side only.

    Args:
        seen: The scan, from `scans.see`.

    Returns:
        Mask, float32 0 and 1, on the grid of the prediction.

    Raises:
        NoLesionsError: If there is none.

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
        raise NoLesionsError(
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
    """`AROUND_MM` in voxels, at least one of them thick."""
    near, far = (max(1, round(mm / _spacing_mm(seen))) for mm in AROUND_MM)
    return near, max(far, near + 1)


def _widened(box: tuple[slice, ...], seen: Seen) -> tuple[slice, ...]:
    """A box with room for the surroundings; it may reach beyond the end of the volume."""
    margin = _shell(seen)[1]
    return tuple(slice(max(0, each.start - margin), each.stop + margin) for each in box)


def _spacing_mm(seen: Seen) -> float:
    return float(np.linalg.norm(seen.grid[1][:3, 0]))


# Simulated in held-out label maps ----------------------------------------------------------------


def evaluate_head_lesions(
    subjects: Sequence[SubjectFiles],
    network: HeadNetwork,
    plan: SimulationPlan,
    pictures: Pictures | None = None,
) -> Iterator[dict[str, Any]]:
    """Predict from scans of heads with and without lesions, and compare the lesions' contrasts.

    Caps and bands beside the ventricles are harder than blobs in deep white matter: grey matter and
    fluid are near.

    Args:
        subjects: Label maps, from `heads.find_label_maps`.
        network: The model.
        plan: Contrasts `with_lesions`, their slices, and the seed.
        pictures: Where to draw the first label map in each contrast.

    Yields:
        Two rows per label map and contrast: `map`, `contrast`, `slice_mm`, `axis`, `place` (beside
        the lateral ventricles or elsewhere), `ml`, and `lesions`: the contrasts `input`,
        `prediction`, and `without`, which is that of the prediction from the scan without lesions.
        One that cannot be measured is left out.
    """
    for number, subject in enumerate(subjects):
        head = head_for(subject, network, plan)
        weights = head.lesion_weights(seed_of(plan.seed, head.name, "lesions"))
        regions = _labelled_regions(head, weights > _TRACE, network.spacing_mm)
        near = dilated(_where(head, LATERAL_VENTRICLES), NEAR_MM / network.spacing_mm)
        places = {NEAR: (weights > 0.5) & near, FAR: (weights > 0.5) & ~near}
        for name in plan.with_lesions:
            setting = Setting(name, False, plan.lesions_mm, plan.axes[-1])
            volumes = _with_and_without(head, weights, network, setting, plan.seed)
            for place, lesions in places.items():
                found = contrasts(volumes, lesions, regions, network.spacing_mm)
                yield {
                    "map": head.name,
                    "contrast": name,
                    "slice_mm": setting.slice_mm,
                    "axis": AXES[setting.axis],
                    "place": place,
                    "ml": float(lesions.sum()) * network.spacing_mm**3 / 1000,
                    "lesions": {k: v for k, v in found.items() if not math.isnan(v)},
                }
            if pictures is not None and not number and bool(places[NEAR].any()):
                title = f"{head.name}: {name} with lesions, slices of {setting.slice_mm:g} mm"
                file = f"held_out_{name}_with_lesions"
                draw_lesions(pictures, file, title, head.affine, places[NEAR], volumes)


def _with_and_without(
    head: Head, weights: Tensor, network: HeadNetwork, setting: Setting, seed: int
) -> dict[str, Tensor]:
    """The scan with lesions, and the predictions with and without them."""
    healthy = head.image(setting.contrast, seed_of(seed, head.name, setting.contrast, ""))
    means = CONTRASTS[setting.contrast].by_tissue or {}
    ill = torch.lerp(healthy, torch.full_like(healthy, means["lesion"]), weights)
    with_lesions, without = (scan_of_head(head, setting, image, seed) for image in (ill, healthy))
    return {
        "input": linear(with_lesions),
        "prediction": predict_from(with_lesions, network),
        "without": predict_from(without, network),
    }


def _labelled_regions(head: Head, lesions: Tensor, spacing_mm: float) -> Regions:
    """Regions as the labels say, white and grey matter apart from all lesions."""
    others = ~dilated(lesions, SHELL_MM[0] / spacing_mm)
    table = LabelTable.ready(_TABLE)
    white, grey = (
        _where(head, table.values_of(tissue)) & others for tissue in ("white_matter", "grey_matter")
    )
    return Regions(head.reference.brain, white, grey, head.reference.head)


def _where(head: Head, values: Sequence[int]) -> Tensor:
    return torch.isin(head.labels, torch.tensor(list(values), device=head.labels.device))


# Pictures ----------------------------------------------------------------------------------------


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
