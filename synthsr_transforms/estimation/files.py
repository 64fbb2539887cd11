"""Files of an estimate: the pair of arrays of the original, and a description to read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import yaml

from synthsr_transforms.io.files import file_name, stem
from synthsr_transforms.labels.files import write_rows
from synthsr_transforms.priors.tissue_priors import as_rows
from synthsr_transforms.support.atomic import check_writable, replacing
from synthsr_transforms.support.messages import SynthSRError

from .estimate import PriorEstimate
from .statistics import MAD_TO_STD, PERCENTILES, RANGE

MEANS, STDS, DESCRIPTION = "prior_means.npy", "prior_stds.npy", "priors.yaml"
TABLE, T2_CROPPING, PICTURE = "label_table.tsv", "t2_cropping_stats.npy", "priors_channel{}.png"

_HEADER = """\
# Tissue priors, estimated from scans. To make training images that look like them:
#   synthsr generate PRESET --labels LABEL_MAPS --set mixture.priors={path}{table}
# Each class of labels has a Gaussian. For every image its mean is drawn from a normal
# distribution, with the mean and the standard deviation under `mean`, and its standard deviation
# likewise.
"""


def output_names(folder: str | os.PathLike[str]) -> list[Path]:
    """Files in a folder that are named like those of an estimate, sorted.

    Examples:
        >>> output_names("no/such/folder")
        []
    """
    patterns = (MEANS, STDS, DESCRIPTION, TABLE, T2_CROPPING, PICTURE.format("*"))
    return sorted(path for pattern in patterns for path in Path(folder).glob(pattern))


def check_output(folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Refuse an output folder that cannot be written to, or that holds an earlier estimate.

    Args:
        folder: The folder; it need not exist.
        overwrite: Whether an earlier estimate may be replaced.

    Raises:
        SynthSRError: If so.
    """
    there = output_names(folder)
    if there and not overwrite:
        raise SynthSRError(
            f"output folder must hold no priors, got {there[0]}. Choose another --out, or add"
            " --overwrite."
        )
    check_writable(folder)


def write_estimate(
    estimate: PriorEstimate,
    folder: str | os.PathLike[str],
    *,
    plot: bool = False,
    overwrite: bool = False,
) -> list[Path]:
    """Write `prior_means.npy`, `prior_stds.npy` and `priors.yaml`, all of them or none.

    A label table that is no ready one is written beside them, and `t2_cropping_stats.npy` where
    that was measured. The two arrays have the shapes and the row order of the original, see
    `priors`.

    Args:
        estimate: What to write.
        folder: Where; it is made if it does not exist.
        plot: Whether to draw one picture per channel as well.
        overwrite: Whether to replace the files of an earlier estimate.

    Returns:
        The files.

    Raises:
        SynthSRError: See `check_output`.
    """
    folder = Path(folder)
    check_output(folder, overwrite=overwrite)
    earlier = output_names(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with ExitStack() as stack:
        for name, write in _writers(estimate, folder, plot):
            write(stack.enter_context(replacing(folder / name)))
            written.append(folder / name)
    for path in set(earlier) - set(written):
        path.unlink(missing_ok=True)
    return written


def _writers(estimate: PriorEstimate, folder: Path, plot: bool) -> Iterator[tuple[str, Any]]:
    """Names of files, each with a function that writes to a path."""
    yield MEANS, lambda path: np.save(path, as_rows(estimate.priors.means))
    yield STDS, lambda path: np.save(path, as_rows(estimate.priors.stds))
    if estimate.table_name is None:
        yield TABLE, lambda path: write_rows(estimate.table.rows, path)
    cropping = estimate.t2_cropping
    if cropping is not None:
        yield T2_CROPPING, lambda path: np.save(path, cropping)
    if plot:
        from synthsr_transforms.drawing.panels import save_figure

        from .picture import channel_figure

        for number in range(1, len(estimate.channels) + 1):
            draw = partial(channel_figure, estimate, number)
            yield PICTURE.format(number), partial(save_figure, draw=draw)
    text = describe(estimate, folder)
    yield DESCRIPTION, lambda path: path.write_text(text, encoding="utf-8", newline="\n")


def describe(estimate: PriorEstimate, folder: Path) -> str:
    """An estimate as YAML text, one line per class and channel; numbers have seven digits.

    `priors.tissue_priors.read_prior_file` reads it back.
    """
    table = "" if estimate.table_name else f" --set label_table={quote(str(folder / TABLE))}"
    rows = estimate.table.rows
    lines = [
        _HEADER.format(path=quote(str(folder / DESCRIPTION)), table=table),
        "distribution: normal\n",
        f"label_table: {estimate.table_name or TABLE}\n",
        "classes:\n",
    ]
    for k, name in enumerate(estimate.table.class_names):
        values = [row.value for row in rows if row.label_class == k]
        lines.append(f"  - {_one_line({'class': k, 'name': name, 'labels': values})}\n")
    lines.append("channels:\n")
    for number, channel in enumerate(estimate.channels, start=1):
        lines.append(f"  - data_set: {channel.data_set}\n")
        lines.append(f"    channel_in_scans: {channel.channel}\n")
        lines.append(f"    scans: {channel.num_scans}\n    classes:\n")
        for row in estimate.class_rows(number):
            row |= {"mean": _digits(row["mean"]), "std": _digits(row["std"])}
            lines.append(f"      - {_one_line(row)}\n")
    lines.append(yaml.safe_dump(_provenance(estimate), sort_keys=False, width=100))
    return "".join(lines)


def _digits(numbers: Iterable[float]) -> list[float]:
    return [float(f"{number:.7g}") for number in numbers]


def _one_line(mapping: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(
        dict(mapping), default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True
    )
    return str(text).rstrip("\n")


def _provenance(estimate: PriorEstimate) -> dict[str, Any]:
    settings = estimate.settings
    rescaled = f"percentiles {PERCENTILES[0]:g} and {PERCENTILES[1]:g} to 0 and {RANGE:g}"
    by_labels = [str(n) for n, each in enumerate(estimate.channels, start=1) if each.by_labels]
    if by_labels:
        rescaled += f"; the latter of the brightest class in channels {', '.join(by_labels)}"
    cropping = estimate.t2_cropping
    cropped = {} if cropping is None else {"t2_cropping_stats": _digits(cropping)}
    return {
        **cropped,
        "provenance": {
            "synthsr_version": version("synthsr"),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "estimator": f"median, {MAD_TO_STD} * median absolute deviation",
            "intensities": rescaled if settings.rescale else "as stored",
            "label_maps_resampled": settings.resample_labels,
            "legacy": settings.legacy,
            "data_sets": [
                {
                    "images": os.path.abspath(data_set.images),
                    "labels": os.path.abspath(data_set.labels),
                    "pairs": {
                        stem(file_name(subject.image or Path())): subject.name
                        for subject in data_set.subjects
                    },
                }
                for data_set in estimate.data_sets
            ],
        },
    }
