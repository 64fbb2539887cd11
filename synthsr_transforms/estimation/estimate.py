"""Estimates: statistics of every scan, and the priors that follow from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.priors.tissue_priors import TissuePriors
from synthsr_transforms.support.messages import SynthSRError, listed

from .scans import DataSet, EstimationSettings, ScanStatistics
from .statistics import PERCENTILES, t2_cropping_stats

FloatArray = npt.NDArray[np.float64]

FEW_VOXELS = 100
"""Classes of fewer voxels may show one intensity by chance."""


@dataclass(frozen=True, kw_only=True)
class ChannelEstimate:
    """One channel of one data set, over its scans: one channel of the priors."""

    data_set: int
    """Number of the data set, from 1."""
    channel: int
    """Number of the channel in its scans, from 1."""
    medians: FloatArray
    """`(N, K)` medians of K classes in N scans, NaN where a scan lacks a class."""
    stds: FloatArray
    """`(N, K)` robust standard deviations, likewise."""
    voxels: npt.NDArray[np.int64]
    """`(N, K)` numbers of voxels."""
    labelled: npt.NDArray[np.int64]
    """`(N, K)` numbers of voxels with a label of the class, those without intensity included."""
    top: FloatArray
    """`(N, K)` shares of voxels with the highest intensity of their scan, likewise."""
    by_labels: bool = False
    """Whether the scans were rescaled by what lies under the labels."""
    samples: tuple[tuple[npt.NDArray[np.float32], ...], ...] = ()
    """For each scan a few intensities of each class, to draw histograms from."""

    @property
    def num_scans(self) -> int:
        """Number of scans, N."""
        return len(self.medians)

    @property
    def scans_with(self) -> npt.NDArray[np.int64]:
        """`(K,)` numbers of scans that hold each class."""
        return (self.voxels > 0).sum(axis=0)

    @property
    def absent(self) -> list[int]:
        """Classes that no scan holds."""
        return np.flatnonzero(self.scans_with == 0).tolist()

    @property
    def flat(self) -> npt.NDArray[np.bool_]:
        """`(N, K)` whether a class of many voxels, but class 0, shows one intensity in a scan."""
        flat = (self.voxels >= FEW_VOXELS) & ((self.stds == 0) | (self.top > 0.5))
        flat[:, 0] = False
        return flat

    def hyper_parameters(self, legacy: bool = False) -> tuple[FloatArray, FloatArray]:
        """Mean and population standard deviation over scans, of medians and of robust stds.

        Args:
            legacy: Whether a class that a scan lacks counts as 0, as in the original.

        Returns:
            Two `(2, K)` arrays; 0 for classes that no scan holds.
        """
        return _mean_and_std(self.medians, legacy), _mean_and_std(self.stds, legacy)


def _mean_and_std(values: FloatArray, legacy: bool) -> FloatArray:
    counted = np.ones_like(values) if legacy else np.isfinite(values).astype(float)
    number = np.maximum(counted.sum(axis=0), 1)
    numbers = np.nan_to_num(values)
    mean = numbers.sum(axis=0) / number
    variance = (counted * (numbers - mean) ** 2).sum(axis=0) / number
    return np.stack([mean, np.sqrt(variance)])


@dataclass(frozen=True, kw_only=True)
class PriorEstimate:
    """Priors estimated from scans, and what they were estimated from."""

    table: LabelTable
    """Labels and their classes."""
    table_name: str | None
    """Name of the table if it is a ready one."""
    data_sets: tuple[DataSet, ...]
    """Scans and label maps."""
    settings: EstimationSettings
    """Settings of the measurement."""
    channels: tuple[ChannelEstimate, ...]
    """Channels of the priors: those of the first data set, then those of the next."""
    t2_extents: tuple[tuple[float, float], ...] = ()
    """Begin and end of the T2 channel of each scan, see `t2_extent`, if that was measured."""

    @cached_property
    def priors(self) -> TissuePriors:
        """The priors: normal distributions."""
        pairs = [channel.hyper_parameters(self.settings.legacy) for channel in self.channels]
        means, stds = (np.stack(blocks) for blocks in zip(*pairs, strict=True))
        return TissuePriors(means, stds, "normal")

    @property
    def t2_cropping(self) -> FloatArray | None:
        """Statistics of T2 cropping, see `t2_cropping_stats`, if they were measured."""
        return t2_cropping_stats(self.t2_extents) if self.t2_extents else None

    def class_rows(self, number: int) -> Iterator[dict[str, Any]]:
        """Every class of a channel of the priors, as tables and `priors.yaml` show it.

        `mean` and `std` are those of its Gaussian, each a mean and a standard deviation over scans.

        Args:
            number: Channel of the priors, from 1.
        """
        channel = self.channels[number - 1]
        means, stds = self.priors.means[number - 1], self.priors.stds[number - 1]
        for k, name in enumerate(self.table.class_names):
            yield {
                "class": k,
                "name": name,
                "mean": means[:, k].tolist(),
                "std": stds[:, k].tolist(),
                "scans": int(channel.scans_with[k]),
                "voxels": int(channel.voxels[:, k].sum()),
            }

    def warnings(self) -> Iterator[str]:
        """Channels that were rescaled by labels, are saturated or of one scan."""
        for number, channel in enumerate(self.channels, start=1):
            if channel.by_labels:
                yield (
                    f"channel {number}: classes of some scan lie above percentile"
                    f" {PERCENTILES[1]:g}, as wide margins of 0 cause it: 255 stands for"
                    " that percentile of the brightest class instead, in all scans."
                )
            saturated = np.flatnonzero((channel.top[:, 1:] > 0.25).any(axis=0)) + 1
            if saturated.size and not self.settings.legacy:
                yield (
                    f"channel {number}: more than a quarter of the voxels of"
                    f" {self._named(saturated.tolist())} have the highest intensity of some scan"
                    " (saturated): their standard deviations are too small."
                )
            if channel.num_scans == 1:
                yield (
                    f"channel {number}: one scan does not show how scans differ, so that every"
                    " second number is 0. Give more scans."
                )

    def refuse_absent_classes(self) -> None:
        """Refuse classes that no scan of a data set holds.

        Raises:
            SynthSRError: If there are some; the message names them.
        """
        for channel in self.channels:
            if not channel.absent:
                continue
            hidden = [k for k in channel.absent if channel.labelled[:, k].any()]
            missing = [k for k in channel.absent if k not in hidden]
            place = f"channel {channel.channel} of {self.data_sets[channel.data_set - 1].images}"
            if missing:
                raise SynthSRError(
                    "each class of the label table must occur in some label map, got none for"
                    f" {self._named(missing)} ({place}). Take a table without"
                    " them: `synthsr labels LABELS --write-table table.tsv`, then --label-table"
                    " table.tsv."
                )
            raise SynthSRError(
                "each class must have voxels above 0 in some scan, got none for"
                f" {self._named(hidden)} ({place}). Take a table without them, label maps without"
                " what the scans do not show, or scans that show it."
            )

    def refuse_flat_classes(self) -> None:
        """Refuse classes that show one intensity in a scan: there is no distribution to see.

        Raises:
            SynthSRError: If there are some; the message names them and the scan.
        """
        for channel in self.channels:
            for subject, flat in zip(
                self.data_sets[channel.data_set - 1].subjects, channel.flat, strict=True
            ):
                if flat.any():
                    raise SynthSRError(
                        f"{subject.image} must show several intensities in each class, got one in"
                        f" most voxels of {self._named(np.flatnonzero(flat).tolist())} (channel"
                        f" {channel.channel}): it is saturated, or no scan. Take it out, or give"
                        " a scan with its full range of intensities."
                    )

    def _named(self, classes: Sequence[int]) -> str:
        names = self.table.class_names
        return listed([f"class {k} ({names[k]})" for k in classes], 6)


def channels_of(
    data_set: int, scans: Sequence[ScanStatistics], by_labels: bool
) -> list[ChannelEstimate]:
    """The channels of a data set, from the statistics of its scans."""
    labelled = np.stack([scan.labelled for scan in scans])
    estimates = []
    for number, found in enumerate(zip(*(scan.channels for scan in scans), strict=True), start=1):
        medians, stds, voxels, top = (np.stack([one[k] for one in found]) for k in range(4))
        estimates.append(
            ChannelEstimate(
                data_set=data_set,
                channel=number,
                medians=medians,
                stds=stds,
                voxels=voxels,
                labelled=labelled,
                top=top,
                by_labels=by_labels,
                samples=tuple(one.samples for one in found),
            )
        )
    return estimates
