"""Progress on the error stream: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

SECONDS_BETWEEN_LINES = 10
"""Without a terminal, a line is written for the first, for the last, and at this interval."""


@contextmanager
def progress(
    what: str, total: int, *, done: int = 0, quiet: bool = False
) -> Iterator[Callable[[], None]]:
    """Count things that get done.

    Args:
        what: Their name, in the plural.
        total: How many there are.
        done: How many were done before.
        quiet: Whether to say nothing.

    Yields:
        Function to call after each.
    """
    if quiet:
        yield lambda: None
    elif sys.stderr.isatty():
        with _bar(what, total, done) as advance:
            yield advance
    else:
        yield _lines(what, total, done)


@contextmanager
def _bar(what: str, total: int, done: int) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    begin = time.perf_counter()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, completed=done, rate="")
        made = 0

        def advance() -> None:
            nonlocal made
            made += 1
            bar.update(task, advance=1, rate=pace(made, time.perf_counter() - begin))

        yield advance


def _lines(what: str, total: int, done: int) -> Callable[[], None]:
    begin = last = time.perf_counter()
    made = 0

    def advance() -> None:
        nonlocal made, last
        made += 1
        now = time.perf_counter()
        if made == 1 or done + made == total or now - last > SECONDS_BETWEEN_LINES:
            last = now
            left = clock((total - done - made) * (now - begin) / made)
            counted = f"{done + made}/{total} {what}"
            click.echo(f"{counted}, {pace(made, now - begin)}, {left} left", err=True)

    return advance


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
