"""Descriptions of predictions: in the headers of their files, and in JSON files beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib

from synthsr_transforms.support.atomic import write_text


def read_description(path: str | os.PathLike[str]) -> str:
    """Text in the header of a NIfTI file; empty if there is none or it is another kind of file."""
    try:
        header: Any = nib.load(path).header
        return bytes(header["descrip"].item()).rstrip(b"\0").decode("ascii", "replace")
    except Exception:
        return ""


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically; folders that are missing are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
