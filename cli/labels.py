"""`synthsr labels`: the labels of label maps, and a label table to start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from synthsr_cli.common.describing import counted
from synthsr_cli.common.messages import log
from synthsr_cli.common.options import recursive_option, warn_of_unread
from synthsr_cli.common.tables import print_table
from synthsr_transforms.labels.tables import ready_names
from synthsr_transforms.support.messages import SynthSRError, listed

if TYPE_CHECKING:
    from synthsr_transforms.labels.summary import LabelReport

COLUMNS = ("value", "name", "side", "class", "tissue", "voxels", "mm3", "ml", "files")


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--table",
    "table_spec",
    metavar="NAME|FILE",
    help="Label table: a ready one "
    f"({', '.join(ready_names())}) or a .tsv file. Default: the best ready one.",
)
@click.option(
    "--write-table",
    type=click.Path(path_type=Path),
    metavar="OUT.tsv",
    help="Write a label table of the labels found and their left or right partners, to edit.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT.tsv if it exists.")
@recursive_option
def labels(
    paths: tuple[Path, ...],
    table_spec: str | None,
    write_table: Path | None,
    overwrite: bool,
    recursive: bool,
) -> None:
    """Report the labels of label maps: names, sides, classes, volumes, and what is wrong.

    PATHS are label maps (.nii, .nii.gz, .mgz, .npz), folders of them, or FreeSurfer's directories
    of subjects. Voxels and volumes are means over the files that hold a label. Off a terminal, the
    report is tab-separated text.
    """
    from synthsr_transforms.io.files import FREESURFER_LABELS, list_volumes
    from synthsr_transforms.labels.summary import report_label_maps
    from synthsr_transforms.labels.table import LabelTable

    if write_table is not None and write_table.exists() and not overwrite:
        raise SynthSRError(
            f"--write-table must name a new file, got {write_table}. Add --overwrite."
        )
    table = LabelTable.resolve(table_spec) if table_spec is not None else None
    files = [
        file
        for path in paths
        for file in list_volumes(path, recursive=recursive, freesurfer=FREESURFER_LABELS)
    ]
    warn_of_unread(paths, recursive=recursive)
    report = report_label_maps(files, table, table_spec or "")
    _print_report(report)
    if write_table is not None:
        report.present_table.write(write_table)
        _print_written(report, write_table)


def _print_report(report: LabelReport) -> None:
    known = len(report.volumes) - len(report.unknown_values)
    title = (
        f"{counted(report.num_files, 'label map')}, table {report.table_name} "
        f"(knows {known} of {len(report.volumes)} labels)"
    )
    print_table(COLUMNS, _rows(report), title=title, left=("name", "side", "tissue"))
    for warning in report.warnings:
        log.warning(warning)


def _rows(report: LabelReport) -> Iterator[tuple[str, ...]]:
    for volume in report.volumes:
        described: tuple[str, ...] = ("not in the table", "-", "-", "-")
        if volume.value in report.table:
            row = report.table.row(volume.value)
            described = (row.name, row.side, str(row.label_class), row.tissue)
        yield (
            str(volume.value),
            *described,
            f"{volume.mean_voxels:.0f}",
            f"{volume.mean_volume_mm3:.1f}",
            f"{volume.mean_volume_mm3 / 1000:.3f}",
            str(volume.num_files),
        )


def _print_written(report: LabelReport, path: Path) -> None:
    log.info(f"Wrote {len(report.present_table)} labels to {path}.")
    if report.dropped_classes:
        log.warning(
            f"classes {listed(report.dropped_classes)} of {report.table_name} have no "
            "labels here, so classes were renumbered. Estimate priors again, or select the classes "
            "that remain."
        )
