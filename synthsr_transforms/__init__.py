"""Composable, GPU-capable steps of the SynthSR generator, as TorchIO 2 transforms.

Importing the package loads neither TorchIO nor the generator: names are imported when used.
"""

import logging
from typing import TYPE_CHECKING

from synthsr_transforms.support.lazy import lazy_exports

if TYPE_CHECKING:
    from .distributions import Choice as Choice
    from .distributions import Constant as Constant
    from .distributions import Distribution as Distribution
    from .distributions import LogNormal as LogNormal
    from .distributions import Normal as Normal
    from .distributions import Uniform as Uniform
    from .generator.config import GeneratorConfig as GeneratorConfig
    from .generator.config import StepConfig as StepConfig
    from .generator.config import load_config as load_config
    from .generator.config import preset_names as preset_names
    from .generator.generator import Generator as Generator
    from .generator.generator import TrainingPair as TrainingPair
    from .labels.table import LabelTable as LabelTable
    from .priors.tissue_priors import TissuePriors as TissuePriors
    from .transforms import *  # noqa: F403

logging.getLogger(__name__).addHandler(logging.NullHandler())  # programs choose what is shown

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "distributions": ["Choice", "Constant", "Distribution", "LogNormal", "Normal", "Uniform"],
        "generator.config": ["GeneratorConfig", "StepConfig", "load_config", "preset_names"],
        "generator.generator": ["Generator", "TrainingPair"],
        "labels.table": ["LabelTable"],
        "priors.tissue_priors": ["TissuePriors"],
        "transforms": [
            "AcquisitionResolution",
            "BiasCorruption",
            "CopyImage",
            "GammaContrast",
            "GaussianSmoothing",
            "GroupLabels",
            "HemisphereFlip",
            "LesionInsertion",
            "LesionSimulation",
            "MinMaxRescale",
            "PartialFieldOfView",
            "PatchCrop",
            "RegistrationCorrection",
            "RegistrationError",
            "ReliabilityMap",
            "ScannerNoise",
            "SelectChannels",
            "SharedTexture",
            "SkullStripping",
            "SliceAcquisition",
            "SpatialDeformation",
            "TargetResolution",
            "TissueContrast",
            "TissueMixture",
        ],
    },
)
