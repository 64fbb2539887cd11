"""Settings of a prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from synthsr_net.inference.precision import PRECISIONS
from synthsr_net.models.checkpoint import ModelConfig
from synthsr_transforms.io.volumes import DTYPES
from synthsr_transforms.support.devices import available_device
from synthsr_transforms.support.memory import parse_size
from synthsr_transforms.support.messages import SynthSRError, check_choice

from .space.postprocess import GRIDS
from .space.preprocess import LEGACY


@dataclass(frozen=True, kw_only=True)
class PredictorSettings:
    """Settings of a `Predictor`. None stands for the default of the model.

    Raises:
        ValueError: If a setting is out of its range, or the device is absent.
    """

    device: str = "auto"
    """Device to compute on: auto, cpu, cuda, cuda:N or mps."""
    precision: str = "fp32"
    """One of `synthsr_net.inference.precision.PRECISIONS`."""
    flip: bool | None = None
    """Whether to average with the prediction of the left-right mirrored scan."""
    inverse_contrast: bool | None = None
    """Whether that scan is inverted where its contrast is the inverse of that of a T1, see
    `synthsr_net.prediction.refinement.contrast_inversion`."""
    sharpen: bool | None = None
    """Whether to sharpen with FreeSurfer's unsharp mask."""
    data_consistency: bool | None = None
    """Whether to add the detail of scans of the prediction's own contrast, see
    `synthsr_net.prediction.refinement.data_consistency`."""
    ct: bool | None = None
    """Whether scans are CT, to be clipped to [0, 80] HU. None: decide for each scan, see
    `synthsr_net.prediction.checks.ct`; with `legacy`, no."""
    force: bool = False
    """Whether to predict from volumes that do not look like scans of heads, with a warning."""
    legacy: str | None = None
    """One of `LEGACY`, to do exactly what that program does, grid and header included."""
    grid: str = "1mm"
    """One of `GRIDS`."""
    dtype: str = "float32"
    """Type of the voxels of files, one of `synthsr_transforms.io.volumes.DTYPES`; label maps keep
    theirs."""
    max_memory: int | str | None = None
    """Bytes to stay below, or text such as 4GB. None: what the device has."""
    window: int | None = None
    """Edge in voxels of the sliding window to predict in. None: as large as fits."""
    registration: bool = True
    """Whether scans of an exam are registered to the first, or their headers trusted, see
    `synthsr_net.prediction.exams`."""

    uncertainty: bool = True
    """Whether to compute the scale of the error too, where the model predicts it; in the default
    model that adds 16 % to the products of the network."""

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("grid", self.grid, GRIDS)
        check_choice("dtype", self.dtype, DTYPES)
        if self.legacy is not None:
            check_choice("legacy", self.legacy, LEGACY)
        if self.legacy is not None and self.grid != "1mm":
            raise SynthSRError(
                f"grid must be 1mm with legacy {self.legacy}, which has a grid of its own, got"
                f" {self.grid}. Leave one of them out."
            )
        if isinstance(self.max_memory, str):
            parse_size(self.max_memory)
        available_device(self.device)


class _Options(TypedDict, total=False):
    device: str
    precision: str
    flip: bool | None
    ct: bool | None
    force: bool
    grid: str
    dtype: str
    max_memory: int | str | None
    window: int | None


class PredictorOptions(_Options, total=False):
    """Fields of `PredictorSettings` as keyword arguments, for type checkers."""

    inverse_contrast: bool | None
    sharpen: bool | None
    data_consistency: bool | None
    legacy: str | None
    registration: bool
    uncertainty: bool


class SegmenterOptions(_Options, total=False):
    """Fields of `PredictorSettings` that a `Segmenter` takes, for type checkers."""


def check_inverse_contrast(config: ModelConfig) -> None:
    """Refuse models whose input or output has no contrast to compare.

    Raises:
        SynthSRError: If a model takes more than one image, or its output is added to it.
    """
    if config.is_simple:
        return
    names = ", ".join(image.name for image in config.inputs)
    raise SynthSRError(
        "inverse contrast needs a model that predicts an image of its own from one scan, got"
        f" {config.name!r} with {config.num_channels} input channels ({names})."
        " Leave it out."
    )
