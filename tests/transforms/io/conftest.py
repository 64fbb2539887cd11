"""Writing of small scans for the tests of reading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

Save = Callable[..., Path]
SHAPE = (20, 24, 22)


@pytest.fixture(scope="session")
def affine() -> np.ndarray:
    """A head of 6 mm voxels: axes to posterior, superior and right."""
    return np.array([[0.0, 0, 6, -90], [-6, 0, 0, 80], [0, 6, 0, -70], [0, 0, 0, 1]])


@pytest.fixture(scope="session")
def voxels() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 100, SHAPE).astype(np.float32)


@pytest.fixture
def save(tmp_path: Path, affine: np.ndarray) -> Save:
    """Writer of a NIfTI, MGH or npz file; gives its path."""

    def write(data: Any, name: str = "scan.nii.gz", at: Any = affine, **fields: Any) -> Path:
        path = tmp_path / name
        if name.endswith(".npz"):
            np.savez_compressed(path, vol_data=data)
            return path
        image = (nib.MGHImage if name.endswith(".mgz") else nib.Nifti1Image)(data, at)
        for field, value in fields.items():
            image.header[field] = value
        nib.save(image, path)
        return path

    return write
