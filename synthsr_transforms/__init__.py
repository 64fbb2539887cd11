"""Composable, GPU-capable steps of the SynthSR generator, as TorchIO 2 transforms."""

from .generator import (
    Generator,
    GeneratorConfig,
    StepConfig,
    TrainingPair,
    load_config,
    preset_names,
)
from .labels import LabelTable
from .laws import Choice, Constant, Law, LogNormal, Normal, Uniform
from .priors import TissuePriors
from .transforms import *  # noqa: F403
from .transforms import __all__ as _transforms

__all__ = [
    "Choice",
    "Constant",
    "Generator",
    "GeneratorConfig",
    "LabelTable",
    "Law",
    "LogNormal",
    "Normal",
    "StepConfig",
    "TissuePriors",
    "TrainingPair",
    "Uniform",
    "load_config",
    "preset_names",
    *_transforms,
]
