"""Progress on the error stream: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

SECONDS_BETWEEN_LINES = 10
"""Without a terminal, a line is written for the first, for the last, and at this interval."""


class Counter:
    """Counts things that get done, and shows how many.

    Args:
        what: Their name, in the plural.
        total: How many there are.
        done: How many were done before; None to count from the first that is reached.
        bar: Bar of Rich; None for lines.
        quiet: Whether to say nothing.
    """

    def __init__(self, what: str, total: int, done: int | None, bar: Any, quiet: bool) -> None:
        self._what, self.total, self._done, self._bar = what, total, done or 0, bar
        self._quiet = quiet
        self._first = done
        self._begin, self._last = time.perf_counter(), -math.inf
        self._task = bar and bar.add_task(what, total=total or None, completed=done or 0, text="")

    def __call__(self) -> None:
        """One more is done."""
        self.reach(self._done + 1, self.total)

    def rename(self, what: str) -> None:
        """Call what gets done by another name."""
        self._what = what
        if self._bar is not None:
            self._bar.update(self._task, description=what)

    def reach(self, done: int, total: int, text: str = "") -> None:
        """So many of a total are done; show a text beside them."""
        now, self._done = time.perf_counter(), done
        if self._first is None:
            self._first, self._begin = done, now
        made, seconds = max(done - self._first, 1), now - self._begin
        left = clock((total - done) * seconds / made)
        words = ", ".join(filter(None, (text, pace(made, seconds), f"{left} left")))
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, text=words)
        elif done == total or now - self._last > SECONDS_BETWEEN_LINES:
            self._last = now
            self.say(f"{done}/{total} {self._what}, {words}")

    def say(self, line: str) -> None:
        """Write a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.console.print(line, highlight=False)
        elif not self._quiet:
            click.echo(line, err=True)


@contextmanager
def progress(
    what: str, total: int = 0, *, done: int | None = 0, quiet: bool = False
) -> Iterator[Counter]:
    """Count things that get done, see `Counter`.

    Yields:
        Function to call after each.
    """
    if quiet or not sys.stderr.isatty():
        yield Counter(what, total, done, None, quiet)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Counter(what, total, done, bar, quiet)


def pace(number: int, seconds: float) -> str:
    """Seconds for one, in words.

    Examples:
        >>> pace(4, 2.0)
        '0.50 s each'
    """
    return f"{seconds / max(number, 1):.2f} s each"


def clock(seconds: float) -> str:
    """Seconds as minutes or hours.

    Examples:
        >>> clock(7.6), clock(75), clock(7322)
        ('8 s', '1 min 15 s', '2 h 2 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
