"""Configurations: what defines a generator, as data, read from presets and YAML files.

Nothing here builds a transform.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Optional, TypeVar

from synthsr_transforms.support.config import (
    complete,
    config_path,
    from_mapping,
    override,
    read_yaml,
)
from synthsr_transforms.support.messages import check_choice

SECTIONS = ("job", "training")
"""Sections that a configuration may hold besides the generator's settings."""
Assignments = Sequence[str] | Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """One step: a transform and the arguments of its constructor."""

    name: str
    """Class name of a transform of this library or of TorchIO, or `package.module.Class`."""
    params: dict[str, Any] = field(default_factory=dict)
    """Arguments of its constructor."""


@dataclass(frozen=True, kw_only=True)
class ScansConfig:
    """Several scans of one head: some of the steps are drawn anew for each.

    Raises:
        ValueError: If the probabilities are not numbers from 0 on whose sum is 1.
    """

    probabilities: list[float] = field(default_factory=lambda: [1.0])
    """Probabilities of one scan, of two, of three and so on."""
    same_number: bool = False
    """Whether all heads of a batch have as many, so that none of its scans is a volume of zeros."""
    first_step: str = ""
    """Name of the first step that each scan takes by itself, and with it all that follow."""
    shared: list[str] = field(default_factory=list)
    """Names of such steps whose random numbers all scans of a head share, but for the look of
    lesions, so that a texture of the tissues, or the places of lesions, are the same in all."""

    def __post_init__(self) -> None:
        total = sum(self.probabilities)
        if min(self.probabilities, default=-1) < 0 or abs(total - 1) > 1e-6:
            raise ValueError(
                "scans.probabilities must be numbers from 0 on whose sum is 1, one for each number"
                f" of scans from 1 on, got {list(self.probabilities)}. Give [0.5, 0.5] for one or"
                " two scans."
            )


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Everything that defines a generator; a YAML file holds the same fields."""

    description: str = ""
    """Purpose of the pairs, in one sentence."""
    citation: str = ""
    """Source of the settings."""
    label_table: str = "auto"
    """Name of a ready label table, path of a table file, or `auto` for the one that fits best."""
    steps: dict[str, StepConfig] = field(default_factory=dict)
    """Steps in order, each under a name of its own."""
    scans: Optional[ScansConfig] = None  # noqa: UP045 - read at run time by OmegaConf
    """Several scans of each head, of which each goes through some of the steps by itself."""
    image: str = "image"
    """Name of the image that becomes the network's input."""
    reliability: Optional[str] = None  # noqa: UP045 - read at run time by OmegaConf
    """Name of the maps interleaved with the channels of the input, if there are any."""
    target: str = "target"
    """Name of the image that becomes the regression target."""
    real_target: bool = False
    """Whether the target is a real image that comes with each label map."""


Config = TypeVar("Config", bound=GeneratorConfig)


def preset_names() -> list[str]:
    """Names of the published settings."""
    return list(_presets())


def _presets() -> dict[str, Path]:
    return {path.stem: path for path in sorted(Path(__file__).with_name("presets").glob("*.yaml"))}


def load_config(source: str | os.PathLike[str], assignments: Assignments = ()) -> GeneratorConfig:
    """Read a configuration and change some of its settings.

    Args:
        source: Name of a preset or path of a YAML file. Its sections `job`, which `synthsr
            generate` adds, and `training` are left out; files that it names may lie beside it.
        assignments: Changes such as `"crop.shape=128"`, in a list, or as a mapping
            `{"crop.shape": 128}`: a step by name, then an argument; or a field of
            `GeneratorConfig`.

    Returns:
        The configuration.

    Raises:
        SynthSRError: If a name is unknown (the nearest spelling is suggested) or a value unusable.

    Examples:
        >>> load_config("all_purpose", ["crop.shape=96"]).steps["crop"].params["shape"]
        96
    """
    return make_config(GeneratorConfig, read_settings(source), assignments, where=str(source))


def read_settings(source: str | os.PathLike[str]) -> dict[str, Any]:
    """Read all sections of a configuration as plain data.

    Args:
        source: Name of a preset or path of a YAML file. Names of files that lie beside it become
            paths. Where it holds `base`, the name of a preset, its settings change that preset:
            steps of the same name take its arguments, others come last, or before the step that
            they name as `before`.

    Raises:
        SynthSRError: If it is neither (the nearest spelling is suggested), or not YAML.
    """
    path = config_path(source, _presets(), "preset")
    settings: dict[str, Any] = _beside(read_yaml(path), path.parent)
    base = settings.pop("base", None)
    if base is None:
        return settings
    check_choice("base", base, preset_names())
    return _in_order(_on_top(read_settings(base), settings))


def _in_order(settings: dict[str, Any]) -> dict[str, Any]:
    """Move steps that say `before` to the place before the step of that name."""
    names = list(_mapping(settings.get("steps")))
    steps = dict(_mapping(settings.get("steps")))
    for name, step in steps.items():
        place = _mapping(step).get("before")
        if place is None:
            continue
        check_choice(f"steps.{name}.before", place, [other for other in names if other != name])
        steps[name] = {key: value for key, value in step.items() if key != "before"}
        names.remove(name)
        names.insert(names.index(place), name)
    return {**settings, "steps": {name: steps[name] for name in names}}


def _on_top(below: Mapping[str, Any], above: Mapping[str, Any], depth: int = 3) -> dict[str, Any]:
    """Settings changed by others; the arguments of steps, at that depth, are replaced whole."""
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        if depth > 0 and isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[name] = _on_top(old, value, depth - 1)
        else:
            merged[name] = value
    return merged


def make_config(
    kind: type[Config],
    settings: Mapping[str, Any],
    assignments: Assignments = (),
    *,
    section: str | None = None,
    where: str = "",
) -> Config:
    """Make a configuration from plain data, and change some of its settings.

    Args:
        kind: `GeneratorConfig`, or a class that adds sections; others of `SECTIONS` are left out.
        settings: From `read_settings`.
        assignments: See `load_config`.
        section: Name of a section whose settings are assigned without its name, such as
            `run.epochs=3` for `training.run.epochs=3`. They go before steps of the same name.
        where: What the settings are, for messages.

    Raises:
        SynthSRError: If a name is unknown (the nearest spelling is suggested) or a value unusable.
    """
    if isinstance(assignments, str):
        assignments = [assignments]
    if isinstance(assignments, Mapping):
        assignments = [f"{name}={json.dumps(value)}" for name, value in assignments.items()]
    known = [f.name for f in fields(kind)]
    plain = {k: v for k, v in settings.items() if k in known or k not in SECTIONS}
    steps = _mapping(plain.get("steps"))
    shortcuts = {str(name): ("steps", str(name), "params") for name in steps}
    for step in steps.values():
        if isinstance(step, dict):
            step.setdefault("params", {})
    if section is not None:
        plain[section] = complete(kind, {section: plain.get(section)}, where)[section]
        shortcuts |= {name: (section, name) for name in plain[section]}
    changed = override(plain, assignments, shortcuts=shortcuts)
    for name, step in _mapping(changed.get("steps")).items():
        _let_priors_replace(step, steps.get(name))
    return from_mapping(kind, changed, where=where)


def _mapping(value: Any) -> dict[str, Any]:
    """The value if it is a mapping, else an empty one: `from_mapping` refuses what is none."""
    return value if isinstance(value, dict) else {}


def _let_priors_replace(step: Any, before: Any) -> None:
    """Take the three arguments that priors replace out of a step that was just given priors."""
    params, old = (_mapping(_mapping(each).get("params")) for each in (step, before))
    if params.get("priors") and not old.get("priors"):
        for name in ("prior_means", "prior_stds", "distribution"):
            if params.get(name) == old.get(name):
                params.pop(name, None)


def _beside(value: Any, folder: Path) -> Any:
    """Replace names of tables and priors that lie in a folder by their paths."""
    if isinstance(value, Mapping):
        return {key: _beside(inner, folder) for key, inner in value.items()}
    files = (".tsv", ".npy", ".yaml")
    if isinstance(value, str) and value.endswith(files) and (folder / value).is_file():
        return str(folder / value)
    return value
