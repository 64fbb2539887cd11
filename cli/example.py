"""`synthsr example`: a scan to try `synthsr predict` on."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from synthsr_cli.common.messages import say
from synthsr_cli.common.options import overwrite_option, traceback_option


@click.command()
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@overwrite_option
@traceback_option
def example(target: Path, overwrite: bool) -> None:
    """Write a thick-slice scan (OUT.nii.gz) to try things on.

    It is a synthetic FLAIR scan of a head that does not exist: slices of 5 mm with pixels of 1 mm,
    oblique, with lesions in the white matter.

    \b
    Examples:
      A scan, and its prediction with a picture of both:
        synthsr example scan.nii.gz
        synthsr predict scan.nii.gz t1.nii.gz --report report
    """  # noqa: D301 - click reads the character itself
    from synthsr_net.example import write_example

    write_example(target, overwrite=overwrite)
    say(f"Wrote {target}. Next: synthsr predict {shlex.quote(str(target))} t1.nii.gz")
