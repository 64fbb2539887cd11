"""Gaussian mixtures, bias fields and contrast."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from synthsr_transforms import (
    BiasCorruption,
    GammaContrast,
    LabelTable,
    MinMaxRescale,
    TissueMixture,
    TissuePriors,
)
from synthsr_transforms.functional.fields import coarse_shape
from synthsr_transforms.transforms.common.labels_on_grid import ValueIndex

from ..replay import batch_of, replayed
from ..vectors import (
    INTENSITY,
    Agreement,
    Array,
    Vector,
    channels_first,
    family,
    near,
    numbered,
    same_image,
)
from .tables import sided_table


@family("gmm")
def gmm(vector: Vector, case: str) -> Iterator[Agreement]:
    """One class per label; labels that the list lacks read 0 where they are not refused (B44)."""
    batch = batch_of(labels=vector.volume("labels"))
    table = sided_table(vector["generation_labels"].tolist())
    means, stds = (vector.tensor(key).movedim(-1, 1) for key in ("means", "stds"))
    mixture = TissueMixture(label_table=table, num_channels=means.shape[1], check_labels=False)
    replayed(mixture, batch, means=means, stds=stds, noise=vector.volume("standard_normal"))
    yield same_image("image", batch.images["image"].data, vector["image"])


@family("bias", numbered(r"out_(.*)"))
def bias(vector: Vector, case: str) -> Iterator[Agreement]:
    """The recorded coarse grid already has its standard deviation; a field of 0 changes nothing."""
    image, grid = vector.volume("image"), vector.volume(f"small_grid_{case}")
    factor = vector["bias_scale"].item()
    yield near("coarse shape", coarse_shape(image.shape[2:], factor), grid.shape[2:], 0)
    draw = vector.given(f"uniform_draw_{case}")
    applied = True if draw is None else torch.from_numpy(draw < 0.95).to(grid).view(-1, 1, 1, 1, 1)
    batch = batch_of(image=image)
    field = grid * applied
    replayed(BiasCorruption(shape_factor=factor), batch, image__log_field=field)
    yield same_image("image", batch.images["image"].data, vector[f"out_{case}"])


@family("intensity", numbered(r"(.*out.*)"))
def intensity(vector: Vector, case: str) -> Iterator[Agreement]:
    """Clip, normalise and gamma; `out_normalise_only` is what a real target gets."""
    prefix = case[: case.index("out")]
    batch = batch_of(image=channels_first(_input(vector, prefix)).to(vector.device))
    if case.endswith("normalise_only"):
        replayed(MinMaxRescale(), batch)
    else:
        replayed(MinMaxRescale(clip=(0, 300)), batch)
        gamma = vector.tensor(f"{prefix}log_gamma").flatten(1)
        replayed(GammaContrast(), batch, image__log_gamma=gamma)
    yield same_image("image", batch.images["image"].data, vector[case])


def _input(vector: Vector, prefix: str) -> Array:
    if f"{prefix}image" in vector:
        return vector[f"{prefix}image"]
    assert prefix == "batch_", f"the input of {prefix!r} is neither stored nor documented"
    image = vector["image"]
    return np.concatenate([image, image[:, ::-1] * np.float32(0.5) + np.float32(9)])


@family("gmm_parameters", numbered(r"(.*)_draws"))
def gmm_parameters(vector: Vector, case: str) -> Iterator[Agreement]:
    """Priors; `legacy` accepts the doubtful forms of the original (B40)."""
    values = vector["generation_labels"].tolist()
    classes = vector["generation_classes"].tolist()
    if "noclasses" in case or "generation_classes" not in vector:
        classes = list(range(len(values)))
    draws = vector.tensor(f"{case}_draws")
    priors = TissuePriors.from_spec(
        _prior(vector, f"{case}_prior_means"),
        _prior(vector, f"{case}_prior_stds"),
        num_channels=draws.shape[0] // 2,
        num_classes=draws.shape[1],
        distribution="normal" if re.match("normal", case) else "uniform",
        legacy=True,
    )
    lookup = _class_lookup(values, classes)
    for name, numbers in zip(("means", "stds"), priors.from_draws(draws[None]), strict=True):
        ours = ValueIndex(lookup).spread(numbers)[..., values].movedim(1, -1)
        # float32 against float64 numbers of hundreds: relative to the largest
        size = max(1.0, float(np.abs(vector[f"{case}_{name}"]).max()))
        yield near(name, ours / size, vector[f"{case}_{name}"] / size, INTENSITY)


def _prior(vector: Vector, key: str) -> Any:
    array = vector.given(key)
    return array.item() if array is not None and array.ndim == 0 else array


def _class_lookup(values: list[int], classes: list[int]) -> Tensor:
    pairs = zip(values, classes, strict=True)
    rows = [(v, f"label {v}", "neutral", k, "brain_other") for v, k in pairs]
    return LabelTable(tuple(rows), keep_order=True).class_lookup()
