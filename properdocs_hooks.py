"""Pages to read without a network: formulas become MathML, and nothing is loaded from elsewhere.

The options of all commands are listed where a page asks for them.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

import click
from latex2mathml.converter import convert
from properdocs.exceptions import PluginError

_FORMULA = re.compile(r'(<(span|div) class="arithmatex">)\\([(\[])(.*?)\\[)\]](</\2>)', re.S)
_LOADED = re.compile(
    r'<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc="(?:https?:)?//[^"]*"'
    r'|<link\b(?![^>]*\brel="(?:canonical|alternate)")[^>]*\bhref="(?:https?:)?//[^"]*"'
)

OPTIONS = "<!-- options of all commands -->"
"""Mark in a page that gives way to the options."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the options of all commands where the page asks for them."""
    if OPTIONS not in markdown:
        return markdown
    from synthsr_cli.group import synthsr

    with click.Context(synthsr, info_name="synthsr") as context:
        return markdown.replace(OPTIONS, "\n".join(_commands(context, synthsr)))


def _commands(context: click.Context, group: click.Group) -> Iterator[str]:
    """Lines of Markdown: a section for each command, with its arguments and options."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        with click.Context(command, info_name=name, parent=context) as inner:
            yield f"\n### {inner.command_path}\n\n{command.get_short_help_str(200)}\n"
            usage = " ".join(command.collect_usage_pieces(inner))
            yield f"```text\n{inner.command_path} {usage}\n```\n"
            records = [each.get_help_record(inner) for each in command.get_params(inner)]
            yield "| Option | What it does |\n| --- | --- |"
            for option, text in filter(None, records):
                if not text:  # an argument, which stands in the line of usage
                    continue
                shown = " ".join(text.split()).replace("  [", " [")
                yield f"| `{_cell(option)}` | {_words(shown)} |"
            if isinstance(command, click.Group):
                yield from _commands(inner, command)


def _cell(text: str) -> str:
    """A text that fits into a cell of a table."""
    return text.replace("|", "\\|")


def _words(text: str) -> str:
    """A text in which Markdown sees nothing but words."""
    return re.sub(r"([*_\[\]])", r"\\\1", html.escape(_cell(text), quote=False))


def on_page_content(content: str, **_: Any) -> str:
    """Turn the formulas of a page into MathML, which browsers draw themselves."""
    return _FORMULA.sub(_as_mathml, content)


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Refuse a page that loads a script, a style or a picture from another server."""
    if found := _LOADED.search(output):
        raise PluginError(
            f"pages must load nothing from other servers, got {found[0]} in {page.file.src_uri}."
            " Put the file into docs/ and name it there."
        )
    return output


def _as_mathml(formula: re.Match[str]) -> str:
    begin, _, bracket, code, end = formula.groups()
    display = "block" if bracket == "[" else "inline"
    return begin + convert(html.unescape(code).strip(), display=display) + end
