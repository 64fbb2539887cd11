"""Recipes: a generator and the training on its pairs, from one preset or YAML file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from synthsr_net.training.config import SECTION, TrainingConfig
from synthsr_transforms.generator.config import (
    GeneratorConfig,
    load_config,
    read_beside,
    source_path,
)
from synthsr_transforms.support.config import from_mapping, override
from synthsr_transforms.support.messages import SynthSRError, suggest


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A generator and the training on its pairs."""

    generator: GeneratorConfig
    training: TrainingConfig


def load_recipe(source: str | os.PathLike[str], assignments: Sequence[str] = ()) -> Recipe:
    """Read a recipe and change some of its settings.

    Args:
        source: Name of a preset or path of a YAML file: a configuration of the generator, whose
            section `training` holds a `TrainingConfig`. What the section leaves out has defaults.
        assignments: Changes such as `"crop.shape=128"` for a step of the generator, or
            `"optimiser.learning_rate=1e-3"` for a section of the training. Sections of the training
            go before steps of the same name.

    Raises:
        SynthSRError: If a name is unknown (the nearest spelling is suggested) or a value unusable.

    Examples:
        >>> recipe = load_recipe("all_purpose", ["crop.shape=96", "loss.name=l2"])
        >>> recipe.generator.steps["crop"].params["shape"], recipe.training.loss.name
        (96, 'l2')
    """
    settings = read_beside(source_path(source))
    written = settings.get(SECTION) or {}
    if not isinstance(written, Mapping):
        raise SynthSRError(f"{source}: section {SECTION} must hold settings, got {written!r}.")
    ours, theirs = _split(assignments, list(settings.get("steps") or {}))
    defaults = asdict(TrainingConfig())
    training = override(_merged(defaults, written), ours)
    _check_names(training, defaults, f"{source}: {SECTION}")
    return Recipe(
        generator=load_config(source, theirs),
        training=from_mapping(TrainingConfig, training, where=f"{source}: {SECTION}"),
    )


def _split(assignments: Sequence[str], steps: Sequence[str]) -> tuple[list[str], list[str]]:
    """Assignments to settings of the training, and to those of the generator."""
    sections = [field.name for field in fields(TrainingConfig)]
    known = [*sections, *steps, *(field.name for field in fields(GeneratorConfig))]
    ours, theirs = [], []
    for assignment in assignments:
        path = assignment.partition("=")[0].strip().removeprefix(f"{SECTION}.")
        first = path.split(".")[0]
        if "=" in assignment and first not in known:
            raise SynthSRError(
                f"{path!r}: there is no setting or step {first!r}{suggest(first, known)}."
                f" Known here: {', '.join(known)}."
            )
        if first in sections:
            ours.append(assignment.strip().removeprefix(f"{SECTION}."))
        else:
            theirs.append(assignment)
    return ours, theirs


def _check_names(settings: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> None:
    """Refuse settings that do not exist, and values where there should be sections.

    Raises:
        SynthSRError: If so; the nearest spelling is suggested.
    """
    for name, value in settings.items():
        if name not in defaults:
            raise SynthSRError(
                f"{where}: unknown setting {name!r}{suggest(str(name), defaults)}. Settings are:"
                f" {', '.join(defaults)}."
            )
        inner = defaults[name]
        if isinstance(inner, Mapping) and not isinstance(value, Mapping):
            known = f", such as {name}.{next(iter(inner))}" if inner else ""
            raise SynthSRError(f"{where}: {name} must hold settings{known}, got {value!r}.")
        if isinstance(inner, Mapping) and inner:
            _check_names(value, inner, f"{where}.{name}")


def _merged(defaults: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as written, with defaults for those left out."""
    result = dict(defaults)
    for name, value in written.items():
        default = result.get(name)
        if value is None and isinstance(default, Mapping):
            continue  # a section whose lines are all comments
        nested = isinstance(default, Mapping) and isinstance(value, Mapping)
        result[name] = _merged(default, value) if nested and default else value
    return result
