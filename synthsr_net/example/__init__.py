"""The example scan that ships with the package.

A FLAIR-like head in slices of 5 mm with 1 mm pixels, oblique, with lesions, a bias field and noise.
It is synthetic: `examples/make_example_scan.py` makes it from the built-in head phantom.
"""

from __future__ import annotations

import os
from pathlib import Path

from synthsr_transforms.support.atomic import replacing
from synthsr_transforms.support.messages import SynthSRError

EXAMPLE_SCAN = Path(__file__).parent / "flair_5mm.nii.gz"
"""The file, as it was installed."""


def write_example(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write the example scan to a file of your own.

    Args:
        path: File ending in `.nii.gz`. Its folder must exist.
        overwrite: Replace a file that exists.

    Returns:
        The path.

    Raises:
        SynthSRError: If the ending is another, there is no such folder, or the file exists.
        OSError: If it cannot be written.
    """
    path = Path(path)
    if not path.name.lower().endswith(".nii.gz"):
        raise SynthSRError(f"the example must be written to a .nii.gz file, got {path}. Rename it.")
    if not path.parent.is_dir():
        raise SynthSRError(f"{path.parent} must be a folder, but is not. Make it first.")
    if path.is_dir():
        raise SynthSRError(
            f"the example must be written to a file, got the folder {path}. Name a file."
        )
    if path.exists() and not overwrite:
        raise SynthSRError(
            f"the example must go to a new file, got {path}. Add --overwrite to replace it."
        )
    with replacing(path) as temporary:
        temporary.write_bytes(EXAMPLE_SCAN.read_bytes())
    return path
