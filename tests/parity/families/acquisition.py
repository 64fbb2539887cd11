"""Resolutions, slices, resizing and misalignment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from synthsr_transforms import (
    RegistrationCorrection,
    RegistrationError,
    ReliabilityMap,
    SliceAcquisition,
)
from synthsr_transforms.functional.acquisition import (
    SlicePlan,
    acquire_slices,
    plan_slices,
    random_resolution,
)
from synthsr_transforms.functional.geometry import affine_matrix
from synthsr_transforms.functional.reliability import distance_map, reliability_map
from synthsr_transforms.functional.resample import resize

from ..replay import batch_of, replayed
from ..vectors import (
    TIES,
    Agreement,
    Array,
    Vector,
    decimals,
    family,
    near,
    numbered,
    same_image,
)
from .blur import ORIGINAL


def _plan(shape: Sequence[int], spacing: Array, acquired: Array | None) -> SlicePlan:
    """Slices of a fixed resolution; the alignment of the original is `"corner"`."""
    fine = decimals(spacing if acquired is not None else np.ones(3))
    coarse = fine if acquired is None else decimals(acquired)
    return plan_slices(shape, fine[None, None], coarse[None, None], "corner")


def _unblurred(image: Tensor, plan: SlicePlan, output: Sequence[int]) -> Tensor:
    """Slices of a volume that is not blurred before."""
    size = (*image.shape[:2], 3)
    plan = plan._replace(low_shape=plan.low_shape.expand(size))
    return acquire_slices(image, plan, torch.zeros(size), output, **ORIGINAL)


@family("resample_tensor", numbered(r"out_(\d+)"))
def resample_tensor(vector: Vector, case: str) -> Iterator[Agreement]:
    """Fixed resolution: nearest to the slices, linear to the output."""
    image, output = vector.volume("image"), vector[f"resample_shape_{case}"].tolist()
    acquired = vector.given(f"subsample_res_{case}")
    plan = _plan(image.shape[2:], vector[f"volume_res_{case}"], acquired)
    yield same_image("slices", _unblurred(image, plan, output), vector[f"out_{case}"])
    low = resize(image, plan.low_shape[0, 0].tolist(), mode="nearest")
    yield same_image("two resizes", resize(low, output), vector[f"out_{case}"])
    if f"out_nearest_{case}" in vector:
        near_by = resize(low, output, mode="nearest")
        yield same_image("nearest", near_by, vector[f"out_nearest_{case}"], ties=TIES)
    if f"reliability_{case}" in vector:
        expected = vector[f"reliability_{case}"]
        made = reliability_map(plan, output).expand(len(expected), expected.shape[-1], -1, -1, -1)
        yield same_reliability("reliability", made, expected, plan.low_shape)


def same_reliability(what: str, ours: Tensor, theirs: Array, low_shape: Tensor) -> Agreement:
    """Compare reliabilities, but for the last voxel where the original has a slice too many (B18).

    Its positions come from a range of floating-point numbers, which for some sizes ends one late
    and then spoils the last voxel; the library takes as many positions as slices.
    """
    keep: list[Any] = [slice(None), slice(None)]
    for axis, size in enumerate(theirs.shape[1:4]):
        number = int(low_shape[0, 0, axis])
        too_many = len(np.arange(0, size, size / number)) > number
        keep.append(slice(0, size - 1) if too_many else slice(None))
    return same_image(what, ours[tuple(keep)], theirs[tuple([keep[0], *keep[2:], keep[1]])])


@family("resize_layer", numbered(r"size_(\d+)"))
def resize_layer(vector: Vector, case: str) -> Iterator[Agreement]:
    """The grid convention of the original."""
    image, size = vector.volume("image"), vector[f"size_{case}"].tolist()
    for mode, ties in (("linear", 0.0), ("nearest", TIES)):
        if f"{mode}_{case}" in vector:
            resized = resize(image, size, mode=mode)
            yield same_image(mode, resized, vector[f"{mode}_{case}"], ties=ties)


@family("mimic_acquisition", numbered(r"out_(\d+)"))
def mimic_acquisition(vector: Vector, case: str) -> Iterator[Agreement]:
    """Random resolution, which the alignment `"corner_open"` restores."""
    image, output = vector.volume("image"), vector[f"resample_shape_{case}"].tolist()
    fine = decimals(vector[f"volume_res_{case}"])
    acquired = vector.tensor(f"resolution_{case}")[:, None]
    plan = plan_slices(image.shape[2:], fine, acquired, "corner_open")
    yield same_image("image", _unblurred(image, plan, output), vector[f"out_{case}"])
    if f"distance_map_{case}" in vector:
        distance = distance_map(plan, output, acquired)
        expected = vector[f"distance_map_{case}"]
        distance = distance.expand(-1, expected.shape[-1], -1, -1, -1)
        yield same_image("distance", distance, expected)


@family("sample_resolution", numbered(r"resolution_(\d+)"))
def sample_resolution(vector: Vector, case: str) -> Iterator[Agreement]:
    """From random numbers; choices that the original shares by the batch are repeated.

    The thickness is recorded as drawn, so all that can be compared is its range.
    """
    finest = vector.tensor(f"min_res_{case}").float()
    size = len(vector[f"resolution_{case}"])
    resolution = random_resolution(
        finest.expand(size, 3),
        isotropic_mm=_drawn(vector, f"iso_draw_{case}"),
        anisotropic_mm=_drawn(vector, f"aniso_draw_{case}"),
        axis=vector.tensor(f"axis_index_{case}").long().expand(size),
        choose_isotropic=_below(vector, f"prob_iso_draw_{case}", 0.1, size),
        choose_minimum=_below(vector, f"prob_min_draw_{case}", 0.05, size),
    )
    yield near("resolution", resolution, vector[f"resolution_{case}"])
    if f"thickness_{case}" in vector:
        thickness = vector.tensor(f"thickness_{case}")
        within = torch.minimum(torch.maximum(thickness, finest), resolution)
        yield near("thickness", within, thickness)


def _drawn(vector: Vector, key: str) -> Tensor | None:
    array = vector.given(key)
    return None if array is None else torch.from_numpy(array)


def _below(vector: Vector, key: str, probability: float, size: int) -> Tensor:
    number = vector.given(key)
    return torch.from_numpy(np.zeros(1) > 0 if number is None else number < probability).expand(
        size
    )


@family("registration_error")
def registration_error(vector: Vector, case: str) -> Iterator[Agreement]:
    """Misalign, acquire, re-align; `index_grid` restores that the original reckons in voxels."""
    angle, shift = vector.tensor("rotation_deg"), vector.tensor("translation")
    error_angle, error_shift = (vector.tensor(f"err_{k}") for k in ("rotation_deg", "translation"))
    moved = affine_matrix(angle, translation=shift)
    error = affine_matrix(error_angle, translation=error_shift)
    yield near("T", moved, vector["T"])
    yield near("T_err", error, vector["T_err"])
    yield near("T_inv", torch.linalg.inv(moved), vector["T_inv"])
    yield near("T_realign", error @ torch.linalg.inv(moved), vector["T_realign"])
    fine = decimals(vector.arrays.get("volume_res", np.ones(3)))
    batch = batch_of(fine.tolist(), image=vector.volume("image"))
    images = batch.images
    count = images["image"].data.shape[1]
    replayed(RegistrationError(index_grid=True), batch, **_rigid(angle, shift, count))
    yield same_image("moved", images["image"].data, vector["moved"])
    acquired = decimals(vector["subsample_res"]).expand(batch.batch_size, count, 3)
    replayed(
        SliceAcquisition(spacing_mm=1, alignment="corner", **ORIGINAL),
        batch,
        spacing_mm=acquired,
        blur_multiplier=torch.zeros_like(acquired),  # the vector is not blurred
        noise_std=torch.zeros(batch.batch_size, count),
    )
    replayed(ReliabilityMap(), batch)
    plan = _plan(images["image"].data.shape[2:], fine.numpy(), vector["subsample_res"])
    yield same_image("acquired", images["image"].data, vector["lr_image"])
    reliability = images["reliability"].data
    expected = vector["lr_reliability"]
    yield same_reliability("reliability", reliability, expected, plan.low_shape)
    back = RegistrationCorrection(index_grid=True)
    replayed(back, batch, **_rigid(error_angle, error_shift, count))
    yield same_image("re-aligned", images["image"].data, vector["realigned_image"])
    reliability = images["reliability"].data
    yield same_image("re-aligned reliability", reliability, vector["realigned_reliability"])


def _rigid(angle: Tensor, shift: Tensor, channels: int) -> dict[str, Tensor]:
    return {
        "rotation_degrees": angle[:, None].expand(-1, channels, -1),
        "translation_mm": shift[:, None].expand(-1, channels, -1),
    }
