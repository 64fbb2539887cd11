"""Progress on the error stream: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .messages import log, terminal

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
        left = (total - done) * seconds / made
        rest = f"{clock(left)} left" if seconds and done < total else ""
        words = ", ".join(filter(None, (text, pace(made, seconds), rest)))
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, text=words)
        elif done == total or now - self._last > SECONDS_BETWEEN_LINES:
            self._last = now
            self.say(", ".join(filter(None, (f"{done}/{total} {self._what}", words))))

    def say(self, line: str) -> None:
        """Write a line, above the bar if there is one."""
        if not self._quiet:
            log.info(line)


@contextmanager
def progress(
    what: str, total: int = 0, *, done: int | None = 0, quiet: bool = False
) -> Iterator[Counter]:
    """Count things that get done, see `Counter`.

    Yields:
        Function to call after each.
    """
    shows = terminal()
    if quiet or shows.amount < 0 or not sys.stderr.isatty():
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
        shows.bar = bar
        try:
            yield Counter(what, total, done, bar, quiet)
        finally:
            shows.bar = None


def pace(number: int, seconds: float) -> str:
    """Seconds for one, in words; none if they cannot be told.

    Examples:
        >>> pace(4, 2.0), pace(1000, 3.2), pace(1, 0.0)
        ('0.50 s each', '3.2 ms each', '')
    """
    each = seconds / max(number, 1)
    if each < 0.01:
        return f"{1000 * each:.1f} ms each" if each >= 0.0001 else ""
    return f"{each:.2f} s each"


def lasted(number: int, seconds: float) -> str:
    """Seconds that several things took, and each of them.

    Examples:
        >>> lasted(1, 3.0), lasted(4, 3.0)
        ('3 s', '3 s, 0.75 s each')
    """
    return ", ".join(filter(None, (clock(seconds), pace(number, seconds) if number > 1 else "")))


def clock(seconds: float) -> str:
    """Seconds as minutes or hours.

    Examples:
        >>> clock(0.02), clock(0.6), clock(7.6), clock(75), clock(7322)
        ('less than 0.1 s', '0.6 s', '8 s', '1 min 15 s', '2 h 2 min')
    """
    if seconds < 0.95:
        return f"{seconds:.1f} s" if seconds >= 0.1 else "less than 0.1 s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
