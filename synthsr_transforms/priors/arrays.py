"""Arrays of hyper-parameters: shapes and checks."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Distribution = Literal["uniform", "normal"]
FloatArray = npt.NDArray[np.floating[Any]]

DISTRIBUTIONS: tuple[Distribution, ...] = get_args(Distribution)


def as_rows(blocks: FloatArray) -> FloatArray:
    """Return a `(C, 2, K)` array as `(2 * C, K)`."""
    return blocks.reshape(-1, blocks.shape[2])


def as_blocks(name: str, rows: FloatArray) -> FloatArray:
    """Return a `(2 * C, K)` array as `(C, 2, K)`."""
    if rows.ndim != 2 or rows.shape[0] % 2:
        msg = f"{name} must have shape (2 * channels, classes), got {rows.shape}."
        raise ValueError(msg)
    return rows.reshape(-1, 2, rows.shape[1])


def frozen_copy(array: npt.ArrayLike) -> FloatArray:
    """Return a read-only copy; integers become 64-bit floats, floats keep their precision."""
    copy = np.array(array, order="C")
    if copy.dtype.kind != "f":
        copy = copy.astype(np.float64)
    copy.setflags(write=False)
    return copy


def check_distribution(distribution: str) -> None:
    """Raise ValueError if a distribution is none of `DISTRIBUTIONS`."""
    if distribution not in DISTRIBUTIONS:
        msg = f"distribution must be one of {', '.join(DISTRIBUTIONS)}, got {distribution!r}."
        raise ValueError(msg)


def check_hyper_parameters(name: str, array: FloatArray, distribution: str) -> None:
    """Raise ValueError if an array is not of shape `(C, 2, K)`, or its numbers make no law."""
    if array.ndim != 3 or array.shape[1] != 2 or 0 in array.shape:
        msg = f"{name} must have shape (channels, 2, classes), got {array.shape}."
        raise ValueError(msg)
    if not np.isfinite(array).all():
        msg = f"{name} must be finite, got NaN or infinity. Estimate the priors again."
        raise ValueError(msg)
    if distribution == "normal" and (array[:, 1] < 0).any():
        msg = (
            f"{name} must have standard deviations of at least 0, got {array[:, 1].min()}. "
            "Odd rows of a prior array are standard deviations when distribution is 'normal'."
        )
        raise ValueError(msg)
