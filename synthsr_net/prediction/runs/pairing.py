"""Files that belong together: masks with scans, T1 scans with T2 scans."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from synthsr_transforms.io.files import stem
from synthsr_transforms.support.messages import SynthSRError, listed

from .inputs import Source

MASK_WORDS = ("mask", "lesion", "lesions", "lesionmask", "label", "roi")
"""Words that the name of a lesion mask may have besides those of its scan."""
CONTRASTS = ("t1", "t1w", "t2", "t2w", "flair", "pd", "pdw")
"""Words in which the names of scans of one session differ."""


def match(first: Source, other: Source, words: Sequence[str]) -> list[Path]:
    """Files of one source in the order of those of another that they belong to.

    Args:
        first: The scans.
        other: As many files: a file for a file, a list for a list (matched line by line), a folder
            for a folder (matched by name).
        words: Words that do not count in names, in lower case.

    Raises:
        SynthSRError: If kinds or numbers differ, or a file has no partner, or several.

    Examples:
        >>> a = Source(Path("a"), "folder", (Path("a/s1_T1.nii"), Path("a/s2_T1.nii")))
        >>> b = Source(Path("b"), "folder", (Path("b/s2_T2.nii"), Path("b/s1_T2.nii")))
        >>> [path.name for path in match(a, b, CONTRASTS)]
        ['s1_T2.nii', 's2_T2.nii']
    """
    if first.kind != other.kind:
        raise SynthSRError(
            f"{other.path} must be a {first.kind} as {first.path} is, got a {other.kind}."
        )
    if first.kind != "folder":
        _refuse_numbers(first, other)
        return list(other.scans)
    key = _key_without(words)
    ours, theirs = _by_key(first, key), _by_key(other, key)
    alone = [str(ours[k]) for k in ours if k not in theirs]
    alone += [str(theirs[k]) for k in theirs if k not in ours]
    if alone:
        raise SynthSRError(
            f"each scan in {first.path} must have one partner of the same name in {other.path},"
            f" but {len(alone)} have none: {listed(alone, limit=3)}. Rename them, or give .txt"
            " lists."
        )
    return [theirs[key(path)] for path in first.scans]


def _refuse_numbers(first: Source, other: Source) -> None:
    if len(first.scans) != len(other.scans):
        raise SynthSRError(
            f"{first.path} and {other.path} must name equally many files, got"
            f" {len(first.scans)} and {len(other.scans)}."
        )


def _key_without(words: Sequence[str]) -> Callable[[Path], str]:
    def key(path: Path) -> str:
        parts = [part for part in re.split(r"[^a-z0-9]+", stem(path).lower()) if part]
        return " ".join(part for part in parts if part not in words) or " ".join(parts)

    return key


def _by_key(source: Source, key: Callable[[Path], str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in source.scans:
        other = found.setdefault(key(path), path)
        if other is not path:
            raise SynthSRError(
                f"names in {source.path} must differ by more than contrast, got {other.name} and"
                f" {path.name}. Rename one, or give .txt lists."
            )
    return found
