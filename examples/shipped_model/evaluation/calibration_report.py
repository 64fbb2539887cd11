"""Table and figure of a calibration of the quality score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from .calibration import HIGH, LOW, OVERALL, Array, Table

TOLERANCE = 0.05
"""A score is right if it is off by no more than this."""


def table_text(table: Table, scores: Mapping[str, Array], threshold: float) -> str:
    """Measures of the score in cross-validation over heads, as Markdown.

    Args:
        table: All samples.
        scores: Of these, fitted without their heads.
        threshold: Below which a scan is flagged.
    """
    truth, overall = table.truth[OVERALL], scores[OVERALL]
    rows = [
        f"{len(truth)} degraded scans of {len({s.head for s in table.samples})} heads; each head is"
        f" scored with weights fitted to the others. Threshold {threshold:g}.",
        "",
        "| | scans | flagged |",
        "| --- | --- | --- |",
        _flagged(f"Dice below {LOW:g}", overall[truth < LOW], threshold),
        _flagged("between", overall[(truth >= LOW) & (truth <= HIGH)], threshold),
        _flagged(f"Dice above {HIGH:g}", overall[truth > HIGH], threshold),
        "",
        "| | mean absolute error | where Dice is above 0.6 | within 0.05 there | correlation |",
        "| --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*rows, *(_errors(n, scores[n], table.truth[n]) for n in scores), ""])


def _flagged(name: str, scores: Array, threshold: float) -> str:
    share = f"{np.mean(scores < threshold):.1%}" if len(scores) else "-"
    return f"| {name} | {len(scores)} | {share} |"


def _errors(name: str, scores: Array, truth: Array) -> str:
    known = ~np.isnan(scores) & ~np.isnan(truth)
    scores, truth = scores[known], truth[known]
    error, useful = np.abs(scores - truth), truth > LOW
    varied = len(truth) > 1 and min(scores.std(), truth.std()) > 0
    correlation = np.corrcoef(scores, truth)[0, 1] if varied else np.nan
    within = np.mean(error[useful] <= TOLERANCE) if useful.any() else np.nan
    useful_error = error[useful].mean() if useful.any() else np.nan
    return (
        f"| {name} | {error.mean():.3f} | {useful_error:.3f} | {within:.0%} | {correlation:.3f} |"
    )


def draw(table: Table, scores: Mapping[str, Array], threshold: float, path: Path) -> None:
    """Draw score against true Dice coefficient, overall and of each group."""
    figure, axes = plt.subplots(2, 3, figsize=(13, 8.5), sharex=True, sharey=True)
    kinds = np.array([_kind(sample.what, sample.of, sample.model) for sample in table.samples])
    for panel, name in zip(axes.flat, scores, strict=False):
        panel.fill_between(
            [0, 1], [-TOLERANCE, 1 - TOLERANCE], [TOLERANCE, 1 + TOLERANCE], alpha=0.15
        )
        for kind in np.unique(kinds):
            chosen = kinds == kind
            panel.scatter(table.truth[name][chosen], scores[name][chosen], s=14, label=kind)
        panel.set(title=name, xlim=(-0.02, 1), ylim=(-0.02, 1))
    for panel, label in zip(
        (*axes[:, 0], *axes[1]), ("score",) * 2 + ("true Dice",) * 3, strict=True
    ):
        (panel.set_ylabel if label == "score" else panel.set_xlabel)(label)
    axes[0, 0].axhline(threshold, color="grey", linewidth=1)
    for dice in (LOW, HIGH):
        axes[0, 0].axvline(dice, color="grey", linewidth=1, linestyle=":")
    axes[0, 0].legend(loc="upper left", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _kind(what: str, of: str, model: str) -> str:
    return "the scan itself" if of == "scan" else f"prediction, {model} model"
