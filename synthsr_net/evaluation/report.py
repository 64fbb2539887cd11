"""Results of an evaluation: a table as CSV, and a page of pictures."""

from __future__ import annotations

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor

from synthsr_net.metrics.comparison import Reference, mapped_inside, mean_of
from synthsr_net.prediction.report.page import embedded, page_template
from synthsr_net.prediction.report.picture import write_planes
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.support.atomic import replacing

if TYPE_CHECKING:
    from .scores import PairScore

PathLike = str | os.PathLike[str]

CSV_NAME, PAGE_NAME = "metrics.csv", "report.html"
MEAN = "mean"
"""Name of the last row, which holds the means over all pairs."""
MOST_PICTURES = 100
"""The page shows the pictures of so many pairs, the worst ones."""
_PIXELS_PER_MM = 1.5
_RANGE, _DIFFERENCE = (0.0, 1.15), (-0.5, 0.5)  # shown black and white, in units of the measures


def columns(scores: Sequence[PairScore]) -> list[str]:
    """Names of all metrics that were measured, in the order of `compare`."""
    return list(dict.fromkeys(name for score in scores for name in score.metrics))


def means(scores: Sequence[PairScore]) -> dict[str, float]:
    """Mean of each metric over the pairs that have it."""
    return mean_of(score.metrics for score in scores)


def worst_first(scores: Sequence[PairScore]) -> list[int]:
    """Numbers of scores in the order of their SSIM in the brain, NaN before all."""
    ssim = [score.metrics["brain/ssim"] for score in scores]
    return sorted(range(len(scores)), key=lambda k: -math.inf if math.isnan(ssim[k]) else ssim[k])


def write_evaluation(folder: PathLike, scores: Sequence[PairScore], pictures: Path) -> None:
    """Write `metrics.csv` and `report.html`.

    Args:
        folder: Made if needed.
        scores: Of all pairs.
        pictures: Folder of their pictures, `0.png` and so on.
    """
    folder = Path(folder)
    texts = {CSV_NAME: _csv_text(scores), PAGE_NAME: _page(scores, pictures)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def _csv_text(scores: Sequence[PairScore]) -> str:
    names, stream = columns(scores), io.StringIO()
    about = ["name", "prediction", "reference", "labels", "mapping", "brain mask", "coverage"]
    writer = csv.DictWriter(stream, [*about, *names], restval="", lineterminator="\n")
    writer.writeheader()
    for score in scores:
        files = {**score.pair._asdict(), "labels": score.pair.labels or ""}
        how = {"mapping": score.mapping, "brain mask": score.brain_mask}
        writer.writerow({**files, **how, **_digits({"coverage": score.coverage, **score.metrics})})
    coverage = mean_of({"coverage": score.coverage} for score in scores)
    writer.writerow({"name": MEAN, **_digits({**coverage, **means(scores)})})
    return stream.getvalue()


def _digits(values: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:.6g}" for name, value in values.items()}


def _page(scores: Sequence[PairScore], pictures: Path) -> str:
    names, average = columns(scores), means(scores)
    order = worst_first(scores)
    found = {k: embedded(pictures / f"{k}.png") for k in order[:MOST_PICTURES]}
    counts = Counter(score.brain_mask for score in scores)
    page: str = page_template("evaluation.html.jinja").render(
        title="Predictions and references",
        summary={"pairs": str(len(scores))}
        | {f"mean {name}": f"{average[name]:.3g}" for name in names if name.startswith("brain")},
        details={
            "Mapping of intensities": scores[0].mapping,
            "Mask of the brain": ", ".join(f"{name} ({n})" for name, n in counts.items()),
        },
        names=names,
        rows=[(k, scores[k], found.get(k)) for k in order],
        means=average,
    )
    return page


def draw_pair(
    path: Path,
    prediction: Tensor,
    reference: Reference,
    affine: npt.NDArray[np.float64],
    mapping: str,
    title: str,
) -> None:
    """Draw prediction, reference and their difference in three planes.

    Args:
        path: The picture, PNG.
        prediction: `(X, Y, Z)` on the grid of the reference.
        reference: The scan to be predicted.
        affine: `(4, 4)` of both.
        mapping: Of intensities, fitted in the head here.
        title: Heading.
    """
    mapped = mapped_inside(prediction, reference, reference.head, mapping)
    truth = reference.image * reference.head
    rows = {
        "reference": (truth, _RANGE),
        "prediction": (mapped, _RANGE),
        "prediction - reference": (mapped - truth, _DIFFERENCE),
    }
    captions = {
        name: f"{name}, shown {low:g} to {high:g}" for name, (_, (low, high)) in rows.items()
    }
    write_planes(
        path,
        {captions[name]: Volume(data.numpy(), affine) for name, (data, _) in rows.items()},
        windows={captions[name]: window for name, (_, window) in rows.items()},
        title=title,
        pixels_per_mm=_PIXELS_PER_MM,
    )
