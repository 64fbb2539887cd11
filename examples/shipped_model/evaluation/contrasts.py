"""Contrasts of the synthetic scans that models are evaluated on.

Magnetic resonance: intensities between 0 and 255 with the order and the distances of tissues that
scanners show. Computed tomography: Hounsfield units. `random` draws one mean for each class of
labels, as in Billot et al., "SynthSeg" (Medical Image Analysis 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from synthsr_transforms.distributions import as_distribution
from synthsr_transforms.generator.config import GeneratorConfig, StepConfig, load_config
from synthsr_transforms.generator.generator import Generator

TARGET_PRESET = "all_purpose"
"""Preset whose target is the standard T1 that predictions are compared with, unless another is
named."""
BORDER_MM = 0.65
"""Width of the Gaussian by which borders of tissues are softened, in scan and target alike. It does
not follow the preset, so that figures of models can be compared."""
STRIPPING_MARGIN_MM = 1.0
"""Distance of the border of skull-stripped scans from the brain."""
LATERAL_VENTRICLES = (4, 5, 43, 44)
"""Label values beside which lesions of white matter are most frequent."""

_TISSUES = (
    *("white_matter", "grey_matter", "deep_grey", "csf"),
    *("brain_other", "vessel", "lesion", "extracerebral"),
)
_VALUES = (506, 507, 511, 515, 516)  # eyes, soft tissue, skin, bone, marrow


class Contrast(NamedTuple):
    """Mean intensities of a kind of scan.

    Attributes:
        by_tissue: Mean intensity of each tissue; None: drawn for each class of labels.
        by_value: Mean intensity of single labels, which wins over that of their tissue.
        ct: Whether intensities are Hounsfield units, and scans are treated like CT.

    Examples:
        >>> CONTRASTS["T2"].by_tissue["csf"] > CONTRASTS["T2"].by_tissue["grey_matter"]
        True
    """

    by_tissue: Mapping[str, float] | None
    by_value: Mapping[int, float]
    ct: bool = False


_INTENSITIES = {  # in the order of _TISSUES and _VALUES
    "T1": ((165, 115, 130, 35, 140, 120, 105, 105), (25, 130, 150, 15, 170)),
    "T2": ((70, 110, 85, 220, 80, 40, 170, 85), (225, 105, 115, 12, 110)),
    "FLAIR": ((110, 145, 125, 25, 115, 60, 220, 95), (30, 120, 140, 12, 120)),
    "PD": ((135, 170, 155, 185, 145, 90, 190, 130), (190, 140, 150, 20, 150)),
    "CT": ((28, 37, 36, 8, 31, 45, 20, 45), (8, 20, 30, 900, 350)),
}
CONTRASTS: Mapping[str, Contrast] = {
    name: Contrast(
        ({"background": -1000} if name == "CT" else {}) | dict(zip(_TISSUES, tissues, strict=True)),
        dict(zip(_VALUES, values, strict=True)),
        ct=name == "CT",
    )
    for name, (tissues, values) in _INTENSITIES.items()
} | {"random": Contrast(None, {})}
"""All contrasts by name."""
NOISE_STD = 4.0
"""Standard deviation of the noise of a slice."""
BIAS_STD = 0.15
"""Standard deviation of the logarithm of the bias field, which CT does not have."""


def scan_generator(name: str, values: Sequence[int], *, stripped: bool = False) -> Generator:
    """Generator of an image without slices and noise.

    Args:
        name: One of `CONTRASTS`.
        values: Label values that occur.
        stripped: Whether the skull is removed.
    """
    contrast = CONTRASTS[name]
    steps = {"contrast": _contrast_step(contrast), "borders": _borders("image")}
    if not contrast.ct:
        steps["bias"] = _step("BiasCorruption", std=BIAS_STD, include=["image"])
    if stripped:
        steps["stripping"] = _step(
            "SkullStripping", margin_mm=STRIPPING_MARGIN_MM, include=["image"]
        )
    return Generator.for_labels(GeneratorConfig(steps=steps), values)


def lesion_generator(values: Sequence[int]) -> Generator:
    """Generator of lesions of white matter: image `image`, their share in each voxel.

    Blobs of about a centimetre, and caps and bands at the lateral ventricles.

    Args:
        values: Label values that occur.
    """
    nothing = dict.fromkeys(target_contrast()["by_tissue"], 0.0)
    steps = {
        "nothing": _step("TissueContrast", by_tissue=nothing, destination="image"),
        "lesions": _step(
            "LesionSimulation",
            intensity=1.0,
            size_mm=10.0,
            height=2.0,
            beside=list(LATERAL_VENTRICLES),
            beside_lift=2.2,
            include=["image"],
        ),
    }
    return Generator.for_labels(GeneratorConfig(steps=steps), values)


def target_generator(values: Sequence[int], preset: str = TARGET_PRESET) -> Generator:
    """Generator of the standard T1 of a label map: image `target`, white matter 110.

    Tissues have the intensities of the target of a preset, without texture and with fixed borders.

    Args:
        values: Label values that occur.
        preset: Name of the preset.
    """
    steps = {
        "contrast": _step("TissueContrast", **target_contrast(preset)),
        "borders": _borders("target"),
    }
    return Generator.for_labels(GeneratorConfig(steps=steps), values)


@cache
def target_contrast(preset: str = TARGET_PRESET) -> dict[str, Any]:
    """Intensities of a preset's target by tissue and label: the middle of each distribution.

    Examples:
        >>> target_contrast()["by_tissue"]["white_matter"]
        110.0
    """
    params = next(
        step.params
        for step in load_config(preset).steps.values()
        if step.name == "TissueContrast" and step.params.get("destination", "target") == "target"
    )
    return {
        name: {key: _middle(spec) for key, spec in params.get(name, {}).items()}
        for name in ("by_tissue", "by_value")
    }


def _step(name: str, **params: Any) -> StepConfig:
    return StepConfig(name=name, params=params)


def _borders(image: str) -> StepConfig:
    return _step("GaussianSmoothing", sigma_mm=BORDER_MM, include=[image])


def _contrast_step(contrast: Contrast) -> StepConfig:
    if contrast.by_tissue is None:
        drawn = {"prior_means": [25, 225], "prior_stds": [0, 10]}
        return _step("TissueMixture", **drawn, background_mean=0, background_std=0)
    means = {"by_tissue": dict(contrast.by_tissue), "by_value": dict(contrast.by_value)}
    return _step("TissueContrast", **means, destination="image")


def _middle(spec: Any) -> float:
    low, high = as_distribution(spec).bounds
    return (float(low) + float(high)) / 2
