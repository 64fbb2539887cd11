"""Recorded vectors: files, families, cases, and what it means to agree with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

MATRIX = 1e-5
"""Largest difference of matrices and widths."""
FIELD_VOXELS = 1e-4
"""Largest difference of displacements."""
INTENSITY = 1e-4
"""Largest difference of images, as a share of their range."""
TIES = 1e-3
"""Share of voxels that nearest neighbour may decide otherwise, half-way between two."""

Array = npt.NDArray[Any]

OWN = Path(__file__).parent / "data"
"""Vectors that come with the project."""


@dataclass(frozen=True)
class Vector:
    """One file of arrays, channels last, with a leading batch axis where they are volumes."""

    name: str
    arrays: dict[str, Array]
    device: torch.device | str = "cpu"
    folder: Path = OWN

    @classmethod
    def read(cls, path: Path, device: torch.device | str = "cpu") -> Vector:
        """Read a `.npz` file; a weight file (`.h5`) has no arrays of its own."""
        if path.suffix == ".h5":
            return cls(path.stem, {}, device, path.parent)
        with np.load(path, allow_pickle=False) as file:
            return cls(path.stem, dict(file), device, path.parent)

    def beside(self, name: str) -> Path:
        """A file of the same folder, such as the weights used, or ours where it has none."""
        return next((p for p in (self.folder / name, OWN / name) if p.is_file()), OWN / name)

    def __getitem__(self, key: str) -> Array:
        return self.arrays[key]

    def __contains__(self, key: object) -> bool:
        return key in self.arrays

    def given(self, key: str) -> Array | None:
        """An array, or None where it is absent or NaN, which means "not given"."""
        return given(self.arrays.get(key))

    def volume(self, key: str) -> Tensor:
        """A volume as `(B, C, X, Y, Z)` on the device; labels keep whole numbers."""
        return channels_first(self[key]).to(self.device)

    def tensor(self, key: str) -> Tensor:
        """Any array as it is, on the CPU."""
        return torch.from_numpy(np.ascontiguousarray(self[key]))

    def numbered(self, pattern: str) -> list[str]:
        """What the group of a pattern matches in the keys, in the order of the numbers."""
        found = [m.group(1) for m in map(re.compile(pattern).fullmatch, self.arrays) if m]
        return sorted(dict.fromkeys(found), key=lambda s: (len(s), s) if s.isdigit() else (0, s))


def given(array: Array | None) -> Array | None:
    """None where an array is absent or holds NaN, which means "not given"."""
    if array is None or (array.dtype.kind == "f" and bool(np.isnan(array).any())):
        return None
    return array


def channels_first(array: Array) -> Tensor:
    """`(B, X, Y, Z, C)` array as `(B, C, X, Y, Z)` tensor."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def decimals(array: Array) -> Tensor:
    """float64 numbers that float32 arrays of decimals stand for: 1.2, not 1.2000000477."""
    return torch.from_numpy(np.round(array.astype(np.float64), 6))


@dataclass(frozen=True)
class Agreement:
    """One comparison: how far apart two arrays are, against what is allowed."""

    what: str
    ours: Array
    theirs: Array
    tolerance: float
    ties: float = 0.0

    @property
    def scale(self) -> float:
        """Size of the unit of the tolerance: the range of intensities, or 1."""
        return 1.0

    @cached_property
    def error(self) -> float:
        """Largest difference, but for the allowed share of ties."""
        if self.ours.size == 0:
            return 0.0
        difference = np.abs(self.ours.astype(float) - self.theirs.astype(float)).ravel()
        difference = np.nan_to_num(difference / self.scale, nan=np.inf, posinf=np.inf)
        spared = int(self.ties * difference.size)
        return float(np.sort(difference)[-1 - spared])

    def check(self) -> None:
        """Fail unless shapes are equal and the error is within the tolerance."""
        assert self.ours.shape == self.theirs.shape, (
            f"{self.what}: shape {self.ours.shape}, the original has {self.theirs.shape}"
        )
        assert self.error <= self.tolerance, (
            f"{self.what}: differs by {self.error:.3g}, allowed are {self.tolerance:.3g}"
        )


class ImageAgreement(Agreement):
    """A comparison of images, whose error is a share of their range."""

    @property
    def scale(self) -> float:
        """Range of the original, or its magnitude where it is constant but for rounding."""
        low, high = float(self.theirs.min()), float(self.theirs.max())
        size = max(abs(low), abs(high), 1e-6)
        return high - low if high - low > 1e-5 * size else size


def _array(values: Any) -> Array:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def near(what: str, ours: Any, theirs: Any, tolerance: float = MATRIX) -> Agreement:
    """Numbers with an absolute tolerance; numbers that must be equal have 0."""
    return Agreement(what, _array(ours), _array(theirs), tolerance)


def same_image(what: str, ours: Tensor, theirs: Array, *, ties: float = 0.0) -> Agreement:
    """Our `(B, C, X, Y, Z)` against their `(B, X, Y, Z, C)`, relative to the range."""
    return ImageAgreement(what, np.moveaxis(_array(ours), 1, -1), theirs, INTENSITY, ties)


def same_labels(what: str, ours: Tensor, theirs: Array) -> Agreement:
    """Our label maps against theirs: equal but for ties."""
    return Agreement(what, np.moveaxis(_array(ours), 1, -1), theirs, 0.0, TIES)


def same_field(what: str, ours: Tensor, theirs: Array) -> Agreement:
    """Our `(B, 3, X, Y, Z)` displacements against theirs, in voxels."""
    return Agreement(what, np.moveaxis(_array(ours), 1, -1), theirs, FIELD_VOXELS)


# Families ----------------------------------------------------------------------------------------

Cases = Callable[[Vector], list[str]]
Compare = Callable[[Vector, str], Iterator[Agreement]]


@dataclass(frozen=True)
class Family:
    """How the cases of a kind of file are found and compared."""

    cases: Cases
    compare: Compare


FAMILIES: dict[str, Family] = {}

LATER: dict[str, str] = {}
"""Families that belong to work to come, and which."""


def whole(vector: Vector) -> list[str]:
    """The one case of files without numbered cases."""
    return ["all"]


def numbered(pattern: str) -> Cases:
    """Cases named by what the group of a pattern matches in the keys."""
    return lambda vector: vector.numbered(pattern)


def rows(key: str) -> Cases:
    """One case per row of an array."""
    return lambda vector: [str(i) for i in range(len(vector[key]))]


def family(name: str, cases: Cases = whole) -> Callable[[Compare], Compare]:
    """Register the comparison of a family."""

    def register(compare: Compare) -> Compare:
        FAMILIES[name] = Family(cases, compare)
        return compare

    return register


def family_of(stem: str) -> str | None:
    """Longest known family that a file name starts with, after its number.

    Examples:
        >>> family_of("15_losses"), family_of("unet_1ch"), family_of("99_something")
        ('losses', 'unet', None)
    """
    name = re.sub(r"^\d+_", "", stem)
    known = [f for f in (*FAMILIES, *LATER) if name == f or name.startswith(f"{f}_")]
    return max(known, key=len, default=None)
