"""Gaussian blurs; window and boundary of the original are `truncate=1.25, boundary="zero"`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from synthsr_transforms import GaussianSmoothing
from synthsr_transforms.functional.blur import acquisition_sigma, gaussian_blur

from ..replay import batch_of, replayed
from ..vectors import (
    Agreement,
    Vector,
    decimals,
    family,
    given,
    near,
    numbered,
    rows,
    same_image,
)

ORIGINAL: dict[str, Any] = {"truncate": 1.25, "boundary": "zero"}


@family("blur_static", rows("sigmas"))
def blur_static(vector: Vector, case: str) -> Iterator[Agreement]:
    """Fixed widths, and the kernels themselves, read off the blur of a single voxel.

    `separable_j` is not compared: the two branches of the original give the same numbers.
    """
    sigma = decimals(vector["sigmas"][int(case)])
    blurred = gaussian_blur(vector.volume("image"), sigma[None, None], **ORIGINAL)
    yield same_image("image", blurred, vector[f"blur_{case}"])
    if f"kernel_{case}" in vector:
        expected = vector[f"kernel_{case}"]
        yield near("kernel", _kernel(sigma, expected.shape), expected)
    for axis in range(3):
        key = f"kernel_{case}_axis{axis}"
        if key in vector:
            alone = torch.zeros(3, dtype=torch.float64)
            alone[axis] = sigma[axis]
            shape = [vector[key].size if a == axis else 1 for a in range(3)]
            yield near(key, _kernel(alone, shape).flatten(), vector[key].ravel())


def _kernel(sigma: Tensor, shape: Any) -> Tensor:
    """Blur of one voxel in the middle of a volume with two more voxels on all sides."""
    single = torch.zeros(1, 1, *(n + 4 for n in shape))
    single[(0, 0, *(n // 2 + 2 for n in shape))] = 1
    blurred = gaussian_blur(single, sigma[None, None], **ORIGINAL)[0, 0]
    inside = blurred[2:-2, 2:-2, 2:-2]
    assert torch.isclose(inside.sum(), blurred.sum()), "our window is larger"
    return inside


@family("blur_random_range", numbered(r"blur_(\d+)"))
def blur_random_range(vector: Vector, case: str) -> Iterator[Agreement]:
    """Random factors, which do not change the window."""
    image, sigma = vector.volume("image"), decimals(vector[f"sigma_{case}"])
    factor = _multiplier(vector, case)
    size = (*image.shape[:2], 3)
    blurred = gaussian_blur(
        image, (sigma * factor).expand(size), window_sigma=sigma.expand(size), **ORIGINAL
    )
    yield same_image("function", blurred, vector[f"blur_{case}"])
    batch = replayed(
        GaussianSmoothing(**ORIGINAL),
        batch_of(image=image),
        image__sigma_mm=sigma.expand(size),
        image__multiplier=factor.expand(size),
    )
    yield same_image("transform", batch.images["image"].data, vector[f"blur_{case}"])


@family("blur_dynamic", numbered(r"blur_(\d+)"))
def blur_dynamic(vector: Vector, case: str) -> Iterator[Agreement]:
    """The window comes from the largest width, the weights from the own one."""
    image = vector.volume("image")
    sigma = (vector.tensor(f"sigma_{case}") * _multiplier(vector, case))[:, None]
    largest = decimals(np.broadcast_to(vector[f"max_sigma_{case}"], 3)).expand_as(sigma)
    blurred = gaussian_blur(image, sigma, window_sigma=largest, **ORIGINAL)
    yield same_image("image", blurred, vector[f"blur_{case}"])


def _multiplier(vector: Vector, case: str) -> Tensor:
    array = vector.given(f"multiplier_{case}")
    return torch.ones(3) if array is None else torch.from_numpy(array)


@family("blurring_sigma", rows("current_res"))
def blurring_sigma(vector: Vector, case: str) -> Iterator[Agreement]:
    """Width of the blur of an acquisition, in float64 and in float32."""
    row = int(case)
    arrays = [given(vector[k][row]) for k in ("current_res", "downsample_res", "thickness")]
    coefficient = given(vector["mult_coef"][row])
    for key, dtype in (("sigma", torch.float64), ("sigma_tensor_version", torch.float32)):
        tensors = [None if a is None else torch.tensor(a, dtype=dtype) for a in arrays]
        number = None if coefficient is None else float(coefficient)
        yield near(key, acquisition_sigma(*tensors, coefficient=number), vector[key][row])
