"""One transform per step of the generator, each usable alone."""

from .acquisition_resolution import AcquisitionResolution
from .bias_corruption import BiasCorruption
from .copy_image import CopyImage
from .gamma_contrast import GammaContrast
from .gaussian_smoothing import GaussianSmoothing
from .hemisphere_flip import HemisphereFlip
from .lesion_simulation import LesionSimulation
from .min_max_rescale import MinMaxRescale
from .partial_field_of_view import PartialFieldOfView
from .patch_crop import PatchCrop
from .registration_error import RegistrationCorrection, RegistrationError
from .reliability_map import ReliabilityMap
from .scanner_noise import ScannerNoise
from .select_channels import SelectChannels
from .shared_texture import SharedTexture
from .skull_stripping import SkullStripping
from .slice_acquisition import SliceAcquisition
from .spatial_deformation import SpatialDeformation
from .target_resolution import TargetResolution
from .tissue_contrast import TissueContrast
from .tissue_mixture import TissueMixture

__all__ = [
    "AcquisitionResolution",
    "BiasCorruption",
    "CopyImage",
    "GammaContrast",
    "GaussianSmoothing",
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
