"""Experiments: a generator, the training on its pairs, and the label maps of both."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from synthsr_net.models.loading import load_weights
from synthsr_net.networks.unet import UNetConfig
from synthsr_net.training.config import (
    CALIBRATION_L1,
    SECTION,
    Experiment,
    TrainingConfig,
    ValidationConfig,
)
from synthsr_transforms.generator.config import make_config, read_settings
from synthsr_transforms.generator.on_scans import config_on_scans
from synthsr_transforms.io.files import file_name
from synthsr_transforms.job.job import check_buildable, check_images, choose_subjects
from synthsr_transforms.labels.files import read_integers
from synthsr_transforms.subjects.files import Match, SubjectFiles, restore_subject
from synthsr_transforms.subjects.pairs import ScanPair, find_pairs, restore_pair, unused
from synthsr_transforms.support.messages import SynthSRError, listed, naming


def load_experiment(source: str | os.PathLike[str], assignments: Sequence[str] = ()) -> Experiment:
    """Read an experiment and change some of its settings.

    Args:
        source: Name of a preset or path of a YAML file: a configuration of the generator, whose
            section `training` holds a `TrainingConfig`. Other settings have defaults.
        assignments: Changes such as `"crop.shape=128"` for a step of the generator, or
            `"optimiser.learning_rate=1e-3"` for a section of the training. Sections of the training
            go before steps of the same name. With `initial_weights`, settings of the network that
            neither the file nor a change names are those of the weights.

    Raises:
        SynthSRError: If a name is unknown (the nearest spelling is suggested) or a value unusable.

    Examples:
        >>> experiment = load_experiment("all_purpose", ["crop.shape=96", "loss.name=l2"])
        >>> experiment.steps["crop"].params["shape"], experiment.training.loss.name
        (96, 'l2')
    """
    return _experiment(read_settings(source), assignments, str(source))


Held = TypeVar("Held", SubjectFiles, ScanPair)

_OF_THE_DATA = ("in_channels", "out_channels", "softmax", "scale_features")
"""Settings of the network that the generator and the loss decide, whatever it starts from."""
SCALE_FEATURES = 16
"""Features of the second head of a network that gets one."""


def _experiment(settings: dict[str, Any], assignments: Sequence[str], where: str) -> Experiment:
    make = partial(make_config, Experiment, assignments=assignments, section=SECTION, where=where)
    experiment: Experiment = make(settings)
    source = experiment.training.initial_weights
    section = settings.get(SECTION) or {}
    named = section.get("network") or {}
    rest = asdict(experiment.training.network).keys() - named.keys() - {*_OF_THE_DATA}
    if source is None or not rest:  # a run is resumed without its initial weights
        return experiment
    there = load_weights(source)[0]
    network = {**named, **{name: asdict(there)[name] for name in rest}}
    section = {**section, "network": network}
    if experiment.training.uncertainty:
        section = _with_second_head(section, there)
    return make({**settings, SECTION: section})


def _with_second_head(section: dict[str, Any], there: UNetConfig) -> dict[str, Any]:
    """Settings that train the scale of the error, unless they are others already."""
    second = there.scale_features or SCALE_FEATURES
    heads = {"scale_features": second, "out_channels": 2 * there.head_channels}
    loss, validation = section.get("loss") or {}, section.get("validation") or {}
    return {
        **section,
        "network": {**heads, **section["network"]},
        "loss": {"name": "laplace", **loss},
        "validation": {"metric": CALIBRATION_L1, **validation},
    }


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """Settings and label maps of a run."""

    experiment: Experiment
    """Settings."""
    subjects: Sequence[SubjectFiles]
    """Label maps of training, with their images."""
    held_out: Sequence[SubjectFiles]
    """Label maps of validation."""
    pairs: Sequence[ScanPair] = ()
    """Pairs of real scans of training. If there are some, all validation is on such."""
    held_out_pairs: Sequence[ScanPair] = ()
    """Those of validation."""
    notes: Sequence[str] = ()
    """What the user may not expect, in sentences."""

    @property
    def sources(self) -> list[SubjectFiles | ScanPair]:
        """All that is read."""
        return [*self.subjects, *self.held_out, *self.pairs, *self.held_out_pairs]

    @classmethod
    def from_source(
        cls,
        source: str | os.PathLike[str],
        assignments: Sequence[str] = (),
        *,
        labels: str | os.PathLike[str] | None = None,
        images: str | os.PathLike[str] | None = None,
        inputs: str | os.PathLike[str] | None = None,
        targets: str | os.PathLike[str] | None = None,
        match: Match = "names",
        recursive: bool = False,
    ) -> RunPlan:
        """Plan a run from files.

        Args:
            source: See `load_experiment`. The `config.yaml` of an earlier run brings its label maps
                along, those held out as well unless `validation.held_out` is another.
            assignments: Changes of settings.
            labels: Folder of label maps, or one; None means those of the earlier run, or else the
                built-in head phantom.
            images: Folder of real targets, see `find_subjects`.
            inputs: Folder of real scans to predict from, see `find_pairs`; label maps then are
                those of their targets as well, and only that if no other batches are made.
            targets: Folder of their targets.
            match: See `find_subjects`.
            recursive: See `find_subjects`.

        Raises:
            ValueError: If a file, name or value is not usable.
        """
        settings = read_settings(source)
        experiment = _experiment(settings, assignments, str(source))
        how: dict[str, Any] = {"match": match, "recursive": recursive}
        pairs, held_out_pairs = _pairs_of(settings, experiment, inputs, targets, labels, how)
        notes = list(
            _notes_on_files(
                [*pairs, *held_out_pairs], experiment, inputs, targets, labels, recursive=recursive
            )
        )
        if pairs and experiment.training.pairs.share == 1:
            if images is not None:
                raise SynthSRError(
                    "images serve pairs made from label maps, got pairs of real scans alone. Leave"
                    " out --images, or mix both with --set pairs.share=0.5."
                )
            experiment, more = _on_scans(experiment, pairs)
            notes += more
            with naming(source):
                check_buildable(experiment.generator)
            return cls(
                experiment=experiment,
                subjects=[],
                held_out=[],
                pairs=pairs,
                held_out_pairs=held_out_pairs,
                notes=notes,
            )
        training = experiment.training
        if pairs and labels is None and not (experiment.job and experiment.job.sources):
            raise SynthSRError(
                f"pairs.share below 1, got {training.pairs.share:g}, needs label maps for the other"
                " batches. Give them with --labels, or leave it out."
            )
        subjects = choose_subjects(experiment, labels, images, **how)
        held_out: list[SubjectFiles] = []
        chosen, seed = training.validation.held_out, training.run.seed
        if pairs:
            kept_apart = {pair.labels for pair in held_out_pairs}
            subjects = [subject for subject in subjects if subject.labels not in kept_apart]
        elif labels is not None:
            subjects, held_out = hold_out(subjects, chosen, seed)
        elif experiment.job is not None:
            table = experiment.label_table
            held_out = [restore_subject(r, table) for r in training.validation_sources]
            if SECTION not in settings or chosen != _recorded_choice(settings[SECTION]):
                together = sorted([*subjects, *held_out], key=lambda subject: subject.labels)
                subjects, held_out = hold_out(together, chosen, seed)
        check_images(experiment, [*subjects, *held_out])
        with naming(source):
            check_buildable(experiment.generator)
        return cls(
            experiment=experiment,
            subjects=subjects,
            held_out=held_out,
            pairs=pairs,
            held_out_pairs=held_out_pairs,
            notes=notes,
        )


def _pairs_of(
    settings: dict[str, Any],
    experiment: Experiment,
    inputs: str | os.PathLike[str] | None,
    targets: str | os.PathLike[str] | None,
    labels: str | os.PathLike[str] | None,
    how: dict[str, Any],
) -> tuple[list[ScanPair], list[ScanPair]]:
    """Pairs of training and of validation: those that are named, or of the earlier run."""
    if (inputs is None) != (targets is None):
        raise SynthSRError(
            "inputs and targets must be given together, got one of them. Add --inputs or --targets."
        )
    recorded, training = experiment.training.pairs, experiment.training
    chosen, seed = training.validation.held_out, training.run.seed
    if inputs is not None and targets is not None:
        alone = recorded.share == 1
        pairs = find_pairs(inputs, targets, labels, **how, labels_for_all=alone)
        return hold_out(pairs, chosen, seed, "pairs")
    if recorded.sources and labels is not None:
        raise SynthSRError(
            "label maps of a run on pairs of real scans come with them, got --labels alone. Add"
            " --inputs and --targets, or leave it out."
        )
    pairs = [restore_pair(record) for record in recorded.sources]
    held_out = [restore_pair(record) for record in recorded.validation_sources]
    if pairs and chosen != _recorded_choice(settings[SECTION]):
        together = sorted([*pairs, *held_out], key=lambda pair: pair.target)
        return hold_out(together, chosen, seed, "pairs")
    return pairs, held_out


def _notes_on_files(
    pairs: Sequence[ScanPair],
    experiment: Experiment,
    inputs: str | os.PathLike[str] | None,
    targets: str | os.PathLike[str] | None,
    labels: str | os.PathLike[str] | None,
    *,
    recursive: bool,
) -> Iterator[str]:
    """Name the files given that are part of no pair; label maps may serve other batches."""
    if inputs is None:
        return
    alone = experiment.training.pairs.share == 1
    folders = {"inputs": inputs, "targets": targets, "label maps": labels if alone else None}
    for what, folder in folders.items():
        left = unused(pairs, folder, recursive=recursive)
        if left:
            names = listed([file_name(path) for path in left])
            yield f"{what} that are not used, as no pair has such a name: {names}"


def _on_scans(experiment: Experiment, pairs: Sequence[ScanPair]) -> tuple[Experiment, list[str]]:
    """An experiment on pairs of real scans alone, and a note on what was left out."""
    config, left_out = config_on_scans(experiment, labelled=pairs[0].labels is not None)
    return config, [note_on_steps(left_out)] if left_out else []


def note_on_steps(left_out: Sequence[str]) -> str:
    """Say which steps pairs of real scans do not take."""
    return f"pairs of real scans leave out these steps: {', '.join(left_out)}"


def _recorded_choice(training: dict[str, Any] | None) -> Any:
    """Return what the section of a run's file holds out."""
    return ((training or {}).get("validation") or {}).get("held_out", ValidationConfig().held_out)


def hold_out(
    subjects: Sequence[Held], chosen: Any, seed: int, what: str = "label maps"
) -> tuple[list[Held], list[Held]]:
    """Split label maps, or pairs of scans, into those of training and those of validation.

    Args:
        subjects: All of them.
        chosen: See `ValidationConfig.held_out`.
        seed: Seed of the choice.
        what: What they are, for messages.

    Raises:
        SynthSRError: If none is left for training, or a name is unknown.

    Examples:
        >>> subjects = [SubjectFiles(Path(f"{number}.nii")) for number in range(20)]
        >>> [len(part) for part in hold_out(subjects, 0.1, seed=0)]
        [18, 2]
    """
    if isinstance(chosen, (list, tuple)):
        indices = _named(subjects, [str(name) for name in chosen], what)
    else:
        order = torch.randperm(len(subjects), generator=torch.Generator().manual_seed(seed))
        indices = set(order[: _number(chosen, len(subjects), what)].tolist())
    rest = [subject for index, subject in enumerate(subjects) if index not in indices]
    if not rest:
        raise SynthSRError(
            f"validation.held_out must leave {what} for training, got {chosen} of {len(subjects)}."
        )
    return rest, [subjects[index] for index in sorted(indices)]


def _number(chosen: Any, count: int, what: str) -> int:
    usable = isinstance(chosen, (int, float)) and not isinstance(chosen, bool) and chosen >= 0
    if not usable or (isinstance(chosen, float) and chosen >= 1 and chosen != int(chosen)):
        raise SynthSRError(
            f"validation.held_out must be a ratio below 1, a number of {what}, or a list of"
            f" their names, got {chosen!r}."
        )
    return int(chosen * count) if chosen < 1 else int(chosen)


def _named(
    subjects: Sequence[SubjectFiles | ScanPair], names: Sequence[str], what: str
) -> set[int]:
    chosen = {
        name: {index for index, subject in enumerate(subjects) if subject.is_called(name)}
        for name in names
    }
    unknown = [name for name in names if not chosen[name]]
    if unknown:
        raise SynthSRError(
            f"validation.held_out must name {what}, got {listed(unknown, 4)}, which is not"
            f" among {listed([subject.name for subject in subjects], 4)}."
        )
    return set().union(*chosen.values())


def with_absolute_paths(training: TrainingConfig) -> TrainingConfig:
    """Settings whose files are found from any working folder; short lists take their place."""
    segmentation, validation = training.loss.segmentation, training.validation
    labels = segmentation.output_labels
    segmentation = replace(
        segmentation,
        model=_absolute(segmentation.model),
        output_labels=read_integers(Path(labels)) if isinstance(labels, str) else labels,
    )
    return replace(
        training,
        initial_weights=_absolute(training.initial_weights),
        loss=replace(training.loss, segmentation=segmentation),
        validation=replace(
            validation, images=_absolute(validation.images), labels=_absolute(validation.labels)
        ),
    )


def _absolute(name: str | None) -> str | None:
    """Absolute path of a file or folder; names of models stay."""
    is_path = name is not None and (Path(name).is_dir() or Path(name).suffix)
    return os.path.abspath(os.path.expanduser(str(name))) if is_path else name
