"""Progress of a training run: a bar with the time left on a terminal, lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from .progress import SECONDS_BETWEEN_LINES, clock

if TYPE_CHECKING:
    from synthsr_net.training.callbacks.log import EpochResults, Progress

SHOWN = ("train/loss", "validation/brain/l1", "validation/brain/psnr", "validation/brain/ssim")
"""Metrics reported after each epoch."""


class TrainingProgress:
    """Progress of a run on the error stream.

    Args:
        quiet: Whether to show nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._begin = self._last = time.perf_counter()
        self._first: int | None = None

    @property
    def seconds(self) -> float:
        """Time since the beginning."""
        return time.perf_counter() - self._begin

    def __enter__(self) -> TrainingProgress:
        """Begin."""
        if not self._quiet and sys.stderr.isatty():
            self._bar = _bar()
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End."""
        if self._bar is not None:
            self._bar.stop()

    def step(self, now: Progress) -> None:
        """Report a batch."""
        if self._first is None:
            self._first, self._begin = now.done - 1, time.perf_counter()
        pace = self.seconds / max(now.done - self._first - 1, 1)
        left = clock((now.total - now.done) * pace)
        loss = "" if math.isnan(now.loss) else f"loss {now.loss:.4f}"
        epoch = f"epoch {now.epoch}/{now.epochs}"
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task("", total=now.total)
            text = f"{epoch}  {loss}  {pace * 1000:.0f} ms each  {left} left"
            self._bar.update(self._task, completed=now.done, description=text)
        elif not self._quiet and (
            now.done == self._first + 1 or time.perf_counter() - self._last > SECONDS_BETWEEN_LINES
        ):
            self._last = time.perf_counter()
            parts = (f"{now.done}/{now.total} batches", epoch, loss, f"{pace:.2f} s each", left)
            click.echo(", ".join(part for part in parts if part) + " left", err=True)

    def epoch(self, results: EpochResults) -> None:
        """Report an epoch."""
        if self._quiet:
            return
        values = [
            f"{name.removeprefix('validation/').replace('/', ' ')} {results.row[name]:.4g}"
            for name in SHOWN
            if name in results.row
        ]
        best = " (best)" if results.best else ""
        text = f"Epoch {results.epoch}: {', '.join(values) or 'the critic alone has learnt'}{best}"
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        else:
            click.echo(text, err=True)


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    return Bar(*columns, console=Console(stderr=True), transient=True)
