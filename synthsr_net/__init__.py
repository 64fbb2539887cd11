"""Networks, training and prediction.

Importing the package loads neither TorchIO nor the generator: names are imported when used.
"""

import logging
from typing import TYPE_CHECKING

from synthsr_transforms.support.lazy import lazy_exports

if TYPE_CHECKING:
    from .models.checkpoint import save_model as save_model
    from .models.loading import load_model as load_model
    from .networks.unet import UNet3d as UNet3d
    from .networks.unet import UNetConfig as UNetConfig
    from .prediction.predictor import Predictor as Predictor
    from .prediction.segmenter import Segmenter as Segmenter
    from .prediction.settings import PredictorSettings as PredictorSettings

logging.getLogger(__name__).addHandler(logging.NullHandler())  # programs choose what is shown

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "prediction.predictor": ["Predictor"],
        "prediction.segmenter": ["Segmenter"],
        "prediction.settings": ["PredictorSettings"],
        "models.checkpoint": ["save_model"],
        "models.loading": ["load_model"],
        "networks.unet": ["UNet3d", "UNetConfig"],
    },
)
