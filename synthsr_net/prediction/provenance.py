"""Provenance of predictions, for headers, sidecars and reports."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib

from synthsr_net.models.checkpoint import Model

from .settings import PredictorSettings


class PredictionRecord:
    """A model and the settings that change its predictions.

    Args:
        model: The model.
        settings: How it is used.
        choices: Settings that the model decides where they were left to it, by name.
    """

    def __init__(
        self, model: Model, settings: PredictorSettings, choices: Mapping[str, bool]
    ) -> None:
        self._model, self._settings = model, settings
        self._choices = dict(choices)
        self.path: Path | None = None
        """File of the model, where it is known."""

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the model file, or of the weights where there is none."""
        digest = hashlib.sha256()
        if self.path is not None:
            with self.path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        else:
            for name, tensor in sorted(self._model.network.state_dict().items()):
                digest.update(name.encode() + tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    def used(
        self, *, ct: bool | None = None, lesion: bool = False, num_scans: int = 1
    ) -> dict[str, Any]:
        """Everything that changes predictions, with the choices of the model filled in.

        Args:
            ct: Whether the scan was clipped as CT; None: as set, or decided by its values.
            lesion: Whether a lesion was rendered from the scan.
            num_scans: Number of scans that were given.
        """
        settings = self._settings
        exam = num_scans > 1 and self._model.config.takes_exams
        more: dict[str, Any] = {} if settings.dtype == "float32" else {"dtype": settings.dtype}
        more |= {"scans": num_scans, "registration": settings.registration} if exam else {}
        return {
            "model": self._model.config.name,
            "model_sha256": self.sha256,
            **self._choices,
            "ct": ct if settings.ct is None else settings.ct,
            "legacy": settings.legacy,
            "grid": settings.grid,
            "lesion_kept": lesion,
            **more,
        }

    def describe(self, *, ct: bool | None = None, lesion: bool = False, num_scans: int = 1) -> str:
        """Text for headers: version, model, and a word that differs where `used` does."""
        text = json.dumps(self.used(ct=ct, lesion=lesion, num_scans=num_scans), sort_keys=True)
        word = hashlib.sha256(text.encode()).hexdigest()[:12]
        return f"synthsr {version('synthsr')} {self._model.config.name[:24]} {word}"


def read_description(path: str | os.PathLike[str]) -> str:
    """Text in the header of a NIfTI file; empty if there is none or it is another kind of file."""
    try:
        header: Any = nib.load(path).header
        return bytes(header["descrip"].item()).rstrip(b"\0").decode("ascii", "replace")
    except Exception:
        return ""
