"""Distributions that can be read from YAML.

=====================================  =========================================
written as                             means
=====================================  =========================================
`5`                                    always 5
`[1, 9]`                               uniform between 1 and 9
`[1, 1, 5]`                            always 1, 1 and 5 along the three axes
`[[1, 1, 5], [1, 5, 1]]`               the same for the first and the second channel
`{uniform: [[1, 1, 2], [1, 1, 9]]}`    uniform, with bounds per axis
`{normal: [0, 0.5]}`                   normal with mean 0 and standard deviation 0.5
`{log_normal: [-3, 0.5]}`              exp of a normal one
`{choice: [3, 4, 5]}`                  one of these, equally likely
=====================================  =========================================

Numbers of shape `(B, 3)` are independent of each other.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Generator, Tensor

Number: TypeAlias = float | tuple[float, ...] | tuple[tuple[float, ...], ...]
DistributionSpec: TypeAlias = "Distribution | float | Sequence[float] | Mapping[str, Any]"


@dataclass(frozen=True)
class Distribution(ABC):
    """A distribution over numbers, or over triples with one number per axis."""

    @abstractmethod
    def sample(self, shape: Sequence[int], generator: Generator | None = None) -> Tensor:
        """Sample independent numbers.

        Args:
            shape: Shape of the result; where parameters are given per axis it must end in their
                number.
            generator: Random generator on the CPU; torch's default one if None.

        Returns:
            float32 tensor on the CPU.

        Raises:
            ValueError: If there are parameters per axis and the shape does not end in their number.
        """

    @abstractmethod
    def to_spec(self) -> Any:
        """Plain numbers, lists and mappings from which `as_distribution` makes the same again."""

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest possible number (may be infinite)."""


@dataclass(frozen=True)
class Constant(Distribution):
    """Always the same number, or triple.

    Examples:
        >>> Constant(2.0).sample((3,)).tolist()
        [2.0, 2.0, 2.0]
    """

    value: Number

    def sample(self, shape: Sequence[int], generator: Generator | None = None) -> Tensor:
        """Repeat the value."""
        if not isinstance(self.value, tuple):
            return torch.full(tuple(shape), self.value, dtype=torch.float32)
        return torch.as_tensor(_operand(self.value, shape)).float().expand(tuple(shape)).clone()

    def to_spec(self) -> Any:
        """A number, a triple, or a mapping where a list would be read otherwise."""
        plain = _plain(self.value)
        readable = not isinstance(self.value, tuple) or len(self.value) == 3
        return plain if readable or isinstance(plain[0], list) else {"constant": plain}

    @property
    def bounds(self) -> tuple[float, float]:
        """The value twice."""
        return _extent(self.value, self.value)


@dataclass(frozen=True)
class Uniform(Distribution):
    """Uniform between two numbers.

    Examples:
        >>> sample = Uniform(1.0, 3.0).sample((100,), torch.Generator().manual_seed(0))
        >>> bool((sample >= 1).all() and (sample <= 3).all())
        True
    """

    low: Number
    high: Number

    def sample(self, shape: Sequence[int], generator: Generator | None = None) -> Tensor:
        """Sample between the bounds."""
        low, high = _operand(self.low, shape), _operand(self.high, shape)
        unit = torch.rand(tuple(shape), generator=generator, dtype=torch.float64)
        numbers = unit.numpy()  # quicker on a few numbers
        numbers *= high - low
        numbers += low
        return torch.from_numpy(numbers.astype(np.float32))

    def to_spec(self) -> Any:
        """A pair, or a mapping where bounds are given per axis."""
        if isinstance(self.low, tuple) or isinstance(self.high, tuple):
            return {"uniform": [_plain(self.low), _plain(self.high)]}
        return [self.low, self.high]

    @property
    def bounds(self) -> tuple[float, float]:
        """The two bounds."""
        return _extent(self.low, self.high)


@dataclass(frozen=True)
class Normal(Distribution):
    """Normal distribution.

    Examples:
        >>> Normal(3.0, 0.0).sample((2,)).tolist()
        [3.0, 3.0]
    """

    mean: Number
    std: Number

    def sample(self, shape: Sequence[int], generator: Generator | None = None) -> Tensor:
        """Sample from the normal distribution."""
        mean, std = _operand(self.mean, shape), _operand(self.std, shape)
        unit = torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
        numbers = unit.numpy()  # quicker on a few numbers
        numbers *= std
        numbers += mean
        return torch.from_numpy(numbers.astype(np.float32))

    def to_spec(self) -> Any:
        """`{normal: [mean, std]}`."""
        return {"normal": [_plain(self.mean), _plain(self.std)]}

    @property
    def bounds(self) -> tuple[float, float]:
        """Infinite, unless the standard deviation is 0."""
        if _extent(self.std, self.std) == (0.0, 0.0):
            return _extent(self.mean, self.mean)
        return float("-inf"), float("inf")


@dataclass(frozen=True)
class LogNormal(Distribution):
    """Exponential of a normal distribution; `mean` and `std` are those of the logarithm.

    Examples:
        >>> LogNormal(0.0, 0.0).sample((1,)).item()
        1.0
    """

    mean: Number
    std: Number

    def sample(self, shape: Sequence[int], generator: Generator | None = None) -> Tensor:
        """Sample from the log-normal distribution."""
        return Normal(self.mean, self.std).sample(shape, generator).exp()

    def to_spec(self) -> Any:
        """`{log_normal: [mean, std]}`."""
        return {"log_normal": [_plain(self.mean), _plain(self.std)]}

    @property
    def bounds(self) -> tuple[float, float]:
        """Zero to infinity."""
        return 0.0, float("inf")


@dataclass(frozen=True)
class Choice(Distribution):
    """One of several numbers, equally likely.

    Examples:
        >>> set(Choice((3.0, 5.0)).sample((50,), torch.Generator().manual_seed(0)).tolist())
        {3.0, 5.0}
    """

    values: tuple[float, ...]

    def sample(self, shape: Sequence[int], generator: Generator | None = None) -> Tensor:
        """Pick values."""
        index = torch.randint(len(self.values), tuple(shape), generator=generator)
        return torch.tensor(self.values, dtype=torch.float32)[index]

    def to_spec(self) -> Any:
        """`{choice: [...]}`."""
        return {"choice": list(self.values)}

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest value."""
        return min(self.values), max(self.values)


_PAIRED: dict[str, type[Distribution]] = {
    "constant": Constant,
    "uniform": Uniform,
    "normal": Normal,
    "log_normal": LogNormal,
}


def as_distribution(
    spec: DistributionSpec,
    *,
    name: str = "value",
    minimum: float | None = None,
    single: bool = False,
) -> Distribution:
    """Read a distribution from its short form.

    Args:
        spec: A distribution, a number, a pair, a triple or a mapping; see the table above.
        name: What is being read, for error messages.
        minimum: Smallest number allowed, if there is one.
        single: Whether to refuse several numbers, per axis or per channel.

    Returns:
        The distribution.

    Raises:
        ValueError: If the short form is none of these, or a number can be too small.

    Examples:
        >>> as_distribution([1, 9])
        Uniform(low=1.0, high=9.0)
        >>> as_distribution({"normal": [0, 0.5]})
        Normal(mean=0.0, std=0.5)
    """
    result = _read(spec, name)
    if minimum is not None and result.bounds[0] < minimum:
        raise ValueError(
            f"{name} must be at least {minimum:g}, got {result.to_spec()!r}. Raise its lower bound,"
            " or use log_normal instead of normal."
        )
    if single and not isinstance(result, Choice) and any(map(_is_several, vars(result).values())):
        raise ValueError(
            f"{name} must be a distribution of one number, got {result.to_spec()!r}."
            " Give a number or a pair."
        )
    return result


def _read(spec: DistributionSpec, name: str) -> Distribution:
    if isinstance(spec, Distribution):
        return spec
    if isinstance(spec, bool) or spec is None or isinstance(spec, str):
        raise ValueError(_unreadable(spec, name))
    if isinstance(spec, Mapping):
        return _read_mapping(spec, name)
    if isinstance(spec, Sequence):
        if len(spec) > 0 and all(isinstance(s, Sequence) for s in spec):
            return Constant(_rows(spec, name))
        numbers = _numbers(spec, name)
        if len(numbers) == 2:
            return _uniform(numbers[0], numbers[1], name)
        if len(numbers) == 3:
            return Constant(numbers)
        raise ValueError(_unreadable(spec, name))
    return Constant(_numbers([spec], name)[0])


def _read_mapping(spec: Mapping[str, Any], name: str) -> Distribution:
    if len(spec) != 1:
        raise ValueError(_unreadable(spec, name))
    kind, parameters = next(iter(spec.items()))
    if kind == "choice":
        return Choice(_numbers(parameters, name))
    if kind == "constant":
        return Constant(_number_or_triple(parameters, name))
    if kind not in _PAIRED or not isinstance(parameters, Sequence) or len(parameters) != 2:
        raise ValueError(_unreadable(spec, name))
    first, second = (_number_or_triple(p, name) for p in parameters)
    if kind == "uniform":
        return _uniform(first, second, name)
    if _extent(second, second)[0] < 0:
        raise ValueError(f"{name} must have a standard deviation of at least 0, got {second!r}.")
    return Normal(first, second) if kind == "normal" else LogNormal(first, second)


def _uniform(low: Number, high: Number, name: str) -> Uniform:
    pairs = torch.broadcast_tensors(torch.tensor(low), torch.tensor(high))
    if bool((pairs[0] > pairs[1]).any()):
        raise ValueError(
            f"{name} must be a pair of increasing bounds, got {[_plain(low), _plain(high)]!r}."
            " Exchange them."
        )
    return Uniform(low, high)


def _number_or_triple(value: Any, name: str) -> Number:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _numbers(value, name)
    return _numbers([value], name)[0]


def _rows(rows: Sequence[Any], name: str) -> tuple[tuple[float, ...], ...]:
    result = tuple(_numbers(row, name) for row in rows)
    if any(len(row) != 3 for row in result):
        raise ValueError(f"{name} must have three numbers per channel, got {rows!r}.")
    return result


def _numbers(values: Sequence[Any], name: str) -> tuple[float, ...]:
    try:
        if len(values) == 0 or isinstance(values, str):
            raise TypeError
        numbers = tuple(float(v) for v in values)
    except (TypeError, ValueError):
        raise ValueError(_unreadable(values, name)) from None
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{name} must hold finite numbers, got {values!r}.")
    return numbers


def _unreadable(spec: Any, name: str) -> str:
    return (
        f"{name} must be a number, a pair (uniform), a triple (one number per axis) or one of"
        f" {sorted([*_PAIRED, 'choice'])} with its parameters, got {spec!r}."
    )


def _operand(value: Number, shape: Sequence[int]) -> Any:
    """A number as it is, and numbers per axis as a float64 array that fits the end of a shape."""
    if not isinstance(value, tuple):
        return value
    array = _numbers_of(value)
    if array.shape != tuple(shape)[-array.ndim :]:
        raise ValueError(
            f"a distribution with the numbers {_plain(value)!r} cannot give numbers of shape"
            f" {tuple(shape)}. Give one number, or one for each axis or channel."
        )
    return array


@lru_cache(1024)
def _numbers_of(value: tuple[Any, ...]) -> np.ndarray:
    return np.array(value, dtype=np.float64)


def _is_several(value: Number) -> bool:
    return isinstance(value, tuple)


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _extent(low: Number, high: Number) -> tuple[float, float]:
    return min(_flat(low)), max(_flat(high))


def _flat(value: Number) -> list[float]:
    """All numbers of one or several rows."""
    if not isinstance(value, tuple):
        return [float(value)]
    return [number for part in value for number in _flat(part)]
