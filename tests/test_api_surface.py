"""Public names do not vanish by accident.

A name that is gone breaks the code of users. To remove or rename one, keep the old name for a
release with a `DeprecationWarning`, say so in CHANGELOG.md under "API changes", then take it off
the list here. A new name is added to the list, with a line in `docs/`.
"""

from __future__ import annotations

import importlib
import importlib.resources
from types import ModuleType

import pytest

import synthsr_net
import synthsr_transforms
from synthsr_transforms.transforms.base import registered_transforms

PUBLIC = {
    # laws
    "Choice", "Constant", "Distribution", "LogNormal", "Normal", "Uniform",
    # labels and priors
    "LabelTable", "TissuePriors",
    # generator
    "Generator", "GeneratorConfig", "StepConfig", "TrainingPair", "load_config", "preset_names",
    # transforms
    "AcquisitionResolution", "BiasCorruption", "CopyImage", "GammaContrast", "GaussianSmoothing",
    "HemisphereFlip", "LesionSimulation", "MinMaxRescale", "PartialFieldOfView", "PatchCrop",
    "RegistrationCorrection", "RegistrationError", "ReliabilityMap", "ScannerNoise",
    "SelectChannels", "SharedTexture", "SkullStripping", "SliceAcquisition", "SpatialDeformation",
    "TargetResolution", "TissueContrast", "TissueMixture",
}  # fmt: skip

MODULES = {
    "base": {"Grid", "SynthTransform"},
    "effects": {"SynthIntensityTransform", "SynthLabelTransform", "SynthSpatialTransform"},
    "config_io": {"from_mapping", "override", "read_yaml", "to_yaml", "write_yaml"},
    "estimation": {
        *("EstimationSettings", "PriorEstimate", "PriorEstimation", "estimate_priors"),
        *("find_data_sets", "write_estimate"),
    },
    "randomness": {"derive_seed", "sample_seeds", "normal_field"},
    "spec": {"build_transform", "transform_spec"},
    "volumes": {"Volume", "VolumeError", "read_image", "read_labels", "write_volume"},
    "functional": set(),
}

ADVICE = (
    " If that is meant, follow the steps at the top of tests/test_api_surface.py; if not, export"
    " it again in synthsr_transforms/__init__.py."
)


def test_no_public_name_is_removed() -> None:
    missing = sorted(PUBLIC - set(synthsr_transforms.__all__))
    assert not missing, f"{missing} can no longer be imported from synthsr_transforms.{ADVICE}"


def test_no_public_name_is_added_unnoticed() -> None:
    added = sorted(set(synthsr_transforms.__all__) - PUBLIC)
    assert not added, f"{added} are new in synthsr_transforms: add them to PUBLIC and to docs/."


@pytest.mark.parametrize("package", [synthsr_transforms, synthsr_net])
def test_types_are_for_users_as_well(package: ModuleType) -> None:
    """Type checkers look at a package that is installed only if it holds this file."""
    assert importlib.resources.files(package).joinpath("py.typed").is_file()


def test_every_public_name_exists() -> None:
    for name in synthsr_transforms.__all__:
        assert getattr(synthsr_transforms, name).__doc__


def test_every_registered_transform_is_public() -> None:
    assert set(registered_transforms()) <= set(synthsr_transforms.__all__)


@pytest.mark.parametrize("module", MODULES)
def test_names_of_modules_stay(module: str) -> None:
    loaded = importlib.import_module(f"synthsr_transforms.{module}")
    missing = sorted(name for name in MODULES[module] if not hasattr(loaded, name))
    assert not missing, f"{missing} are gone from synthsr_transforms.{module}.{ADVICE}"
