"""Checks of words and numbers, and messages that say what and where."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

LONGEST = 480
"""Most letters of a message, to which the command line adds a few."""


class SynthSRError(ValueError):
    """Input or settings that cannot be used; the message names the fault and the remedy."""


class WorkFailedError(RuntimeError):
    """Work on valid input that could not be finished; the message says why."""


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk, or somebody's share of it, is full."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def describe(error: Exception) -> str:
    """An error in one line.

    Examples:
        >>> describe(FileNotFoundError(2, "No such file or directory", "a.nii"))
        'a.nii: No such file or directory.'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{error.filename}: "
        return shortened(f"{where}{error.strerror}.")
    if isinstance(error, (ValueError, OSError, WorkFailedError)):
        return shortened(text)
    no_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if no_memory or "allocate memory" in text:  # PyTorch has no error of its own for the CPU
        return shortened(
            "out of memory. Make smaller pieces (predict: lower --max-memory), or use --device cpu"
            f" ({text})."
        )
    return shortened(f"unexpected {type(error).__name__}: {text}")


def shortened(text: str, longest: int = LONGEST) -> str:
    """A message without its middle if it is too long, as values that users give may be.

    Examples:
        >>> shortened("size must be a number, got aaaaaaaaaaaaaaa. Give one.", longest=45)
        'size must be a number, go ... aaaa. Give one.'
    """
    if len(text) <= longest:
        return text
    end = longest // 3
    return f"{text[: longest - end - 5].rstrip()} ... {text[-end:].lstrip()}"


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
        raise SynthSRError(msg) from error


def check_choice(what: str, word: str, choices: Iterable[str]) -> str:
    """The word, if it is one of the choices.

    Raises:
        SynthSRError: If not; the nearest spelling is suggested.
    """
    choices = tuple(choices)
    if word not in choices:
        raise SynthSRError(
            f"{what} must be one of {', '.join(choices)}, got {word!r}{suggest(word, choices)}."
        )
    return word


def suggest(word: object, known: Iterable[str]) -> str:
    """Hint at the most similar known word, for the end of a message; empty if there is none.

    Examples:
        >>> suggest("predcit", ["predict", "train"])
        " (did you mean 'predict'?)"
    """
    text = str(word).lower()
    names = {name.lower(): name for name in known}
    near = [name for name in names if text and name.startswith(text)]
    if len(near) != 1:
        near = difflib.get_close_matches(text, names, n=1)
    return f" (did you mean {names[near[0]]!r}?)" if near else ""


def bytes_in_words(num_bytes: float) -> str:
    """Bytes in the unit that suits their number.

    Examples:
        >>> bytes_in_words(1_540_000_000), bytes_in_words(20_000), bytes_in_words(3e30)
        ('1.5 GB', '20.0 kB', '3e+21 GB')
    """
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if num_bytes >= size:
            number = num_bytes / size
            return f"{number:.1f} {unit}" if number < 10**6 else f"{number:.2g} {unit}"
    return f"{num_bytes:.0f} bytes"


def integers(numbers: Iterable[float], what: str) -> list[int]:
    """Return numbers as Python integers; numbers with a fraction are an error."""
    numbers = list(numbers)
    fractions = [number for number in numbers if number != int(number)]
    if fractions:
        raise SynthSRError(f"{what} must be integers, got {fractions[0]}. Round them first.")
    return [int(number) for number in numbers]
