"""`synthsr-bids`: prediction as a BIDS App, with the options that such programs share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from synthsr_cli.common.options import (
    PredictionCommand,
    filter_file_option,
    inference_options,
    model_option,
    structure_options,
)

SEVERAL = ("--participant-label", "--participant_label", "--session-label", "--session_label")
"""Options that take several values, one after the other."""
AS_THE_MODEL_SAYS = ("ct", "flip", "inverse_contrast", "sharpen", "data_consistency")
"""Settings of `synthsr predict` that are left to the model."""


class BidsCommand(PredictionCommand):
    """Command whose options of labels take several values, as those of BIDS Apps do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, with an option before each of several values."""
        return super().parse_args(ctx, repeated(args))


def repeated(arguments: Sequence[str]) -> list[str]:
    """Arguments with the option before each of its values.

    Examples:
        >>> repeated(["in", "out", "participant", "--participant-label", "01", "02", "-w", "work"])
        ['in', 'out', 'participant', '--participant-label', '01', '--participant-label', '02', '-w', 'work']
    """  # noqa: E501
    result: list[str] = []
    option, values = "", 0
    for word in arguments:
        if word.startswith("-"):
            option, values = word if word in SEVERAL else "", 0
        elif option:
            values += 1
            result += [option] if values > 1 else []
        result.append(word)
    return result


@click.command("bids-app", cls=BidsCommand)
@click.argument("dataset", metavar="DATASET", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path))
@click.argument("level", metavar="participant", type=click.Choice(["participant"]))
@click.option(
    "--participant-label",
    "--participant_label",
    "participants",
    multiple=True,
    metavar="LABEL ...",
    help="Take only these participants, with or without sub-.  [default: all]",
)
@click.option(
    "--session-label",
    "--session_label",
    "sessions",
    multiple=True,
    metavar="LABEL ...",
    help="Take only these sessions, with or without ses-.  [default: all]",
)
@filter_file_option
@click.option(
    "-w",
    "--work-dir",
    "--work_dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of temporary files, made if needed.  [default: that of the system]",
)
@click.option(
    "--skip-bids-validation",
    "--skip_bids_validator",
    is_flag=True,
    help="Accepted, since other programs have it: only names and the description are checked.",
)
@click.option("--segment", is_flag=True, help="Segment brain structures as well, into OUT.")
@click.option("--per-session", is_flag=True, help="One prediction from all scans of each session.")
@model_option("synthsr-t1-v2, which ships with the package")
@structure_options
@inference_options
@click.option(
    "--n-cpus",
    "--n_cpus",
    "--nthreads",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="As --threads.",
)
@click.option(
    "--mem-mb",
    "--mem_mb",
    type=click.IntRange(1),
    metavar="N",
    help="As --max-memory, in megabytes.",
)
@click.version_option(package_name="synthsr", prog_name="synthsr-bids")
def bids_app(dataset: Path, output: Path, level: str, **options: Any) -> None:
    """Turn the scans of a BIDS dataset into T1-weighted scans of 1 mm: a BIDS App.

    DATASET is the root of the dataset, OUT the derivative dataset, new or of an earlier run. What
    is complete in it is kept, so the same command goes on after an interruption.

    \b
    Examples:
      Two participants, with segmentations:
        synthsr-bids dataset/ dataset/derivatives/synthsr participant
          --participant-label 01 02 --segment
      One session, in a container:
        docker run --rm -v /data:/data:ro -v /out:/out synthsr /data /out participant
          --session-label baseline
      One participant of an array of jobs:
        synthsr-bids dataset/ out/ participant --participant-label 03 -w /scratch --n-cpus 4
    """  # noqa: D301 - click reads the character itself
    if options["work_dir"] is not None:
        _work_in(options["work_dir"])
    if options["n_cpus"] is not None:
        import torch

        torch.set_num_threads(options["n_cpus"])
    from synthsr_cli.common.prediction import run_bids

    if options["mem_mb"] is not None:
        options["max_memory"] = f"{options['mem_mb']}MB"
    options |= dict.fromkeys((*AS_THE_MODEL_SAYS, "legacy", "uncertainty"))
    options |= {"registration": True, "segmentation": output if options["segment"] else None}
    options["resume"] = not options["overwrite"]
    run_bids(dataset, output, options)


def _work_in(folder: Path) -> None:
    """Let temporary files of this process, and of those that it starts, go to a folder."""
    from synthsr_transforms.support.atomic import check_writable

    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder.absolute())
