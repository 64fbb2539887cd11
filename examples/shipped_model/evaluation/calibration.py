"""Calibration of the quality score: the population of structures, weights, figures.

Samples are rows of numbers about one segmented scan each, see `Sample`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from synthsr_net.models.checkpoint import (
    PopulationStructure,
    QualityConfig,
    QualityGroup,
    QualityWeights,
)
from synthsr_net.prediction.segmentation.quality import Evidence, align, features_of

Array = npt.NDArray[np.float64]

TWO_SIDED = (
    *((2, 41), (3, 42), (4, 43), (5, 44), (7, 46), (8, 47), (10, 49)),
    *((11, 50), (12, 51), (13, 52), (17, 53), (18, 54), (26, 58), (28, 60)),
)
"""Values of structures with two sides."""
OVERALL = "overall"
GROUPS: Mapping[str, tuple[int, ...]] = {
    OVERALL: tuple(value for pair in TWO_SIDED for value in pair),
    "white matter": (2, 41),
    "cortex": (3, 42),
    "deep grey": tuple(v for p in TWO_SIDED if p[0] in (10, 11, 12, 13, 17, 18, 26, 28) for v in p),
    "ventricles": (4, 43, 5, 44, 14, 15),
    "cerebellum": (7, 46, 8, 47),
}
"""Values of the structures whose mean Dice coefficient is estimated."""
NO_BRAIN = (0, 258, 24)
"""Values that the population leaves out: background, rest of the head, fluid around the brain."""
LOW, HIGH = 0.6, 0.8
"""Scans with a Dice coefficient below the first must be flagged, those above the second not."""
LEAST_SD_LOG_ML, LEAST_SD_MM, SD_LOG_SIZE = 0.15, 1.5, 0.06
"""Least deviations of volumes and places, and that of sizes, which few brains would understate."""
USUAL_WEIGHTS = QualityWeights(
    constant=0.02,
    doubt=1.2,
    volume=0.05,
    place=0.1,
    size=0.02,
    turn=1.0,
    absence=2.0,
    unsupported=1.0,
)
"""What weights stay near to as far as the samples say nothing: nonsense of kinds that are not among
them must score low as well."""
FLOOR = 0.3
"""Nobody needs to know how bad a scan is below this."""
MOST_UNUSUAL = 2.0
"""Weights are at most so many times the usual ones."""
RIDGE = 0.05
"""Weight of the square of the difference from those, each in its own unit, in the fit."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A segmented scan whose truth is known."""

    number: int
    """Of the case."""
    head: str
    """Which head it shows; samples of one head stay together in cross-validation."""
    what: str
    """What was done to it."""
    of: str
    """What was segmented: prediction or scan."""
    model: str
    """Model of the prediction."""
    dice: list[float | None]
    """Dice coefficient of each structure; None if neither truth nor segmentation has it."""
    soft_dice: list[float]
    """This and what follows: see `synthsr_net.prediction.segmentation.quality.Evidence`."""
    volume_ml: list[float]
    centre: list[list[float]]
    border: list[float]
    shape: list[int]
    affine: list[list[float]]
    support: float | None = None

    @property
    def evidence(self) -> Evidence:
        """What the posteriors say."""
        names = ("soft_dice", "volume_ml", "centre", "border")
        arrays = [np.asarray(getattr(self, name), dtype=np.float64) for name in names]
        x, y, z = self.shape
        return Evidence(*arrays, ((x, y, z), np.asarray(self.affine)), self.support)

    @property
    def invented(self) -> bool:
        """Whether the default model was given a head without a brain: it draws a whole one."""
        return self.model == "default" and "empty skull" in self.what

    def true_dice(self, group: Sequence[int], values: Sequence[int]) -> float:
        """Mean Dice coefficient of the structures of some values, NaN if there are none."""
        found = [self.dice[list(values).index(value)] for value in group]
        known = [each for each in found if each is not None]
        return float(np.mean(known)) if known else float("nan")


def read_samples(path: Path) -> list[Sample]:
    """Samples of a file of JSON lines; none if it does not exist."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Sample(**json.loads(line)) for line in lines]


# Population --------------------------------------------------------------------------------------


def population_of(
    maps: Sequence[tuple[Array, Array]], values: Sequence[int]
) -> list[PopulationStructure]:
    """Usual volumes and places of structures.

    Args:
        maps: Of each label map, volumes `(S,)` in ml and centres `(S, 3)` in mm.
        values: Of the structures.
    """
    kept = [number for number, value in enumerate(values) if value not in NO_BRAIN]
    volumes = np.array([volume[kept] for volume, _ in maps])
    centres = np.array([centre[kept] for _, centre in maps])
    present = (volumes > 0).all(0)
    if not present.all():
        raise ValueError("every label map must have all structures of the brain.")
    mean = centres[0] - centres[0].mean(0)
    logs = np.log(volumes)
    for _ in range(3):
        aligned = [align(centre, mean) for centre in centres]
        moved = np.array(
            [
                (centre - a.shift) @ np.linalg.inv(a.matrix).T
                for centre, a in zip(centres, aligned, strict=True)
            ]
        )
        sizes = np.array([a.scale for a in aligned])
        mean = moved.mean(0) * np.exp(np.log(sizes).mean())
    relative = logs - 3 * (np.log(sizes) - np.log(sizes).mean())[:, None]
    spread = np.sqrt(((moved - moved.mean(0)) ** 2).sum(2).mean(0))
    return [
        PopulationStructure(
            value=values[number],
            log_ml=round(float(relative[:, k].mean()), 3),
            sd_log_ml=round(max(float(relative[:, k].std()), LEAST_SD_LOG_ML), 3),
            place=tuple(round(float(x), 2) for x in mean[k]),
            sd_place_mm=round(max(float(spread[k]), LEAST_SD_MM), 2),
        )
        for k, number in enumerate(kept)
    ]


# Weights -----------------------------------------------------------------------------------------


def uncalibrated(population: list[PopulationStructure], threshold: float = 0.7) -> QualityConfig:
    """A calibration with weights that are not fitted yet."""
    overall, *groups = (QualityGroup(name=n, values=list(v)) for n, v in GROUPS.items())
    return QualityConfig(
        overall=overall,
        groups=groups,
        population=population,
        sd_log_size=SD_LOG_SIZE,
        threshold=threshold,
    )


class Table:
    """Features and true Dice coefficients of all samples by group.

    Args:
        samples: From `read_samples`.
        values: Of the structures of the network.
        quality: Population and groups; its weights are not used.
    """

    def __init__(
        self, samples: Sequence[Sample], values: Sequence[int], quality: QualityConfig
    ) -> None:
        self.samples = samples
        self.quality = quality
        found = [features_of(sample.evidence, values, quality) for sample in samples]
        self.features: dict[str, Array] = {}
        """`(N, F)`, NaN where a group is not seen."""
        self.truth: dict[str, Array] = {}
        """`(N,)`, NaN where a group is not there."""
        for group in (quality.overall, *quality.groups):
            rows = [
                list(asdict(f[group.name]).values()) if group.name in f else None for f in found
            ]
            empty = [np.nan] * len(fields(QualityWeights))
            self.features[group.name] = np.array([row or empty for row in rows], dtype=float)
            self.truth[group.name] = np.array([s.true_dice(group.values, values) for s in samples])

    def fitted(self, chosen: npt.NDArray[np.bool_] | None = None) -> QualityConfig:
        """The calibration that fits the chosen samples."""
        chosen = np.ones(len(self.samples), dtype=bool) if chosen is None else chosen

        def of(group: QualityGroup) -> QualityGroup:
            x, y = self.features[group.name][chosen], self.truth[group.name][chosen]
            known = ~np.isnan(x).any(1) & ~np.isnan(y)
            return replace(group, weights=fitted_weights(x[known], y[known]))

        quality = self.quality
        return replace(quality, overall=of(quality.overall), groups=[*map(of, quality.groups)])

    def scores(self, quality: QualityConfig) -> dict[str, Array]:
        """`(N,)` expected Dice coefficients by group, NaN where a group is not seen."""
        return {
            group.name: np.exp(-self.features[group.name] @ list(asdict(group.weights).values()))
            for group in (quality.overall, *quality.groups)
        }

    def cross_validated(self) -> dict[str, Array]:
        """Scores of each head, fitted to all samples of other heads."""
        heads = np.array([sample.head for sample in self.samples])
        result = {name: np.full(len(heads), np.nan) for name in self.truth}
        for head in np.unique(heads):
            scores = self.scores(self.fitted(heads != head))
            for name, values in scores.items():
                result[name][heads == head] = values[heads == head]
        return result


def fitted_weights(features: Array, dice: Array) -> QualityWeights:
    """Weights, at least 0, for which `exp(-weights @ features)` is nearest to the coefficients.

    Below `FLOOR` all are alike.
    """

    def residuals(weights: Array) -> Array:
        found = np.maximum(np.exp(-features @ weights), FLOOR)
        return np.concatenate([found - np.maximum(dice, FLOOR), RIDGE * (weights / usual - 1)])

    usual = np.array(list(asdict(USUAL_WEIGHTS).values()))
    found = least_squares(
        residuals, usual, bounds=(0, MOST_UNUSUAL * usual), loss="soft_l1", f_scale=0.1
    )
    names = [each.name for each in fields(QualityWeights)]
    return QualityWeights(**dict(zip(names, found.x.round(4).tolist(), strict=True)))


def threshold_of(scores: Array, truth: Array) -> float:
    """Threshold in the middle of those that make the fewest mistakes, to two digits."""
    candidates = np.arange(LOW, HIGH, 0.01)
    wrong = [
        (scores[truth < LOW] >= t).sum() + (scores[truth > HIGH] < t).sum() for t in candidates
    ]
    best = candidates[np.array(wrong) == min(wrong)]
    return round(float(np.median(best)), 2)
