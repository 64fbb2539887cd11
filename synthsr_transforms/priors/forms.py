"""Arrays of hyper-parameters: checks, and the forms that users give them in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from synthsr_transforms.labels.files import read_npy
from synthsr_transforms.support.messages import SynthSRError

PriorDistribution = Literal["uniform", "normal"]
FloatArray = npt.NDArray[np.floating[Any]]
PriorSpec = (
    float | Sequence[float] | Sequence[Sequence[float]] | FloatArray | os.PathLike[str] | str
)

DEFAULT_CENTRE = {"means": 125.0, "stds": 15.0}
"""Centres of the intervals that numbers and None stand for."""

DEFAULT_HALF_WIDTH = {"means": 100.0, "stds": 10.0}
"""Half widths of the intervals that None stands for."""

DISTRIBUTIONS: tuple[PriorDistribution, ...] = get_args(PriorDistribution)


def as_rows(blocks: FloatArray) -> FloatArray:
    """Return a `(C, 2, K)` array as `(2 * C, K)`."""
    return blocks.reshape(-1, blocks.shape[2])


def as_blocks(name: str, rows: FloatArray) -> FloatArray:
    """Return a `(2 * C, K)` array as `(C, 2, K)`."""
    if rows.ndim != 2 or rows.shape[0] % 2:
        raise SynthSRError(f"{name} must have shape (2 * channels, classes), got {rows.shape}.")
    return rows.reshape(-1, 2, rows.shape[1])


def frozen_copy(array: npt.ArrayLike) -> FloatArray:
    """Return a read-only copy; integers become 64-bit floats, floats keep their precision."""
    copy = np.array(array, order="C")
    if copy.dtype.kind != "f":
        copy = copy.astype(np.float64)
    copy.setflags(write=False)
    return copy


def check_hyper_parameters(name: str, array: FloatArray, distribution: str) -> None:
    """Refuse arrays of another shape than `(C, 2, K)`, and numbers that cannot be used."""
    if array.ndim != 3 or array.shape[1] != 2 or 0 in array.shape:
        raise SynthSRError(f"{name} must have shape (channels, 2, classes), got {array.shape}.")
    if not np.isfinite(array).all():
        raise SynthSRError(
            f"{name} must be finite, got NaN or infinity. Estimate the priors again."
        )
    if distribution == "normal" and (array[:, 1] < 0).any():
        raise SynthSRError(
            f"{name} must have standard deviations of at least 0, got {array[:, 1].min()}. "
            "Odd rows of a prior array are standard deviations when distribution is 'normal'."
        )


# Forms -------------------------------------------------------------------------------------------


def hyper_parameters_of(
    name: str,
    spec: PriorSpec | None,
    shape: tuple[int, int, int],
    *,
    distribution: str,
    legacy: bool,
) -> FloatArray:
    """Return the `(C, 2, K)` array that a form stands for, see `TissuePriors.from_spec`."""
    interval = _interval(name, spec)
    if interval is not None and distribution == "normal" and not legacy:
        raise SynthSRError(
            f"{name} must be a pair, an array or a .npy file when distribution is 'normal', "
            f"got {spec}. Use distribution='uniform', or give a (mean, standard deviation) pair."
        )
    if interval is not None:
        array = np.array(interval)
    elif isinstance(spec, (str, os.PathLike)):
        array = read_npy(spec)
    else:
        array = _numbers(name, spec)
    rows = (2 * shape[0], shape[2])
    if array.shape == (2,):
        pair = np.asarray(array, dtype=np.float64).reshape(1, 2, 1)
        array = np.broadcast_to(pair, shape)
    elif array.shape == rows:
        array = array.reshape(shape)
    else:
        where = f" ({spec})" if isinstance(spec, (str, os.PathLike)) else ""
        raise SynthSRError(
            f"{name} must have shape {rows} = (2 * num_channels, num_classes), or be a pair, "
            f"got shape {array.shape}{where}. Use priors made for this label table and for as "
            "many channels."
        )
    if distribution == "uniform" and not legacy:
        _check_bounds(name, array)
    return array


def _interval(name: str, spec: PriorSpec | None) -> tuple[float, float] | None:
    """Return the interval that None or a number stands for, None for other forms."""
    if spec is None:
        half_width = DEFAULT_HALF_WIDTH[name]
    elif isinstance(spec, (int, float, np.number)) and not isinstance(spec, bool):
        half_width = float(spec)
    else:
        return None
    return DEFAULT_CENTRE[name] - half_width, DEFAULT_CENTRE[name] + half_width


def _check_bounds(name: str, array: FloatArray) -> None:
    reversed_bounds = np.argwhere(array[:, 0] > array[:, 1])
    if len(reversed_bounds):
        channel, label_class = (int(k) for k in reversed_bounds[0])
        low, high = (float(bound) for bound in array[channel, :, label_class])
        raise SynthSRError(
            f"{name} must have an upper bound of at least the lower one, got {low} to {high} "
            f"(channel {channel}, class {label_class}). If these are a mean and a standard "
            "deviation, use distribution='normal'."
        )


def _numbers(name: str, spec: Any) -> FloatArray:
    try:
        array = np.asarray(spec)
    except ValueError as error:
        raise SynthSRError(
            f"{name} must have rows of one length, got rows of several lengths."
        ) from error
    if array.dtype.kind not in "iuf":
        raise SynthSRError(
            f"{name} must be None, a number, a pair, an array or a .npy file, got {spec!r}."
        )
    return array
