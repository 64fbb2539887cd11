"""A generation job on the workers of a Dask cluster: one sample per task, and each sample once."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

from synthsr_transforms.generator.generator import Generator
from synthsr_transforms.support.dask import connected, each_done
from synthsr_transforms.support.messages import WorkFailedError, describe

from .job import GenerationJob, StartedJob
from .record import CONFIG, Sample

_ONE_AT_A_TIME = threading.Lock()


def run_on_workers(started: StartedJob, address: str) -> Iterator[Sample]:
    """Make the missing samples of a job, see `StartedJob.run`.

    Args:
        started: The job, in a folder that the workers see under the same path.
        address: Of the scheduler, see `connected`.

    Yields:
        Each sample once it is complete, in the order in which they are.

    Raises:
        WorkFailedError: If samples failed, after all others were made.
    """
    job, samples = started.job, {sample.stem: sample for sample in started.samples}
    numbers = {stem: sample.number for stem, sample in samples.items()}
    folder, failures = os.path.abspath(job.folder), []
    make = partial(make_sample, folder, os.urandom(4).hex(), job.preview, job.overwrite)
    with connected(address) as client:
        for stem, made in each_done(client, make, numbers, address):
            if isinstance(made, Exception):
                failures.append(f"{stem}: {describe(made)}")
            else:
                yield samples[stem]
    if failures:
        raise WorkFailedError(
            f"{len(failures)} of {len(samples)} samples failed, such as {failures[0]} The same"
            " command tries them again."
        )


def make_sample(folder: str, run: str, preview: bool, overwrite: bool, number: int) -> int:
    """Make a sample, on a worker, unless an earlier call did it that was lost.

    Args:
        folder: Folder of the job, whose records are written.
        run: Word for the run of the job.
        preview: Whether to draw a picture as well.
        overwrite: Whether to make it again if it is complete.
        number: Number of the sample.
    """
    with _ONE_AT_A_TIME:
        started = _job(folder, run, preview)
        sample = started.job.sample(number)
        if overwrite or not started.folder.is_complete(sample):
            one = StartedJob(started.job, started.generator, started.folder, [sample])
            list(one.run())
    return number


@lru_cache(maxsize=1)
def _job(folder: str, run: str, preview: bool) -> StartedJob:
    """The job in a folder, by its records."""
    job = GenerationJob.from_source(Path(folder, CONFIG), folder=folder, preview=preview)
    generator = Generator(job.config)
    return StartedJob(job, generator, job.recorded(generator), [])
