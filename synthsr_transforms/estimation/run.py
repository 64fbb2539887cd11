"""Estimation of priors: from folders of scans and label maps to an estimate, in processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import active_children, get_context
from typing import Any

import numpy as np

from synthsr_transforms.io.volumes import read_labels
from synthsr_transforms.labels.summary import best_ready_table
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.priors.tissue_priors import TissuePriors
from synthsr_transforms.subjects.files import Match, PathSpec, SubjectFiles
from synthsr_transforms.support.messages import SynthSRError, WorkFailedError
from synthsr_transforms.support.stopping import interrupts_held, undoing

from .estimate import ChannelEstimate, PriorEstimate, channels_of
from .scans import DataSet, EstimationSettings, ScanStatistics, find_data_sets, measure_scan

AUTO = "auto"
_SAMPLES, _FEWEST_SAMPLES = 60_000, 60  # intensities of a class to draw: of all scans, of each


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
        self, workers: int = 1, on_map: Callable[[], object] | None = None
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
                if on_map is not None:
                    on_map()
        return replace(self, label_table=LabelTable.ready(best_ready_table(sorted(values))))

    def run(self, workers: int = 1, on_scan: Callable[[], object] | None = None) -> PriorEstimate:
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
        channels: list[ChannelEstimate] = []
        extents: list[tuple[float, float]] = []
        with processes(workers) as apply:
            for index, data_set in enumerate(self.data_sets, start=1):
                scans = []
                for scan in apply(measure, data_set.subjects):
                    scans.append(scan)
                    if on_scan is not None:
                        on_scan()
                _check_channels(data_set, [len(scan.channels) for scan in scans])
                extents += [scan.t2_extent for scan in scans if scan.t2_extent is not None]
                by_labels = self._clips(scans)
                if by_labels:
                    scans = list(apply(partial(measure, by_labels=True), data_set.subjects))
                channels += channels_of(index, scans, by_labels)
        return self._estimate(table, channels, extents)

    def _clips(self, scans: Sequence[ScanStatistics]) -> bool:
        """Whether scans of a data set must be rescaled by labels, all alike."""
        rescales = self.settings.rescale and not self.settings.legacy
        return rescales and any(scan.clipped for scan in scans)

    def _estimate(
        self,
        table: LabelTable,
        channels: Sequence[ChannelEstimate],
        extents: Sequence[tuple[float, float]],
    ) -> PriorEstimate:
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
    pool, others = ProcessPoolExecutor(number, get_context("spawn")), set(active_children())

    def apply(*arguments: Any) -> Iterator[Any]:
        with interrupts_held():  # new processes leave Ctrl-C to this one from the first moment on
            return pool.map(*arguments)

    def kill() -> None:
        for process in {*active_children()} - others:
            process.kill()

    try:
        with undoing(kill):
            yield apply
    except BrokenProcessPool as error:
        raise WorkFailedError(
            "a process ended without an answer, most likely for want of memory. Use fewer"
            " --workers."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
