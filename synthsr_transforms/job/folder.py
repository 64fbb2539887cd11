"""The output folder of a generation job: names of files, its records, and what is complete."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from synthsr_transforms.io.files import stem
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.io.volumes import read_volume, write_volume
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.support.atomic import nearest_folder, replacing, why_unwritable
from synthsr_transforms.support.config import read_yaml, to_yaml
from synthsr_transforms.support.messages import SynthSRError

from .record import (
    TABLE,
    JobConfig,
    Sample,
    comparable,
    difference,
    fingerprint,
    sample_json,
)

CONFIG, MANIFEST, OVERVIEW = "config.yaml", "manifest.csv", "overview.png"
FORMATS = ("nii.gz", "nii", "mgz")
"""Formats of the volumes that are written."""

_SAMPLE_FILE = re.compile(r"(?:\.[0-9a-f]{32}-)?sample_(\d{6,})[_.].*")
_HEADER = "# `synthsr generate {} --out FOLDER` makes the same samples in another folder.\n"


class JobFolder:
    """Output folder of a job.

    Args:
        path: The folder; it need not exist.
        config: What the job is.
        table: Its label table.
    """

    def __init__(self, path: str | os.PathLike[str], config: JobConfig, table: LabelTable) -> None:
        self.path = Path(path)
        self.config = config
        self.table = None if config.label_table in LabelTable.ready_names() else table
        self.fingerprint = fingerprint(config, self.table)
        """Name of everything that defines the samples."""

    # Names

    def kinds(self) -> list[str]:
        """Names of the volumes of a sample."""
        maps = [] if self.config.reliability is None else ["reliability"]
        return ["image", *maps, "target", "labels"]

    def volume_path(self, sample: Sample, kind: str) -> Path:
        """Where a volume of a sample is."""
        return self.path / f"{sample.stem}_{kind}.{self.config.job.file_format}"

    def record_path(self, sample: Sample) -> Path:
        """Where the record of a sample is, which is written last."""
        return self.path / f"{sample.stem}.json"

    def preview_path(self, sample: Sample) -> Path:
        """Where the picture of a sample is."""
        return self.path / f"{sample.stem}_preview.png"

    # Opening

    def refuse_other_job(self) -> None:
        """Refuse a folder whose samples are those of another job.

        Raises:
            SynthSRError: If so; the message names the first setting that differs.
        """
        if not self.path.is_dir():
            return
        advice = "Choose another folder with --out, or add --overwrite."
        if not (self.path / CONFIG).exists():
            if self._files():
                raise SynthSRError(f"{self.path} holds samples of an unknown job. {advice}")
            return
        try:
            found = read_yaml(self.path / CONFIG)
            table = self.path / TABLE
            there = comparable(found, LabelTable.read(table) if table.exists() else None)
        except ValueError as error:
            raise SynthSRError(
                f"{self.path} holds a job that cannot be read: {error} {advice}"
            ) from error
        here = comparable(OmegaConf.create(to_yaml(self.config)), self.table)
        differs = difference(there, here)
        if differs:
            raise SynthSRError(f"{self.path} holds another job: {differs}. {advice}")
        number = found["job"]["num_samples"]
        if number > self.config.job.num_samples:
            raise SynthSRError(
                f"{self.path} holds a job of {number} samples, got"
                f" {self.config.job.num_samples}. Ask for at least as many with -n, choose another"
                " folder with --out, or add --overwrite."
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
            for file, number in self._files().items():
                if number % shard[1] == shard[0] - 1 and (overwrite or file.name[0] == "."):
                    file.unlink(missing_ok=True)
            self._write_text(CONFIG, _HEADER.format(CONFIG) + to_yaml(self.config))
            if self.table is not None:
                self.table.write(self.path / TABLE)
            self._write_text(MANIFEST, self._manifest(samples))

    def _files(self) -> dict[Path, int]:
        """Files of samples, whole or not, with the number of the sample."""
        matches = {path: _SAMPLE_FILE.fullmatch(path.name) for path in self.path.iterdir()}
        return {path: int(match[1]) for path, match in matches.items() if match}

    def _manifest(self, samples: Sequence[Sample]) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        kinds = self.kinds()
        writer.writerow(["sample", "seed", "source_labels", "source_image", *kinds, "record"])
        for sample in samples:
            source = sample.subject.record()
            files = [self.volume_path(sample, kind).name for kind in kinds]
            files.append(self.record_path(sample).name)
            writer.writerow([sample.stem, sample.seed, source["labels"], source["image"], *files])
        return text.getvalue()

    # Samples

    def is_complete(self, sample: Sample) -> bool:
        """Whether a sample of this very job is there, with every file that its record names."""
        try:
            record = json.loads(self.record_path(sample).read_text(encoding="utf-8"))
            if record["job"] != self.fingerprint:
                return False
            return all((self.path / name).stat().st_size > 0 for name in record["files"].values())
        except (FileNotFoundError, AttributeError, KeyError, TypeError, ValueError):
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
        record = {**sample.record(), "job": self.fingerprint, "device": self.config.job.device}
        record["files"] = {kind: self.volume_path(sample, kind).name for kind in volumes}
        try:
            with writing_to(self.path):
                for kind, volume in volumes.items():
                    write_volume(self.volume_path(sample, kind), volume)
                if preview:
                    self.write_preview(sample, volumes)
                self._write_text(self.record_path(sample).name, sample_json(record, steps))
        except BaseException:
            self.remove(sample)
            raise

    def write_preview(self, sample: Sample, volumes: Mapping[str, Volume] | None = None) -> None:
        """Draw the picture of a sample, from its files unless its volumes are given."""
        from .preview import save_preview

        title = f"{sample.stem}   from {stem(sample.subject.labels)}"
        with writing_to(self.path):
            save_preview(
                self.preview_path(sample), volumes or self.read_sample(sample), title=title
            )

    def write_overview(self, samples: Sequence[Sample]) -> None:
        """Draw one picture of several complete samples, from their files."""
        from .preview import save_overview

        with writing_to(self.path):
            save_overview(self.path / OVERVIEW, {s.stem: self.read_sample(s) for s in samples})

    def remove(self, sample: Sample) -> None:
        """Remove the files of a sample, the record first."""
        self.record_path(sample).unlink(missing_ok=True)
        for kind in self.kinds():
            self.volume_path(sample, kind).unlink(missing_ok=True)
        self.preview_path(sample).unlink(missing_ok=True)

    def read_sample(self, sample: Sample) -> dict[str, Volume]:
        """Read the volumes of a complete sample."""
        return {kind: read_volume(self.volume_path(sample, kind)) for kind in self.kinds()}

    def _write_text(self, name: str, text: str) -> None:
        with replacing(self.path / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")


def check_writable(folder: str | os.PathLike[str]) -> Path:
    """Refuse an output folder that cannot be made or written to.

    Returns:
        The folder, or the nearest one above it that exists.

    Raises:
        SynthSRError: If it is no folder or may not be written to.
    """
    path = Path(folder)
    wrong = why_unwritable(path)
    if wrong:
        raise SynthSRError(
            f"output folder must be writable, got {path} ({wrong}). Choose another with --out."
        )
    return nearest_folder(path)


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn errors of the file system into a `SynthSRError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SynthSRError(
                f"the disk of {folder} is full. Free some space and run the same command again:"
                " complete samples are kept."
            ) from error
        reason = error.strerror or str(error)
        raise SynthSRError(
            f"output folder must be writable, got {folder} ({reason}). Choose another with --out."
        ) from error


def check_space(folder: Path, expected_bytes: float) -> None:
    """Refuse a job that the disk cannot hold.

    Raises:
        SynthSRError: If less is free than expected.
    """
    with writing_to(folder):
        free = shutil.disk_usage(folder).free
    if expected_bytes > free:
        raise SynthSRError(
            f"the disk of {folder} must have room for about {expected_bytes / 2**30:.1f} GiB, got"
            f" {free / 2**30:.1f} GiB free. Free some space, make fewer samples with -n, or choose"
            " another folder with --out."
        )
