"""`mri-synthsr`: the options of FreeSurfer's command, so that scripts that call it run."""

from __future__ import annotations

import os
from pathlib import Path

import click

from synthsr_cli.common.options import complete_models, traceback_option


@click.command()
@click.option("--i", "source", metavar="INPUT", required=True, help="Scan, folder or .txt list.")
@click.option("--o", "output", metavar="OUTPUT", required=True, help="As for synthsr predict.")
@click.option("--ct", is_flag=True, help="Scans are CT in Hounsfield units.")
@click.option("--disable_sharpening", is_flag=True, help="Do not sharpen the prediction.")
@click.option("--disable_flipping", is_flag=True, help="Do not average with the mirrored scan.")
@click.option("--lowfield", is_flag=True, help="Use the model for low-field scans.")
@click.option("--v1", is_flag=True, help="Use the model of 2021; goes before --lowfield.")
@click.option("--threads", type=int, metavar="N", help="Threads on the CPU; -1 means all cores.")
@click.option("--cpu", is_flag=True, help="Do not use a GPU.")
@click.option(
    "--model",
    metavar="NAME|FILE",
    shell_complete=complete_models,
    help="Another model, such as synthsr-t1-v2.",
)
@traceback_option
@click.pass_context
def mri_synthsr(
    ctx: click.Context,
    source: str,
    output: str,
    model: str | None,
    threads: int | None,
    **given: bool,
) -> None:
    """Do what FreeSurfer's mri_synthsr does, with its options and its models.

    Models are looked for among downloaded ones (synthsr models download synthsr-v2) and in the
    folder models of FREESURFER_HOME. Existing output is replaced. Unlike FreeSurfer's, the command
    ends with an exit code other than 0 if a scan failed.

    \b
    Examples:
      One scan:
        mri-synthsr --i scan.nii.gz --o t1.nii.gz --threads 4
      A folder of CT scans:
        mri-synthsr --i ct/ --o predictions/ --ct
    """  # noqa: D301 - click reads the character itself
    from synthsr_cli.predict import predict

    name = "synthsr-v1" if given["v1"] else "synthsr-v2"
    if given["lowfield"] and not given["v1"]:
        name = "synthsr-lowfield-v2"
    arguments = [source, output, "--legacy", "v2", "--overwrite"]
    arguments += ["--model", model or _in_freesurfer(name)]
    arguments += ["--ct"] * given["ct"] + ["--no-sharpen"] * given["disable_sharpening"]
    arguments += ["--no-flip"] * given["disable_flipping"]
    arguments += ["--device", "cpu"] if given["cpu"] else []
    arguments += ["--threads", str(threads)] if threads not in (None, -1) else []
    with predict.make_context("mri-synthsr", arguments, parent=ctx) as inner:
        predict.invoke(inner)


def _in_freesurfer(name: str) -> str:
    """The file of a model in FreeSurfer's folder, or its name if it is not there."""
    from synthsr_net.models.zoo.files import PUBLISHED_MODELS, state_of

    known, home = PUBLISHED_MODELS[name], os.environ.get("FREESURFER_HOME")
    if not home or state_of(known) == "cached":
        return name
    path = Path(home, "models", known.file)
    return str(path) if path.is_file() else name
