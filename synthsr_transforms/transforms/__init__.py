"""One transform per step of the generator, each usable alone, in families.

A family is a module: `synthesis`, `variation`, `lesions`, `spatial`, `intensity`, `masking`,
`resolution` and `channels`. Beside them: `base` (the only module with private names of TorchIO),
`kinds` to derive from, `build` and `spec` (transforms as data), and what transforms share:
`images`, `labels_on_grid`, `random_fields`, `lesion_masks`, `arguments`. Imports `functional`,
`io`, `distributions`, `labels` and `priors`.
"""

from .channels import CopyImage, RegistrationCorrection, RegistrationError, SelectChannels
from .intensity import BiasCorruption, GammaContrast, GaussianSmoothing, MinMaxRescale, ScannerNoise
from .lesions import LesionInsertion, LesionSimulation
from .masking import PartialFieldOfView, SkullStripping
from .resolution import AcquisitionResolution, ReliabilityMap, SliceAcquisition, TargetResolution
from .spatial import HemisphereFlip, PatchCrop, SpatialDeformation
from .synthesis import GroupLabels, TissueContrast, TissueMixture
from .variation import SharedTexture

__all__ = [
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
]
