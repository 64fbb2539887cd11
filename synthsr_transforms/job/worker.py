"""The work of a generation job: samples made one after another, written by threads beside."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torchio.data.batch import ImagesBatch, SubjectsBatch

from synthsr_transforms.generator.generator import BRAIN_BOX, Generator
from synthsr_transforms.io.grids import Volume, reorient
from synthsr_transforms.subjects.files import SubjectFiles, read_subject, subject_affine
from synthsr_transforms.support.threads import num_cores, threads
from synthsr_transforms.transforms.images import find_labels

from .folder import JobFolder
from .record import Sample

if TYPE_CHECKING:
    from .job import GenerationJob

CACHED_SUBJECTS = 4
"""Subjects kept in memory; a label map of 256^3 voxels takes 32 MiB."""
WRITERS, WRITERS_BESIDE_GPU = 2, 8
"""Threads that compress and write while the next samples are made; a GPU leaves them the CPU."""
OVERVIEW_SAMPLES = 4
"""Samples that the overview shows."""


class _Loaded(NamedTuple):
    """A subject in memory: on the device, and how its label map was oriented."""

    batch: SubjectsBatch
    affine: npt.NDArray[np.float64]


class StartedJob:
    """A job whose input was checked and whose records are written; made by `GenerationJob.start`.

    Attributes:
        job: The job.
        generator: Its generator, with the label table chosen.
        folder: Its output folder.
        samples: Samples that this run makes, in order.
    """

    def __init__(
        self, job: GenerationJob, generator: Generator, folder: JobFolder, samples: list[Sample]
    ) -> None:
        self.job, self.generator, self.folder, self.samples = job, generator, folder, samples

    @property
    def num_complete(self) -> int:
        """Number of samples of this shard that were complete before."""
        first, step = self.job.shard
        return len(range(first - 1, self.job.num_samples, step)) - len(self.samples)

    def run(self) -> Iterator[Sample]:
        """Make the missing samples, writing some while the next is made.

        Yields:
            Each sample once it is complete. After an error, or when the iteration is given up,
            samples that are being written are finished and nothing is left of the others.
        """
        load = lru_cache(maxsize=CACHED_SUBJECTS)(self._load)
        number = WRITERS if self.job.device == "cpu" else min(WRITERS_BESIDE_GPU, num_cores())
        waiting: deque[Future[Sample]] = deque()
        with threads(1) as reader, threads(number) as writers:
            if self.job.preview:
                self._draw_missing_previews()
            sources = _ahead(reader, load, [sample.subject for sample in self.samples])
            for sample, source in zip(self.samples, sources, strict=True):
                batch, steps = self.generator.run(source.batch, sample.seed)
                volumes = self._volumes(batch)
                waiting.append(writers.submit(self._write, sample, volumes, source.affine, steps))
                while waiting and (waiting[0].done() or len(waiting) > 2 * number):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        if self.job.preview:
            self._draw_overview()

    def _load(self, files: SubjectFiles) -> _Loaded:
        subject = read_subject(files, target=self.generator.config.target)
        batch = SubjectsBatch.from_subjects([subject]).to(self.job.device)
        if self.generator.needs_brain_box():
            batch.metadata[BRAIN_BOX] = self.generator.brain_box(batch).tolist()
        return _Loaded(batch, subject_affine(files))

    def _volumes(self, batch: SubjectsBatch) -> dict[str, Volume]:
        """What a sample consists of, on the CPU, oriented as it was generated."""
        config = self.generator.config
        named = {"image": config.image, "reliability": config.reliability, "target": config.target}
        if not {name for name in named.values() if name} <= set(batch.images):
            self.generator.as_pair(batch)  # says which image is missing
        images = {kind: batch.images[name] for kind, name in named.items() if name is not None}
        images["labels"] = find_labels(batch)[1]
        return {kind: _to_volume(image) for kind, image in images.items()}

    def _write(
        self,
        sample: Sample,
        volumes: Mapping[str, Volume],
        affine: npt.NDArray[np.float64],
        steps: Mapping[str, Any],
    ) -> Sample:
        oriented = {kind: reorient(volume, affine) for kind, volume in volumes.items()}
        self.folder.write_sample(sample, oriented, steps, preview=self.job.preview)
        return sample

    def _draw_missing_previews(self) -> None:
        making = {sample.number for sample in self.samples}
        first, step = self.job.shard
        for number in range(first - 1, self.job.num_samples, step):
            sample = self.job.sample(number)
            if number not in making and not self.folder.preview_path(sample).exists():
                self.folder.write_preview(sample)

    def _draw_overview(self) -> None:
        first = map(self.job.sample, range(min(OVERVIEW_SAMPLES, self.job.num_samples)))
        complete = [sample for sample in first if self.folder.is_complete(sample)]
        if complete:
            self.folder.write_overview(complete)


# Volumes and subjects ----------------------------------------------------------------------------


def _to_volume(image: ImagesBatch) -> Volume:
    data = image.data[0].detach().cpu().movedim(0, -1).numpy()
    affine = np.asarray(image.affines[0].data.cpu(), dtype=np.float64)
    return Volume(data[..., 0] if data.shape[-1] == 1 else data, affine)


def _ahead(
    pool: ThreadPoolExecutor,
    load: Callable[[SubjectFiles], _Loaded],
    subjects: Sequence[SubjectFiles],
) -> Iterator[_Loaded]:
    """Load subjects in order, each while the one before is worked on."""
    upcoming: Future[_Loaded] | None = None
    for subject, following in zip_longest(subjects, subjects[1:]):
        current = upcoming or pool.submit(load, subject)
        source = current.result()
        upcoming = None if following is None else pool.submit(load, following)
        yield source
