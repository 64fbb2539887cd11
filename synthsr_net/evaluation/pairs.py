"""Pairs of predictions, references and label maps, by their names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from synthsr_net.prediction.files import CONTRASTS, ENDING, MASK_WORDS, find_scans, match

PathLike = str | os.PathLike[str]

WORDS = (
    *(*CONTRASTS, *MASK_WORDS, ENDING.strip("_")),
    *("labels", "seg", "dseg", "aseg", "aparc", "synthseg", "norm", "brain", "reference"),
)
"""Words that may differ between the names of files that belong together."""


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
