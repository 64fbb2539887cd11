"""What a generation job is, as data: its settings, its samples, and what tells two jobs apart."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from synthsr_transforms.generator.config import GeneratorConfig
from synthsr_transforms.generator.generator import Generator
from synthsr_transforms.labels.table import LabelTable, read_npy
from synthsr_transforms.priors.files import read_prior_file
from synthsr_transforms.subjects.files import SubjectFiles, SubjectRecord
from synthsr_transforms.support.config import to_yaml

TABLE = "label_table.tsv"
"""Name of the label table beside a configuration, where it is not a ready one."""

_NOT_COMPARED = ("description", "citation")


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """What defines the samples of a job besides the generator."""

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
    """A generator and its job: what `config.yaml` holds."""

    job: JobSettings = field(default_factory=JobSettings)
    """The job."""


@dataclass(frozen=True)
class Sample:
    """One sample of a job.

    Attributes:
        number: Position in the job, from 0.
        seed: Seed of all its chance.
        subject: What it is made from.
    """

    number: int
    seed: int
    subject: SubjectFiles

    @property
    def stem(self) -> str:
        """Beginning of the names of its files."""
        return f"sample_{self.number:06d}"

    def record(self) -> dict[str, Any]:
        """What its JSON file says of it besides the parameters of the steps."""
        return {"sample": self.stem, "seed": self.seed, "source": self.subject.record()}


def job_config(generator: Generator, settings: JobSettings) -> JobConfig:
    """Configuration that needs no file but the label maps, images and `label_table.tsv`.

    Args:
        generator: Generator with its label table chosen.
        settings: What defines the samples besides.
    """
    config = generator.config
    ready = config.label_table in LabelTable.ready_names()
    own = {
        **{f.name: getattr(config, f.name) for f in dataclasses.fields(GeneratorConfig)},
        "label_table": config.label_table if ready else TABLE,
        "steps": {
            name: dataclasses.replace(step, params=_without_files(step.params))
            for name, step in config.steps.items()
        },
    }
    return JobConfig(**own, job=settings)


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


def comparable(config: Any, table: LabelTable | None) -> dict[str, Any]:
    """Everything that changes samples, as plain data.

    Args:
        config: A `JobConfig`, or what its YAML file holds.
        table: Its label table, where it is not a ready one.
    """
    container = OmegaConf.to_container(OmegaConf.create(config))
    assert isinstance(container, dict)
    plain = {str(key): value for key, value in container.items() if key not in _NOT_COMPARED}
    plain["job"] = {k: v for k, v in dict(plain.get("job") or {}).items() if k != "num_samples"}
    if table is not None:
        plain["label_table"] = [list(row) for row in table.rows]
    return plain


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
        return _difference_of_sources(there, here)
    return f"{name} is {_short(there)} there and {_short(here)} here"


def _difference_of_sources(there: Any, here: Any) -> str:
    """How many label maps two jobs have, and the first that only one of them has."""
    try:
        old, new = ([(s["labels"], s.get("image")) for s in sources] for sources in (there, here))
    except (AttributeError, KeyError, TypeError):
        return "job.sources is not a list of label maps there"
    text = f"job.sources has {len(old)} label maps there and {len(new)} here"
    for these, others, word in ((old, new, "missing"), (new, old, "new")):
        known = {labels for labels, _ in others}
        for labels, _ in these:
            if labels not in known:
                return f"{text}, {labels} is {word} here"
    images = dict(new)
    for labels, image in old:
        if images[labels] != image:
            return f"the image of {labels} is {image} there and {images[labels]} here"
    return f"{text}, in another order"


def fingerprint(config: JobConfig, table: LabelTable | None) -> str:
    """Name of everything that changes samples; see `comparable`."""
    plain = comparable(OmegaConf.create(to_yaml(config)), table)
    text = json.dumps([plain, list(config.steps)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def sample_json(record: Mapping[str, Any], steps: Mapping[str, Any]) -> str:
    """JSON with one line per entry, and one per step."""
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in record.items()]
    inner = [
        f"  {json.dumps(name)}: {json.dumps(params, allow_nan=False)}"
        for name, params in steps.items()
    ]
    lines.append(' "steps": {\n' + ",\n".join(inner) + "\n }")
    return "{\n" + ",\n".join(lines) + "\n}\n"
