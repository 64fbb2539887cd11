"""Crops, flips, margins and sizes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torchio as tio

from synthsr_transforms import HemisphereFlip, PatchCrop
from synthsr_transforms.functional.layout import PatchPlan, crop, plan_patch

from ..replay import batch_of, replayed
from ..vectors import (
    Agreement,
    Vector,
    channels_first,
    family,
    given,
    near,
    numbered,
    rows,
    same_image,
    same_labels,
)
from .tables import sided_table


@family("crop")
def random_crop(vector: Vector, case: str) -> Iterator[Agreement]:
    """The start is explicit: the original truncates a draw and never takes the last place (B19)."""
    names = [name for name in ("labels", "image") if name in vector]
    images = {name: vector.volume(name) for name in names}
    size = len(next(iter(images.values())))
    start = torch.from_numpy(np.trunc(np.broadcast_to(vector["uniform_draw"], (size, 3)))).long()
    shape = vector["crop_shape"].tolist()
    batch = replayed(PatchCrop(shape=shape), batch_of(**images), start=start)
    for name in names:
        compare = same_labels if name == "labels" else same_image
        expected = vector[f"{name}_out"]
        yield compare(f"{name} (transform)", batch.images[name].data, expected)
        yield compare(f"{name} (function)", crop(images[name], start, shape), expected)


@family("flip", numbered(r"uniform_draw_(.*)"))
def flip(vector: Vector, case: str) -> Iterator[Agreement]:
    """The draw decides; `axis` is not read, as the original always flips the first (B6)."""
    names = [name for name in ("labels", "image") if f"{name}_{case}" in vector]
    batch = batch_of(**{name: vector.volume(name) for name in names})
    table = sided_table(vector["label_list"].tolist(), vector.given("n_neutral_labels"))
    draw = np.broadcast_to(vector[f"uniform_draw_{case}"].ravel(), batch.batch_size)
    params = {"_batched_keys": [], "_keep": (draw < 0.5).tolist()}
    HemisphereFlip(label_table=table, p=0.5).apply_transform(batch, params)
    for name in names:
        compare = same_labels if name == "labels" else same_image
        yield compare(name, batch.images[name].data, vector[f"{name}_{case}"])


@family("pad")
def padding(vector: Vector, case: str) -> Iterator[Agreement]:
    """The same margin on both sides of an axis, by TorchIO's transform, which generators use."""
    margin = np.broadcast_to(vector["margin"], 3).tolist()
    for name in ("labels", "image"):
        if name in vector:
            expected = vector["out" if "out" in vector else f"{name}_out"]
            batch = tio.Pad(padding=tuple(np.repeat(margin, 2).tolist()))(
                batch_of(**{name: vector.volume(name)})
            )
            yield near(name, batch.images[name].data, channels_first(expected), 0)


@family("shapes", rows("labels_shape"))
def shapes(vector: Vector, case: str) -> Iterator[Agreement]:
    """Crop and output sizes, one row per case; `tolerance_mm=0` restores the comparison of B42.

    Automatic margins (`pm_*`) are not compared: configurations of this library state their padding.
    """
    row = int(case)
    expected = (vector["cropping_shape"][row], vector["resample_output_shape"][row])
    if min(expected[1]) < 1:  # the original goes on with an empty patch (2.4)
        with pytest.raises(ValueError, match="at least"):
            _planned(vector, row)
        return
    plan = _planned(vector, row)
    yield near("crop shape", plan.crop_shape, expected[0], 0)
    yield near("output shape", plan.output_shape, expected[1], 0)


def _planned(vector: Vector, row: int) -> PatchPlan:
    margin = given(vector["padding_margin"][row])
    output, divisor = given(vector["output_shape"][row]), given(vector["output_div_by_n"][row])
    size = vector["labels_shape"][row] + (0 if margin is None else 2 * margin)
    return plan_patch(
        [int(n) for n in size],
        spacing_mm=vector["atlas_res"][row].tolist(),
        target_spacing_mm=vector["target_res"][row].tolist(),
        output_shape=None if output is None else [int(n) for n in output],
        multiple_of=None if divisor is None else int(divisor),
        tolerance_mm=0,
    )
