"""`priors.yaml`: priors with names, labels and counts, as `synthsr estimate-priors` writes them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.support.config import read_yaml
from synthsr_transforms.support.messages import SynthSRError, listed

from .tissue_priors import TissuePriors


class PriorFile(NamedTuple):
    """Content of a `priors.yaml`.

    Attributes:
        priors: The priors.
        class_of_label: Class of each label value, of the label table that they were made for.
    """

    priors: TissuePriors
    class_of_label: dict[int, int]


def read_prior_file(path: str | os.PathLike[str]) -> PriorFile:
    """Read a `priors.yaml`.

    Raises:
        ValueError: If the file is missing or holds something else.
    """
    content = read_yaml(path)
    try:
        classes = content["classes"]
        labels = {int(v): int(row["class"]) for row in classes for v in row["labels"]}
        blocks = [_block(channel["classes"], len(classes)) for channel in content["channels"]]
        means, stds = (np.array(arrays) for arrays in zip(*blocks, strict=True))
        priors = TissuePriors(means, stds, str(content["distribution"]))
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise SynthSRError(
            f"priors must be a file that synthsr estimate-priors wrote, got {path} ({reason})."
            " Estimate the priors again, or give prior_means and prior_stds."
        ) from error
    return PriorFile(priors, labels)


def _block(rows: list[Mapping[str, Any]], number: int) -> tuple[np.ndarray, np.ndarray]:
    """Hyper-parameters `(2, K)` of the means and of the standard deviations."""
    by_class = {int(row["class"]): row for row in rows}
    if sorted(by_class) != list(range(number)) or len(rows) != number:
        raise SynthSRError(f"a channel has rows for classes {sorted(by_class)} of {number}")
    pairs = [(by_class[k]["mean"], by_class[k]["std"]) for k in range(number)]
    means, stds = (np.array(columns, dtype=float).T for columns in zip(*pairs, strict=True))
    return means, stds


def resolve_priors(
    spec: TissuePriors | Mapping[str, Any] | str | os.PathLike[str],
    table: LabelTable,
    num_channels: int,
) -> TissuePriors:
    """Return priors from priors, what `TissuePriors.to_dict` gives, or the path of a `priors.yaml`.

    Args:
        spec: The priors.
        table: Label table that they are used with.
        num_channels: Number of channels that they must have.

    Raises:
        ValueError: If the priors were made for other classes or for another number of channels.
    """
    name = "priors"
    if isinstance(spec, (str, os.PathLike)):
        found = read_prior_file(spec)
        name = f"priors {Path(spec)}"
        _check_classes(found.class_of_label, table, name)
        priors = found.priors
    else:
        priors = spec if isinstance(spec, TissuePriors) else TissuePriors.from_dict(spec)
    if priors.num_classes != table.num_classes:
        raise SynthSRError(
            f"{name} must have one column for each of {table.num_classes} classes of the label"
            f" table, got {priors.num_classes}. Use the table that they were made for."
        )
    if priors.num_channels != num_channels:
        raise SynthSRError(
            f"{name} must have {num_channels} channels, got {priors.num_channels}. Set num_channels"
            " likewise, or estimate priors from as many."
        )
    return priors


def _check_classes(made_for: Mapping[int, int], table: LabelTable, name: str) -> None:
    here = dict(zip(table.values, table.classes, strict=True))
    moved = [v for v in here if v in made_for and made_for[v] != here[v]]
    lonely = sorted(set(table.classes) - {here[v] for v in here if v in made_for})
    if moved:
        got = f"label {moved[0]} in class {made_for[moved[0]]} there and in {here[moved[0]]} here"
    elif lonely:
        got = f"none of the labels of class {listed(lonely, 4)}"
    else:
        return
    raise SynthSRError(
        f"{name} must be made for the classes of the label table, got {got}. Set label_table to the"
        " table that they were made for (the file names it)."
    )
