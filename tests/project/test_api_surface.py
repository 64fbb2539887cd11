"""Public names do not vanish by accident.

A name that is gone breaks the code of users. To remove or rename one, keep the old name for a
release with a `DeprecationWarning`, say so in CHANGELOG.md under "API changes", then take it off
the list here. A new name is added to the list, with a line in `docs/`.
"""

from __future__ import annotations

import ast
import importlib.resources
import pydoc
from pathlib import Path
from types import ModuleType

import pytest

import synthsr_net
import synthsr_transforms
from synthsr_transforms.transforms.base import registered_transforms

PUBLIC = {
    synthsr_transforms: {
        # distributions
        "Choice", "Constant", "Distribution", "LogNormal", "Normal", "Uniform",
        # labels and priors
        "LabelTable", "TissuePriors",
        # generator
        "Generator", "GeneratorConfig", "StepConfig", "TrainingPair", "load_config",
        "preset_names",
        # transforms
        "AcquisitionResolution", "BiasCorruption", "CopyImage", "GammaContrast",
        "GaussianSmoothing", "GroupLabels", "HemisphereFlip", "LesionInsertion",
        "LesionSimulation", "MinMaxRescale",
        "PartialFieldOfView", "PatchCrop", "RegistrationCorrection", "RegistrationError",
        "ReliabilityMap", "ScannerNoise", "SelectChannels", "SharedTexture", "SkullStripping",
        "SliceAcquisition", "SpatialDeformation", "TargetResolution", "TissueContrast",
        "TissueMixture",
    },
    synthsr_net: {
        "Predictor", "PredictorSettings", "Segmenter", "UNet3d", "UNetConfig", "load_model",
        "save_model",
    },
}  # fmt: skip

each_package = pytest.mark.parametrize("package", PUBLIC, ids=lambda package: package.__name__)


@each_package
def test_no_public_name_is_removed_or_added_unnoticed(package: ModuleType) -> None:
    assert set(package.__all__) == PUBLIC[package], (
        "If that is meant, follow the steps at the top of tests/test_api_surface.py; if not, export"
        f" the names as before in {package.__name__}/__init__.py."
    )


@each_package
def test_every_public_name_exists_and_is_listed(package: ModuleType) -> None:
    for name in package.__all__:
        assert getattr(package, name).__doc__
        assert name in dir(package)
        assert name in pydoc.plaintext.document(package)


@each_package
def test_type_checkers_see_the_same_names(package: ModuleType) -> None:
    """They read the imports under `TYPE_CHECKING`, and any package that holds `py.typed`."""
    assert importlib.resources.files(package).joinpath("py.typed").is_file()
    tree = ast.parse(Path(str(package.__file__)).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = set()
    for node in ast.walk(block):
        if isinstance(node, ast.ImportFrom):
            home = importlib.import_module(f"{package.__name__}.{node.module}")
            named = [alias.name for alias in node.names]
            names = home.__all__ if named == ["*"] else named
            assert all(getattr(home, name) is getattr(package, name) for name in names)
            seen.update(names)
    assert seen == set(package.__all__)


def test_every_registered_transform_is_public() -> None:
    assert set(registered_transforms()) <= set(synthsr_transforms.__all__)
