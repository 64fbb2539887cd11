"""`synthsr evaluate`: predictions of any method against reference scans."""

from __future__ import annotations

from pathlib import Path

import click

from synthsr_cli.common.describing import counted
from synthsr_cli.common.messages import log
from synthsr_cli.common.options import (
    message_options,
    out_option,
    overwrite_option,
    recursive_option,
    threads_option,
    warn_of_unread,
)
from synthsr_cli.common.progress import progress
from synthsr_cli.common.tables import print_table
from synthsr_transforms.support.messages import SynthSRError


@click.command()
@click.argument("predictions", type=click.Path(path_type=Path))
@click.argument("references", type=click.Path(path_type=Path))
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="DIR|FILE",
    help="Label maps of the references, with values of FreeSurfer: they give the mask of the brain"
    " and the tissues for Dice scores.  [default: brain found in the prediction, no Dice scores]",
)
@click.option(
    "--map",
    "mapping",
    type=click.Choice(["none", "linear", "cubic"]),
    default="linear",
    show_default=True,
    help="Map the intensities of each prediction to those of its reference by least squares.",
)
@out_option("Write metrics.csv and report.html (pictures, worst first) to this folder.")
@recursive_option
@overwrite_option
@threads_option
@message_options
def evaluate(
    predictions: Path,
    references: Path,
    labels: Path | None,
    mapping: str,
    folder: Path | None,
    overwrite: bool,
    recursive: bool,
) -> None:
    """Compare PREDICTIONS with REFERENCES: L1, PSNR and SSIM in brain and head, Dice of tissues.

    Both are files, folders (paired by name) or .txt lists (paired by line), of any method. Each
    prediction is interpolated linearly to the grid of its reference. Off a terminal, the table is
    tab-separated text.

    \b
    Examples:
      One prediction:
        synthsr evaluate prediction.nii.gz T1w.nii.gz --labels aseg.mgz
      A folder, with a table and a page of pictures:
        synthsr evaluate predictions/ T1w/ --labels label_maps/ --out evaluation
    """  # noqa: D301 - click reads the character itself
    from synthsr_net.evaluation import evaluate as compare
    from synthsr_net.evaluation import find_pairs
    from synthsr_net.evaluation.report import CSV_NAME, MEAN, PAGE_NAME, columns, means
    from synthsr_net.prediction.files import check_writable

    if folder is not None:
        there = [name for name in (CSV_NAME, PAGE_NAME) if (folder / name).exists()]
        if there and not overwrite:
            raise SynthSRError(
                f"output folder must hold no evaluation, got {folder / there[0]}. Choose another"
                " with --out, or add --overwrite."
            )
        check_writable([folder])
    pairs = find_pairs(predictions, references, labels, recursive=recursive)
    given = [path for path in (predictions, references, labels) if path is not None]
    warn_of_unread(given, recursive=recursive)
    with progress("pairs", len(pairs)) as on_pair:
        scores = compare(
            predictions,
            references,
            labels=labels,
            mapping=mapping,
            folder=folder,
            recursive=recursive,
            on_pair=on_pair,
        )
    names = columns(scores)
    rows = [(score.pair.name, score.metrics) for score in scores]
    print_table(
        ["name", *names],
        [
            [name, *(f"{metrics[n]:.4g}" if n in metrics else "-" for n in names)]
            for name, metrics in [*rows, (MEAN, means(scores))]
        ],
        title=f"{counted(len(scores), 'prediction')}, {mapping} mapping of intensities",
        left=["name"],
    )
    for score in scores:
        for warning in score.warnings:
            log.warning(f"{score.pair.name}: {warning}")
    if folder is not None:
        log.info(f"Wrote {CSV_NAME} and {PAGE_NAME} to {folder}.")
