"""Tables on standard output: drawn on a terminal, tab-separated text elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

import click


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    left: Collection[str] = (),
) -> None:
    """Print a table.

    Args:
        columns: Their names.
        rows: Cells.
        title: Heading; off a terminal, a line that begins with `#`.
        left: Columns of words, which are aligned at the left; the others are numbers.
    """
    if not sys.stdout.isatty():
        if title:
            click.echo(f"# {title}")
        for line in (columns, *rows):
            click.echo("\t".join(line))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None)
    for column in columns:
        justify: Literal["left", "right"] = "left" if column in left else "right"
        table.add_column(column, justify=justify, no_wrap=column == columns[0])
    for row in rows:
        table.add_row(*row)
    Console().print(table)
