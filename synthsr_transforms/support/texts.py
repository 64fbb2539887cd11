"""Text files, of a size that a person or a program would write."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from synthsr_transforms.support.messages import SynthSRError

MAX_BYTES = 32 * 10**6
"""Largest text file that is read: the settings of a run on 100,000 label maps."""


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a UTF-8 text file, with or without a byte order mark.

    Raises:
        SynthSRError: If it is no plain file, too large, or not UTF-8.
        OSError: If it is missing or cannot be read.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise SynthSRError(f"{path} must be a text file, got a folder or device.")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise SynthSRError(
            f"{path} must be a text file of at most {MAX_BYTES // 10**6} MB. Check the path."
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SynthSRError(
            f"{path} must be a UTF-8 text file, got other bytes. Save it as UTF-8."
        ) from error


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        SynthSRError: If it holds something else; see `read_text`.
        OSError: If it is missing or cannot be read.
    """
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "too deeply nested"
        raise SynthSRError(f"{path} must be a JSON file, but cannot be read ({reason}).") from error
    if not isinstance(content, dict):
        raise SynthSRError(f"{path} must hold a JSON object, got {type(content).__name__}.")
    return content
