"""One transform per step of the generator, each usable alone, in families.

Beside the families: `base` (the only module with private names of TorchIO), `kinds` to derive from,
`build` and `spec` (transforms as data), and what transforms share: `images`, `labels_on_grid`,
`random_fields`, `arguments`. Imports `functional`, `distributions`, `labels` and `priors`.
"""

from synthsr_transforms.transforms.acquisition.acquisition_resolution import AcquisitionResolution
from synthsr_transforms.transforms.acquisition.partial_field_of_view import PartialFieldOfView
from synthsr_transforms.transforms.acquisition.registration_error import (
    RegistrationCorrection,
    RegistrationError,
)
from synthsr_transforms.transforms.acquisition.reliability_map import ReliabilityMap
from synthsr_transforms.transforms.acquisition.slice_acquisition import SliceAcquisition
from synthsr_transforms.transforms.acquisition.target_resolution import TargetResolution
from synthsr_transforms.transforms.channels.copy_image import CopyImage
from synthsr_transforms.transforms.channels.select_channels import SelectChannels
from synthsr_transforms.transforms.intensity.bias_corruption import BiasCorruption
from synthsr_transforms.transforms.intensity.gamma_contrast import GammaContrast
from synthsr_transforms.transforms.intensity.gaussian_smoothing import GaussianSmoothing
from synthsr_transforms.transforms.intensity.min_max_rescale import MinMaxRescale
from synthsr_transforms.transforms.intensity.scanner_noise import ScannerNoise
from synthsr_transforms.transforms.intensity.skull_stripping import SkullStripping
from synthsr_transforms.transforms.spatial.hemisphere_flip import HemisphereFlip
from synthsr_transforms.transforms.spatial.patch_crop import PatchCrop
from synthsr_transforms.transforms.spatial.spatial_deformation import SpatialDeformation
from synthsr_transforms.transforms.synthesis.group_labels import GroupLabels
from synthsr_transforms.transforms.synthesis.lesion_simulation import LesionSimulation
from synthsr_transforms.transforms.synthesis.shared_texture import SharedTexture
from synthsr_transforms.transforms.synthesis.tissue_contrast import TissueContrast
from synthsr_transforms.transforms.synthesis.tissue_mixture import TissueMixture

__all__ = [
    "AcquisitionResolution",
    "BiasCorruption",
    "CopyImage",
    "GammaContrast",
    "GaussianSmoothing",
    "GroupLabels",
    "HemisphereFlip",
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
