"""Transforms between scans, in files that ITK, ANTs, Slicer and SimpleITK read and write."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from synthsr_transforms.io.grids import Affine
from synthsr_transforms.support.messages import SynthSRError

from .registration import matrix_of

_DIRECTION = (
    "a transform of ITK (.tfm, .txt, .mat) from points of the first scan to points of the other"
)
MAX_SCALING = 1.5
"""Transforms that stretch or shrink by more are no alignment of two scans of one head."""


def read_transform(path: str | os.PathLike[str]) -> Affine:
    """Read a linear transform as `(4, 4)` matrix of the world of NIfTI, in mm.

    Args:
        path: A file that `SimpleITK.ReadTransform` reads, from points of the first (fixed) scan to
            points of the other (moving) one, as ANTs and SimpleITK write them.

    Raises:
        SynthSRError: If it is missing, no such file, not linear, or not of three dimensions.
    """
    import SimpleITK as sitk  # noqa: N813 - the customary name

    path = Path(path)
    if not path.is_file():
        raise SynthSRError(f"registration must be {_DIRECTION}, but {path} does not exist.")
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError:
        raise SynthSRError(
            f"registration must be {_DIRECTION}, but {path} cannot be read as one."
        ) from None
    if transform.GetDimension() != 3 or not transform.IsLinear():
        raise SynthSRError(
            f"registration must be linear and in 3-D, got {transform.GetName()} in {path}. Leave it"
            " out, or convert it."
        )
    matrix = matrix_of(transform)
    scales = np.linalg.svd(matrix[:3, :3], compute_uv=False)
    proper = np.isfinite(matrix).all() and np.linalg.det(matrix[:3, :3]) > 0
    if not proper or scales.max() > MAX_SCALING or scales.min() < 1 / MAX_SCALING:
        raise SynthSRError(
            f"registration must move a head, not mirror it or scale it by more than"
            f" {MAX_SCALING:g}, but the transform in {path} does."
        )
    return matrix
