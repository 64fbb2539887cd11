"""`synthsr predict-hyperfine`: pairs of low-field T1 and T2 scans to 1 mm T1-weighted scans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from synthsr_cli.common.options import PredictionCommand, model_option, prediction_options


@click.command(cls=PredictionCommand)
@click.argument("t1", metavar="T1", type=click.Path(path_type=Path))
@click.argument("t2", metavar="T2", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUTPUT", type=click.Path(path_type=Path))
@model_option("synthsr-hyperfine, which cannot be downloaded")
@prediction_options
def predict_hyperfine(t1: Path, t2: Path, output: Path, **options: Any) -> None:
    """Turn a T1 and a T2 scan of a Hyperfine scanner into one T1-weighted scan of 1 mm.

    T1 and T2 are scans, two folders whose files are matched by name (s1_T1.nii with s1_T2.nii), or
    two .txt lists that are matched line by line. The T2 scan is resampled to the T1 scan, so the
    two must be aligned in their headers. OUTPUT is as for synthsr predict; names are those of T1.

    \b
    Examples:
      One pair:
        synthsr predict-hyperfine t1.nii.gz t2.nii.gz prediction.nii.gz --model FILE
      Two folders:
        synthsr predict-hyperfine t1/ t2/ predictions/ --model FILE
    """  # noqa: D301 - click reads the character itself
    from synthsr_cli.common.prediction import run_scans

    options["default_model"] = "synthsr-hyperfine"
    run_scans([t1, t2], output, options, names=["T1", "T2"])
