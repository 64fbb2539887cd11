"""Estimates of priors: statistics of every scan, in processes, and the priors that follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from multiprocessing import active_children, get_context
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from synthsr_transforms.io.volumes import read_labels
from synthsr_transforms.labels.summary import best_ready_table
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.priors.tissue_priors import TissuePriors
from synthsr_transforms.subjects.files import Match, PathSpec, SubjectFiles
from synthsr_transforms.support.messages import SynthSRError, WorkFailedError, listed
from synthsr_transforms.support.stopping import signals_held, undoing

from .scans import DataSet, EstimationSettings, ScanStatistics, find_data_sets, measure_scan
from .statistics import PERCENTILES, t2_cropping_stats

FloatArray = npt.NDArray[np.float64]

FEW_VOXELS = 100
"""Classes of fewer voxels may show one intensity by chance."""
AUTO = "auto"
_SAMPLES, _FEWEST_SAMPLES = 60_000, 60  # intensities of a class to draw: of all scans, of each


class ChannelEstimate(NamedTuple):
    """One channel of one data set, over its scans: one channel of the priors."""

    data_set: int
    """Number of the data set, from 1."""
    channel: int
    """Number of the channel in its scans, from 1."""
    by_labels: bool
    """Whether the scans were rescaled by what lies under the labels."""
    labelled: npt.NDArray[np.int64]
    """`(N, K)` numbers of voxels with a label of the class, those without intensity included."""
    medians: FloatArray
    """`(N, K)` medians of K classes in N scans, NaN where a scan lacks a class."""
    stds: FloatArray
    """`(N, K)` robust standard deviations, likewise."""
    voxels: npt.NDArray[np.int64]
    """`(N, K)` numbers of voxels."""
    top: FloatArray
    """`(N, K)` shares of voxels with the highest intensity of their scan, likewise."""
    samples: tuple[tuple[npt.NDArray[np.float32], ...], ...]
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
                    f" {self._named(missing)} ({place}). Take a table without them: `synthsr labels"
                    " LABELS --write-table table.tsv`, then --label-table table.tsv."
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
        *arrays, samples = zip(*found, strict=True)
        medians, stds, voxels, top = map(np.stack, arrays)
        estimates.append(
            ChannelEstimate(
                data_set, number, by_labels, labelled, medians, stds, voxels, top, samples
            )
        )
    return estimates


# Jobs --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PriorEstimation:
    """Priors to estimate.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> from pathlib import Path
        >>> labels = np.repeat([0, 2, 3], 9).reshape(3, 3, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name, volume in (("labels", labels), ("images", 1.0 + 50 * labels)):
        ...         (Path(folder) / name).mkdir()
        ...         np.savez(Path(folder) / name / "a.npz", vol_data=volume)
        ...     data_sets = find_data_sets([f"{folder}/images"], [f"{folder}/labels"])
        ...     table = LabelTable.from_values([0, 2, 3])
        ...     settings = EstimationSettings(rescale=False)
        ...     job = PriorEstimation(data_sets=data_sets, label_table=table, settings=settings)
        ...     job.run().priors.means[0, 0]
        array([  1., 101., 151.])
    """

    data_sets: Sequence[DataSet]
    """Scans and label maps, see `find_data_sets`."""
    label_table: LabelTable | PathSpec = AUTO
    """Labels and their classes: a table, the name of a ready one, a file, or `auto` for the ready
    one that fits the label maps best, as in the generator."""
    settings: EstimationSettings = field(default_factory=EstimationSettings)
    """Settings of the measurement."""
    keep_samples: bool = False
    """Whether to keep some intensities, to draw histograms from."""

    @property
    def subjects(self) -> list[SubjectFiles]:
        """All pairs of files."""
        return [subject for data_set in self.data_sets for subject in data_set.subjects]

    @property
    def maps_to_read(self) -> list[SubjectFiles]:
        """Subjects whose label maps are read to choose a table, before scans are measured."""
        distinct = {subject.labels: subject for subject in self.subjects}
        return list(distinct.values()) if self.label_table == AUTO else []

    def choose_table(
        self, workers: int = 1, on_map: Callable[[], object] = lambda: None
    ) -> PriorEstimation:
        """Return the same job with its table chosen, which reads the label maps if it is `auto`.

        Args:
            workers: See `run`.
            on_map: Called after each label map.

        Raises:
            ValueError: If the table or a label map is not what it should be.
        """
        if self.label_table != AUTO:
            return replace(self, label_table=LabelTable.resolve(self.label_table))
        values: set[int] = set()
        with processes(workers) as apply:
            for found in apply(_label_values, self.maps_to_read):
                values |= found
                on_map()
        return replace(self, label_table=LabelTable.ready(best_ready_table(sorted(values))))

    def run(self, workers: int = 1, on_scan: Callable[[], object] = lambda: None) -> PriorEstimate:
        """Measure every scan, one at a time in each process.

        Args:
            workers: Number of processes. With more than one, a script must start its work below
                `if __name__ == "__main__":`, as processes import it.
            on_scan: Called after each scan.

        Returns:
            The estimate.

        Raises:
            ValueError: If a file is not what it should be, scans of a data set differ in their
                numbers of channels, or no scan holds a class.
        """
        table = LabelTable.resolve(self.choose_table(workers).label_table)
        number = max(_SAMPLES // len(self.subjects), _FEWEST_SAMPLES) if self.keep_samples else 0
        measure = partial(measure_scan, table=table, settings=self.settings, num_samples=number)
        rescales = self.settings.rescale and not self.settings.legacy
        channels: list[ChannelEstimate] = []
        extents: list[tuple[float, float]] = []
        with processes(workers) as apply:
            for index, data_set in enumerate(self.data_sets, start=1):
                scans = []
                for scan in apply(measure, data_set.subjects):
                    scans.append(scan)
                    on_scan()
                _check_channels(data_set, [len(scan.channels) for scan in scans])
                extents += [scan.t2_extent for scan in scans if scan.t2_extent is not None]
                by_labels = rescales and any(scan.clipped for scan in scans)
                if by_labels:  # all alike
                    scans = list(apply(partial(measure, by_labels=True), data_set.subjects))
                channels += channels_of(index, scans, by_labels)
        name = table.to_spec()
        estimate = PriorEstimate(
            table=table,
            table_name=name if isinstance(name, str) else None,
            data_sets=tuple(self.data_sets),
            settings=self.settings,
            channels=tuple(channels),
            t2_extents=tuple(extents),
        )
        if not self.settings.legacy:
            estimate.refuse_absent_classes()
            estimate.refuse_flat_classes()
        return estimate


def _label_values(subject: SubjectFiles) -> set[int]:
    return set(np.unique(read_labels(subject.labels).data).tolist())


def _check_channels(data_set: DataSet, numbers: Sequence[int]) -> None:
    for subject, number in zip(data_set.subjects, numbers, strict=True):
        if number != numbers[0]:
            raise SynthSRError(
                f"scans of a data set must have as many channels as each other, got {numbers[0]} in"
                f" {data_set.subjects[0].image} and {number} in {subject.image}. Keep them in two"
                " folders and give each with --images."
            )


def estimate_priors(
    images: PathSpec | Iterable[PathSpec],
    labels: PathSpec | Iterable[PathSpec],
    label_table: LabelTable | PathSpec = AUTO,
    *,
    rescale: bool = True,
    match: Match = "names",
    resample_labels: bool = False,
    legacy: bool = False,
    workers: int = 1,
) -> TissuePriors:
    """Estimate priors from scans and their label maps.

    The mean of a class in a scan is its median intensity, its standard deviation 1.4826 times the
    median absolute deviation from it. The priors are normal distributions with the mean and the
    population standard deviation of these numbers over scans (Billot et al., Medical Image Analysis
    2023).

    Args:
        images: Folder of scans (or one scan), or several folders, one per data set. Scans may have
            several channels. The channels of all data sets become channels of the priors.
        labels: Folder of label maps (or one), for all data sets or one for each.
        label_table: See `PriorEstimation.label_table`.
        rescale: See `EstimationSettings.rescale`.
        match: See `find_data_sets`.
        resample_labels: See `EstimationSettings.resample_labels`.
        legacy: See `EstimationSettings.legacy`.
        workers: See `PriorEstimation.run`.

    Returns:
        Priors with one channel per data set and channel, one class per class of the table.

    Raises:
        ValueError: If a file is not what it should be or has no partner, or no scan holds a class.
    """
    folders, maps = (
        [paths] if isinstance(paths, str) or not isinstance(paths, Iterable) else list(paths)
        for paths in (images, labels)
    )
    settings = EstimationSettings(rescale=rescale, resample_labels=resample_labels, legacy=legacy)
    job = PriorEstimation(
        data_sets=find_data_sets(folders, maps, match), label_table=label_table, settings=settings
    )
    return job.run(workers).priors


# Processes ---------------------------------------------------------------------------------------


@contextmanager
def processes(number: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """A function like `map`, which works in this process or in several.

    Args:
        number: Number of processes, each of which holds one item at a time.

    Raises:
        WorkFailedError: If a process ended without an answer.
    """
    if number < 1:
        raise SynthSRError(f"workers must be at least 1, got {number}. Give 1 or more.")
    if number == 1:
        yield map
        return
    # Processes that are copies of this one (fork) could not use the threads that it has started.
    others = set(active_children())
    with signals_held():
        pool = ProcessPoolExecutor(number, get_context("spawn"))

    def apply(*arguments: Any) -> Iterator[Any]:
        with signals_held():  # all processes are started here
            return pool.map(*arguments)

    def kill() -> None:
        for process in {*active_children()} - others:
            process.kill()

    try:
        with undoing(kill):
            yield apply
    except BrokenProcessPool as error:
        raise WorkFailedError(
            "a process ended without an answer, perhaps for want of memory. Use fewer --workers."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
