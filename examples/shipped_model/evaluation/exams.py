"""Exams: several scans of each head, predicted together and one by one.

Heads are held-out label maps, still or moved between scans, and real T1-weighted scans whose
intensities are mapped at random to play other contrasts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from synthsr_net.metrics.comparison import DICE_TISSUES, OTHER, Reference, compare, reference_of
from synthsr_net.prediction.resampling import Grid, reslice
from synthsr_net.training.validation import RealPair, on_grid_of_network
from synthsr_transforms.io.files import VolumeError, stem
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.io.scans import Scan
from synthsr_transforms.subjects.files import SubjectFiles
from synthsr_transforms.support.messages import SynthSRError

from .heads import Head
from .moves import EXAM, SLICE_MM, MovedScan, grid_of, in_words, moved, moved_exam, numbers_of
from .network import HeadNetwork
from .slices import AXES, Affine, Slices, acquire, cubic, linear, operators, predict_from
from .truth import Setting, SimulationPlan, head_for, scan_of_head, seed_of

TOGETHER, INTERPOLATION = "together", "interpolation"
SAME_PLANE_TOGETHER = "two of one orientation"
REGISTERED_MEAN = "mean of registered predictions"
LEVELS = (0.2, 0.55, 0.9)
"""Intensities that fluid, grey and white matter of remapped scans have, in any order."""


def evaluate_exams(
    subjects: Sequence[SubjectFiles], network: HeadNetwork, plan: SimulationPlan
) -> Iterator[dict[str, Any]]:
    """Predict from aligned scans of a head, alone and together, and compare with the standard T1.

    Args:
        subjects: Label maps, from `find_label_maps`.
        network: The model.
        plan: Seed and target.

    Yields:
        One row per prediction: `map`, `scans` (one of `EXAM`, `together`, or `interpolation` of the
        first), and measures in brain and head after a cubic
        mapping of intensities.

    Raises:
        SynthSRError: If there are no label maps.
    """
    if not subjects:
        raise SynthSRError("exams need held-out label maps, got none. Give --labels.")
    for subject in subjects:
        head = head_for(subject, network, plan)
        scans = {}
        for name, axis in EXAM:
            image = head.image(name, seed_of(plan.seed, head.name, name, "exam"))
            setting = Setting(name, False, SLICE_MM, axis)
            scans[in_words(name, axis)] = scan_of_head(head, setting, image, plan.seed)
        yield from _rows(head.name, _predictions(scans, network), head.reference)


def _predictions(scans: Mapping[str, Slices], network: HeadNetwork) -> dict[str, Tensor]:
    """From each of several aligned scans, from all, and the first interpolated."""
    made = {name: predict_from(scan, network) for name, scan in scans.items()}
    first, *_ = each = list(scans.values())
    together = network.together([linear(scan) for scan in each], operators(first))
    return {**made, INTERPOLATION: cubic(first), TOGETHER: together}


def _rows(
    name: str, made: Mapping[str, Tensor], reference: Reference, **more: Any
) -> Iterator[dict[str, Any]]:
    for scans, volume in made.items():
        yield {"map": name, **more, "scans": scans, **compare(volume, reference)}


# After moves -------------------------------------------------------------------------------------


def evaluate_moved_exams(
    subjects: Sequence[SubjectFiles],
    network: HeadNetwork,
    plan: SimulationPlan,
    registrations: Sequence[dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """Predict from scans between which the head moved, in the space of the first.

    A prediction from one of the others alone is brought there by the true move, so that it loses
    nothing by the registration.

    Args:
        subjects: Label maps, from `find_label_maps`.
        network: The model.
        plan: Seed and target, as they were for the registrations.
        registrations: Of these exams, from `measure_registration.py`.

    Yields:
        Rows as of `evaluate_exams`, with the number `move`: of each scan of `EXAM` and
        `SAME_PLANE`; of the mean of the predictions from those of `EXAM`, registered; of those of
        `EXAM` `together`; and of the first with `SAME_PLANE`.
    """
    for subject in subjects:
        name = stem(subject.labels)
        for number in numbers_of(registrations, name):
            head, scans = moved_exam(subject, network, plan, number)
            found = {
                row["scan"]: np.array(row["first_to_scan"])
                for row in registrations
                if (row["map"], row["move"]) == (name, number) and row["left_out"] is None
            }
            made = _moved_predictions(head, scans, found, network)
            yield from _rows(name, made, head.reference, move=number)


def _moved_predictions(
    head: Head, scans: Sequence[MovedScan], found: Mapping[str, Affine], network: HeadNetwork
) -> dict[str, Tensor]:
    grid = grid_of(head)
    alone = {each.name: network.predictor.predict([each.scan]).image for each in scans}
    made = {}
    for each in scans:
        volume = alone[each.name]
        data = torch.from_numpy(volume.data)
        back = np.linalg.inv(each.first_to_scan)
        made[each.name] = moved(data, volume.affine, back, grid).to(network.device)
    first, *others, same_plane = scans
    matrices = {first.name: np.eye(4), **found}
    several = [each for each in (first, *others) if each.name in matrices]
    there = [_brought(alone[each.name], matrices[each.name], grid) for each in several]
    made[REGISTERED_MEAN] = torch.stack(there).nanmean(0).nan_to_num().to(network.device)
    for name, chosen in (
        (TOGETHER, several),
        (SAME_PLANE_TOGETHER, [each for each in (first, same_plane) if each.name in matrices]),
    ):
        volume = _together([e.scan for e in chosen], [matrices[e.name] for e in chosen], network)
        made[name] = _brought(volume, np.eye(4), grid).nan_to_num().to(network.device)
    return made


def _together(scans: Sequence[Scan], matrices: Sequence[Affine], network: HeadNetwork) -> Volume:
    """Prediction from several scans that are aligned already, as `synthsr predict` makes it."""
    predictor = network.predictor
    prepared = predictor.planned(predictor.prepare(scans, transforms=[None, *matrices[1:]]))
    return predictor.finish(prepared, predictor.infer(prepared)).image


def _brought(volume: Volume, first_to_scan: Affine, grid: Grid) -> Tensor:
    """A volume in the space of the first scan, by linear interpolation; NaN outside."""
    there = Volume(volume.data, np.linalg.inv(first_to_scan) @ volume.affine)
    return torch.from_numpy(reslice(there, grid, outside=np.nan)[0])


# Real heads --------------------------------------------------------------------------------------


def evaluate_real_exams(
    pairs: Sequence[RealPair], network: HeadNetwork, plan: SimulationPlan
) -> Iterator[dict[str, Any]]:
    """Predict from slices of real scans in three orientations, whose intensities are remapped.

    Args:
        pairs: From `read_real_pairs`.
        network: The model.
        plan: Seed.

    Yields:
        Rows as of `evaluate_exams`; `scans` is the orientation, and the order from dark to bright
        of fluid (f), grey (g) and white matter (w).
    """
    affine = np.diag([*[network.spacing_mm] * 3, 1.0])
    for pair in pairs:
        image, tissues = on_grid_of_network(pair, network.spacing_mm)
        reference, box = reference_of(pair.name, image, tissues)
        rng = np.random.default_rng(seed_of(plan.seed, pair.name, "remapped"))
        scans = {}
        for axis, orientation in enumerate(AXES):
            other, order = remapped(image[box], tissues[box], rng)
            scan = acquire(other.to(network.device), affine, SLICE_MM, axis)
            scans[f"{orientation}, {order}"] = scan
        made = _predictions(scans, network)
        yield from _rows(pair.name, made, reference.to(network.device))


def remapped(image: Tensor, tissues: Tensor, rng: np.random.Generator) -> tuple[Tensor, str]:
    """A T1-weighted scan with the contrast of another: pieces of lines between the tissues.

    Args:
        image: `(X, Y, Z)`.
        tissues: From `synthsr_net.metrics.comparison.tissue_map`.
        rng: Draws the order of the tissues and their intensities.

    Returns:
        Intensities from 0 to 200, air dark, and the order of fluid, grey and white matter.
    """
    names = [tissue[0] for tissue in ("fluid", "grey", "white")]
    places = [OTHER + 1 + list(DICE_TISSUES).index(n) for n in ("dice_csf", "dice_gm", "dice_wm")]
    found = [float(image[tissues == place].median()) for place in places]
    dark, white = 0.1 * found[-1], found[-1]
    if not 0 < dark < found[0] < found[1] < white:
        raise VolumeError(f"real exams need T1-weighted scans, got medians {found} of tissues.")
    levels = rng.permutation(LEVELS) + rng.uniform(-0.1, 0.1, 3)
    values = [0, 0.03, *levels, rng.uniform(0.2, 1)]
    made = 200 * np.interp(image.numpy(), [0, dark, *found, 1.5 * white], values)
    order = "".join(names[k] for k in np.argsort(levels))
    return torch.from_numpy(made.astype(np.float32)), order
