"""An interactive page of one prediction, served to this machine alone.

`open_viewer` reads the volumes and gives a server, whose page shows them with NiiVue
(`page/niivue.js`, with its licence beside it). Nothing is loaded from elsewhere.
"""

from __future__ import annotations

import os
from importlib.resources import files

from synthsr_transforms.drawing.slices import Convention

from .server import LocalServer, Served
from .volumes import served_volumes

__all__ = ["LocalServer", "Served", "open_viewer"]

PAGE = {
    "": ("viewer.html", "text/html; charset=utf-8"),
    "viewer.css": ("viewer.css", "text/css; charset=utf-8"),
    "viewer.js": ("viewer.js", "text/javascript; charset=utf-8"),
    "niivue.js": ("niivue.js", "text/javascript; charset=utf-8"),
    "niivue.LICENSE.txt": ("niivue.LICENSE.txt", "text/plain; charset=utf-8"),
}
"""Files of the page and their types, by their names in its address."""


def open_viewer(
    scan: str | os.PathLike[str],
    prediction: str | os.PathLike[str],
    *,
    segmentation: str | os.PathLike[str] | None = None,
    uncertainty: str | os.PathLike[str] | None = None,
    convention: Convention = "neurological",
) -> LocalServer:
    """Read a scan and what was made of it, and make a server of a page that shows them.

    Args:
        scan: A file that `read_scan` takes.
        prediction: Its prediction, on any grid.
        segmentation: A label map of it.
        uncertainty: The scale of the error of the prediction.
        convention: Where the left of the head is drawn at first.

    Returns:
        The server, which answers once it runs.

    Raises:
        VolumeError: If a file cannot be read.
    """
    folder = files(__name__).joinpath("page")
    contents = {
        name: Served(kind, folder.joinpath(file).read_bytes())
        for name, (file, kind) in PAGE.items()
    }
    given = {"segmentation": segmentation, "uncertainty": uncertainty}
    contents |= served_volumes(scan, prediction, given, convention)
    return LocalServer(contents)
