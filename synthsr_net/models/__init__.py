"""Models by name or file: listed, downloaded and loaded.

Predicting never downloads anything: `resolve_model` only looks at the disk.
"""

from __future__ import annotations

from synthsr_net.models.zoo.downloads import (
    URL_VARIABLE,
    cached_path,
    download_model,
    find_known,
    resolve_model,
    state_of,
    web_file,
)
from synthsr_net.models.zoo.listing import ListedModel, list_models
from synthsr_net.models.zoo.registry import KNOWN_MODELS, KnownModel, ModelError
from synthsr_net.models.zoo.shipped import (
    ALIASES,
    DEFAULT_MODEL,
    default_model,
    full_name,
    shipped_models,
)
from synthsr_transforms.support.downloads import DownloadError

from .loading import load_model, load_model_config
from .packing import PRECISIONS, pack_model, stored_precision

__all__ = [
    "ALIASES",
    "DEFAULT_MODEL",
    "KNOWN_MODELS",
    "PRECISIONS",
    "URL_VARIABLE",
    "DownloadError",
    "KnownModel",
    "ListedModel",
    "ModelError",
    "cached_path",
    "default_model",
    "download_model",
    "find_known",
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
