"""Progress of downloads, on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


class DownloadBar:
    """A `rich` progress bar with the attributes and methods that pooch uses.

    Attributes:
        offset_bytes: What was there before the transfer began; pooch counts from 0.
    """

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task
        self.offset_bytes = 0

    @property
    def total(self) -> float | None:
        """Number of bytes of this transfer; None if the server does not say."""
        total = self._progress.tasks[self._task].total
        return None if total is None else total - self.offset_bytes

    @total.setter
    def total(self, num_bytes: int) -> None:
        total = num_bytes + self.offset_bytes if num_bytes else None
        self._progress.update(self._task, total=total, completed=self.offset_bytes)

    def update(self, num_bytes: int) -> None:
        """Count bytes that arrived."""
        self._progress.advance(self._task, num_bytes)

    def reset(self) -> None:
        """Go back to the beginning of this transfer."""
        self._progress.update(self._task, completed=self.offset_bytes)

    def close(self) -> None:
        """Nothing: the bar ends with its context."""

    def say(self, text: str) -> None:
        """Write a line above the bar."""
        self._progress.console.print(text, highlight=False, soft_wrap=True)


@contextmanager
def download_bar(file: str) -> Iterator[DownloadBar]:
    """Show a bar for one file."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield DownloadBar(progress, progress.add_task(file, total=None))
