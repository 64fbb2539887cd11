"""A model as `synthsr predict` applies it, to volumes that are on the device already."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from synthsr_net.models.checkpoint import ModelConfig
from synthsr_net.prediction.intensities import percentile, sharpened
from synthsr_net.prediction.predictor import Predictor, Prepared
from synthsr_net.prediction.refinement.data_consistency import Operators, consistent
from synthsr_transforms.io.scans import Scan
from synthsr_transforms.support.messages import SynthSRError


class EvaluationError(SynthSRError):
    """A model or data that cannot be evaluated; the message says what to do."""


class HeadNetwork:
    """Makes predictions of volumes on the grid of the network, without leaving the device.

    The result equals that of `Predictor.predict` for a scan of the network's voxel spacing.

    Args:
        predictor: Model and settings.

    Raises:
        EvaluationError: If the model takes more than one image, or its output is added to it.
    """

    def __init__(self, predictor: Predictor) -> None:
        check_config(predictor.config)
        self.predictor = predictor
        self.config = predictor.config
        self.device = predictor.device
        self._known: dict[tuple[int, ...], Prepared] = {}

    @property
    def spacing_mm(self) -> float:
        """Voxel spacing of volumes and predictions."""
        return self.config.scan.spacing_mm

    def __call__(
        self, volume: Tensor, *, averaged: bool = True, slices: Operators = (None, None, None)
    ) -> Tensor:
        """Predict.

        Args:
            volume: `(X, Y, Z)` in any unit, axes to the right, front and top.
            averaged: Whether to average with the prediction of the mirrored volume where the model
                does so.
            slices: What the volume was interpolated from, see
                `synthsr_net.prediction.refinement.data_consistency`; by default it was acquired
                as it is.

        Returns:
            `(X, Y, Z)` float32 in intensities of the model, on the device.
        """
        volume = volume.to(self.device, torch.float32)
        prepared = self._prepared(volume)
        x = self._input(volume, prepared)
        flip = None if averaged else False
        output = self.predictor.infer(prepared._replace(tensor=x), flip=flip)
        image = output[0][prepared.space.inside]
        settings = self.config.scan
        if not settings.clip_each_pass:
            image = _clipped(settings.output_scale * image, settings.output_range)
        if self.predictor.data_consistency:
            kept = consistent(image, x[0][prepared.space.inside], slices, self.spacing_mm)
            image = _clipped(kept, settings.output_range)
        if self.predictor.sharpen:
            image = _clipped(sharpened(image), settings.output_range)
        return image

    def _prepared(self, volume: Tensor) -> Prepared:
        """Place in the padded input, and how to compute, for volumes of a shape."""
        shape = tuple(volume.shape)
        if shape not in self._known:
            affine = np.diag([*[self.spacing_mm] * 3, 1.0])
            scan = Scan(np.arange(math.prod(shape), dtype=np.float32).reshape(shape), affine)
            prepared = self.predictor.planned(self.predictor.prepare([scan], ct=False))
            self._known[shape] = prepared._replace(scans=())
        return self._known[shape]

    def _input(self, volume: Tensor, prepared: Prepared) -> Tensor:
        """Normalised and padded, `(1, X, Y, Z)`."""
        if self.config.scan.normalise_after_padding:
            return self._normalised(_padded(volume, prepared))[None]
        return _padded(self._normalised(volume), prepared)[None]

    def _normalised(self, volume: Tensor) -> Tensor:
        settings = self.config.scan
        if settings.normalisation == "percentile":
            low, high = (percentile(volume, p) for p in settings.percentiles)
            volume = volume.clamp(low, high)
        else:
            low, high = float(volume.min()), float(volume.max())
        if high <= low:
            return torch.zeros_like(volume)
        return (volume - low) / ((high - low) / self.config.inputs[0].maximum)


def check_config(config: ModelConfig) -> None:
    """Refuse models that cannot be evaluated.

    Raises:
        EvaluationError: If a model takes more than one image, or its output is added to it.
    """
    if config.is_simple:
        return
    names = ", ".join(image.name for image in config.inputs)
    raise EvaluationError(
        "model must take one scan and predict an image of its own, got"
        f" {config.name!r} with {config.num_channels} input channels ({names})"
        f"{' and a residual' if config.scan.residual_input is not None else ''}. Choose another."
    )


def _padded(volume: Tensor, prepared: Prepared) -> Tensor:
    sizes = prepared.tensor.shape[1:]
    margins = []
    for size, part in zip(reversed(sizes), reversed(prepared.space.inside), strict=True):
        margins += [part.start, size - part.stop]
    return F.pad(volume, margins)


def _clipped(image: Tensor, bounds: tuple[float, float] | None) -> Tensor:
    return image if bounds is None else image.clamp(*bounds)
