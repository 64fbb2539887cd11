"""Checks of words and numbers, and messages that say what and where."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


def listed(items: Sequence[object], limit: int = 12) -> str:
    """Return items as text for a message, only the first few if there are many.

    Examples:
        >>> listed([1, 2, 3]), listed(range(5), limit=2)
        ('1, 2, 3', '0, 1 and 3 more')
    """
    text = ", ".join(str(item) for item in items[:limit])
    return text if len(items) <= limit else f"{text} and {len(items) - limit} more"


@contextmanager
def naming(place: object) -> Iterator[None]:
    """Add a place, such as a file and a line, to the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        head, stop, advice = str(error).partition(". ")
        msg = f"{head.removesuffix('.')} ({place}).{' ' if stop else ''}{advice}"
        raise ValueError(msg) from error


def check_choice(what: str, word: str, choices: Iterable[str]) -> None:
    """Raise ValueError, with the nearest choice, if a word is none of the choices."""
    choices = tuple(choices)
    if word not in choices:
        msg = f"{what} must be one of {', '.join(choices)}, got {word!r}.{nearest(word, choices)}"
        raise ValueError(msg)


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return a hint at the choice that is spelt most like the word, or nothing."""
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def integers(numbers: Iterable[float], what: str) -> list[int]:
    """Return numbers as Python integers; numbers with a fraction are an error."""
    numbers = list(numbers)
    fractions = [number for number in numbers if number != int(number)]
    if fractions:
        msg = f"{what} must be integers, got {fractions[0]}. Round them first."
        raise ValueError(msg)
    return [int(number) for number in numbers]


def suggest(word: str, known: Sequence[str] | Mapping[str, Any] | set[str]) -> str:
    """End of an error message that offers the nearest spelling, or nothing."""
    begin = [name for name in known if word and name.startswith(word)]
    close = begin[:1] if len(begin) == 1 else difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
