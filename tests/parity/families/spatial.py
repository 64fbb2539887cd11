"""Matrices, displacement fields and warps."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from synthsr_transforms import SpatialDeformation
from synthsr_transforms.functional.fields import coarse_shape, elastic_displacement
from synthsr_transforms.functional.geometry import about_centre, affine_matrix
from synthsr_transforms.functional.resample import resize
from synthsr_transforms.functional.warp import (
    patch_coordinates,
    sample_linear,
    sample_nearest,
    warp_affine,
    whole_grid,
)

from ..replay import batch_of, replayed
from ..vectors import (
    Agreement,
    Vector,
    family,
    near,
    numbered,
    same_field,
    same_image,
    same_labels,
)

COMPONENTS = ("rotation_deg", "shearing", "scaling", "translation")


@family("affine", numbered(r"(.*)matrix"))
def affine(vector: Vector, prefix: str) -> Iterator[Agreement]:
    """Matrices from whichever components are given, and their inverses."""
    parts = [
        vector.tensor(prefix + part) if prefix + part in vector else None for part in COMPONENTS
    ]
    matrix = affine_matrix(*parts)
    yield near("matrix", matrix, vector[f"{prefix}matrix"])
    if f"{prefix}matrix_inv" in vector:
        yield near("inverse", torch.linalg.inv(matrix), vector[f"{prefix}matrix_inv"])


@family("elastic")
def elastic(vector: Vector, case: str) -> Iterator[Agreement]:
    """Coarse velocity to displacement; `half_grid_units` restores the units of the original."""
    shape = vector["image_shape"].tolist()
    small = vector.volume("small_field")
    if "nonlin_scale" in vector:
        expected = vector["small_field"].shape[1:4]
        yield near("coarse shape", coarse_shape(shape, vector["nonlin_scale"].item()), expected, 0)
    half = elastic_displacement(small, shape, half_grid_units=True)
    if "half_velocity" in vector:
        yield same_field("half velocity", resize(small, half.shape[2:]), vector["half_velocity"])
    if "half_displacement" in vector:
        yield same_field("half displacement", half, vector["half_displacement"])
    yield same_field("displacement", resize(half, shape), vector["full_displacement"])


@family("warp", numbered(r"(?:labels|image)_(.*)"))
def warp(vector: Vector, case: str) -> Iterator[Agreement]:
    """Sampling through an affine, a field or both."""
    images = {name: vector.volume(name) for name in ("labels", "image") if name in vector}
    first = next(iter(images.values()))
    batch, shape = first.shape[0], first.shape[2:]
    matrix = torch.eye(4).repeat(batch, 1, 1)
    if "both" in case or "affine" in case:
        matrix = vector.tensor("affine")
    field = vector.volume("field") if "both" in case or "field" in case else None
    indices = whole_grid(shape, batch, vector.device)
    where = patch_coordinates(about_centre(matrix, shape), shape, indices, field)
    yield from _sampled(vector, case, images, where)
    if field is None and "image" in images:
        warped = warp_affine(images["image"], matrix)
        yield same_image("warp_affine", warped, vector[f"image_{case}"])


def _sampled(
    vector: Vector, case: str, images: dict[str, Tensor], where: Tensor
) -> Iterator[Agreement]:
    if f"labels_{case}" in vector:
        labels = sample_nearest(images["labels"], where)
        yield same_labels("labels", labels, vector[f"labels_{case}"])
    if f"image_{case}" in vector:
        image = sample_linear(images["image"], where)
        yield same_image("image", image, vector[f"image_{case}"])


@family("spatial_deformation_layer")
def spatial_deformation_layer(vector: Vector, case: str) -> Iterator[Agreement]:
    """The whole step; both options restore that the original reckons in (half-grid) voxels."""
    names = [name for name in ("labels", "image") if name in vector]
    batch = batch_of(**{name: vector.volume(name) for name in names})
    replayed(deformation(vector), batch, **deformation_draws(vector))
    if "labels" in names:
        yield same_labels("labels", batch.images["labels"].data, vector["labels_out"])
    if "image" in names:
        yield same_image("image", batch.images["image"].data, vector["image_out"])


def deformation(vector: Vector) -> SpatialDeformation:
    """The transform that deforms as the original does."""
    factor = vector["nonlin_scale"].item() if "nonlin_scale" in vector else 0.0625
    return SpatialDeformation(velocity_shape_factor=factor, half_grid_units=True, index_grid=True)


def deformation_draws(vector: Vector, prefix: str = "", size: int | None = None) -> dict:
    """Recorded parameters of a deformation; an absent one means that its step was off."""
    size = size or len(vector["labels" if "labels" in vector else "image"])

    def drawn(key: str, neutral: float, count: int) -> Tensor:
        array = vector.given(f"{prefix}{key}")
        return torch.full((size, count), neutral) if array is None else torch.from_numpy(array)

    draws = {
        "rotation_degrees": drawn("rotation_deg", 0, 3),
        "shearing": drawn("shearing", 0, 6),
        "scaling": drawn("scaling", 1, 3),
        "translation_mm": drawn("translation", 0, 3),
        "velocity_std_mm": torch.zeros(size),
    }
    if f"{prefix}small_field" in vector:
        draws["velocity"] = vector.volume(f"{prefix}small_field")
    return draws
