"""Records of jobs: settings and samples as data, and differences between two jobs.

`synthsr train` keeps the label maps of a run in the same form.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from synthsr_transforms.generator.config import GeneratorConfig
from synthsr_transforms.generator.generator import Generator
from synthsr_transforms.labels.files import read_npy
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.priors.files import read_prior_file
from synthsr_transforms.subjects.files import SubjectFiles, SubjectRecord
from synthsr_transforms.support.config import to_plain

CONFIG, TABLE = "config.yaml", "label_table.tsv"
"""Names of a configuration, and of the label table beside it where that is not a ready one."""


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
        names = [f.name for f in dataclasses.fields(GeneratorConfig)]
        return GeneratorConfig(**{name: getattr(self, name) for name in names})


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
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(GeneratorConfig)}
    fields["steps"] = {
        name: dataclasses.replace(step, params=_without_files(step.params))
        for name, step in config.steps.items()
    }
    if config.label_table not in LabelTable.ready_names():
        fields["label_table"] = TABLE
    return JobConfig(**fields, job=settings)


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
