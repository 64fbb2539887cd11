"""Records of jobs: settings and samples as data, differences between two jobs, output folders.

`synthsr train` keeps the label maps of a run in the same form.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from synthsr_transforms.generator.config import GeneratorConfig
from synthsr_transforms.generator.generator import Generator
from synthsr_transforms.generator.scans import num_scans
from synthsr_transforms.io.files import stem
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.io.volumes import read_volume, write_volume
from synthsr_transforms.labels.files import read_npy
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.priors.tissue_priors import read_prior_file
from synthsr_transforms.subjects.files import SubjectFiles, SubjectRecord
from synthsr_transforms.support.atomic import write_text, writing_to
from synthsr_transforms.support.config import read_yaml, to_plain, to_yaml
from synthsr_transforms.support.messages import SynthSRError
from synthsr_transforms.support.stopping import undoing
from synthsr_transforms.support.texts import read_json

CONFIG, TABLE = "config.yaml", "label_table.tsv"
"""Names of a configuration, and of the label table beside it where that is not a ready one."""
MANIFEST, OVERVIEW = "manifest.csv", "overview.png"
FORMATS = ("nii.gz", "nii", "mgz")
"""Formats of the volumes that are written."""

_SAMPLE_FILE = re.compile(r"sample_(\d{6,})[_.].*")
_HEADER = f"# `synthsr generate {CONFIG} --out FOLDER` makes the same samples in another folder.\n"


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """Settings that define the samples of a job besides the generator."""

    synthsr_version: str = ""
    """Version that made the samples."""
    seed: int = 0
    """Seed from which those of all samples derive."""
    num_samples: int = 1
    """Number of samples; it may grow."""
    file_format: str = "nii.gz"
    """Ending of the volumes."""
    device: str = "cpu"
    """Type of the device, on which noise depends."""
    sources: list[SubjectRecord] = field(default_factory=list)
    """Subjects that samples are made from; label map `phantom` is the built-in head phantom."""


@dataclass(frozen=True, kw_only=True)
class JobConfig(GeneratorConfig):
    """A generator and its job: the content of `config.yaml`."""

    job: Optional[JobSettings] = None  # noqa: UP045 - read at run time by OmegaConf
    """The job; None in a configuration that samples were not made from yet."""

    @property
    def generator(self) -> GeneratorConfig:
        """The generator alone."""
        return GeneratorConfig(**_generator_fields(self))


@dataclass(frozen=True)
class Sample:
    """One sample of a job.

    Attributes:
        number: Position in the job, from 0.
        seed: Seed of all random choices.
        subject: Files that it is made from.
    """

    number: int
    seed: int
    subject: SubjectFiles

    @property
    def stem(self) -> str:
        """Beginning of the names of its files."""
        return f"sample_{self.number:06d}"


def job_config(generator: Generator, settings: JobSettings) -> JobConfig:
    """Configuration that needs no file but the label maps, images and `label_table.tsv`.

    Args:
        generator: Generator with its label table chosen.
        settings: Settings of the job.
    """
    config = generator.config
    fields = _generator_fields(config)
    fields["steps"] = {
        name: dataclasses.replace(step, params=_without_files(step.params))
        for name, step in config.steps.items()
    }
    if config.label_table not in LabelTable.ready_names():
        fields["label_table"] = TABLE
    return JobConfig(**fields, job=settings)


def _generator_fields(config: GeneratorConfig) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(GeneratorConfig)}


def _without_files(value: Any) -> Any:
    """Replace paths of arrays and priors by the numbers in them, and make other paths absolute."""
    if isinstance(value, Mapping):
        plain = {key: _without_files(inner) for key, inner in value.items()}
        if isinstance(value.get("priors"), str):
            plain["priors"] = read_prior_file(value["priors"]).priors.to_dict()
        return plain
    if isinstance(value, str) and Path(value).is_file():
        return read_npy(value).tolist() if value.endswith(".npy") else os.path.abspath(value)
    return value


# Differences -------------------------------------------------------------------------------------


def plain_config(config: Any) -> dict[str, Any]:
    """Settings as plain data, as they are read back from YAML, without those that only describe."""
    if not isinstance(config, Mapping):
        config = to_plain(config)
    return {str(k): v for k, v in config.items() if k not in ("description", "citation")}


def comparable(config: Any, table: LabelTable | None) -> dict[str, Any]:
    """Everything that changes samples, as plain data.

    Args:
        config: A `JobConfig`, or the content of its YAML file.
        table: Its label table, where it is not a ready one.
    """
    plain = plain_config(config)
    plain["job"] = {k: v for k, v in (plain.get("job") or {}).items() if k != "num_samples"}
    if table is not None:
        plain["label_table"] = [list(row) for row in table.rows]
    return plain


def fingerprint(config: JobConfig, table: LabelTable | None) -> str:
    """Hash of everything that changes samples; see `comparable`."""
    text = json.dumps([comparable(config, table), list(config.steps)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def difference(there: Any, here: Any, name: str = "") -> str | None:
    """The first setting that differs, in words."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        if name == "steps" and set(there) == set(here) and list(there) != list(here):
            return "its steps have another order"
        for key in dict.fromkeys([*there, *here]):
            path = f"{name}.{key}" if name else str(key)
            found = difference(there.get(key), here.get(key), path)
            if found:
                return found
        return None
    if there == here:
        return None
    if name == "job.sources":
        return _difference_of_subjects(there, here)
    old, new = (text if len(text := repr(v)) <= 60 else f"{text[:57]}..." for v in (there, here))
    return f"{name} is {old} there and {new} here"


def _difference_of_subjects(there: Any, here: Any) -> str:
    """Numbers of label maps of two jobs, and the first that only one of them has."""
    try:
        old, new = ({s["labels"]: s.get("image") for s in sources} for sources in (there, here))
    except (AttributeError, KeyError, TypeError):
        return "job.sources is not a list of label maps there"
    text = f"job.sources has {len(there)} label maps there and {len(here)} here"
    for labels in [*old, *new]:
        if (labels in old) != (labels in new):
            return f"{text}, {labels} is {'missing' if labels in old else 'new'} here"
        if old[labels] != new[labels]:
            return f"the image of {labels} is {old[labels]} there and {new[labels]} here"
    return f"{text}, in another order"


# Folder ------------------------------------------------------------------------------------------


class JobFolder:
    """Output folder of a job.

    Args:
        path: The folder; it need not exist.
        config: The job.
        table: Its label table.
    """

    def __init__(self, path: str | os.PathLike[str], config: JobConfig, table: LabelTable) -> None:
        self.path = Path(path)
        assert config.job is not None
        self.config, self.job = config, config.job
        self.table = table if config.label_table == TABLE else None
        self.fingerprint = fingerprint(config, self.table)
        """Hash of everything that defines the samples."""

    # Names

    def kinds(self, sample: Sample) -> list[str]:
        """Names of the volumes of a sample."""
        (number,) = num_scans(self.config.scans, sample.seed)
        return self._kinds(number)

    def _kinds(self, number: int) -> list[str]:
        """Names of the volumes of a sample with that many scans."""
        each = scan_kinds(self.config)
        numbered = [f"{kind}_{n + 1}" for n in range(number) for kind in each]
        return [*(each if self.config.scans is None else numbered), "target", "labels"]

    def volume_path(self, sample: Sample, kind: str) -> Path:
        """Path of a volume of a sample."""
        return self.path / f"{sample.stem}_{kind}.{self.job.file_format}"

    def record_path(self, sample: Sample) -> Path:
        """Path of the record of a sample, which is written last."""
        return self.path / f"{sample.stem}.json"

    def preview_path(self, sample: Sample) -> Path:
        """Path of the picture of a sample."""
        return self.path / f"{sample.stem}_preview.png"

    def _sample_files(self) -> dict[Path, int]:
        """Files of samples, whole or not, with the number of the sample."""
        matches = {path: _SAMPLE_FILE.fullmatch(path.name) for path in self.path.iterdir()}
        return {path: int(match[1]) for path, match in matches.items() if match}

    # Opening

    def refuse_other_job(self) -> None:
        """Refuse a folder whose samples are those of another job.

        Raises:
            SynthSRError: If so; the message names the first setting that differs.
        """
        advice = "Choose another folder with --out, or add --overwrite."
        config, table = self.path / CONFIG, self.path / TABLE
        if not config.exists():
            if self.path.is_dir() and self._sample_files():
                raise SynthSRError(f"{self.path} holds samples of an unknown job. {advice}")
            return
        try:
            found = read_yaml(config)
            there = comparable(found, LabelTable.read(table) if table.exists() else None)
        except ValueError as error:
            raise SynthSRError(
                f"{self.path} holds a job that cannot be read: {error} {advice}"
            ) from error
        differs = difference(there, comparable(self.config, self.table))
        if differs:
            raise SynthSRError(f"{self.path} holds another job: {differs}. {advice}")
        there, here = found["job"]["num_samples"], self.job.num_samples
        if there > here:
            raise SynthSRError(
                f"{self.path} holds a job of {there} samples, got {here}. Ask for at least as many"
                " with -n, choose another folder with --out, or add --overwrite."
            )

    def open(
        self, samples: Sequence[Sample], shard: tuple[int, int], *, overwrite: bool = False
    ) -> None:
        """Make the folder, remove what earlier runs of this shard left, and write the records.

        Args:
            samples: All samples of the job.
            shard: Number of the shard, from 1, and of all shards. Files of others stay.
            overwrite: Whether to remove complete samples as well.
        """
        with writing_to(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            for file, number in self._sample_files().items():
                if overwrite and number % shard[1] == shard[0] - 1:
                    file.unlink(missing_ok=True)
            write_text(self.path / CONFIG, _HEADER + to_yaml(self.config))
            if self.table is not None:
                self.table.write(self.path / TABLE)
            write_text(self.path / MANIFEST, self._manifest(samples))

    def _manifest(self, samples: Sequence[Sample]) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        most = 1 if self.config.scans is None else len(self.config.scans.probabilities)
        columns = self._kinds(most)
        writer.writerow(["sample", "seed", "source_labels", "source_image", *columns, "record"])
        for sample in samples:
            own = self.kinds(sample)
            files = [self.volume_path(sample, k).name if k in own else "" for k in columns]
            paths = sample.subject.record().values()
            record = self.record_path(sample).name
            writer.writerow([sample.stem, sample.seed, *paths, *files, record])
        return text.getvalue()

    # Samples

    def is_complete(self, sample: Sample) -> bool:
        """Whether a sample of this very job is there, with every file in the size that it had."""
        try:
            record = read_json(self.record_path(sample))
            sizes = {k: self.volume_path(sample, k).stat().st_size for k in self.kinds(sample)}
            return bool(record["job"] == self.fingerprint and record["bytes"] == sizes)
        except (FileNotFoundError, KeyError, SynthSRError):
            return False

    def write_sample(
        self,
        sample: Sample,
        volumes: Mapping[str, Volume],
        steps: Mapping[str, Any],
        *,
        preview: bool = False,
    ) -> None:
        """Write the volumes of a sample, and its record last; after an error nothing is left.

        Args:
            sample: The sample.
            volumes: One volume per kind, oriented as they are to be stored.
            steps: Recorded parameters, by name of step.
            preview: Whether to draw a picture as well.
        """
        record: dict[str, Any] = {
            "sample": sample.stem,
            "seed": sample.seed,
            "source": sample.subject.record(),
            "job": self.fingerprint,
            "device": self.job.device,
            "files": {kind: self.volume_path(sample, kind).name for kind in volumes},
        }
        with undoing(lambda: self._remove(sample)), writing_to(self.path):
            for kind, volume in volumes.items():
                write_volume(self.volume_path(sample, kind), volume)
            if preview:
                self.write_preview(sample, volumes)
            sizes = {kind: self.volume_path(sample, kind).stat().st_size for kind in volumes}
            record["bytes"] = sizes
            write_text(self.record_path(sample), _json_lines(record, steps))

    def _remove(self, sample: Sample) -> None:
        """Remove the files of a sample, its record first."""
        paths = [self.volume_path(sample, kind) for kind in self.kinds(sample)]
        for path in (self.record_path(sample), *paths, self.preview_path(sample)):
            path.unlink(missing_ok=True)

    def write_preview(self, sample: Sample, volumes: Mapping[str, Volume] | None = None) -> None:
        """Draw the picture of a sample, from its files unless its volumes are given."""
        from synthsr_transforms.drawing.panels import save_figure
        from synthsr_transforms.drawing.preview import preview_figure

        volumes = volumes or self._read_sample(sample)
        title = f"{sample.stem}   from {stem(sample.subject.name)}"
        with writing_to(self.path):
            save_figure(self.preview_path(sample), lambda: preview_figure(volumes, title=title))

    def write_overview(self, samples: Sequence[Sample]) -> None:
        """Draw one picture of several complete samples, from their files."""
        from synthsr_transforms.drawing.panels import save_figure
        from synthsr_transforms.drawing.preview import overview_figure

        volumes = {sample.stem: self._read_sample(sample) for sample in samples}
        with writing_to(self.path):
            save_figure(self.path / OVERVIEW, lambda: overview_figure(volumes))

    def _read_sample(self, sample: Sample) -> dict[str, Volume]:
        return {kind: read_volume(self.volume_path(sample, kind)) for kind in self.kinds(sample)}


def scan_kinds(config: GeneratorConfig) -> list[str]:
    """Names of the volumes that each scan has."""
    return ["image"] if config.reliability is None else ["image", "reliability"]


def _json_lines(record: Mapping[str, Any], steps: Mapping[str, Any]) -> str:
    """JSON with one line per entry, and one per step."""
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in record.items()]
    inner = [
        f"  {json.dumps(name)}: {json.dumps(params, allow_nan=False)}"
        for name, params in steps.items()
    ]
    lines.append(' "steps": {\n' + ",\n".join(inner) + "\n }")
    return "{\n" + ",\n".join(lines) + "\n}\n"
