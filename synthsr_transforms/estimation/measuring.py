"""Measuring scans one at a time, in this process or in several."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple, TypeVar

import numpy as np

from synthsr_transforms.io.files import VolumeError
from synthsr_transforms.io.grids import Volume, reorient
from synthsr_transforms.io.volumes import read_labels
from synthsr_transforms.labels.table import LabelTable, listed
from synthsr_transforms.subjects.files import SubjectFiles
from synthsr_transforms.support.messages import WorkFailedError

from .scans import classes_of, read_pair
from .statistics import ClassStatistics, class_statistics, rescale_intensities
from .t2_cropping import t2_extent

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class EstimationSettings:
    """How scans are measured."""

    rescale: bool = True
    """Whether to rescale each channel of each scan, see `rescale_intensities`."""
    resample_labels: bool = False
    """Whether to bring label maps on other grids to those of their scans."""
    t2_cropping: bool = False
    """Whether to measure how much of the field of view the second channel covers."""
    legacy: bool = False
    """Whether to do as the original: a class that a scan lacks counts as 0 in the means over scans,
    labels that the table lacks are passed over, and voxels of 0 count as covered by T2."""


class ScanStatistics(NamedTuple):
    """What is kept of a scan.

    Attributes:
        channels: One entry per channel.
        labelled: `(K,)` numbers of voxels that carry a label of each class, zero or not.
        t2_extent: Where the second channel begins and ends, if that was asked for.
    """

    channels: tuple[ClassStatistics, ...]
    labelled: np.ndarray
    t2_extent: tuple[float, float] | None


def measure_scan(
    subject: SubjectFiles, *, table: LabelTable, settings: EstimationSettings, num_samples: int = 0
) -> ScanStatistics:
    """Read a scan and its label map, and measure every class in every channel.

    Args:
        subject: The files.
        table: Labels and their classes.
        settings: How to measure.
        num_samples: How many intensities of each class to keep, see `class_statistics`.

    Raises:
        VolumeError: If a file is not what it should be; the message names it.
    """
    image, labels = read_pair(subject, resample_labels=settings.resample_labels)
    classes = classes_of(labels.data, table)
    if not settings.legacy:
        _refuse_unknown(subject, labels.data[classes < 0])
    extent = _extent(subject, image, settings) if settings.t2_cropping else None
    waiting = list(np.moveaxis(image.data, 3, 0))
    del labels, image
    channels = []
    while waiting:
        channel = np.ascontiguousarray(waiting.pop(0))  # the last one sets the scan free
        if settings.rescale:
            channel = _rescaled(channel, f"{subject.image}", settings)
        channels.append(
            class_statistics(channel, classes, table.num_classes, num_samples=num_samples)
        )
    labelled = np.bincount(classes[classes >= 0], minlength=table.num_classes)
    return ScanStatistics(tuple(channels), labelled, extent)


def _rescaled(channel: np.ndarray, name: str, settings: EstimationSettings) -> np.ndarray:
    scaled = rescale_intensities(channel)
    if not settings.legacy and not scaled.any():
        raise VolumeError(
            f"{name} must have several intensities to be rescaled, got {channel.flat[0]:g} from"
            " percentile 2 to percentile 98. Crop wide margins, or add --no-rescale."
        )
    return scaled


def _refuse_unknown(subject: SubjectFiles, unknown: np.ndarray) -> None:
    if unknown.size:
        raise VolumeError(
            f"{subject.labels} must hold labels of the label table, got"
            f" {listed(np.unique(unknown).tolist())}. Add rows for them to a table of your own"
            " (synthsr labels --write-table)."
        )


def _extent(
    subject: SubjectFiles, image: Volume, settings: EstimationSettings
) -> tuple[float, float]:
    if image.data.shape[3] != 2:
        raise VolumeError(
            f"{subject.image} must have two channels, T1 and T2, to measure T2 cropping, got"
            f" {image.data.shape[3]}. Leave out --t2-cropping, or stack the scans."
        )
    volume = image if settings.legacy else reorient(image)
    try:
        return t2_extent(volume.data[..., 1], legacy=settings.legacy)
    except ValueError as error:
        raise VolumeError(f"{subject.image}: {error}") from error


def label_values(subject: SubjectFiles) -> set[int]:
    """All values of a label map."""
    return set(np.unique(read_labels(subject.labels).data).tolist())


# Sharing the work --------------------------------------------------------------------------------

Mapper = Callable[[Callable[[Item], Result], Sequence[Item]], Iterator[tuple[int, Result]]]


@contextmanager
def measuring(workers: int = 1) -> Iterator[Mapper]:
    """A function that applies another to items, in this process or in several.

    Args:
        workers: Number of processes, each of which holds one item at a time.

    Yields:
        Function of a function and its items that gives the number of an item and its result as
        soon as it is there.

    Raises:
        WorkFailedError: If a process ended without an answer.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}. Give 1 or more.")
    if workers == 1:
        yield lambda function, items: ((k, function(item)) for k, item in enumerate(items))
        return
    # Processes that are copies of this one (fork) could not use the threads that it has started.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _ignore_interrupts)
    try:
        yield partial(_share, pool)
    except BrokenProcessPool as error:
        raise WorkFailedError(
            "a process ended without an answer, probably for lack of memory. Use fewer --workers."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _share(
    pool: Executor, function: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[tuple[int, Result]]:
    numbers: dict[Future[Result], int] = {
        pool.submit(function, item): k for k, item in enumerate(items)
    }
    for future in as_completed(numbers):
        yield numbers[future], future.result()


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
