"""Forms of priors: what None, a number, a pair, an array or a file stands for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from synthsr_transforms.labels.files import read_npy

from .arrays import FloatArray

PriorSpec = (
    float | Sequence[float] | Sequence[Sequence[float]] | FloatArray | os.PathLike[str] | str
)

DEFAULT_CENTRE = {"means": 125.0, "stds": 15.0}
"""Centres of the intervals that numbers and None stand for."""

DEFAULT_HALF_WIDTH = {"means": 100.0, "stds": 10.0}
"""Half widths of the intervals that None stands for."""


def hyper_parameters_of(
    name: str,
    spec: PriorSpec | None,
    shape: tuple[int, int, int],
    *,
    distribution: str,
    legacy: bool,
) -> FloatArray:
    """Return the `(C, 2, K)` array that a form stands for, see `TissuePriors.from_spec`."""
    if distribution == "normal" and not legacy:
        _check_not_interval(name, spec)
    array = _hyper_parameters(name, spec, shape)
    if distribution == "uniform" and not legacy:
        _check_bounds(name, array)
    return array


def _hyper_parameters(name: str, spec: PriorSpec | None, shape: tuple[int, int, int]) -> FloatArray:
    """Return the `(C, 2, K)` array that a form stands for."""
    interval = _interval(name, spec)
    if interval is not None:
        return _same_everywhere(interval, shape)
    array = read_npy(spec) if isinstance(spec, (str, os.PathLike)) else _numbers(name, spec)
    if array.shape == (2,):
        return _same_everywhere(array, shape)
    rows = (2 * shape[0], shape[2])
    if array.shape != rows:
        where = f" ({spec})" if isinstance(spec, (str, os.PathLike)) else ""
        msg = (
            f"{name} must have shape {rows} = (2 * num_channels, num_classes), or be a pair, "
            f"got shape {array.shape}{where}. Use priors made for this label table and for as "
            "many channels."
        )
        raise ValueError(msg)
    return array.reshape(shape)


def _interval(name: str, spec: PriorSpec | None) -> tuple[float, float] | None:
    """Return the interval that None or a number stands for, None for other forms."""
    if spec is None:
        half_width = DEFAULT_HALF_WIDTH[name]
    elif isinstance(spec, (int, float, np.number)) and not isinstance(spec, bool):
        half_width = float(spec)
    else:
        return None
    return DEFAULT_CENTRE[name] - half_width, DEFAULT_CENTRE[name] + half_width


def _check_not_interval(name: str, spec: PriorSpec | None) -> None:
    if _interval(name, spec) is not None:
        msg = (
            f"{name} must be a pair, an array or a .npy file when distribution is 'normal', "
            f"got {spec}. Use distribution='uniform', or give a (mean, standard deviation) pair."
        )
        raise ValueError(msg)


def _check_bounds(name: str, array: FloatArray) -> None:
    reversed_bounds = np.argwhere(array[:, 0] > array[:, 1])
    if len(reversed_bounds):
        channel, label_class = (int(k) for k in reversed_bounds[0])
        low, high = (float(bound) for bound in array[channel, :, label_class])
        msg = (
            f"{name} must have an upper bound of at least the lower one, got {low} to {high} "
            f"(channel {channel}, class {label_class}). If these are a mean and a standard "
            "deviation, use distribution='normal'."
        )
        raise ValueError(msg)


def _same_everywhere(pair: npt.ArrayLike, shape: tuple[int, int, int]) -> FloatArray:
    column = np.asarray(pair, dtype=np.float64).reshape(1, 2, 1)
    return np.broadcast_to(column, shape)


def _numbers(name: str, spec: Any) -> FloatArray:
    try:
        array = np.asarray(spec)
    except ValueError as error:
        msg = f"{name} must have rows of one length, got rows of several lengths."
        raise ValueError(msg) from error
    if array.dtype.kind not in "iuf":
        msg = f"{name} must be None, a number, a pair, an array or a .npy file, got {spec!r}."
        raise ValueError(msg)
    return array
