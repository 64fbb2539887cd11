"""Plans of runs: settings, and which label maps are for training and which for validation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from synthsr_net.training.config import SECTION
from synthsr_transforms.job.job import check_buildable, check_images
from synthsr_transforms.job.record import recorded_job
from synthsr_transforms.subjects.files import (
    SubjectFiles,
    find_subjects,
    phantom_subject,
    restore_subject,
)
from synthsr_transforms.support.config import read_yaml
from synthsr_transforms.support.messages import SynthSRError, listed

from .recipe import Recipe, load_recipe


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What to train, on what."""

    recipe: Recipe
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
    ) -> RunPlan:
        """Plan a run from files.

        Args:
            source: See `load_recipe`. The `config.yaml` of an earlier run brings its label maps
                along, those held out as well unless `validation.held_out` is another.
            assignments: Changes of settings.
            labels: Folder of label maps, or one; None means those of the earlier run, or else the
                built-in head phantom.
            images: Folder of real targets, see `find_subjects`.

        Raises:
            ValueError: If a file, name or value is not usable.
        """
        recipe = load_recipe(source, assignments)
        earlier = None if labels is not None else recorded_job(source)
        if earlier is not None:
            table = recipe.generator.label_table
            subjects = [restore_subject(record, table) for record in earlier.sources]
            held = recipe.training.validation_sources
            held_out = [restore_subject(record, table) for record in held]
            wish = recipe.training.validation.held_out
            if wish != _wish_before(source):
                together = sorted([*subjects, *held_out], key=lambda subject: subject.labels.name)
                subjects, held_out = hold_out(together, wish, _seed(recipe))
        elif labels is not None:
            found = find_subjects(labels, images)
            subjects, held_out = hold_out(found, recipe.training.validation.held_out, _seed(recipe))
        else:
            subjects, held_out = [phantom_subject(recipe.generator.label_table)], []
        if images is not None and labels is None:
            raise SynthSRError(
                f"images need label maps, got {images} alone. Give --labels as well."
            )
        check_images(recipe.generator, [*subjects, *held_out])
        check_buildable(recipe.generator)
        return cls(recipe=recipe, subjects=subjects, held_out=held_out)


def hold_out(
    subjects: Sequence[SubjectFiles], wish: Any, seed: int
) -> tuple[list[SubjectFiles], list[SubjectFiles]]:
    """Split label maps into those of training and those of validation.

    Args:
        subjects: All of them.
        wish: See `ValidationConfig.held_out`.
        seed: Seed of the choice.

    Raises:
        SynthSRError: If none is left for training, or a name is unknown.

    Examples:
        >>> subjects = [SubjectFiles(Path(f"{number}.nii")) for number in range(20)]
        >>> [len(part) for part in hold_out(subjects, 0.1, seed=0)]
        [18, 2]
    """
    if isinstance(wish, (list, tuple)):
        chosen = _named(subjects, [str(name) for name in wish])
    else:
        number = _number(wish, len(subjects))
        order = torch.randperm(len(subjects), generator=torch.Generator().manual_seed(seed))
        chosen = set(order[:number].tolist())
    rest = [subject for index, subject in enumerate(subjects) if index not in chosen]
    if not rest:
        raise SynthSRError(
            f"validation.held_out must leave label maps for training, got {wish} of"
            f" {len(subjects)}."
        )
    return rest, [subject for index, subject in enumerate(subjects) if index in chosen]


def _number(wish: Any, count: int) -> int:
    usable = isinstance(wish, (int, float)) and not isinstance(wish, bool) and wish >= 0
    if not usable or (isinstance(wish, float) and wish >= 1 and wish != int(wish)):
        raise SynthSRError(
            "validation.held_out must be a ratio below 1, a number of label maps, or a list of"
            f" their names, got {wish!r}."
        )
    return int(wish * count) if wish < 1 else int(wish)


def _named(subjects: Sequence[SubjectFiles], names: Sequence[str]) -> set[int]:
    known = {subject.labels.name: index for index, subject in enumerate(subjects)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SynthSRError(
            f"validation.held_out must name label maps, got {listed(unknown, 4)}, which is not"
            f" among {listed(list(known), 4)}."
        )
    return {known[name] for name in names}


def _seed(recipe: Recipe) -> int:
    return recipe.training.run.seed


def _wish_before(source: str | os.PathLike[str]) -> Any:
    """What a recorded run held out; None if a file is no run, but a job of `synthsr generate`."""
    is_run = SECTION in read_yaml(source)
    return load_recipe(source).training.validation.held_out if is_run else None
