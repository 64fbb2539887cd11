"""Metrics of predictions against references, paired by name, on the grids of the references.

The prediction is brought to the grid of the reference by linear interpolation in world
coordinates; where only the order or direction of axes differs, voxels are taken as they are. Its
intensities are then mapped to those of the reference (`synthsr_net.metrics.comparison`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from synthsr_net.metrics.comparison import (
    MAPPINGS,
    OTHER,
    OUTSIDE,
    compare,
    reference_of,
    tissue_map,
)
from synthsr_net.prediction.files import CONTRASTS, ENDING, MASK_WORDS, find_scans, match
from synthsr_net.prediction.refinement.brain_mask import find_brain
from synthsr_net.prediction.resampling import Grid, as_tensor, resample, reslice
from synthsr_transforms.estimation.scans import labels_on_grid
from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.grids import Volume, reorient, same_grid
from synthsr_transforms.io.scans import read_scan
from synthsr_transforms.io.volumes import read_labels
from synthsr_transforms.support.atomic import temporary_folder
from synthsr_transforms.support.messages import check_choice

from .report import PathLike, draw_pair, write_evaluation

log = logging.getLogger("synthsr_net")
WORDS = (
    *(*CONTRASTS, *MASK_WORDS, ENDING.strip("_")),
    *("labels", "seg", "dseg", "aseg", "aparc", "synthseg", "norm", "brain", "reference"),
)
"""Words that may differ between the names of files that belong together."""
BRAIN_ML = (200.0, 2000.0)
"""Volumes within which a brain that was found in a prediction is believed to be one."""
_FULL_COVERAGE = 0.99  # share of the head, below which there is a warning


class Pair(NamedTuple):
    """Files that are compared.

    Attributes:
        name: Of the prediction, without its ending.
        prediction: The prediction.
        reference: The scan to be predicted.
        labels: Label map of the reference, if there is one.
    """

    name: str
    prediction: Path
    reference: Path
    labels: Path | None = None


@dataclass(frozen=True, kw_only=True)
class PairScore:
    """Metrics of one prediction."""

    pair: Pair
    mapping: str
    """Mapping of intensities, one of `metrics.comparison.MAPPINGS`."""
    brain_mask: str
    """Source of the mask of the brain: `labels` or `prediction`."""
    coverage: float
    """Share of the reference's head that the prediction covers; the rest does not count."""
    metrics: dict[str, float]
    """`brain/l1`, `brain/psnr`, `brain/ssim`, the same of the head, and with labels `brain/dice_wm`
    and so on, see `metrics.comparison.compare`."""
    warnings: tuple[str, ...] = ()


def find_pairs(
    predictions: PathLike,
    references: PathLike,
    labels: PathLike | None = None,
    *,
    recursive: bool = False,
) -> list[Pair]:
    """Pair predictions with references, and these with label maps.

    Args:
        predictions: A file, a folder, or a `.txt` list of files.
        references: Likewise. Files of folders belong together if their names agree but for
            `WORDS`; lists are paired line by line.
        labels: Likewise.
        recursive: Whether subfolders are searched as well; their names must agree, too.

    Raises:
        ValueError: If a file has no partner, or several.
    """
    first, second = (find_scans(path, recursive=recursive) for path in (predictions, references))
    partners: list[Path] = match(first, second, WORDS)
    maps: Sequence[Path | None] = [None] * len(partners)
    if labels is not None:
        maps = match(first, find_scans(labels, recursive=recursive), WORDS)
    return [
        Pair(first.name_of(prediction), prediction, reference, label_map)
        for prediction, reference, label_map in zip(first.scans, partners, maps, strict=True)
    ]


def evaluate(
    predictions: PathLike,
    references: PathLike,
    *,
    labels: PathLike | None = None,
    mapping: str = "linear",
    folder: PathLike | None = None,
    recursive: bool = False,
    on_pair: Callable[[], object] | None = None,
) -> list[PairScore]:
    """Compare predictions with references.

    Args:
        predictions: A file, a folder, or a `.txt` list of files.
        references: Likewise; see `find_pairs` for names.
        labels: Label maps of the references with values of FreeSurfer, likewise. They give the
            mask of the brain, which is otherwise found in the prediction (a T1 with white matter
            near 110), and the tissues for Dice scores.
        mapping: Polynomial that maps the intensities of predictions to those of references, by
            least squares in each region: `linear`, `cubic`, or `none` for equal units.
        folder: Gets `metrics.csv` and `report.html`; nothing is written if a pair fails.
        recursive: See `find_pairs`.
        on_pair: Called after each pair, to show progress.

    Returns:
        One score per prediction, in the order of their names.

    Raises:
        ValueError: If files do not go together or cannot be used.
    """
    check_choice("mapping", mapping, MAPPINGS)
    pairs, scores = find_pairs(predictions, references, labels, recursive=recursive), []
    with ExitStack() as stack:
        pictures = None
        if folder is not None:
            pictures = stack.enter_context(temporary_folder())
        for number, pair in enumerate(pairs):
            picture = None if pictures is None else pictures / f"{number}.png"
            scores.append(score_pair(pair, mapping, picture))
            log.debug("%s: compared with %s", pair.prediction, pair.reference)
            if on_pair is not None:
                on_pair()
        if folder is not None and pictures is not None:
            write_evaluation(folder, scores, pictures)
    return scores


def score_pair(pair: Pair, mapping: str = "linear", picture: Path | None = None) -> PairScore:
    """Compare one prediction with its reference.

    Args:
        pair: The files.
        mapping: See `evaluate`.
        picture: Where to draw both and their difference, as PNG; None: not wanted.

    Raises:
        ValueError: If a file cannot be used, the two do not overlap, or there is no brain.
    """
    prediction, scan = read_scan(pair.prediction), read_scan(pair.reference)
    goal = reorient(scan.volume)
    data, inside = _on_grid(prediction.volume, goal)
    tissues = _tissues(pair, prediction.volume, goal)
    whole, box = reference_of(str(pair.reference), as_tensor(goal.data), tissues)
    data, inside = data[box], inside[box]
    covered = whole._replace(head=whole.head & inside, tissues=whole.tissues * inside)
    if not bool(covered.brain.any()):
        raise VolumeError(
            f"{pair.prediction} must show the brain of {pair.reference}, but lies elsewhere. Check"
            " the affines of both."
        )
    coverage = float(covered.head.sum() / whole.head.sum())
    doubts = [f"prediction: {text}" for text in prediction.warnings]
    doubts += [f"reference: {text}" for text in scan.warnings]
    if coverage < _FULL_COVERAGE:
        doubts.append(f"the prediction covers {coverage:.0%} of the head; the rest does not count.")
    if picture is not None:
        affine = goal.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [part.start for part in box]
        draw_pair(picture, data, covered, affine, mapping, pair.name)
    return PairScore(
        pair=pair,
        mapping=mapping,
        brain_mask="prediction" if pair.labels is None else "labels",
        coverage=coverage,
        metrics=compare(data, covered, mapping=mapping),
        warnings=tuple(doubts),
    )


def _on_grid(prediction: Volume, goal: Volume) -> tuple[Tensor, Tensor]:
    """A prediction on the grid of its reference, 0 outside, and a mask of what it covers."""
    turned = reorient(prediction, goal.affine)
    if same_grid(turned, goal):
        return as_tensor(turned.data), torch.ones(goal.data.shape, dtype=torch.bool)
    data = as_tensor(reslice(prediction, _grid(goal), outside=math.nan)[0])
    inside = torch.isfinite(data)
    return torch.where(inside, data, 0.0), inside


def _grid(volume: Volume) -> Grid:
    x, y, z = volume.data.shape
    return (x, y, z), volume.affine


def _tissues(pair: Pair, prediction: Volume, goal: Volume) -> Tensor:
    """Tissues as the labels say, or the brain as found in the prediction, on a grid."""
    if pair.labels is not None:
        labels = labels_on_grid(read_labels(pair.labels), goal)
        return tissue_map(torch.from_numpy(labels.data.astype(np.int32)))
    one_mm = resample(reorient(prediction), 1.0)
    brain = find_brain(as_tensor(one_mm.data), 1.0)
    millilitres = float(brain.sum()) / 1000
    low, high = BRAIN_ML
    if not low <= millilitres <= high:
        raise VolumeError(
            f"{pair.prediction} must show a brain as a T1 with white matter near 110 does, got"
            f" {millilitres:.0f} ml of it. Give label maps of the references (--labels)."
        )
    mask, _ = reslice(Volume(brain.float().numpy(), one_mm.affine), _grid(goal), outside=0.0)
    return torch.where(as_tensor(mask) > 0.5, OTHER, OUTSIDE).byte()
