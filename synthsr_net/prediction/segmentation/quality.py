"""Quality score of a segmentation: the Dice coefficient to be expected, without knowing the truth.

A network that sees what it was not trained for may be sure of nonsense. So besides its certainty it
counts whether structures have the volumes and the places that they have in people, up to where the
head lies and how it is turned, and whether the scan itself shows them: networks make up brains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from synthsr_net.models.checkpoint import (
    ModelConfig,
    PopulationStructure,
    QualityConfig,
    QualityWeights,
)
from synthsr_transforms.functional.layout import bounding_box
from synthsr_transforms.io.grids import spacing_of
from synthsr_transforms.support.messages import SynthSRError

from ..neighbourhoods import Neighbourhoods
from ..refinement.brain_mask import eroded
from ..resampling import Grid
from .posteriors import Summary, summary_of

ABSENT = 0.1
"""A structure with less than this share of its usual volume counts as absent, unless it is within
`VARIATION` standard deviations: some ventricles are hardly open in young people."""
VARIATION = 3.0
CUT = 0.15
"""A structure is cut by the border of the scan where it covers more than this of the border, in
units of its volume to the power of 2/3. It says nothing about volumes and places then."""
LEAST = 4
"""Fewest structures that show how a head lies."""
USUAL = 2.0
"""Deviations from the population, in standard deviations, that are not counted."""
MOST_ODD = 36.0
"""Largest square of a deviation beyond that, so that single structures do not decide."""
USUAL_DEGREES = 30.0
"""Angles by which heads may be turned."""
SMALLEST_DICE = 1e-3
USUAL_SUPPORT = 2.5
"""Support, see `support_of`, from which on a scan is not doubted to show the structures: 7 to 10 in
sound T1s of 1 mm, 3 and more in other scans of any quality whose structures are found, below 2
where it shows none of them."""
LEAST_SUPPORT = 0.5
SHIFT_MM = 8.0
"""Distance by which structures are moved for that."""
RIM_MM = 5.0
"""Voxels nearer to the border of all structures do not count: it shows where a brain is, and where
a scan was emptied as well."""
LEAST_SHARE = 1e-3
"""Share of the variance that is explained by chance, at most."""

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class Evidence(NamedTuple):
    """What posteriors say about each of S structures.

    Attributes:
        soft_dice: `(S,)` Dice coefficient with the truth that the posteriors themselves expect.
        volume_ml: `(S,)` volume of the voxels where a structure is the most probable one.
        centre: `(S, 3)` their mean position in the world, in mm.
        border: `(S,)` area of these on the border of the scan, in units of volume^(2/3).
        grid: Shape of the scan and its voxel-to-world matrix.
        support: See `support_of`; None if it is not known.
    """

    soft_dice: Array
    volume_ml: Array
    centre: Array
    border: Array
    grid: Grid
    support: float | None = None

    def of(self, order: Sequence[int]) -> Evidence:
        """The same about some structures, by index."""
        parts = (self.soft_dice, self.volume_ml, self.centre, self.border)
        soft_dice, volume_ml, centre, border = (part[order] for part in parts)
        return Evidence(soft_dice, volume_ml, centre, border, self.grid, self.support)


class Alignment(NamedTuple):
    """Centres of structures, moved, turned and scaled onto those of the population.

    Attributes:
        scale: Size over that of the population.
        degrees: Angle by which the head is turned.
        matrix: `(3, 3)` from the population to the head.
        shift: `(3,)` what is added then.
    """

    scale: float
    degrees: float
    matrix: Array
    shift: Array

    def on_head(self, population: Array) -> Array:
        """Places `(K, 3)` of the population in the head."""
        return population @ self.matrix.T + self.shift


class QualityScore(NamedTuple):
    """Dice coefficients to be expected, 0 to 1.

    Attributes:
        overall: Of all structures of `QualityConfig.overall`, their mean.
        groups: The same of each group by name, without those that the scan does not reach.
        doubtful: Whether to look at the scan: `overall` is below the threshold of the model.
        support: See `support_of`; None if it is not known.
    """

    overall: float
    groups: dict[str, float]
    doubtful: bool
    support: float | None = None

    @property
    def doubt(self) -> str | None:
        """Why to look at the scan, in one line; None if there is no reason."""
        if not self.doubtful:
            return None
        doubt = f"quality score {self.overall:.2f} is low: look at the result."
        if self.support is not None and self.support < USUAL_SUPPORT:
            doubt += " The scan hardly shows the structures that were found, which may be made up."
        return doubt


def quality_score(
    posteriors: Tensor | Summary,
    affine: npt.ArrayLike,
    config: ModelConfig,
    scans: Tensor | None = None,
) -> QualityScore | None:
    """Score a segmentation.

    Args:
        posteriors: `(S, X, Y, Z)` probabilities, of what the scan shows only (without padding), or
            their summary.
        affine: `(4, 4)` voxel-to-world matrix in mm.
        config: Of the segmentation network.
        scans: `(N, X, Y, Z)` intensities of the scans themselves on that grid, which a prediction
            was made from; None: what they show is not checked.

    Returns:
        The score; None if the model is not calibrated.

    Raises:
        SynthSRError: If the number of posteriors is not that of the structures.
    """
    quality = config.quality
    if quality is None:
        return None
    if isinstance(posteriors, Tensor):
        if posteriors.ndim != 4 or len(posteriors) != len(config.structures):
            raise SynthSRError(
                f"posteriors must be ({len(config.structures)}, X, Y, Z), got"
                f" {tuple(posteriors.shape)}."
            )
        posteriors = summary_of(posteriors)
    values = [structure.value for structure in config.structures]
    evidence = evidence_in(posteriors, affine)
    if scans is not None:
        brain = [values.index(structure.value) for structure in quality.population]
        support = max(support_of(posteriors.best, scan, brain, affine) for scan in scans)
        evidence = evidence._replace(support=support)
    return score(evidence, values, quality)


def evidence_of(posteriors: Tensor, affine: npt.ArrayLike) -> Evidence:
    """Evidence of posteriors `(S, X, Y, Z)` with a voxel-to-world matrix `(4, 4)` in mm."""
    return evidence_in(summary_of(posteriors), affine)


def evidence_in(summary: Summary, affine: npt.ArrayLike) -> Evidence:
    """Evidence of posteriors that were summed up.

    Args:
        summary: Of the posteriors.
        affine: `(4, 4)` voxel-to-world matrix in mm.
    """
    affine = np.asarray(affine, dtype=np.float64)
    count, shape = len(summary.total), summary.best.shape
    tables = [_table(summary.best, axis, count) for axis in range(3)]
    voxels = tables[0].sum(0)
    centre = torch.stack([_mean_place(table) for table in tables], 1)
    border = sum(_border_areas(tables[axis], affine, axis) for axis in range(3))
    volume_mm3 = _numpy(voxels) * abs(np.linalg.det(affine[:3, :3]))
    return Evidence(
        soft_dice=_numpy(2 * summary.certain / (summary.total + voxels).clamp(min=1e-6)),
        volume_ml=volume_mm3 / 1000,
        centre=_numpy(centre) @ affine[:3, :3].T + affine[:3, 3],
        border=border / np.maximum(volume_mm3, 1e-6) ** (2 / 3),
        grid=((shape[0], shape[1], shape[2]), affine),
    )


def support_of(
    best: Tensor, scan: Tensor, structures: Sequence[int], affine: npt.ArrayLike
) -> float:
    """How much better structures explain a scan where they are than moved by 8 mm.

    That is the share of the variance of the scan, inside the brain and about its local mean, that
    lies between them (the correlation ratio: Roche et al., MICCAI 1998), over the mean of the
    same shares for structures that are moved along each axis, both ways. It does not depend on the
    contrast; noise lowers both shares alike, and a bias field changes neither much. A brain that a
    network made up explains no more where it is than elsewhere.

    Args:
        best: `(X, Y, Z)` number of the most probable structure.
        scan: `(X, Y, Z)` intensities; scans of exams are on the CPU, wherever networks compute.
        structures: Numbers of those that count.
        affine: `(4, 4)` voxel-to-world matrix in mm.

    Returns:
        The ratio; 1 where there are none of these structures.
    """
    counts = torch.zeros(int(best.max()) + 1, dtype=torch.bool)
    counts[[number for number in structures if number < len(counts)]] = True
    inside = counts.to(best.device)[best.long()]
    spacing_mm = spacing_of(np.asarray(affine, dtype=np.float64))
    core = eroded(inside, RIM_MM / float(spacing_mm.max()))
    if not bool(core.any()):
        return 1.0
    first, end = bounding_box(inside[None, None])[0].tolist()
    box = tuple(slice(a, b) for a, b in zip(first, end, strict=True))
    best, inside, core = best[box], inside[box], core[box]
    scan = scan[box].to(best.device).float()
    low, high = scan[core][::16].quantile(scan.new_tensor([0.01, 0.99]))
    scan = Neighbourhoods(core, spacing_mm.tolist()).centred(scan.clamp(low, high) - low)
    shares = []
    for axis, size in enumerate(scan.shape):
        step = min(max(round(SHIFT_MM / spacing_mm[axis]), 1), size - 1)
        halves = (0, size - step), (step, size - step)
        for here, there in (halves, halves[::-1]):
            both = core.narrow(axis, *here) & inside.narrow(axis, *there)
            moved = best.narrow(axis, *there)[both]
            shares.append(_explained(scan.narrow(axis, *here)[both], moved))
    own, elsewhere = _explained(scan[core], best[core]), sum(shares) / len(shares)
    return (own + LEAST_SHARE) / (elsewhere + LEAST_SHARE)


def _explained(values: Tensor, structure: Tensor) -> float:
    """Share of the variance of values that lies between structures."""
    values, structure = values.double(), structure.long()
    values = values - values.mean()
    number = torch.bincount(structure).clamp(min=1)
    between = (torch.bincount(structure, values).square() / number).sum()
    return float(torch.nan_to_num(between / values.square().sum()))


def _numpy(tensor: Tensor) -> Array:
    return tensor.double().cpu().numpy()


def _table(index: Tensor, axis: int, count: int) -> Tensor:
    """Voxels of each structure in each plane across an axis, `(size, count)`."""
    size = index.shape[axis]
    planes = torch.arange(size, device=index.device)
    planes = planes.view([-1 if a == axis else 1 for a in range(3)])
    return torch.bincount((planes * count + index).flatten(), minlength=size * count).view(size, -1)


def _mean_place(table: Tensor) -> Tensor:
    places = torch.arange(len(table), device=table.device, dtype=torch.float64)
    return places @ table.double() / table.sum(0).clamp(min=1)


def _border_areas(table: Tensor, affine: Array, axis: int) -> Array:
    """Area in mm2 of each structure in the first and the last plane across an axis."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return _numpy(table[0] + table[-1]) * np.delete(spacing, axis).prod()


def align(found: Array, population: Array) -> Alignment:
    """Align centres with those of the population, without mirroring.

    Args:
        found: `(K, 3)` in mm.
        population: Likewise.

    References:
        Umeyama, Least-squares estimation of transformation parameters between two point patterns,
        IEEE TPAMI 13:376 (1991).

    Examples:
        >>> places = np.random.default_rng(0).normal(size=(9, 3))
        >>> turned = places @ [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]
        >>> aligned = align(2 * turned + 7, places)
        >>> round(aligned.scale, 3), round(aligned.degrees, 3)
        (2.0, 90.0)
        >>> bool(np.allclose(aligned.on_head(places), 2 * turned + 7))
        True
    """
    own, usual = found - found.mean(0), population - population.mean(0)
    left, stretches, right = np.linalg.svd(own.T @ usual)
    signs = np.array([1, 1, np.sign(np.linalg.det(left @ right))])
    turn = (left * signs) @ right
    scale = max(float((stretches * signs).sum() / (usual**2).sum()), 1e-3)
    cosine = np.clip((np.trace(turn) - 1) / 2, -1, 1)
    matrix = scale * turn
    shift = found.mean(0) - matrix @ population.mean(0)
    return Alignment(scale, math.degrees(math.acos(cosine)), matrix, shift)


def _excess(deviation: Array | float) -> Array:
    """Square of what goes beyond usual deviations."""
    beyond = np.maximum(np.abs(deviation) - USUAL, 0) ** 2
    return np.minimum(np.nan_to_num(beyond, nan=MOST_ODD), MOST_ODD)


class Oddness(NamedTuple):
    """How far structures are from those of the population.

    Attributes:
        seen: `(K,)` whether the scan reaches where a structure must be, or shows it.
        absent: `(K,)` whether it is seen, but missing.
        volume: `(K,)` excess of log volumes; NaN where a structure is cut by the border.
        place: `(K,)` excess of distances, likewise.
        size: Excess of the size of the head.
        turn: 1 - cosine of the angle beyond the usual ones.
    """

    seen: Flags
    absent: Flags
    volume: Array
    place: Array
    size: float
    turn: float


def oddness(
    evidence: Evidence, population: Sequence[PopulationStructure], sd_log_size: float
) -> Oddness:
    """Compare evidence about K structures with the population.

    Args:
        evidence: About the structures of the population, in its order.
        population: Their usual volumes and places.
        sd_log_size: Standard deviation of the logarithm of the size of heads.
    """
    log_ml, sd_volume, sd_place = (
        np.array([getattr(each, name) for each in population])
        for name in ("log_ml", "sd_log_ml", "sd_place_mm")
    )
    share = np.minimum(ABSENT, np.exp(-VARIATION * sd_volume))
    missing = evidence.volume_ml < share * np.exp(log_ml)
    whole = ~missing & (evidence.border < CUT)
    if whole.sum() < LEAST:
        most = np.full(len(log_ml), MOST_ODD)
        return Oddness(missing | ~missing, missing, most, most, MOST_ODD, 2.0)
    usual = np.array([each.place for each in population])
    aligned = align(evidence.centre[whole], usual[whole])
    where = aligned.on_head(usual)
    seen = ~missing | _within(where, evidence.grid)
    distance = np.linalg.norm(evidence.centre - where, axis=1) / aligned.scale
    relative = np.log(np.maximum(evidence.volume_ml, 1e-6)) - 3 * math.log(aligned.scale) - log_ml
    volume = np.where(whole, _excess(relative / sd_volume), np.nan)
    beyond = math.radians(max(aligned.degrees - USUAL_DEGREES, 0))
    return Oddness(
        seen,
        seen & missing,
        np.where(seen & missing, MOST_ODD, volume),
        np.where(whole, _excess(distance / sd_place), np.nan),
        float(_excess(math.log(aligned.scale) / sd_log_size)),
        1 - math.cos(beyond),
    )


def _within(places: Array, grid: Grid) -> Flags:
    """Whether places in the world lie within a grid."""
    shape, affine = grid
    inverse = np.linalg.inv(affine)
    voxels = places @ inverse[:3, :3].T + inverse[:3, 3]
    inside: Flags = ((voxels > -0.5) & (voxels < np.array(shape) - 0.5)).all(1)
    return inside


def features_of(
    evidence: Evidence, values: Sequence[int], quality: QualityConfig
) -> dict[str, QualityWeights]:
    """What lowers the expected Dice coefficient of each group, by name, in units of the weights."""
    order = [list(values).index(each.value) for each in quality.population]
    evidence = evidence.of(order)
    odd = oddness(evidence, quality.population, quality.sd_log_size)
    places = {each.value: number for number, each in enumerate(quality.population)}
    support = USUAL_SUPPORT if evidence.support is None else evidence.support
    unsupported = math.log(USUAL_SUPPORT / min(max(support, LEAST_SUPPORT), USUAL_SUPPORT))
    found = {}
    for group in (quality.overall, *quality.groups):
        own = np.array([places[value] for value in group.values])
        certain = _mean(np.where(odd.absent, 0, evidence.soft_dice)[own[odd.seen[own]]])
        found[group.name] = QualityWeights(
            constant=1.0,
            doubt=max(0.0, -math.log(max(certain, SMALLEST_DICE))),
            volume=_mean(odd.volume[own]),
            place=_mean(odd.place),
            size=odd.size,
            turn=odd.turn,
            absence=float(odd.absent.mean()),
            unsupported=unsupported,
        )
        if not odd.seen[own].any():
            del found[group.name]
    return found


def _mean(values: Array) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0


def score(evidence: Evidence, values: Sequence[int], quality: QualityConfig) -> QualityScore:
    """Score evidence about the structures of given values; see `quality_score`."""
    features = features_of(evidence, values, quality)
    groups = {
        group.name: expected_dice(features[group.name], group.weights)
        for group in (quality.overall, *quality.groups)
        if group.name in features
    }
    overall = groups.pop(quality.overall.name, 0.0)
    return QualityScore(overall, groups, overall < quality.threshold, evidence.support)


def expected_dice(features: QualityWeights, weights: QualityWeights) -> float:
    """`exp(-sum of weights times features)`."""
    pairs = ((getattr(weights, f.name), getattr(features, f.name)) for f in fields(features))
    return math.exp(-sum(weight * value for weight, value in pairs))
