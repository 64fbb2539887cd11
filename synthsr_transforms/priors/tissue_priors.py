"""Tissue priors: distributions of the mean and the standard deviation of every tissue class.

An image is made from a label map by giving each class a Gaussian. Its mean and its standard
deviation are themselves drawn, for every image anew, from a *prior*: a distribution with two
*hyper-parameters*. They are the bounds of the interval when the distribution is `uniform`, and
the mean and standard deviation when it is `normal`. Negative draws become 0.

Rows and files: the original SynthSR keeps the hyper-parameters of the means in one `.npy` file
and those of the standard deviations in another, each of shape `(2 * channels, classes)`; rows
`2c` and `2c + 1` are the first and the second hyper-parameter of channel `c`. `priors.yaml`, which
`synthsr estimate-priors` writes, holds the same numbers with names, labels and counts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from synthsr_transforms.labels.files import read_npy
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.support.atomic import replacing
from synthsr_transforms.support.config import read_yaml
from synthsr_transforms.support.messages import SynthSRError, check_choice, listed, naming

FloatArray = npt.NDArray[np.floating[Any]]
PriorSpec = (
    float | Sequence[float] | Sequence[Sequence[float]] | FloatArray | os.PathLike[str] | str
)

DEFAULT_CENTRE = {"means": 125.0, "stds": 15.0}
"""Centres of the intervals that numbers and None stand for."""

DEFAULT_HALF_WIDTH = {"means": 100.0, "stds": 10.0}
"""Half widths of the intervals that None stands for."""

DISTRIBUTIONS = ("uniform", "normal")


@dataclass(frozen=True, eq=False, repr=False)
class TissuePriors:
    """Distributions of the Gaussian of every class, in every channel.

    Priors are values: the arrays are copied and cannot be written to.

    Args:
        means: Hyper-parameters of the means, `(C, 2, K)` array for C channels and K classes.
        stds: Hyper-parameters of the standard deviations, same shape.
        distribution: `uniform` (lower and upper bound) or `normal` (mean and standard
            deviation).

    Raises:
        ValueError: If a shape is wrong, a number is not finite, or the standard deviation of a
            normal distribution is negative.

    Examples:
        >>> priors = TissuePriors.from_spec((25, 225), (5, 25), num_channels=1, num_classes=4)
        >>> priors
        TissuePriors(uniform, 1 channel, 4 classes)
        >>> means, stds = priors.sample(2, torch.Generator().manual_seed(0))
        >>> means.shape, bool((stds <= 25).all())
        (torch.Size([2, 1, 4]), True)
    """

    means: FloatArray
    stds: FloatArray
    distribution: str = "uniform"

    def __post_init__(self) -> None:
        check_choice("distribution", self.distribution, DISTRIBUTIONS)
        for name in ("means", "stds"):
            array = _frozen_copy(getattr(self, name))
            _check_hyper_parameters(name, array, self.distribution)
            object.__setattr__(self, name, array)
        if self.means.shape != self.stds.shape:
            raise SynthSRError(
                f"stds must have the shape of means, {self.means.shape}, got {self.stds.shape}. "
                "Use files that were made together."
            )

    def __repr__(self) -> str:
        plural = "" if self.num_channels == 1 else "s"
        return (
            f"TissuePriors({self.distribution}, {self.num_channels} channel{plural}, "
            f"{self.num_classes} classes)"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TissuePriors):
            return NotImplemented
        return (
            self.distribution == other.distribution
            and np.array_equal(self.means, other.means)
            and np.array_equal(self.stds, other.stds)
        )

    def __hash__(self) -> int:
        return hash((self.distribution, tuple(self.means.flat), tuple(self.stds.flat)))

    def __reduce__(self) -> tuple[type[TissuePriors], tuple[FloatArray, FloatArray, str]]:
        return type(self), (self.means, self.stds, self.distribution)

    @property
    def num_channels(self) -> int:
        """Number of channels, C."""
        return int(self.means.shape[0])

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return int(self.means.shape[2])

    # Drawing -----------------------------------------------------------------------------------

    def sample(
        self, batch_size: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw the Gaussians of a batch.

        Args:
            batch_size: Number of batch elements, B.
            generator: CPU generator to draw from; PyTorch's global one if None.

        Returns:
            Means and standard deviations, two `(B, C, K)` float32 tensors on the CPU, none of
            them negative.
        """
        shape = (batch_size, 2 * self.num_channels, self.num_classes)
        draw = torch.rand if self.distribution == "uniform" else torch.randn
        return self.from_draws(draw(shape, generator=generator, dtype=torch.float64))

    def from_draws(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Turn standard draws into Gaussians: the part of `sample` without random choices.

        A draw z becomes `low + (high - low) * z` or `mean + standard_deviation * z`.

        Args:
            draws: `(B, 2 * C, K)` tensor of draws from [0, 1) or from the standard normal
                distribution; row `2c` belongs to the means of channel `c`, row `2c + 1` to its
                standard deviations.

        Returns:
            As `sample`.

        Examples:
            >>> priors = TissuePriors.from_spec((0, 10), (1, 3), num_channels=1, num_classes=2)
            >>> priors.from_draws(torch.tensor([[[0.0, 0.5], [0.5, 1.0]]]))
            (tensor([[[0., 5.]]]), tensor([[[2., 3.]]]))
        """
        shape, rows, classes = tuple(draws.shape), 2 * self.num_channels, self.num_classes
        if draws.ndim != 3 or shape[1:] != (rows, classes):
            raise SynthSRError(f"draws must have shape (B, {rows}, {classes}), got {shape}.")
        blocks = draws.double().numpy().reshape(shape[0], self.num_channels, 2, classes)
        first, scale = self._offset_and_scale
        numbers = np.maximum(first + scale * blocks, 0).astype(np.float32)
        return torch.from_numpy(numbers[:, :, 0]), torch.from_numpy(numbers[:, :, 1])

    @cached_property
    def _offset_and_scale(self) -> tuple[np.ndarray, np.ndarray]:
        """Summand and factor of draws, `(C, 2, K)`: means, then standard deviations."""
        both = np.stack([self.means, self.stds], axis=1).astype(np.float64)
        first, second = both[:, :, 0], both[:, :, 1]
        return first, second - first if self.distribution == "uniform" else second

    # Combining ---------------------------------------------------------------------------------

    def select_classes(self, classes: Sequence[int]) -> TissuePriors:
        """Return priors whose class k is class `classes[k]` of these.

        Classes may be left out, re-ordered and repeated, for instance to use priors with another
        label table than the one they were made for.

        Examples:
            >>> priors = TissuePriors.from_spec(None, None, num_channels=1, num_classes=14)
            >>> priors.select_classes([*range(14), 1, 3])
            TissuePriors(uniform, 1 channel, 16 classes)
        """
        wrong = [k for k in classes if not 0 <= k < self.num_classes]
        if wrong or not classes:
            raise SynthSRError(
                f"classes must be between 0 and {self.num_classes - 1}, got {wrong or 'none'}."
            )
        chosen = list(classes)
        return TissuePriors(self.means[..., chosen], self.stds[..., chosen], self.distribution)

    # Ways in and out ---------------------------------------------------------------------------

    @classmethod
    def from_spec(
        cls,
        means: PriorSpec | None,
        stds: PriorSpec | None,
        *,
        num_channels: int,
        num_classes: int,
        distribution: str = "uniform",
        legacy: bool = False,
    ) -> TissuePriors:
        """Make priors from the forms in which the original SynthSR accepts them.

        Each of `means` and `stds` is one of:

        * None: the interval from 25 to 225 for means, from 5 to 25 for standard deviations;
        * a number v: the interval from 125 - v to 125 + v, or from 15 - v to 15 + v;
        * a pair of hyper-parameters, used for all channels and classes;
        * a `(2 * num_channels, num_classes)` array, laid out as described in `priors`;
        * the path of a `.npy` file with a pair or such an array.

        Args:
            means: Prior of the means.
            stds: Prior of the standard deviations.
            num_channels: Number of channels, C.
            num_classes: Number of classes, K.
            distribution: `uniform` or `normal`.
            legacy: Whether to accept forms that the original accepted but that are almost surely
                mistakes: None or a number with `normal` (the bounds of the interval are then
                read as mean and standard deviation), and an upper bound below the lower one.

        Raises:
            ValueError: If a form is not one of those above, or a shape does not fit.

        Examples:
            >>> priors = TissuePriors.from_spec(50, None, num_channels=2, num_classes=3)
            >>> priors.means[0, :, 0], priors.stds[0, :, 0]
            (array([ 75., 175.]), array([ 5., 25.]))
        """
        shape = (num_channels, 2, num_classes)
        blocks = {
            name: _hyper_parameters_of(name, spec, shape, distribution=distribution, legacy=legacy)
            for name, spec in (("means", means), ("stds", stds))
        }
        return cls(**blocks, distribution=distribution)

    @classmethod
    def read(
        cls,
        means_path: str | os.PathLike[str],
        stds_path: str | os.PathLike[str],
        distribution: str = "normal",
    ) -> TissuePriors:
        """Read a pair of `.npy` files, such as `prior_means.npy` and `prior_stds.npy`.

        Args:
            means_path: File of the means, `(2 * C, K)` array.
            stds_path: File of the standard deviations, `(2 * C, K)` array.
            distribution: What the hyper-parameters are; files made by prior estimation hold means
                and standard deviations, hence `normal`.
        """
        with naming(means_path):
            means = _as_blocks("means", read_npy(means_path))
        return cls.from_spec(
            as_rows(means),
            read_npy(stds_path),
            num_channels=len(means),
            num_classes=means.shape[2],
            distribution=distribution,
        )

    def write(self, means_path: str | os.PathLike[str], stds_path: str | os.PathLike[str]) -> None:
        """Write the pair of `.npy` files that `read` reads, each complete or not at all."""
        paths = (Path(means_path), Path(stds_path))
        for path in paths:
            if path.suffix != ".npy":
                raise SynthSRError(f"path must end in .npy, got {path}. Choose a name that does.")
        with replacing(paths[0]) as means_file, replacing(paths[1]) as stds_file:
            np.save(means_file, as_rows(self.means))
            np.save(stds_file, as_rows(self.stds))

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and strings, for YAML and JSON; rows as in the files.

        Examples:
            >>> TissuePriors.from_spec((0, 9), (1, 2), num_channels=1, num_classes=2).to_dict()
            {'distribution': 'uniform', 'means': [[0.0, 0.0], [9.0, 9.0]], 'stds': [[1.0, 1.0], [2.0, 2.0]]}
        """  # noqa: E501
        return {
            "distribution": self.distribution,
            "means": as_rows(self.means).tolist(),
            "stds": as_rows(self.stds).tolist(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TissuePriors:
        """Make priors from what `to_dict` returned."""
        keys = ["distribution", "means", "stds"]
        if sorted(data) != keys:
            raise SynthSRError(f"keys must be {', '.join(keys)}, got {', '.join(sorted(data))}.")
        blocks = {
            name: _as_blocks(name, np.asarray(data[name], float)) for name in ("means", "stds")
        }
        return cls(**blocks, distribution=data["distribution"])


# Arrays ------------------------------------------------------------------------------------------


def as_rows(blocks: FloatArray) -> FloatArray:
    """Return a `(C, 2, K)` array as `(2 * C, K)`."""
    return blocks.reshape(-1, blocks.shape[2])


def _as_blocks(name: str, rows: FloatArray) -> FloatArray:
    """Return a `(2 * C, K)` array as `(C, 2, K)`."""
    if rows.ndim != 2 or rows.shape[0] % 2:
        raise SynthSRError(f"{name} must have shape (2 * channels, classes), got {rows.shape}.")
    return rows.reshape(-1, 2, rows.shape[1])


def _frozen_copy(array: npt.ArrayLike) -> FloatArray:
    """Return a read-only copy; integers become 64-bit floats, floats keep their precision."""
    copy = np.array(array, order="C")
    if copy.dtype.kind != "f":
        copy = copy.astype(np.float64)
    copy.setflags(write=False)
    return copy


def _check_hyper_parameters(name: str, array: FloatArray, distribution: str) -> None:
    """Refuse arrays of another shape than `(C, 2, K)`, and numbers that cannot be used."""
    if array.ndim != 3 or array.shape[1] != 2 or 0 in array.shape:
        raise SynthSRError(f"{name} must have shape (channels, 2, classes), got {array.shape}.")
    if not np.isfinite(array).all():
        raise SynthSRError(f"{name} must be finite, got NaN or infinity. Estimate priors again.")
    if distribution == "normal" and (array[:, 1] < 0).any():
        raise SynthSRError(
            f"{name} must have standard deviations of at least 0, got {array[:, 1].min()}. "
            "Odd rows of a prior array are standard deviations when distribution is 'normal'."
        )


# Forms -------------------------------------------------------------------------------------------


def _hyper_parameters_of(
    name: str,
    spec: PriorSpec | None,
    shape: tuple[int, int, int],
    *,
    distribution: str,
    legacy: bool,
) -> FloatArray:
    """Return the `(C, 2, K)` array that a form stands for, see `TissuePriors.from_spec`."""
    number = isinstance(spec, (int, float, np.number)) and not isinstance(spec, bool)
    if (spec is None or number) and distribution == "normal" and not legacy:
        raise SynthSRError(
            f"{name} must be a pair, an array or a .npy file when distribution is 'normal', "
            f"got {spec}. Use distribution='uniform', or give a (mean, standard deviation) pair."
        )
    if spec is None or number:
        half_width = DEFAULT_HALF_WIDTH[name] if spec is None else float(cast(float, spec))
        array: FloatArray = DEFAULT_CENTRE[name] + half_width * np.array([-1.0, 1.0])
    elif isinstance(spec, (str, os.PathLike)):
        array = np.asarray(read_npy(spec), dtype=np.float64)
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
            f"{name} must have shape {rows} = (2 * num_channels, num_classes), or be a pair, got"
            f" shape {array.shape}{where}. Use priors made for this label table and as many"
            " channels."
        )
    if distribution == "uniform" and not legacy:
        _check_bounds(name, array)
    return array


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
    with suppress(ValueError):  # rows of several lengths
        array = np.asarray(spec)
        if array.dtype.kind in "iuf":
            return array
    raise SynthSRError(
        f"{name} must be None, a number, a pair, rows of one length or a .npy file, got {spec!r}."
    )


# Descriptions -----------------------------------------------------------------------------------


class PriorFile(NamedTuple):
    """Content of a `priors.yaml`.

    Attributes:
        priors: The priors.
        class_of_label: Class of each label value, of the label table that they were made for.
    """

    priors: TissuePriors
    class_of_label: dict[int, int]


def read_prior_file(path: str | os.PathLike[str]) -> PriorFile:
    """Read a `priors.yaml`.

    Raises:
        ValueError: If the file is missing or holds something else.
    """
    content = read_yaml(path)
    try:
        classes = content["classes"]
        labels = {int(v): int(row["class"]) for row in classes for v in row["labels"]}
        blocks = [_block(channel["classes"], len(classes)) for channel in content["channels"]]
        means, stds = (np.array(arrays) for arrays in zip(*blocks, strict=True))
        priors = TissuePriors(means, stds, str(content["distribution"]))
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise SynthSRError(
            f"priors must be a file that synthsr estimate-priors wrote, got {path} ({reason})."
            " Estimate the priors again, or give prior_means and prior_stds."
        ) from error
    return PriorFile(priors, labels)


def _block(rows: list[Mapping[str, Any]], number: int) -> tuple[np.ndarray, np.ndarray]:
    """Hyper-parameters `(2, K)` of the means and of the standard deviations."""
    by_class = {int(row["class"]): row for row in rows}
    if sorted(by_class) != list(range(number)) or len(rows) != number:
        raise SynthSRError(f"a channel has rows for classes {sorted(by_class)} of {number}")
    pairs = [(by_class[k]["mean"], by_class[k]["std"]) for k in range(number)]
    means, stds = (np.array(columns, dtype=float).T for columns in zip(*pairs, strict=True))
    return means, stds


def resolve_priors(
    spec: TissuePriors | Mapping[str, Any] | str | os.PathLike[str],
    table: LabelTable,
    num_channels: int,
) -> TissuePriors:
    """Return priors from priors, what `TissuePriors.to_dict` gives, or the path of a `priors.yaml`.

    Args:
        spec: The priors.
        table: Label table that they are used with.
        num_channels: Number of channels that they must have.

    Raises:
        ValueError: If the priors were made for other classes or for another number of channels.
    """
    name = "priors"
    if isinstance(spec, (str, os.PathLike)):
        found = read_prior_file(spec)
        name = f"priors {Path(spec)}"
        _check_classes(found.class_of_label, table, name)
        priors = found.priors
    else:
        priors = spec if isinstance(spec, TissuePriors) else TissuePriors.from_dict(spec)
    if priors.num_classes != table.num_classes:
        raise SynthSRError(
            f"{name} must have one column for each of {table.num_classes} classes of the label"
            f" table, got {priors.num_classes}. Use the table that they were made for."
        )
    if priors.num_channels != num_channels:
        raise SynthSRError(
            f"{name} must have {num_channels} channels, got {priors.num_channels}. Set num_channels"
            " likewise, or estimate priors from as many."
        )
    return priors


def _check_classes(made_for: Mapping[int, int], table: LabelTable, name: str) -> None:
    here = dict(zip(table.values, table.classes, strict=True))
    moved = [v for v in here if v in made_for and made_for[v] != here[v]]
    lonely = sorted(set(table.classes) - {here[v] for v in here if v in made_for})
    if moved:
        got = f"label {moved[0]} in class {made_for[moved[0]]} there and in {here[moved[0]]} here"
    elif lonely:
        got = f"none of the labels of class {listed(lonely, 4)}"
    else:
        return
    raise SynthSRError(
        f"{name} must be made for the classes of the label table, got {got}. Set label_table to the"
        " table that they were made for (the file names it)."
    )
