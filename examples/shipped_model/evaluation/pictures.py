"""Pictures of an evaluation, drawn beside the work that goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy.typing as npt

from synthsr_net.prediction.report.picture import write_picture, write_planes
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.support.threads import threads


class Pictures:
    """A folder of pictures: rows of sagittal, coronal and axial slices.

    Args:
        folder: Where they go.
        pool: Threads that draw.
    """

    def __init__(self, folder: str | os.PathLike[str], pool: ThreadPoolExecutor) -> None:
        self.folder, self._pool = Path(folder), pool
        self.work: list[Future[None]] = []
        """Pictures that are being drawn."""
        self.names: list[str] = []
        """Files so far, without their folder."""

    def add(
        self, name: str, above: Mapping[str, Volume], prediction: Volume, title: str = ""
    ) -> None:
        """Draw volumes, the prediction below the others.

        Args:
            name: Of the file, without ending.
            above: Volumes by what they are called, on any grid.
            prediction: `(X, Y, Z)` and affine.
            title: Heading.
        """
        self._submit(name, write_picture, dict(above), prediction, title=title)

    def add_around(
        self, name: str, rows: Mapping[str, Volume], centre_mm: npt.ArrayLike, title: str = ""
    ) -> None:
        """Draw slices through a place, such as a lesion.

        Args:
            name: Of the file, without ending.
            rows: Volumes by what they are called, on any grid; planes follow the axes of the last.
            centre_mm: `(3,)` point in the world.
            title: Heading.
        """
        self._submit(name, write_planes, dict(rows), centre_mm=centre_mm, title=title)

    def _submit(self, name: str, write: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Draw a picture of that name into the folder, which is made with the first one."""
        file = f"{name}.png"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.names.append(file)
        self.work.append(self._pool.submit(write, self.folder / file, *args, **kwargs))


@contextmanager
def drawing_in(folder: str | os.PathLike[str]) -> Iterator[Pictures]:
    """A folder of pictures, made with the first one; all are there at the end.

    Args:
        folder: Where they go.
    """
    with threads(1) as pool:
        pictures = Pictures(folder, pool)
        yield pictures
        for work in pictures.work:
            work.result()
