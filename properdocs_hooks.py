"""Pages to read without a network: formulas become MathML, and nothing is loaded from elsewhere."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert
from properdocs.exceptions import PluginError

_FORMULA = re.compile(r'(<(span|div) class="arithmatex">)\\([(\[])(.*?)\\[)\]](</\2>)', re.S)
_LOADED = re.compile(
    r'<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc="(?:https?:)?//[^"]*"'
    r'|<link\b(?![^>]*\brel="(?:canonical|alternate)")[^>]*\bhref="(?:https?:)?//[^"]*"'
)


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
