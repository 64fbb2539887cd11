"""Models by name or file: listed, downloaded and loaded.

Predicting never downloads anything: `resolve_model` only looks at the disk.
"""

from __future__ import annotations

from synthsr_transforms.downloads import DownloadError

from .downloads import (
    URL_VARIABLE,
    cached_path,
    download_model,
    find_known,
    resolve_model,
    state_of,
    web_file,
)
from .listing import ListedModel, list_models
from .loading import load_any_model, read_any_config
from .registry import KNOWN_MODELS, KnownModel, ModelError, default_model, shipped_models

__all__ = [
    "KNOWN_MODELS",
    "URL_VARIABLE",
    "DownloadError",
    "KnownModel",
    "ListedModel",
    "ModelError",
    "cached_path",
    "default_model",
    "download_model",
    "find_known",
    "list_models",
    "load_any_model",
    "read_any_config",
    "resolve_model",
    "shipped_models",
    "state_of",
    "web_file",
]
