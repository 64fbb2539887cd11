"""What of a generator works on a real scan and its real target, in place of made ones."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

from torchio.transforms import Transform

from synthsr_transforms.support.messages import SynthSRError
from synthsr_transforms.transforms import (
    CopyImage,
    GroupLabels,
    MinMaxRescale,
    SkullStripping,
)
from synthsr_transforms.transforms.build import transform_class
from synthsr_transforms.transforms.kinds import SynthIntensityTransform, SynthLabelTransform

from .config import Config, GeneratorConfig, StepConfig


def config_on_scans(config: Config, *, labelled: bool) -> tuple[Config, list[str]]:
    """Settings of a generator that starts from an image and its target, and degrades the image.

    Steps that make an image of a label map, or vary what it shows, are left out, and those that
    change the intensities of the target, other than to rescale it. What moves, crops or masks both
    stays, as does all that happens to the image alone.

    Args:
        config: A generator of pairs from label maps.
        labelled: Whether label maps tell the brain; otherwise skull stripping is left out as well.

    Returns:
        The settings, which are their own result, and the names of the steps that are left out.

    Raises:
        SynthSRError: If the target is no image, or there are several scans of a head.
    """
    if config.scans is not None:
        raise SynthSRError(
            "pairs of real scans have one input each, got a generator with several scans of a head."
            " Choose another preset, such as all_purpose."
        )
    steps: dict[str, StepConfig] = {}
    made = config.real_target
    for name, step in config.steps.items():
        kind = transform_class(step.name)
        if issubclass(kind, GroupLabels):
            raise SynthSRError(
                "pairs of real scans need an image as target, got a generator of segmentations."
                " Choose another preset, such as all_purpose."
            )
        made = made or _destination(kind, step) == config.target
        kept = _on_scans(kind, step, config, labelled=labelled, made=made)
        if kept is not None:
            steps[name] = kept
    left_out = [name for name in config.steps if name not in steps]
    return replace(config, steps=steps, real_target=True), left_out


def _destination(kind: type[Transform], step: StepConfig) -> Any:
    """Name of the image that a step makes."""
    known = inspect.signature(kind).parameters.get("destination")
    return None if known is None else step.params.get("destination", known.default)


def _on_scans(
    kind: type[Transform],
    step: StepConfig,
    config: GeneratorConfig,
    *,
    labelled: bool,
    made: bool,
) -> StepConfig | None:
    """A step as it works on scans, or None; `made` says whether there was a target before it."""
    if issubclass(kind, SkullStripping):
        return step if labelled else None
    if issubclass(kind, SynthLabelTransform):
        return None
    if issubclass(kind, CopyImage) and _destination(kind, step) in (config.image, config.target):
        return None
    include, exclude = (step.params.get(name) for name in ("include", "exclude"))
    on_target = (include is None or config.target in include) and config.target not in (
        exclude or ()
    )
    changes = issubclass(kind, SynthIntensityTransform) and not issubclass(kind, MinMaxRescale)
    if not (on_target and changes):
        return step
    if made:
        return None
    return replace(step, params={**step.params, "exclude": [*(exclude or ()), config.target]})
