"""Slices of a head, and ways to interpolate between them, on the device where the head is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor
from torchio import ScalarImage
from torchio.data.affine import AffineMatrix
from torchio.data.batch import ImagesBatch, SubjectsBatch

from synthsr_transforms.functional.acquisition import plan_slices, slice_operator
from synthsr_transforms.functional.operators import apply_separable
from synthsr_transforms.functional.resample import resize, resize_coordinates
from synthsr_transforms.support.messages import SynthSRError
from synthsr_transforms.transforms import SliceAcquisition

from .network import HeadNetwork

Affine = npt.NDArray[np.float64]


AXES = ("sagittal", "coronal", "axial")
"""Orientations of slices, by the axis across which they lie."""


class Slices(NamedTuple):
    """A simulated scan.

    Attributes:
        data: `(x, y, z)` float32.
        affine: `(4, 4)` voxel-to-world matrix.
        shape: Size of the grid that it is made from, which covers the same field of view.
    """

    data: Tensor
    affine: Affine
    shape: tuple[int, int, int]


def check_slices(spacings_mm: Sequence[float], axes: Sequence[int]) -> None:
    """Refuse spacings that are not above 0, and axes other than 0, 1 and 2.

    Raises:
        SynthSRError: If there is one.
    """
    if min(spacings_mm, default=1.0) <= 0 or not set(axes) <= {0, 1, 2}:
        raise SynthSRError(
            f"slices must be above 0 mm thick and across axes 0, 1 or 2, got {list(spacings_mm)}"
            f" and {list(axes)}. Correct them."
        )


def acquire(
    image: Tensor,
    affine: Affine,
    slice_mm: float,
    axis: int,
    *,
    noise_std: float = 0.0,
    rician: bool = True,
    seed: int = 0,
) -> Slices:
    """Simulate slices that are as thick as they are apart, with a Gaussian profile.

    Args:
        image: `(X, Y, Z)` float32.
        affine: `(4, 4)`, without rotation.
        slice_mm: Slice spacing; one that is not above that of the image leaves it as it is.
        axis: Axis across which the slices lie.
        noise_std: Of the noise of each slice, in the unit of the image.
        rician: Whether the noise is Rician, as in magnitude images, or Gaussian.
        seed: Of the noise.

    Returns:
        The scan. The other axes keep their spacing.
    """
    x, y, z = image.shape
    own = np.linalg.norm(affine[:3, :3], axis=0)
    spacing, blur = own.copy(), np.zeros(3)
    if slice_mm > own[axis]:
        spacing[axis], blur[axis] = slice_mm, 1.0
    plan = plan_slices((x, y, z), torch.from_numpy(own), torch.from_numpy(spacing)[None, None])
    acquisition = SliceAcquisition(
        spacing_mm=tuple(spacing.tolist()),
        blur_multiplier=tuple(blur.tolist()),
        noise_std=noise_std,
        rician_probability=float(rician),
        output_shape=plan.low_shape[0, 0].tolist(),
        copy=False,
    )
    matrix = AffineMatrix(torch.from_numpy(np.array(affine)))
    batch = SubjectsBatch(
        {"image": ImagesBatch(image[None, None], [matrix], image_class=ScalarImage)}
    )
    acquisition.run(batch, torch.Generator().manual_seed(seed))
    made = batch.images["image"]
    return Slices(made.data[0, 0], np.asarray(made.affines[0].data), (x, y, z))


def predict_from(slices: Slices, network: HeadNetwork) -> Tensor:
    """Prediction from slices that are interpolated linearly, as `synthsr predict` does."""
    return network(linear(slices), slices=operators(slices))


def linear(slices: Slices) -> Tensor:
    """Linear interpolation to the grid that slices are made from, `(X, Y, Z)`."""
    return resize(slices.data[None, None], slices.shape, centred=True)[0, 0]


def cubic(slices: Slices) -> Tensor:
    """Interpolation by cubic splines to the grid that slices are made from, `(X, Y, Z)`."""
    data = slices.data
    operators = [
        None if n == size else _cubic_operator(n, size).to(data.device)[None, None]
        for n, size in zip(data.shape, slices.shape, strict=True)
    ]
    return apply_separable(data[None, None], operators)[0, 0]


def operators(slices: Slices) -> list[Tensor | None]:
    """Operators of slices on the grid that they are made from, for `HeadNetwork`."""
    found: list[Tensor | None] = []
    for number, size in zip(slices.data.shape, slices.shape, strict=True):
        centres = resize_coordinates(size, number, centred=True, dtype=torch.float64)
        found.append(slice_operator(size, centres, size / number) if number < size else None)
    return found


@lru_cache(maxsize=64)
def _cubic_operator(number: int, size: int) -> Tensor:
    """`(size, number)`: each column is what the spline makes of a single slice of 1."""
    where = resize_coordinates(number, size, centred=True, dtype=torch.float64).numpy()
    columns = [map_coordinates(one, [where], order=3, mode="nearest") for one in np.eye(number)]
    return torch.from_numpy(np.stack(columns, 1)).float()
