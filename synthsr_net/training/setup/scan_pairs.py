"""Pairs of real scans beside, or in place of, those that are made from label maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from synthsr_net.training.config import TrainingConfig
from synthsr_net.training.data.bank import Entry, read_bank
from synthsr_net.training.data.pairs import read_pairs, settings_of_pairs
from synthsr_net.training.data.stream import Origin
from synthsr_transforms.generator.generator import Pair
from synthsr_transforms.generator.on_scans import config_on_scans
from synthsr_transforms.subjects.files import SubjectFiles
from synthsr_transforms.subjects.pairs import ScanPair
from synthsr_transforms.support.messages import SynthSRError

from .experiment import RunPlan, note_on_steps
from .fitting import Fitted, check_spacing, fit, probe

MOST_DOUBTS = 6
"""Doubts about pairs that are said in full."""


class Read(NamedTuple):
    """All volumes of a run.

    Attributes:
        entries: Label maps of training, then of validation.
        pairs: Pairs of real scans, likewise.
        doubts: What should be said about the pairs.
    """

    entries: list[Entry]
    pairs: list[Entry]
    doubts: list[str]


def read_sources(
    plan: RunPlan, on_subject: Callable[[SubjectFiles | ScanPair], object] | None = None
) -> Read:
    """Read and check all label maps and pairs of a run.

    Args:
        plan: Names them.
        on_subject: Called with each after it was read.

    Raises:
        ValueError: If a file is not what it should be, or spacings differ.
    """
    experiment = plan.experiment
    training, subjects = experiment.training, [*plan.subjects, *plan.held_out]
    entries = read_bank(subjects, target=experiment.target, on_subject=on_subject)
    if not plan.pairs:
        return Read(entries, [], [])
    _check_settings(training, plan.pairs)
    pairs, wanted = [*plan.pairs, *plan.held_out_pairs], training.pairs.spacing_mm
    if entries:
        spacing = check_spacing(entries)
        if wanted is not None and abs(wanted / spacing - 1) > 0.05:
            raise SynthSRError(
                f"pairs.spacing_mm must be {spacing:g}, that of the label maps, got {wanted:g}."
                " Leave it out."
            )
        wanted = spacing
    settings = settings_of_pairs(
        pairs, wanted, scan=training.model.scan, label_table=experiment.label_table
    )
    read, doubts = read_pairs(pairs, settings, on_subject)
    more = len(doubts) - MOST_DOUBTS
    doubts = doubts[:MOST_DOUBTS] + ([f"{more} more doubts of this kind"] if more > 0 else [])
    return Read(entries, read, [text.rstrip(".") for text in doubts])


def _check_settings(training: TrainingConfig, pairs: Sequence[ScanPair]) -> None:
    """Refuse a regulariser where nothing tells structures."""
    if training.loss.segmentation.model is not None and pairs[0].labels is None:
        raise SynthSRError(
            "loss.segmentation needs label maps of the pairs, got scans alone. Give them with"
            " --labels, or leave it out."
        )


def fit_mixed(
    plan: RunPlan,
    training: TrainingConfig,
    pairs: Sequence[Entry],
    fitted: Fitted,
    pair: Pair,
) -> Fitted | None:
    """Make the generator of pairs of real scans that are mixed with others.

    Args:
        plan: Settings.
        training: The training, with its network.
        pairs: The scans.
        fitted: The generator of the others.
        pair: A pair that it makes.

    Raises:
        SynthSRError: If the pairs of both do not have the same channels.
    """
    if not pairs:
        return None
    config = replace(plan.experiment.generator, label_table=fitted.generator.config.label_table)
    config, left_out = config_on_scans(config, labelled=plan.pairs[0].labels is not None)
    mixed = fit(config, training, pairs)
    real = probe(mixed, training)
    counts = [tuple(p.shape[1] for p in (each.image, each.target)) for each in (pair, real)]
    if counts[0] != counts[1]:
        raise SynthSRError(
            "pairs of real scans and of label maps must have the same channels, got"
            f" {counts[1][0]} in and {counts[1][1]} out, and {counts[0][0]} in and {counts[0][1]}"
            " out. Choose a generator with one image, such as all_purpose."
        )
    return mixed._replace(notes=[note_on_steps(left_out), *mixed.notes])


def split(fitted: Fitted, number: int) -> Origin:
    """Divide what is read into the first `number`, of training, and those of validation."""
    return Origin(fitted.generator, fitted.entries[:number], fitted.entries[number:])
