"""`synthsr view`: a scan and its prediction in the browser of this machine."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from pathlib import Path
from typing import Any

import click

from synthsr_cli.common.messages import say
from synthsr_cli.common.options import convention_option, traceback_option


@click.command()
@click.argument("scan", metavar="SCAN", type=click.Path(path_type=Path))
@click.argument("prediction", metavar="PREDICTION", type=click.Path(path_type=Path))
@click.option(
    "--segmentation",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Show this label map above both.",
)
@click.option(
    "--uncertainty",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Show this map of the expected error above both.",
)
@convention_option
@click.option("--no-browser", is_flag=True, help="Print the address, and open no browser.")
@traceback_option
def view(scan: Path, prediction: Path, no_browser: bool, **options: Any) -> None:
    """Look at a scan and its prediction side by side, in the browser.

    Both show the same place. The page comes from this machine and is seen by nobody else; it needs
    no network. The command ends with Ctrl-C, or a while after the page was closed.

    \b
    Examples:
      A scan and its prediction:
        synthsr view scan.nii.gz t1.nii.gz
      With structures, to be laid over both:
        synthsr predict scan.nii.gz t1.nii.gz --segmentation labels.nii.gz
        synthsr view scan.nii.gz t1.nii.gz --segmentation labels.nii.gz
    """  # noqa: D301 - click reads the character itself
    from synthsr_net.prediction.viewer import open_viewer

    server = open_viewer(scan, prediction, **options)
    say(f"Showing {prediction} at {server.address} until Ctrl-C.")
    if not no_browser and _has_screen():
        threading.Thread(target=webbrowser.open, args=(server.address,), daemon=True).start()
    server.run()
    say("The page was closed.")


def _has_screen() -> bool:
    """Whether a browser can open a window here, rather than in the terminal."""
    if sys.platform in ("darwin", "win32"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
