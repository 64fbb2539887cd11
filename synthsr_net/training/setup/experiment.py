"""Experiments: a generator, the training on its pairs, and the label maps of both."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

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
from synthsr_transforms.job.job import check_buildable, check_images, choose_subjects
from synthsr_transforms.labels.files import read_integers
from synthsr_transforms.subjects.files import Match, SubjectFiles, restore_subject
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
    ) -> RunPlan:
        """Plan a run from files.

        Args:
            source: See `load_experiment`. The `config.yaml` of an earlier run brings its label maps
                along, those held out as well unless `validation.held_out` is another.
            assignments: Changes of settings.
            labels: Folder of label maps, or one; None means those of the earlier run, or else the
                built-in head phantom.
            images: Folder of real targets, see `find_subjects`.
            match: See `find_subjects`.
            recursive: See `find_subjects`.

        Raises:
            ValueError: If a file, name or value is not usable.
        """
        settings = read_settings(source)
        experiment = _experiment(settings, assignments, str(source))
        training = experiment.training
        subjects = choose_subjects(experiment, labels, images, match=match, recursive=recursive)
        held_out: list[SubjectFiles] = []
        chosen, seed = training.validation.held_out, training.run.seed
        if labels is not None:
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
        return cls(experiment=experiment, subjects=subjects, held_out=held_out)


def _recorded_choice(training: dict[str, Any] | None) -> Any:
    """Return what the section of a run's file holds out."""
    return ((training or {}).get("validation") or {}).get("held_out", ValidationConfig().held_out)


def hold_out(
    subjects: Sequence[SubjectFiles], chosen: Any, seed: int
) -> tuple[list[SubjectFiles], list[SubjectFiles]]:
    """Split label maps into those of training and those of validation.

    Args:
        subjects: All of them.
        chosen: See `ValidationConfig.held_out`.
        seed: Seed of the choice.

    Raises:
        SynthSRError: If none is left for training, or a name is unknown.

    Examples:
        >>> subjects = [SubjectFiles(Path(f"{number}.nii")) for number in range(20)]
        >>> [len(part) for part in hold_out(subjects, 0.1, seed=0)]
        [18, 2]
    """
    if isinstance(chosen, (list, tuple)):
        indices = _named(subjects, [str(name) for name in chosen])
    else:
        order = torch.randperm(len(subjects), generator=torch.Generator().manual_seed(seed))
        indices = set(order[: _number(chosen, len(subjects))].tolist())
    rest = [subject for index, subject in enumerate(subjects) if index not in indices]
    if not rest:
        raise SynthSRError(
            f"validation.held_out must leave label maps for training, got {chosen} of"
            f" {len(subjects)}."
        )
    return rest, [subjects[index] for index in sorted(indices)]


def _number(chosen: Any, count: int) -> int:
    usable = isinstance(chosen, (int, float)) and not isinstance(chosen, bool) and chosen >= 0
    if not usable or (isinstance(chosen, float) and chosen >= 1 and chosen != int(chosen)):
        raise SynthSRError(
            "validation.held_out must be a ratio below 1, a number of label maps, or a list of"
            f" their names, got {chosen!r}."
        )
    return int(chosen * count) if chosen < 1 else int(chosen)


def _named(subjects: Sequence[SubjectFiles], names: Sequence[str]) -> set[int]:
    chosen = {
        name: {
            index
            for index, subject in enumerate(subjects)
            if name == subject.name or subject.labels.match(name)
        }
        for name in names
    }
    unknown = [name for name in names if not chosen[name]]
    if unknown:
        raise SynthSRError(
            f"validation.held_out must name label maps, got {listed(unknown, 4)}, which is not"
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
