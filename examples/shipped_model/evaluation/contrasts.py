"""Contrasts of the synthetic scans that models are evaluated on.

Magnetic resonance: intensities between 0 and 255 with the order and the distances of tissues that
scanners show. Computed tomography: Hounsfield units. `random` draws one mean for each class of
labels, as in Billot et al., "SynthSeg" (Medical Image Analysis 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from synthsr_transforms.distributions import as_distribution
from synthsr_transforms.generator.config import GeneratorConfig, StepConfig, load_config
from synthsr_transforms.generator.generator import Generator

TARGET_PRESET = "all_purpose"
"""Preset whose target is the standard T1 that predictions are compared with."""
BORDER_MM = 0.65
"""Width of the Gaussian by which borders of tissues are softened, in scan and target alike. It does
not follow the preset, so that figures of models can be compared."""
STRIPPING_MARGIN_MM = 1.0
"""How far the border of skull-stripped scans lies outside the brain."""
LATERAL_VENTRICLES = (4, 5, 43, 44)
"""Label values beside which lesions of white matter are most frequent."""

_EYES, _SOFT_TISSUE, _SKIN, _BONE, _MARROW = 506, 507, 511, 515, 516


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A kind of scan.

    Examples:
        >>> CONTRASTS["T2"].by_tissue["csf"] > CONTRASTS["T2"].by_tissue["grey_matter"]
        True
    """

    by_tissue: Mapping[str, float] | None
    """Mean intensity of each tissue; None: drawn for each class of labels."""
    by_value: Mapping[int, float]
    """Mean intensity of single labels, which wins over that of their tissue."""
    noise_std: float
    """Standard deviation of the noise of a slice."""
    bias_std: float
    """Standard deviation of the logarithm of the bias field."""
    ct: bool = False
    """Whether intensities are Hounsfield units, and scans are treated like CT."""


def _scanner(by_tissue: Mapping[str, float], by_value: Mapping[int, float]) -> Contrast:
    return Contrast(by_tissue=by_tissue, by_value=by_value, noise_std=4.0, bias_std=0.15)


CONTRASTS: Mapping[str, Contrast] = {
    "T1": _scanner(
        {
            "white_matter": 165,
            "grey_matter": 115,
            "deep_grey": 130,
            "csf": 35,
            "brain_other": 140,
            "vessel": 120,
            "lesion": 105,
            "extracerebral": 105,
        },
        {_EYES: 25, _SOFT_TISSUE: 130, _SKIN: 150, _BONE: 15, _MARROW: 170},
    ),
    "T2": _scanner(
        {
            "white_matter": 70,
            "grey_matter": 110,
            "deep_grey": 85,
            "csf": 220,
            "brain_other": 80,
            "vessel": 40,
            "lesion": 170,
            "extracerebral": 85,
        },
        {_EYES: 225, _SOFT_TISSUE: 105, _SKIN: 115, _BONE: 12, _MARROW: 110},
    ),
    "FLAIR": _scanner(
        {
            "white_matter": 110,
            "grey_matter": 145,
            "deep_grey": 125,
            "csf": 25,
            "brain_other": 115,
            "vessel": 60,
            "lesion": 220,
            "extracerebral": 95,
        },
        {_EYES: 30, _SOFT_TISSUE: 120, _SKIN: 140, _BONE: 12, _MARROW: 120},
    ),
    "PD": _scanner(
        {
            "white_matter": 135,
            "grey_matter": 170,
            "deep_grey": 155,
            "csf": 185,
            "brain_other": 145,
            "vessel": 90,
            "lesion": 190,
            "extracerebral": 130,
        },
        {_EYES: 190, _SOFT_TISSUE: 140, _SKIN: 150, _BONE: 20, _MARROW: 150},
    ),
    "CT": Contrast(
        by_tissue={
            "background": -1000,
            "white_matter": 28,
            "grey_matter": 37,
            "deep_grey": 36,
            "csf": 8,
            "brain_other": 31,
            "vessel": 45,
            "lesion": 20,
            "extracerebral": 45,
        },
        by_value={_EYES: 8, _SOFT_TISSUE: 20, _SKIN: 30, _BONE: 900, _MARROW: 350},
        noise_std=4.0,
        bias_std=0.0,
        ct=True,
    ),
    "random": Contrast(by_tissue=None, by_value={}, noise_std=4.0, bias_std=0.15),
}
"""All contrasts by name."""


def scan_generator(name: str, values: Sequence[int], *, stripped: bool = False) -> Generator:
    """Generator of an image without slices and noise.

    Args:
        name: One of `CONTRASTS`.
        values: Label values that occur.
        stripped: Whether the skull is removed.
    """
    contrast = CONTRASTS[name]
    steps = {"contrast": _contrast_step(contrast), "borders": _borders("image")}
    if contrast.bias_std:
        params = {"std": contrast.bias_std, "include": ["image"]}
        steps["bias"] = StepConfig(name="BiasCorruption", params=params)
    if stripped:
        params = {"margin_mm": STRIPPING_MARGIN_MM, "include": ["image"]}
        steps["stripping"] = StepConfig(name="SkullStripping", params=params)
    return Generator.for_labels(GeneratorConfig(steps=steps), values)


def lesion_generator(values: Sequence[int]) -> Generator:
    """Generator of lesions of white matter: image `image`, their share in each voxel.

    Blobs of about a centimetre, and caps and bands at the lateral ventricles.

    Args:
        values: Label values that occur.
    """
    nothing = dict.fromkeys(target_contrast()["by_tissue"], 0.0)
    params = {
        "intensity": 1.0,
        "size_mm": 10.0,
        "height": 2.0,
        "beside": list(LATERAL_VENTRICLES),
        "beside_lift": 2.2,
        "include": ["image"],
    }
    steps = {
        "nothing": StepConfig(
            name="TissueContrast", params={"by_tissue": nothing, "destination": "image"}
        ),
        "lesions": StepConfig(name="LesionSimulation", params=params),
    }
    return Generator.for_labels(GeneratorConfig(steps=steps), values)


def target_generator(values: Sequence[int]) -> Generator:
    """Generator of the standard T1 of a label map: image `target`, white matter 110.

    Tissues have the intensities of the target of `TARGET_PRESET`, without texture and with fixed
    borders.

    Args:
        values: Label values that occur.
    """
    steps = {
        "contrast": StepConfig(name="TissueContrast", params=target_contrast()),
        "borders": _borders("target"),
    }
    return Generator.for_labels(GeneratorConfig(steps=steps), values)


def target_contrast() -> dict[str, Any]:
    """Intensities of the target of the preset by tissue and label; the middle of each law.

    Examples:
        >>> target_contrast()["by_tissue"]["white_matter"]
        110.0
    """
    params = next(
        step.params
        for step in _preset_steps()
        if step.name == "TissueContrast" and step.params.get("destination", "target") == "target"
    )
    return {
        name: {key: _middle(spec) for key, spec in params.get(name, {}).items()}
        for name in ("by_tissue", "by_value")
    }


@cache
def _preset_steps() -> tuple[StepConfig, ...]:
    return tuple(load_config(TARGET_PRESET).steps.values())


def _borders(image: str) -> StepConfig:
    params = {"sigma_mm": BORDER_MM, "include": [image]}
    return StepConfig(name="GaussianSmoothing", params=params)


def _contrast_step(contrast: Contrast) -> StepConfig:
    if contrast.by_tissue is None:
        params: dict[str, Any] = {
            "prior_means": [25, 225],
            "prior_stds": [0, 10],
            "background_mean": 0,
            "background_std": 0,
        }
        return StepConfig(name="TissueMixture", params=params)
    params = {
        "by_tissue": dict(contrast.by_tissue),
        "by_value": dict(contrast.by_value),
        "destination": "image",
    }
    return StepConfig(name="TissueContrast", params=params)


def _middle(spec: Any) -> float:
    low, high = as_distribution(spec).bounds
    return (float(low) + float(high)) / 2
