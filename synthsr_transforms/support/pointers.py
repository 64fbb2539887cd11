"""Links and small text files that stand for a file which is kept elsewhere and is not here."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .messages import SynthSRError

_ANNEX = re.compile(rb"(?:\.\.?[/\\])*(?:\.git[/\\]|[/\\])annex[/\\]objects[/\\]")
_LFS = re.compile(rb"version https?://(?:git-lfs\.github\.com|hawser\.github\.com|git-media\.io)")
_GET = "Run `datalad get` (or `git annex get`) on it."


def pointer_fault(path: Path) -> str | None:
    """What a link without target, or a pointer of git-annex or Git LFS is, and the remedy.

    None for other files, and where nothing is.
    """
    if path.is_symlink() and not path.exists():
        target = os.readlink(path)
        if _ANNEX.search(os.fsencode(target)):
            return f"is a link to a file that is not here. {_GET}"
        return f"is a link to a file that is not here ({target}). Bring it back, or mend the link."
    if not path.is_file():
        return None
    with path.open("rb") as file:
        start = file.read(200)
    if _ANNEX.match(start):
        return f"is a git-annex pointer, not the file itself. {_GET}"
    if _LFS.match(start):
        return "is a Git LFS pointer, not the file itself. Run `git lfs pull`."
    return None


def refuse_pointer(path: str | os.PathLike[str]) -> None:
    """Refuse what `pointer_fault` finds.

    Raises:
        SynthSRError: If the path is a link without target, or a pointer.
    """
    if fault := pointer_fault(Path(path)):
        raise SynthSRError(f"{path} {fault}")
