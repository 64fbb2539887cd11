"""The page of the command line lists every option of every command."""

from __future__ import annotations

import runpy
from collections.abc import Iterator

import click
import pytest
from helpers import (
    ROOT,
)

from synthsr_cli.group import synthsr


def commands(context: click.Context, group: click.Group) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        yield inner.command_path, command
        if isinstance(command, click.Group):
            yield from commands(inner, command)


def test_every_option_is_listed_under_its_command() -> None:
    pytest.importorskip("properdocs")
    hooks = runpy.run_path(str(ROOT / "properdocs_hooks.py"))
    page = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
    text = hooks["on_page_markdown"](page)
    assert text.startswith(page[:200])
    assert hooks["OPTIONS"] not in text
    sections = dict(part.partition("\n")[::2] for part in text.split("\n### ")[1:])
    for path, command in commands(click.Context(synthsr, info_name="synthsr"), synthsr):
        listed = sections[path]
        options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
        for option in options:
            assert f"`{option.opts[0]}" in listed, (path, option.opts)
