"""Shares of a job: several processes measure at the same time, the last one puts together."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Share(NamedTuple):
    """Part `number` of `count` equal parts.

    Examples:
        >>> Share.parse("2/3").of(range(8))
        range(2, 5)
        >>> Share(2, 3).file(Path("samples.jsonl")).name
        'samples_2.jsonl'
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """A share as it stands on the command line."""
        try:
            number, count = map(int, text.split("/"))
        except ValueError:
            number = count = 0
        if not 1 <= number <= count:
            raise ArgumentTypeError(f"a share must be like 1/8, the first of eight, got {text!r}")
        return cls(number, count)

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """Items that lie in this share, next to each other."""
        start, end = (n * len(items) // self.count for n in (self.number - 1, self.number))
        return items[start:end]

    def file(self, path: Path) -> Path:
        """The file that this share writes in the place of one for all."""
        return path.with_stem(f"{path.stem}_{self.number}")


def all_files(path: Path) -> list[Path]:
    """The file for all, if there is one, and those of shares."""
    shares = path.parent.glob(f"{path.stem}_*{path.suffix}")
    return [p for p in (path, *sorted(shares)) if p.exists()]
