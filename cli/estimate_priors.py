"""`synthsr estimate-priors`: tissue priors from scans and their label maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from synthsr_cli.common.describing import counted
from synthsr_cli.common.messages import log
from synthsr_cli.common.options import (
    match_option,
    message_options,
    out_option,
    overwrite_option,
    recursive_option,
    warn_of_unread,
)
from synthsr_cli.common.progress import progress
from synthsr_cli.common.tables import print_table
from synthsr_transforms.support.messages import SynthSRError

if TYPE_CHECKING:
    from synthsr_transforms.estimation import PriorEstimate, PriorEstimation
    from synthsr_transforms.labels.table import LabelTable

COLUMNS = ("channel", "class", "name", "mean", "+-", "std", "+-", "scans", "voxels")


@click.command("estimate-priors")
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    metavar="DIR|FILE",
    multiple=True,
    required=True,
    help="Scans of one kind, with one channel or several. Repeat it for more kinds: each is a data"
    " set, and all channels of all data sets become channels of the priors.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="DIR|FILE",
    multiple=True,
    required=True,
    help="Label maps, one per scan and on its grid. Give it once for all data sets, or once for"
    " each.",
)
@out_option("Output folder.", default="priors")
@click.option(
    "--label-table",
    metavar="NAME|FILE",
    help="Label table: a ready one, a .tsv file, or a .npy list of labels.  [default: the ready one"
    " that fits best]",
)
@click.option(
    "--classes",
    type=click.Path(path_type=Path),
    metavar="FILE.npy",
    help="Class of each label of a .npy list.  [default: left and right partners share one]",
)
@click.option("--no-rescale", is_flag=True, help="Measure intensities as they are stored.")
@match_option
@recursive_option
@click.option(
    "--resample-labels",
    is_flag=True,
    help="Bring label maps on other grids to those of their scans (nearest neighbour).",
)
@click.option("--plot", is_flag=True, help="Draw the classes over the intensities, per channel.")
@click.option(
    "--t2-cropping",
    is_flag=True,
    help="Measure where the second channel (T2) of two begins and ends along the longest axis.",
)
@click.option(
    "--legacy",
    is_flag=True,
    help="Do as the original: a class that a scan lacks counts as 0, and unknown labels are left"
    " out.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1, max=1024),
    metavar="N",
    default=1,
    show_default=True,
    help="Processes, each of which holds one scan in memory.",
)
@overwrite_option
@message_options
def estimate_priors(folder: Path, plot: bool, overwrite: bool, **options: Any) -> None:
    """Estimate tissue priors, so that training images look like your scans.

    Writes prior_means.npy and prior_stds.npy, as the original SynthSR reads them, and priors.yaml,
    which says the same with names. Off a terminal, the table is tab-separated text.

    \b
    Examples:
      From a folder of scans, with pictures:
        synthsr estimate-priors --images T1w/ --labels label_maps/ --out priors --plot
      T1 and T2 scans of the same people:
        synthsr estimate-priors --images T1w/ --images T2w/ --labels label_maps/
      Then train on such images:
        synthsr generate tutorial_2_sr_synthetic --labels label_maps/ \\
            --set label_table=freesurfer_synthsr --set mixture.priors=priors/priors.yaml
    """  # noqa: D301 - click reads the character itself
    from synthsr_transforms.estimation import check_output, write_estimate

    check_output(folder, overwrite=overwrite)
    warn_of_unread(options["labels"], options["images"], recursive=options["recursive"])
    job = _job(plot, options)
    estimate = _run(job, min(options["workers"], len(job.subjects)))
    files = write_estimate(estimate, folder, plot=plot, overwrite=overwrite)
    _print_table(estimate)
    for warning in estimate.warnings():
        log.warning(warning)
    names = ", ".join(path.name for path in files)
    log.info(f"Wrote {names} to {folder}.")


def _job(plot: bool, options: dict[str, Any]) -> PriorEstimation:
    from synthsr_transforms.estimation import EstimationSettings, PriorEstimation, find_data_sets

    images, labels, match = (options[name] for name in ("images", "labels", "match"))
    settings = {name: options[name] for name in ("resample_labels", "t2_cropping", "legacy")}
    return PriorEstimation(
        data_sets=find_data_sets(images, labels, match, recursive=options["recursive"]),
        label_table=_table(options["label_table"], options["classes"]),
        settings=EstimationSettings(rescale=not options["no_rescale"], **settings),
        keep_samples=plot,
    )


def _table(label_table: str | None, classes: Path | None) -> LabelTable | str:
    from synthsr_transforms.labels.table import LabelTable

    if classes is None:
        return label_table or "auto"
    if label_table is None or Path(label_table).suffix.lower() != ".npy":
        raise SynthSRError(
            f"--classes must come with a .npy list of labels, got {label_table or 'none'}. Add"
            " --label-table LABELS.npy."
        )
    return LabelTable.read(label_table, classes)


def _run(job: PriorEstimation, workers: int) -> PriorEstimate:
    maps = len(job.maps_to_read)
    with progress("label maps looked at", maps, quiet=not maps) as on_map:
        ready = job.choose_table(workers, on_map)
    with progress("scans measured", len(ready.subjects)) as on_scan:
        return ready.run(workers, on_scan)


def _print_table(estimate: PriorEstimate) -> None:
    channels = counted(len(estimate.channels), "channel")
    scans = counted(sum(len(data_set.subjects) for data_set in estimate.data_sets), "scan")
    title = f"Priors of {channels} from {scans}, table {estimate.table_name or 'of your own'}"
    rows = []
    for number in range(1, len(estimate.channels) + 1):
        for row in estimate.class_rows(number):
            numbers = (f"{value:.2f}" for value in (*row["mean"], *row["std"]))
            counts = (str(row["scans"]), str(row["voxels"]))
            rows.append((str(number), str(row["class"]), row["name"], *numbers, *counts))
    print_table(COLUMNS, rows, title=title, left=("name",))
