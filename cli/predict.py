"""`synthsr predict`: clinical scans to 1 mm T1-weighted scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from synthsr_cli.common.options import (
    PredictionCommand,
    dicom_options,
    model_option,
    output_argument,
    prediction_options,
    scan_options,
)
from synthsr_transforms.support.messages import SynthSRError


@click.command(cls=PredictionCommand)
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@output_argument
@scan_options
@dicom_options
@click.option(
    "--inverse-contrast/--no-inverse-contrast",
    default=None,
    help="Invert the mirrored scan if it is bright where a T1 is dark, as a T2 is."
    "  [default: as the model says]",
)
@click.option(
    "--sharpen/--no-sharpen",
    default=None,
    help="Sharpen the prediction (unsharp mask).  [default: as the model says]",
)
@click.option(
    "--data-consistency/--no-data-consistency",
    default=None,
    help="Keep the detail of T1-weighted scans, lesions apart; hardly changes other contrasts."
    "  [default: as the model says]",
)
@click.option(
    "--lesion-mask",
    type=click.Path(path_type=Path),
    metavar="FILE|DIR",
    help="Keep the lesion of this mask instead of filling it in; a folder for a folder of scans.",
)
@click.option(
    "--with",
    "others",
    multiple=True,
    metavar="NAME=FILE",
    help="Another input of a model that takes several, by its name. May be repeated.",
)
@click.option(
    "--also",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Another scan of the same exam, for a model that takes several. May be repeated.",
)
@click.option(
    "--no-registration",
    "trusts_headers",
    is_flag=True,
    help="Trust the headers of the scans of an exam, instead of registering them to the first.",
)
@click.option(
    "--registration",
    "transforms",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="ITK transform from points of INPUT to those of the scan of --also, one for each of them.",
)
@click.option(
    "--per-session",
    is_flag=True,
    help="With --bids or DICOM: one prediction from all scans of each session or study.",
)
@model_option("synthsr-t1-v2, which ships with the package")
@prediction_options
def predict(source: Path, output: Path, **options: Any) -> None:
    """Turn scans of any MRI contrast, or CT, into T1-weighted scans of 1 mm.

    INPUT is a scan (NIfTI, MGH, NRRD, MINC, Analyze, .npz), a folder of scans, a DICOM
    file, folder or .zip, a .txt list with one path per line, a table of exams (.tsv with the
    columns exam and scan), or a BIDS dataset. OUTPUT is a file for one scan, a .txt list for a
    list, or a folder, in which scan.nii.gz becomes scan_synthsr.nii.gz, below the same subfolders
    with --recursive.

    \b
    Examples:
      One scan:
        synthsr predict scan.nii.gz t1.nii.gz
      With a smaller network, about three times as fast and a little rougher:
        synthsr predict scan.nii.gz t1.nii.gz --model fast
      A folder, with pictures to look at:
        synthsr predict scans/ predictions/ --report report/
      With segmentations of the predictions, and volumes of brain structures:
        synthsr predict scans/ predictions/ --segmentation labels/ --volumes volumes.csv
      A DICOM study: what it holds, and one of its series:
        synthsr predict study/ --list-series
        synthsr predict study/ t1.nii.gz --series flair
      CT, and nothing else; among MRI, CT in Hounsfield units is recognised:
        synthsr predict ct/ predictions/ --ct
      An exam, several scans of one person, with a model that takes them:
        synthsr predict t1.nii.gz out.nii.gz --also t2.nii.gz --also flair.nii.gz --model FILE
      A BIDS dataset, and going on after an interruption:
        synthsr predict dataset/ dataset/derivatives/synthsr --bids --resume
      Eight GPUs:
        synthsr predict scans/ predictions/ --devices 8
      Just as FreeSurfer does it, after synthsr models download synthsr-v2:
        synthsr predict scan.nii.gz t1.nii.gz --model synthsr-v2 --legacy v2
    """  # noqa: D301 - click reads the character itself
    from synthsr_cli.common.dicom import is_dicom, run_dicom
    from synthsr_cli.common.prediction import run_bids, run_scans, run_table
    from synthsr_net.prediction.runs.exams import is_table

    options["registration"] = not options["trusts_headers"]
    also = list(options["also"])
    _check(also, options)
    if is_dicom(source, options):
        run_dicom(source, output, options)
    elif options["bids"]:
        run_bids(source, output, options)
    elif is_table(source):
        if also or options["others"] or options["transforms"]:
            raise SynthSRError("a table names all scans: leave out --also, --with, --registration.")
        run_table(source, output, options)
    elif also:
        run_scans([source, *also], output, options, names=(), exams=True)
    else:
        pairs = [_named(text) for text in options["others"]]
        inputs, names = [source, *(file for _, file in pairs)], [None, *(n for n, _ in pairs)]
        run_scans(inputs, output, options, names=names)


def _check(also: Sequence[Path], options: Mapping[str, Any]) -> None:
    """Refuse options that do not go together."""
    if also and options["others"]:
        raise SynthSRError(
            "--also is for models that take any number of scans, --with for those that take certain"
            " ones. Give one of them."
        )
    if options["transforms"] and (options["trusts_headers"] or not also):
        raise SynthSRError(
            "--registration goes with --also, and not with --no-registration. Leave it out."
        )


def _named(text: str) -> tuple[str, Path]:
    name, equals, file = text.partition("=")
    if not (name and equals and file):
        raise SynthSRError(f"--with must be NAME=FILE, such as T2=t2.nii.gz, got {text!r}.")
    return name, Path(file)
