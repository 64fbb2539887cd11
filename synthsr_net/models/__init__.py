"""Models by name or file: listed, downloaded and loaded.

Predicting never downloads anything: `resolve_model` only looks at the disk.
"""

from __future__ import annotations

from synthsr_net.models.listing import list_models
from synthsr_net.models.zoo.files import (
    cached_path,
    default_model,
    download_model,
    full_name,
    resolve_model,
    shipped_models,
    state_of,
    web_file,
)
from synthsr_net.models.zoo.registry import KNOWN_MODELS, KnownModel, ModelError
from synthsr_transforms.support.downloads import DownloadError

from .loading import load_model, load_model_config
from .packing import PRECISIONS, pack_model, stored_precision

__all__ = [
    "KNOWN_MODELS",
    "PRECISIONS",
    "DownloadError",
    "KnownModel",
    "ModelError",
    "cached_path",
    "default_model",
    "download_model",
    "full_name",
    "list_models",
    "load_model",
    "load_model_config",
    "pack_model",
    "resolve_model",
    "shipped_models",
    "state_of",
    "stored_precision",
    "web_file",
]
