"""Reading of constructor arguments, and sampling of those that are random per axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Generator, Tensor

from synthsr_transforms.distributions import Distribution, DistributionSpec, as_distribution
from synthsr_transforms.functional.operators import BLUR_BOUNDARIES
from synthsr_transforms.support.messages import check_choice

Number = TypeVar("Number", int, float)


def triple(value: Any, name: str, kind: Callable[[Any], Number]) -> tuple[Number, Number, Number]:
    """One number or three, positive, as three.

    Raises:
        ValueError: If the value is something else.
    """
    values = [value] * 3 if isinstance(value, int | float) else value
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != 3:
        raise ValueError(f"{name} must be one number or three, got {value!r}.")
    if any(isinstance(v, bool) or not isinstance(v, int | float) or v <= 0 for v in values):
        raise ValueError(f"{name} must be positive, got {value!r}. Give one number per axis.")
    if any(kind(v) != v for v in values):
        raise ValueError(f"{name} must be whole numbers, got {value!r}.")
    x, y, z = (kind(v) for v in values)
    return x, y, z


def optional_triple(
    value: int | float | Sequence[int] | Sequence[float] | None,
    name: str,
    kind: Callable[[Any], Number],
) -> tuple[Number, Number, Number] | None:
    """Like `triple`, where None stays None."""
    return None if value is None else triple(value, name, kind)


def positive(value: float, name: str) -> float:
    """A number above 0.

    Raises:
        ValueError: If it is not.
    """
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}.")
    return float(value)


def probability(value: float, name: str) -> float:
    """A number within 0 and 1.

    Raises:
        ValueError: If it is not.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a probability within 0 and 1, got {value}.")
    return float(value)


def grid_ratio(value: float, name: str) -> float:
    """A ratio of coarse grid points to voxels, above 0 and at most 1.

    Raises:
        ValueError: If it is not.
    """
    if not 0 < value <= 1:
        raise ValueError(
            f"{name} must be in (0, 1], got {value}."
            " Give the ratio of coarse grid points to voxels, such as 0.05."
        )
    return float(value)


def blur_boundary(value: str) -> str:
    """Boundary rule of a blur, see `functional.operators.BLUR_BOUNDARIES`."""
    return check_choice("boundary", value, BLUR_BOUNDARIES)


def positive_distribution(spec: DistributionSpec | None, name: str) -> Any:
    """Read a distribution of millimetres above 0; None stays None.

    Raises:
        ValueError: If a sample can be 0 or less.
    """
    if spec is None:
        return None
    chosen = as_distribution(spec, name=name)
    if chosen.bounds[0] <= 0:
        raise ValueError(
            f"{name} must be positive, got {chosen.to_spec()!r}. Give millimetres above 0."
        )
    return chosen


def sample_axes(
    chosen: Distribution, name: str, size: tuple[int, int], generator: Generator | None
) -> Tensor:
    """Sample one number per element, channel and axis, `(B, C, 3)`.

    Raises:
        ValueError: If the distribution has numbers for another number of channels.
    """
    try:
        return chosen.sample((*size, 3), generator)
    except ValueError:
        raise ValueError(
            f"{name} must be given for each of the {size[1]} channels of the image,"
            f" got {chosen.to_spec()!r}. Give one triple, or one per channel."
        ) from None
