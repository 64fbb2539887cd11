"""`synthsr segment`: scans to label maps and volumes of brain structures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from synthsr_cli.common.options import (
    PredictionCommand,
    dicom_options,
    inference_options,
    model_option,
    output_argument,
    scan_options,
    structure_options,
)


@click.command(cls=PredictionCommand)
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@output_argument
@structure_options
@click.option(
    "--posteriors",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Write the probabilities of all structures as well, one volume per structure.",
)
@scan_options
@dicom_options
@model_option("synthsr-seg-v1, which ships with the package")
@inference_options
def segment(source: Path, output: Path, **options: Any) -> None:
    """Segment brain structures in scans of any MRI contrast, or CT.

    INPUT is a scan (NIfTI, MGH, NRRD, MINC, Analyze, .npz), a folder of scans, a DICOM
    file, folder or .zip, a .txt list with one path per line, or a BIDS dataset. OUTPUT is a file
    for one scan, a .txt list for a list, or a folder, in which scan.nii.gz becomes
    scan_synthsr_seg.nii.gz. Values are those of FreeSurfer, and 258 for the rest of the head.
    Volumes are sums of probabilities on a grid of 1 mm.

    \b
    Examples:
      One scan:
        synthsr segment scan.nii.gz labels.nii.gz
      A folder, with volumes in ml, and pictures to look at:
        synthsr segment scans/ labels/ --volumes volumes.csv --report report/
      On the voxels of the scan itself:
        synthsr segment scan.nii.gz labels.nii.gz --grid input
      A BIDS dataset:
        synthsr segment dataset/ dataset/derivatives/synthsr --bids
    """  # noqa: D301 - click reads the character itself
    from synthsr_cli.common.dicom import is_dicom, run_dicom
    from synthsr_cli.common.prediction import SEGMENTATION, run_bids, run_scans

    if is_dicom(source, options):
        run_dicom(source, output, options, kind=SEGMENTATION)
    elif options["bids"]:
        run_bids(source, output, options, kind=SEGMENTATION)
    else:
        run_scans([source], output, options, kind=SEGMENTATION)
