"""setuptools, with editable installs that type checkers understand.

`pip install -e .` of setuptools puts an import hook into the environment where a package lies in a
folder of another name, as `synthsr_cli` does in `cli`. Type checkers do not run it, so they do not
find the packages. Here an editable wheel holds a path file, which they read, and a package
`synthsr_cli` that points to the folder.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401 - hooks of PEP 517 and PEP 660
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

ROOT = Path(__file__).resolve().parent


def build_editable(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Build an editable wheel, see the top of this file."""
    name = build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
    path = Path(wheel_directory, name)
    with zipfile.ZipFile(path) as wheel:
        files = {file: wheel.read(file) for file in wheel.namelist() if ".dist-info/" in file}
    record = next(file for file in files if file.endswith("/RECORD"))
    del files[record]
    files["_synthsr_checkout.pth"] = f"{ROOT}\n".encode()
    files["synthsr_cli/__init__.py"] = f"__path__ = [{str(ROOT / 'cli')!r}]\n".encode()
    lines = [f"{file},{_digest(content)},{len(content)}" for file, content in files.items()]
    files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for file, content in files.items():
            wheel.writestr(file, content)
    return name


def _digest(content: bytes) -> str:
    text = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"sha256={text}"
