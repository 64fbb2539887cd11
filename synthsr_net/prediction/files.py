"""Files of scans and of predictions: found, paired and named; nothing is read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from synthsr_transforms.io.files import (
    WRITTEN,
    check_file,
    is_written,
    list_volumes,
    stem,
)
from synthsr_transforms.support.atomic import why_unwritable
from synthsr_transforms.support.messages import SynthSRError, listed
from synthsr_transforms.support.pointers import refuse_pointer
from synthsr_transforms.support.texts import read_text

ENDING = "_synthsr"
"""Suffix of the names of predictions."""
MASK_WORDS = ("mask", "lesion", "lesions", "lesionmask", "label", "roi")
"""Words that the name of a lesion mask may have besides those of its scan."""
CONTRASTS = ("t1", "t1w", "t2", "t2w", "flair", "pd", "pdw")
"""Words in which the names of scans of one session differ."""

_FILES = ", ".join(WRITTEN)
_OTHER_FILES = (
    *(".gz", ".img", ".hdr", ".mgh", ".nrrd", ".nhdr", ".mha", ".mhd", ".mnc", ".dcm", ".ima"),
    *(".txt", ".csv", ".json", ".png", ".jpg", ".tif", ".tiff", ".zip", ".npy", ".h5", ".mat"),
)
"""Endings of files that are no volumes to us, so that a typing error makes no folder `a.nrrd`."""
EXTRA_ENDINGS = {
    "laplace_scale": f"{ENDING}_spread",
    "segmentation": f"{ENDING}_seg",
    "posteriors": f"{ENDING}_posteriors",
}
"""Suffixes of the names of what is written beside predictions."""


@dataclass(frozen=True)
class Source:
    """Scans that one argument names.

    Attributes:
        path: The argument.
        kind: `file`, `folder` or `list` (a `.txt` file with one path per line).
        scans: The scans, in order.
    """

    path: Path
    kind: str
    scans: tuple[Path, ...]

    def name_of(self, scan: Path) -> str:
        """Name of a scan without its ending, below the folder if the argument is one."""
        top = self.path if self.kind == "folder" else scan.parent
        return (scan.parent.relative_to(top) / stem(scan)).as_posix()


def find_scans(
    path: str | os.PathLike[str], *, without: Iterable[Path] = (), recursive: bool = False
) -> Source:
    """Scans in a file, folder or list.

    Args:
        path: A scan, a folder of scans, or a `.txt` file with one path per line. Paths in a list
            start at the working folder, or else at that of the list. Empty lines and those that
            start with `#` do not count.
        without: Folders of outputs and of other inputs: below that of the scans they are not
            searched, and where one is that of the scans, earlier predictions in it are no scans.
        recursive: Whether folders are searched further down.

    Raises:
        ValueError: If there is none.
    """
    path = Path(path)
    refuse_pointer(path)
    if path.suffix.lower() == ".txt":
        return Source(path, "list", tuple(_listed(path)))
    if path.is_dir():
        return Source(path, "folder", tuple(_in_folder(path, tuple(without), recursive)))
    if not path.exists():
        raise SynthSRError(f"{path} must be a scan, folder or list, but does not exist.")
    check_file(path)
    return Source(path, "file", (path,))


def read_list(path: Path) -> list[str]:
    """Lines of a text file, without empty ones and those that start with `#`.

    Raises:
        SynthSRError: If it cannot be read, or has no lines.
    """
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
    except FileNotFoundError:
        raise SynthSRError(f"{path} must be a list of paths, but does not exist.") from None
    except OSError as error:
        raise SynthSRError(
            f"{path} must be a list of paths, one per line ({error.strerror})."
        ) from error
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise SynthSRError(f"{path} must hold one path per line, but holds none.")
    return lines


def _listed(path: Path) -> list[Path]:
    paths = [Path(line).expanduser() for line in read_list(path)]
    beside = [path.parent / each for each in paths]
    return [
        there if not each.exists() and os.path.lexists(there) else each
        for each, there in zip(paths, beside, strict=True)
    ]


def _in_folder(path: Path, without: Sequence[Path], recursive: bool) -> list[Path]:
    scans = list_volumes(path, recursive=recursive, without=without)
    if any(os.path.realpath(folder) == os.path.realpath(path) for folder in without):
        scans = [
            file for file in scans if not stem(file).endswith((ENDING, *EXTRA_ENDINGS.values()))
        ]
    if not scans:
        raise SynthSRError(f"{path} must hold scans, but holds predictions alone. Give the scans.")
    return scans


# Outputs -----------------------------------------------------------------------------------------


def extension(path: Path) -> str:
    """Ending of a volume made from another: that of its name in lower case, if it is written.

    Examples:
        >>> extension(Path("folder/scan.T1.NII")), extension(Path("scan.nrrd"))
        ('.nii', '.nii.gz')
        >>> extension(Path("scan.mgh"))
        '.mgz'
    """
    own = path.name[len(stem(path)) :].lower()
    return own if own in WRITTEN else ".mgz" if own == ".mgh" else ".nii.gz"


def plan_outputs(
    source: Source, output: str | os.PathLike[str], ending: str = ENDING
) -> list[Path]:
    """Files of the predictions of some scans.

    Args:
        source: The scans.
        output: A file for one scan (its ending must be known); a `.txt` list of as many files as
            there are scans; else a folder, in which `scan.nii.gz` becomes `scan_synthsr.nii.gz`,
            below the subfolders that scans of a folder are in.
        ending: What goes between name and ending of files in a folder.

    Raises:
        SynthSRError: If the output is of the wrong kind.
    """
    output = Path(output)
    if output.suffix.lower() == ".txt" and source.kind == "list":
        outputs = [Path(line).expanduser() for line in read_list(output)]
        if len(outputs) != len(source.scans):
            raise SynthSRError(
                f"{output} must hold one line per scan, got {len(outputs)} lines for"
                f" {len(source.scans)} scans in {source.path}."
            )
        for path in outputs:
            if not is_written(path):
                raise SynthSRError(f"{output}: {path} must end in one of {_FILES}.")
    elif is_written(output) and not output.is_dir():
        if source.kind != "file":
            raise SynthSRError(
                f"output must be a folder for {len(source.scans)} scans of {source.path}, got"
                f" {output}."
            )
        outputs = [output]
    else:
        refuse_file(output, source.kind)
        outputs = [
            output / f"{source.name_of(scan)}{ending}{extension(scan)}" for scan in source.scans
        ]
    return outputs


def refuse_file(output: Path, kind: str = "folder") -> None:
    """Refuse an output that cannot be a folder: a file, or a name that ends as files do.

    Args:
        output: The output.
        kind: What the input is, see `Source`.

    Raises:
        SynthSRError: If so.
    """
    if output.is_file():
        raise SynthSRError(
            f"output must be a folder or end in one of {_FILES}, {output} is a file."
        )
    if output.suffix.lower() in _OTHER_FILES and not output.is_dir():
        lists = " or .txt list" if kind == "list" else ""
        raise SynthSRError(
            f"output must be a folder{lists}, or a file ending in one of {_FILES}, got {output}."
        )


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse outputs that are inputs as well.

    Raises:
        SynthSRError: If there is one.
    """
    taken = {os.path.realpath(path) for path in inputs}
    for output in outputs:
        if os.path.realpath(output) in taken:
            raise SynthSRError(
                f"output must be another file than the input, got {output} for both."
            )


def check_writable(folders: Iterable[Path]) -> None:
    """Refuse folders that cannot be made or written to.

    Raises:
        SynthSRError: If there is one.
    """
    for folder in dict.fromkeys(folders):
        wrong = why_unwritable(folder)
        if wrong:
            raise SynthSRError(
                f"output folder must be writable, got {folder} ({wrong}). Choose another output."
            )


# Pairs -------------------------------------------------------------------------------------------


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
    ours, theirs = _by_key(first, words), _by_key(other, words)
    alone = [str(ours[k]) for k in ours if k not in theirs]
    alone += [str(theirs[k]) for k in theirs if k not in ours]
    if alone:
        raise SynthSRError(
            f"each scan in {first.path} must have one partner of the same name in {other.path},"
            f" but {len(alone)} have none: {listed(alone, limit=3)}. Rename them, or give .txt"
            " lists."
        )
    return [theirs[key] for key in ours]


def _refuse_numbers(first: Source, other: Source) -> None:
    if len(first.scans) != len(other.scans):
        raise SynthSRError(
            f"{first.path} and {other.path} must name equally many files, got"
            f" {len(first.scans)} and {len(other.scans)}."
        )


def _by_key(source: Source, words: Sequence[str]) -> dict[str, Path]:
    """Files of a folder by the words of their paths below it, those of `words` apart."""
    found: dict[str, Path] = {}
    for path in source.scans:
        parts = [part for part in re.split(r"[^a-z0-9]+", source.name_of(path).lower()) if part]
        key = " ".join(part for part in parts if part not in words) or " ".join(parts)
        other = found.setdefault(key, path)
        if other is not path:
            raise SynthSRError(
                f"names in {source.path} must differ by more than contrast, got {other.name} and"
                f" {path.name}. Rename one, or give .txt lists."
            )
    return found
