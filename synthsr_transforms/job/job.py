"""Generation jobs: many samples on disk, each of which can be made again.

Sample k has a seed of its own, from which its subject and all its other random choices follow. It
does not depend on the samples before it, so shards and resumed jobs make what one process makes.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchio.data.batch import ImagesBatch, SubjectsBatch

from synthsr_transforms.generator.config import (
    GeneratorConfig,
    load_config,
    make_config,
    read_settings,
)
from synthsr_transforms.generator.generator import BRAIN_BOX, Generator
from synthsr_transforms.generator.scans import common_target, num_scans
from synthsr_transforms.io.grids import Affine, Volume, reorient
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.seeds import derive_seed
from synthsr_transforms.subjects.files import (
    Match,
    PhantomSubject,
    SubjectFiles,
    check_subjects,
    pair_subjects,
    phantom_subject,
    read_subject,
    refuse_input_folder,
    restore_subject,
    subject_affine,
    subject_shape,
)
from synthsr_transforms.support.atomic import check_space, check_writable
from synthsr_transforms.support.config import check_literal, read_yaml
from synthsr_transforms.support.devices import available_device
from synthsr_transforms.support.messages import SynthSRError, check_choice, naming
from synthsr_transforms.support.texts import read_json
from synthsr_transforms.support.threads import num_cores, threads
from synthsr_transforms.transforms import PatchCrop, TissueMixture
from synthsr_transforms.transforms.common.images import find_labels

from .record import (
    CONFIG,
    FORMATS,
    JobConfig,
    JobFolder,
    JobSettings,
    Sample,
    job_config,
    scan_kinds,
)

log = logging.getLogger("synthsr_transforms")
CACHED_SUBJECTS = 4
"""Subjects kept in memory; a label map of 256^3 voxels takes 32 MiB."""
WRITERS, WRITERS_BESIDE_GPU = 2, 8
"""Threads that compress and write while the next samples are made; a GPU leaves them the CPU."""
MAX_SAMPLES = 10**6
"""Most samples of a job."""
OVERVIEW_SAMPLES = 4
"""Samples that the overview shows."""


@dataclass(frozen=True, kw_only=True)
class GenerationJob:
    """Samples to make from subjects, and where to write them.

    Raises:
        ValueError: If a field is out of its range.

    Examples:
        >>> import tempfile
        >>> config = load_config("all_purpose", ["crop.shape=32"])
        >>> subject = phantom_subject(LabelTable.ready("synthseg"), spacing_mm=4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     job = GenerationJob(config=config, subjects=[subject], folder=folder, num_samples=2)
        ...     [sample.stem for sample in job.run()]
        ['sample_000000', 'sample_000001']
    """

    config: GeneratorConfig
    """The generator."""
    subjects: Sequence[SubjectFiles]
    """Label maps that samples are made from, see `find_subjects`."""
    folder: str | os.PathLike[str]
    """Output folder."""
    num_samples: int = 1
    """Number of samples of the whole job."""
    seed: int = 0
    """Seed from which those of all samples derive."""
    device: str = "cpu"
    """Device to generate on, see `available_device`."""
    file_format: str = "nii.gz"
    """Ending of the volumes, one of `FORMATS`."""
    preview: bool = False
    """Whether to draw a picture of each sample, and one of the first few."""
    shard: tuple[int, int] = (1, 1)
    """Number of this shard, from 1, and of all shards: shard i of n makes every n-th sample."""
    overwrite: bool = False
    """Whether to make complete samples again, and to replace another job."""

    def __post_init__(self) -> None:
        number, total = self.shard
        if not 1 <= self.num_samples <= MAX_SAMPLES:
            raise SynthSRError(
                f"number of samples must be 1 to {MAX_SAMPLES}, got {self.num_samples}. Give"
                " another with -n; for more, run jobs with other seeds."
            )
        if not 0 <= self.seed < 2**63:
            raise SynthSRError(f"seed must be a whole number from 0 to 2^63 - 1, got {self.seed}.")
        check_choice("format", self.file_format, FORMATS)
        if not 1 <= number <= total:
            raise SynthSRError(
                f"shard must be I/N with I from 1 to N, such as 1/8, got {number}/{total}."
            )
        if not self.subjects:
            raise SynthSRError("label maps must be at least one, got none. Give --labels.")
        refuse_input_folder(self.folder, self.subjects)
        check_images(self.config, self.subjects)

    @classmethod
    def from_source(
        cls,
        source: str | os.PathLike[str],
        assignments: Sequence[str] = (),
        *,
        labels: str | os.PathLike[str] | None = None,
        images: str | os.PathLike[str] | None = None,
        match: Match = "names",
        recursive: bool = False,
        **settings: Any,
    ) -> GenerationJob:
        """Plan a job from files.

        Args:
            source: Name of a preset or path of a YAML file. The `config.yaml` of an earlier job
                brings its label maps and settings along.
            assignments: Changes of settings, see `load_config`.
            labels: Folder of label maps, or one. None means those of the earlier job, or else the
                built-in head phantom.
            images: Folder of images, or one, see `find_subjects`.
            match: See `find_subjects`.
            recursive: See `find_subjects`.
            settings: Other fields of the job; those that are None are as in the earlier job, or
                have their defaults.

        Raises:
            ValueError: If a file, name or value is not usable; the message says what to do.
        """
        _refuse_record(source)
        config = make_config(JobConfig, read_settings(source), assignments, where=str(source))
        chosen: dict[str, Any] = {"device": "auto"}
        if config.job is not None:
            names = ("seed", "num_samples", "file_format", "device")
            chosen.update({name: getattr(config.job, name) for name in names})
        chosen.update({name: value for name, value in settings.items() if value is not None})
        chosen["device"] = available_device(chosen["device"])
        subjects = choose_subjects(config, labels, images, match=match, recursive=recursive)
        with naming(source):
            check_buildable(config.generator)
        return cls(config=config.generator, subjects=subjects, **chosen)

    @property
    def numbers(self) -> range:
        """Numbers of the samples of this shard."""
        return range(self.shard[0] - 1, self.num_samples, self.shard[1])

    def sample(self, number: int) -> Sample:
        """The sample of that number, the same whatever else the job makes."""
        seed = derive_seed(self.seed, number)
        generator = torch.Generator().manual_seed(derive_seed(seed, 1))
        index = int(torch.randint(len(self.subjects), (1,), generator=generator))
        return Sample(number, seed, self.subjects[index])

    def start(
        self,
        on_subject: Callable[[SubjectFiles], object] = lambda subject: None,
        on_phantom: Callable[[], object] = lambda: None,
        *,
        dry_run: bool = False,
    ) -> StartedJob:
        """Check everything, then write the records of the job.

        Args:
            on_subject: Called with each subject after it was read and checked.
            on_phantom: Called once before the built-in head phantom is made.
            dry_run: Whether to write nothing, for a job that is not run.

        Returns:
            The job, ready to run.

        Raises:
            ValueError: If anything is wrong; nothing was written then.
        """
        check_writable(self.folder)
        check_buildable(self.config)
        phantom = any(isinstance(subject, PhantomSubject) for subject in self.subjects)
        checked = self._checked_before()
        if phantom and checked is None:
            on_phantom()
        generator = checked or Generator.for_labels(
            self.config, check_subjects(self.subjects, on_subject)
        )
        folder = self.recorded(generator)
        if not self.overwrite:
            folder.refuse_other_job()
        samples = [self.sample(number) for number in range(self.num_samples)]
        mine = [samples[number] for number in self.numbers]
        missing = [s for s in mine if self.overwrite or not folder.is_complete(s)]
        if phantom and checked is not None and missing:
            on_phantom()
        check_space(self.folder, self._expected_bytes(generator, missing))
        if not dry_run:
            folder.open(samples, self.shard, overwrite=self.overwrite)
        return StartedJob(self, generator, folder, missing)

    def run(self) -> Iterator[Sample]:
        """Start, then make every missing sample; see `StartedJob.run`."""
        return self.start().run()

    def recorded(self, generator: Generator) -> JobFolder:
        """The output folder, with the records of the job."""
        settings = JobSettings(
            synthsr_version=version("synthsr"),
            seed=self.seed,
            num_samples=self.num_samples,
            file_format=self.file_format,
            device=torch.device(self.device).type,
            sources=[subject.record() for subject in self.subjects],
        )
        return JobFolder(self.folder, job_config(generator, settings), generator.label_table)

    def _checked_before(self) -> Generator | None:
        """The generator, if this very job checked its subjects before and no file changed since.

        A thousand label maps take minutes to read, which each shard of a job would repeat.
        """
        record = Path(self.folder) / CONFIG
        if self.overwrite or not record.is_file():
            return None
        table = self.config.label_table
        try:
            named = read_yaml(record)["label_table"] if table == "auto" else table
            generator = Generator(dataclasses.replace(self.config, label_table=named))
            folder = self.recorded(generator)
            stats = [path.stat() for subject in self.subjects for path in subject.paths]
        except (KeyError, OSError, ValueError):
            return None
        folder.refuse_other_job()
        written = record.stat().st_mtime
        return generator if all(max(s.st_mtime, s.st_ctime) < written for s in stats) else None

    def _expected_bytes(self, generator: Generator, samples: Sequence[Sample]) -> float:
        ratio = 1.0 if self.file_format == "nii" else 0.6  # skull-stripped 0.35, whole heads 0.85
        shape_of = cache(subject_shape)
        return ratio * sum(
            expected_bytes(generator, shape_of(s.subject), *num_scans(self.config.scans, s.seed))
            for s in samples
        )


def expected_bytes(generator: Generator, shape: Sequence[int], scans: int = 1) -> float:
    """Rough size in bytes of a sample before compression.

    Args:
        generator: Makes the sample.
        shape: Size of the label map.
        scans: Number of scans.
    """
    transforms = list(generator.transforms.values())
    for transform in transforms:
        if isinstance(transform, PatchCrop) and transform.shape is not None:
            shape = [min(pair) for pair in zip(shape, transform.shape, strict=True)]
    channels = max([t.num_channels for t in transforms if isinstance(t, TissueMixture)], default=1)
    maps = 1 if generator.config.reliability is None else 2
    return float(4 * math.prod(shape) * (scans * channels * maps + 1) + 2 * math.prod(shape))


def remake_sample(record: str | os.PathLike[str], device: str = "cpu") -> SubjectsBatch:
    """Make a sample of a job again from its JSON file, with the recorded parameters.

    Args:
        record: Path of the JSON file, in the output folder of the job.
        device: Device to generate on; of the same type as before, every voxel is the same.

    Returns:
        Batch of one element, or of one per scan, with its images oriented to right, anterior,
        superior.

    Raises:
        ValueError: If a file is missing or not what it should be.
    """
    path = Path(record)
    try:
        recorded = read_json(path)
        steps, source = dict(recorded["steps"]), dict(recorded["source"])
    except FileNotFoundError:
        raise SynthSRError(f"{path} does not exist. Check the path.") from None
    except (KeyError, TypeError, ValueError) as error:
        raise SynthSRError(
            f"{path} must be the JSON file of a sample, got something else."
        ) from error
    generator = Generator(load_config(path.parent / CONFIG))
    files = restore_subject(source, generator.label_table)
    subject = read_subject(files, target=generator.config.target)
    batch = SubjectsBatch.from_subjects([subject]).to(available_device(device))
    try:
        return generator.replay(batch, steps)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise SynthSRError(
            f"{path} must hold parameters of the steps of {path.with_name(CONFIG)}, got others"
            f" ({type(error).__name__}). Make the sample again."
        ) from error


# Subjects ----------------------------------------------------------------------------------------


def _refuse_record(source: str | os.PathLike[str]) -> None:
    """Refuse the JSON file of a sample where a configuration belongs."""
    path = Path(source)
    if path.suffix == ".json" and path.is_file() and "sample" in read_yaml(path):
        raise SynthSRError(
            f"configuration must be a preset or a YAML file, got {path}, the record of one sample."
            f" Give {path.with_name(CONFIG)} for the whole job, or make this sample again with"
            " synthsr_transforms.job.job.remake_sample."
        )


def choose_subjects(
    config: JobConfig,
    labels: str | os.PathLike[str] | None,
    images: str | os.PathLike[str] | None,
    *,
    match: Match = "names",
    recursive: bool = False,
) -> list[SubjectFiles]:
    """Find the subjects that a user names, or else those of the earlier job, or the phantom.

    Raises:
        ValueError: If files are not usable, or there are images alone.
    """
    if labels is not None:
        subjects = pair_subjects(labels, images, match=match, recursive=recursive)
        for subject in subjects:
            for path in subject.paths:
                check_literal(os.path.abspath(path), str(labels), "the path of a file")
        return subjects
    if images is not None:
        raise SynthSRError(f"images need label maps, got {images} alone. Give --labels as well.")
    if config.job is None:
        return [phantom_subject(config.label_table)]
    if not config.job.sources:
        raise SynthSRError(
            "samples need label maps, got the configuration of a run on pairs of real scans. Add"
            " --labels, or choose another configuration."
        )
    return [restore_subject(source, config.label_table) for source in config.job.sources]


def check_buildable(config: GeneratorConfig) -> None:
    """Build the generator before label maps are read, to find mistakes early.

    Where the table is chosen by the label maps, any ready table will do.
    """
    auto = config.label_table == "auto"
    errors = []
    for name in LabelTable.ready_names() if auto else [config.label_table]:
        try:
            Generator(dataclasses.replace(config, label_table=name))
            return
        except SynthSRError as error:
            errors.append(error)
    raise errors[0]


def check_images(config: GeneratorConfig, subjects: Sequence[SubjectFiles]) -> None:
    """Real targets need images, and synthetic ones none."""
    alone = [subject for subject in subjects if subject.image is None]
    if config.real_target and alone:
        raise SynthSRError(
            "real targets need an image with each label map, got label maps alone. Give the folder"
            " of images with --images (and that of their label maps with --labels)."
        )
    if not config.real_target and len(alone) < len(subjects):
        raise SynthSRError(
            "images serve generators with a real target, got one that makes its own. Leave out"
            " --images, or choose another preset (see --list-presets)."
        )


# Work --------------------------------------------------------------------------------------------


_Loaded = tuple[SubjectsBatch, Affine]  # on the device, and how its label map was oriented


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
        return len(self.job.numbers) - len(self.samples)

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
            for sample, (source, affine) in zip(self.samples, sources, strict=True):
                batch, steps = self.generator.run(source, sample.seed)
                volumes = self._volumes(batch)
                waiting.append(writers.submit(self._write, sample, volumes, affine, steps))
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
        return batch, subject_affine(files)

    def _volumes(self, batch: SubjectsBatch) -> dict[str, Volume]:
        """The volumes of a sample, on the CPU, oriented as they were generated."""
        config = self.generator.config
        named = {"image": config.image, "reliability": config.reliability, "target": config.target}
        if not {name for name in named.values() if name} <= set(batch.images):
            self.generator.as_pair(batch)  # says which image is missing
        images = {kind: batch.images[name] for kind, name in named.items() if name is not None}
        images["labels"] = find_labels(batch)[1]
        if config.scans is None:
            return {kind: _to_volume(image) for kind, image in images.items()}
        volumes = {
            f"{kind}_{n + 1}": _to_volume(images[kind], n)
            for n in range(batch.batch_size)
            for kind in scan_kinds(config)
        }
        images["target"].data = common_target(images["target"].data)[None]
        return volumes | {kind: _to_volume(images[kind]) for kind in ("target", "labels")}

    def _write(
        self,
        sample: Sample,
        volumes: Mapping[str, Volume],
        affine: Affine,
        steps: Mapping[str, Any],
    ) -> Sample:
        oriented = {kind: reorient(volume, affine) for kind, volume in volumes.items()}
        self.folder.write_sample(sample, oriented, steps, preview=self.job.preview)
        log.debug("%s: made from %s", sample.stem, sample.subject.paths)
        return sample

    def _draw_missing_previews(self) -> None:
        making = {sample.number for sample in self.samples}
        for sample in map(self.job.sample, self.job.numbers):
            if sample.number not in making and not self.folder.preview_path(sample).exists():
                self.folder.write_preview(sample)

    def _draw_overview(self) -> None:
        first = map(self.job.sample, range(min(OVERVIEW_SAMPLES, self.job.num_samples)))
        complete = [sample for sample in first if self.folder.is_complete(sample)]
        if complete:
            self.folder.write_overview(complete)


# Volumes and subjects ----------------------------------------------------------------------------


def _to_volume(image: ImagesBatch, element: int = 0) -> Volume:
    data = image.data[element].detach().cpu().movedim(0, -1).numpy()
    affine = np.asarray(image.affines[element].data.cpu(), dtype=np.float64)
    return Volume(data[..., 0] if data.shape[-1] == 1 else data, affine)


def _ahead(
    pool: ThreadPoolExecutor,
    load: Callable[[SubjectFiles], _Loaded],
    subjects: Sequence[SubjectFiles],
) -> Iterator[_Loaded]:
    """Load subjects in order, each while the one before is worked on."""
    upcoming: deque[Future[_Loaded]] = deque()
    for subject in subjects:
        upcoming.append(pool.submit(load, subject))
        if len(upcoming) > 1:
            yield upcoming.popleft().result()
    yield from (future.result() for future in upcoming)
