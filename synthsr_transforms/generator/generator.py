"""The generator: an ordered list of steps, described by data, that makes training pairs."""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchio import Image, LabelMap, Subject
from torchio.data.batch import SubjectsBatch
from torchio.transforms import Transform

from synthsr_transforms.functional.layout import bounding_box
from synthsr_transforms.functional.operators import full_precision
from synthsr_transforms.labels.summary import best_ready_table
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.support.messages import SynthSRError, listed
from synthsr_transforms.transforms.base import Drawn, shallow_copy
from synthsr_transforms.transforms.build import build_transform
from synthsr_transforms.transforms.common.images import find_labels
from synthsr_transforms.transforms.common.labels_on_grid import LabelSet, whole_labels
from synthsr_transforms.transforms.containers import wrap_dict

from .captured import Captured, can_capture
from .config import GeneratorConfig, StepConfig, load_config
from .scans import RECORD, ExamPair, Scans, exam_pair, heads, pair_figure
from .stages import Stage, in_stages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GeneratorInput = Subject | SubjectsBatch | Image | Tensor | str | os.PathLike[str]
"""Input of a generator; all but the first two are label maps."""

BRAIN_BOX = "brain_box"


class TrainingPair(NamedTuple):
    """Input and targets of one training step.

    Attributes:
        image: Network input `(B, Cin, X, Y, Z)`; with reliability maps, each channel is followed
            by its map.
        target: Regression target `(B, Cout, X, Y, Z)`, or label map of structures.
        labels: Label map `(B, 1, x, y, z)`, int32, after the spatial steps.
    """

    image: Tensor
    target: Tensor
    labels: Tensor

    def __repr__(self) -> str:
        """Show shapes, not voxels."""
        parts = (f"{name}={tuple(value.shape)}" for name, value in self._asdict().items())
        return f"TrainingPair({', '.join(parts)})"

    def plot(self, index: int = 0, *, spacing_mm: float = 1.0) -> Figure:
        """Draw labels, image and target, see `pair_figure`.

        Args:
            index: Number of the element in the batch.
            spacing_mm: Voxel spacing of the image.
        """
        image = {"image": self.image[index]}
        return pair_figure(self.labels[index], image, self.target[index], spacing_mm)


Pair = TrainingPair | ExamPair


class Generator:
    """Makes training pairs from label maps.

    Args:
        config: The steps and their settings.
        label_table: Table to use instead of the one that the configuration names. Where that is
            `auto`, see `Generator.for_labels`; without label maps to look at it means `synthseg`.
        graphs: Record the work on an NVIDIA GPU, and repeat it, where that gives the same: see
            `generator.captured`. It takes memory for each shape of label maps. It may be changed
            later.

    Raises:
        SynthSRError: If a step cannot be built; the message names it.

    Examples:
        >>> import torchio
        >>> from synthsr_transforms.phantom import head_phantom
        >>> labels = head_phantom(spacing_mm=4)
        >>> generator = Generator.from_preset("all_purpose", ["crop.shape=32"])
        >>> pair = generator.pair(torchio.Subject(labels=labels), seed=0)
        >>> tuple(pair.image.shape), tuple(pair.target.shape)
        ((1, 1, 32, 32, 32), (1, 1, 32, 32, 32))
    """

    def __init__(
        self,
        config: GeneratorConfig,
        label_table: LabelTable | None = None,
        *,
        graphs: bool = True,
    ) -> None:
        self.config = config
        try:
            named = "synthseg" if config.label_table == "auto" else config.label_table
            self.label_table = label_table or LabelTable.resolve(named)
        except ValueError as error:
            raise SynthSRError(f"label_table: {error}") from error
        self.transforms = {name: self._build(name, step) for name, step in config.steps.items()}
        self.scans = None if config.scans is None else Scans(config.scans, self.transforms)
        self.graphs = graphs
        self.captured = Captured()

    @classmethod
    def from_preset(
        cls, name: str, assignments: Sequence[str] | Mapping[str, Any] = ()
    ) -> Generator:
        """Make a generator from a preset, or a YAML file; see `load_config`."""
        return cls(load_config(name, assignments))

    @classmethod
    def for_labels(cls, config: GeneratorConfig, values: Iterable[int]) -> Generator:
        """Make a generator for label maps that hold the given values.

        Args:
            config: The steps and their settings.
            values: All label values that occur.

        Raises:
            SynthSRError: If the table lacks some of them, or a step cannot be built.
        """
        present = sorted(set(values))
        auto = config.label_table == "auto"
        name = best_ready_table(present) if auto else config.label_table
        generator = cls(dataclasses.replace(config, label_table=name))
        unknown = generator.label_table.unknown_values(present)
        if unknown:
            raise SynthSRError(
                f"label table {name!r} lacks labels of the label maps: {listed(unknown)}."
                f" {_table_advice(present, generator.label_table.num_classes)}"
            )
        return generator

    def __repr__(self) -> str:
        """Name the steps."""
        steps = ", ".join(self.transforms)
        return f"Generator(label_table={self.config.label_table!r}, steps=[{steps}])"

    def _build(self, name: str, step: StepConfig) -> Transform:
        spec = {"name": step.name, "params": step.params}
        try:
            transform = build_transform(
                spec, label_table=self.label_table, check_labels=False, copy=False
            )
        except ValueError as error:
            raise SynthSRError(f"step {name!r}: {error}{self._prior_advice(name, step)}") from error
        transform.copy = False
        return transform

    def _prior_advice(self, name: str, step: StepConfig) -> str:
        """Advice where priors were made for another number of classes."""
        priors = np.asarray(step.params.get("prior_means"), dtype=object)
        classes = self.label_table.num_classes
        if priors.ndim != 2 or priors.shape[1] == classes:
            return ""
        return (
            f" The label table has {classes} classes, the priors {priors.shape[1]}: merge classes"
            " in a table of your own (docs/generate.md shows how) and add --set"
            f" label_table=table.tsv, or add --set {name}.prior_means=MEANS.npy"
            f" --set {name}.prior_stds=STDS.npy."
        )

    def run(self, data: GeneratorInput, seed: int) -> tuple[SubjectsBatch, dict[str, Any]]:
        """Run every step.

        Args:
            data: A subject or a batch with a label map `labels` (and an image named like the
                target, if that is real), on any device, or a label map alone. It stays as it is.
            seed: Seed of all random choices.

        Returns:
            The batch after the last step, and the recorded parameters by name of step, from which
            `replay` makes the same again. With `scans`, the batch has an element per scan, those of
            a head in a row, and the record their numbers, `scans`.
        """
        batch = self._start(data)
        with full_precision(batch.device.type), torch.no_grad():
            if self.graphs and can_capture(self, batch):
                done = self.captured.run(self, shallow_copy(batch), seed)
                if done is not None:
                    return done
            record: dict[str, Any] = {}
            (made,) = deque(self.run_steps(batch, seed, record), maxlen=1)
        return made, record

    def run_steps(
        self, batch: SubjectsBatch, seed: int, record: dict[str, Any]
    ) -> Iterator[SubjectsBatch]:
        """Run every step of a batch that may be changed, see `run`.

        Args:
            batch: The batch.
            seed: Seed of all random choices.
            record: Takes the parameters.

        Yields:
            The batch at the beginning, and after each of the stages.
        """
        random = torch.Generator().manual_seed(seed)
        yield batch
        for names, stage in self.stages:
            if self.begins_scans(names):
                assert self.scans is not None
                record[RECORD] = self.scans.record(batch.batch_size, seed)
                batch = self.scans.repeat(batch, record[RECORD])
            drawn = self.draw(names, stage, batch, random)
            params, tensors = zip(*drawn, strict=True)
            stage.apply(batch, params, tensors)
            record.update(zip(names, params, strict=True))
            yield batch

    def draw(
        self, names: Sequence[str], stage: Stage, batch: SubjectsBatch, random: torch.Generator
    ) -> list[Drawn]:
        """Draw the parameters of a stage for a batch, of which only the layout is read."""
        drawn = stage.draw(batch, random)
        if self.scans is None:
            return drawn
        steps = zip(names, stage.steps, drawn, strict=True)
        return [self.scans.share(*step, batch) for step in steps]

    def replay(self, data: GeneratorInput, record: Mapping[str, Any]) -> SubjectsBatch:
        """Run every step with recorded parameters.

        Args:
            data: The same subject or batch that the record was made from.
            record: Parameters by name of step, from `run`.

        Returns:
            The batch after the last step, equal bit for bit on a device of the same type.
        """
        batch = self._start(data)
        with full_precision(batch.device.type), torch.no_grad():
            for names, stage in self.stages:
                if self.begins_scans(names):
                    batch = Scans.repeat(batch, record[RECORD])
                stage.apply(batch, [record[name] for name in names])
        return batch

    def pair(self, data: GeneratorInput, seed: int) -> Pair:
        """Make the training pair of a seed, an `ExamPair` where the configuration has `scans`."""
        return self.as_pair(self.run(data, seed)[0])

    def as_pair(self, batch: SubjectsBatch) -> Pair:
        """Read the training pair off a batch that went through all steps."""
        image = self._named(batch, self.config.image)
        if self.config.reliability is not None:
            maps = self._named(batch, self.config.reliability)
            image = torch.stack([image, maps], dim=2).flatten(1, 2)
        _, labels = find_labels(batch)
        target = self._named(batch, self.config.target)
        if self.scans is not None:
            return exam_pair(image, target, whole_labels(labels.data), heads(batch))
        return TrainingPair(image, target, whole_labels(labels.data))

    def _named(self, batch: SubjectsBatch, name: str) -> Tensor:
        if name not in batch.images:
            raise SynthSRError(
                f"the steps must make an image {name!r}, got {list(batch.images)}."
                " Add a step that makes it, such as CopyImage."
            )
        return batch.images[name].data

    def _start(self, data: GeneratorInput) -> SubjectsBatch:
        batch = _as_batch(data)
        if self.config.real_target and self.config.target not in batch.images:
            raise SynthSRError(
                f"this generator needs a real image {self.config.target!r} with each label map,"
                f" got images {list(batch.images)}. Give the folder of images."
            )
        batch = shallow_copy(batch)
        if self.needs_brain_box() and BRAIN_BOX not in batch.metadata:
            batch.metadata[BRAIN_BOX] = self.brain_box(batch).tolist()
        return batch

    def needs_brain_box(self) -> bool:
        """Whether a step places patches by the `brain_box` of the metadata."""
        return any(getattr(t, "focus", None) == BRAIN_BOX for t in self.transforms.values())

    def brain_box(self, batch: SubjectsBatch) -> Tensor:
        """Box around grey and white matter of each element, `(B, 2, 3)`.

        Fluid does not count, as it goes down the spine. See `functional.layout.bounding_box`.

        It is noted in the metadata (`brain_box`) where it is missing. Callers that use a label map
        often, or keep it on a GPU, note it once themselves.
        """
        _, labels = find_labels(batch)
        tissues = ("grey_matter", "white_matter", "deep_grey")
        return bounding_box(LabelSet.of_tissues(self.label_table, tissues).mask(labels.data) > 0)

    @cached_property
    def stages(self) -> list[tuple[list[str], Stage]]:
        """The stages in order, with the names of their steps."""
        scans = () if self.scans is None else self.scans.names
        common = {name: t for name, t in self.transforms.items() if name not in scans}
        return in_stages(common) + in_stages({name: self.transforms[name] for name in scans})

    @cached_property
    def repeats(self) -> bool:
        """Whether voxels are computed by the same work for all seeds, see `Stage.repeats`."""
        return all(stage.repeats() for _, stage in self.stages)

    def begins_scans(self, names: Sequence[str]) -> bool:
        """Whether each scan of a head goes its own way from the step of these names on."""
        return self.scans is not None and names[0] == self.scans.config.first_step


def _as_batch(data: GeneratorInput) -> SubjectsBatch:
    if isinstance(data, Tensor):
        data = wrap_dict({"labels": data})[0]
    if isinstance(data, str | os.PathLike):
        data = LabelMap(data)
    if isinstance(data, Image):
        data = Subject(labels=data)
    if isinstance(data, Subject):
        data = SubjectsBatch.from_subjects([data])
    if not isinstance(data, SubjectsBatch):
        raise TypeError(
            f"a generator takes a Subject, a SubjectsBatch, a LabelMap, its path or a tensor"
            f" of labels, got {type(data).__name__}."
        )
    return data


def _table_advice(values: Sequence[int], num_classes: int) -> str:
    """Advice on a table for label maps with these values, and priors of so many classes."""
    tables = {name: LabelTable.ready(name) for name in LabelTable.ready_names()}
    knowing = [name for name, table in tables.items() if not table.unknown_values(values)]
    for name in sorted(knowing, key=lambda name: len(tables[name])):
        if tables[name].num_classes == num_classes:
            return f"The ready table {name!r} has them all: try --set label_table={name}."
    best = best_ready_table(values)
    if len(tables[best].unknown_values(values)) > len(values) / 2:
        return "Most of them are unknown: are these label maps, and not images?"
    return (
        "Write a table of your own with `synthsr labels LABELS --write-table table.tsv`, edit it,"
        " and add --set label_table=table.tsv."
    )
