"""Reading of constructor arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

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
