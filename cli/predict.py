"""`synthsr predict`: clinical scans to 1 mm T1-weighted scans."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from synthsr_cli.common.options import PredictionCommand, model_option, prediction_options
from synthsr_transforms.support.messages import SynthSRError


@click.command(cls=PredictionCommand)
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUTPUT", type=click.Path(path_type=Path))
@click.option(
    "--ct/--no-ct",
    default=None,
    help="Scans are CT (MRI): clip them (do not clip them) to [0, 80] HU."
    "  [default: as the values of each scan say]",
)
@click.option(
    "--flip/--no-flip",
    default=None,
    help="Average with the prediction of the mirrored scan.  [default: as the model says]",
)
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
@click.option("--bids", is_flag=True, help="INPUT is a BIDS dataset, OUTPUT its derivative.")
@click.option(
    "--participant-label",
    "participants",
    multiple=True,
    metavar="LABEL",
    help="Take only this participant of the BIDS dataset. May be repeated.",
)
@model_option("synthsr-t1-v1, which ships with the package")
@prediction_options
def predict(source: Path, output: Path, **options: Any) -> None:
    """Turn scans of any MRI contrast, or CT, into T1-weighted scans of 1 mm.

    INPUT is a scan (.nii, .nii.gz, .mgz, .npz), a folder of scans, a .txt list with one path per
    line, or a BIDS dataset. OUTPUT is a file for one scan, a .txt list for a list, or a folder, in
    which scan.nii.gz becomes scan_synthsr.nii.gz, below the same subfolders with --recursive.

    \b
    Examples:
      One scan:
        synthsr predict scan.nii.gz t1.nii.gz
      With a smaller network, about three times as fast and a little rougher:
        synthsr predict scan.nii.gz t1.nii.gz --model fast
      A folder, with pictures to look at:
        synthsr predict scans/ predictions/ --report report/
      CT, and nothing else; among MRI, CT in Hounsfield units is recognised:
        synthsr predict ct/ predictions/ --ct
      A BIDS dataset, and going on after an interruption:
        synthsr predict dataset/ dataset/derivatives/synthsr --bids --resume
      Eight GPUs:
        synthsr predict scans/ predictions/ --devices 8
      Just as FreeSurfer does it, after synthsr models download synthsr-v2:
        synthsr predict scan.nii.gz t1.nii.gz --model synthsr-v2 --legacy v2
    """  # noqa: D301 - click reads the character itself
    from synthsr_cli.common.prediction import predict_all
    from synthsr_net.prediction.runs.tasks import plan_tasks, unread_inputs

    if options["bids"]:
        _predict_bids(source, output, options)
        return
    if options["participants"]:
        raise SynthSRError("--participant-label needs --bids. Add it, or give a folder.")
    pairs = [_named(text) for text in options["others"]]
    inputs = [source, *(file for _, file in pairs)]
    more = {name: options[name] for name in ("lesion_mask", "uncertainty", "recursive")}
    tasks, doubts = plan_tasks(inputs, output, **more), unread_inputs(inputs, output, **more)
    names = [None, *(name for name, _ in pairs)]
    predict_all(tasks, options, doubts=doubts, names=names, output=output)


def _named(text: str) -> tuple[str, Path]:
    name, equals, file = text.partition("=")
    if not (name and equals and file):
        raise SynthSRError(f"--with must be NAME=FILE, such as T2=t2.nii.gz, got {text!r}.")
    return name, Path(file)


def _predict_bids(source: Path, output: Path, options: dict[str, Any]) -> None:
    from synthsr_cli.common.prediction import predict_all
    from synthsr_net.prediction.runs.bids import left_out, write_descriptions
    from synthsr_net.prediction.runs.tasks import plan_bids

    refused = {"others": "--with", "lesion_mask": "--lesion-mask", "recursive": "--recursive"}
    for name, option in refused.items():
        if options[name]:
            raise SynthSRError(f"{option} does not go with --bids. Give scans by path instead.")
    if options["ct"]:
        raise SynthSRError("--ct does not go with --bids, where the suffix says what CT is.")
    spreads, participants = options["uncertainty"], options["participants"]
    tasks = plan_bids(source, output, participants=participants, uncertainty=spreads)
    start = partial(write_descriptions, source, [output, spreads])
    doubts = left_out(source, participants)
    predict_all(tasks, options, doubts=doubts, output=output, start=start)
