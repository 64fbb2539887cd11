"""A model as `synthsr predict` applies it, to volumes that are on the device already."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from synthsr_net.models.checkpoint import ModelConfig
from synthsr_net.prediction.intensities import network_input_, padding, scaled
from synthsr_net.prediction.predictor import Predictor, Prepared
from synthsr_net.prediction.refinement.data_consistency import Operators
from synthsr_net.prediction.space.postprocess import laplace_scales, refined
from synthsr_transforms.support.messages import SynthSRError


class HeadNetwork:
    """Makes predictions of volumes on the grid of the network, without leaving the device.

    The result equals that of `Predictor.predict` for a scan of the network's voxel spacing, but
    for the anti-aliasing before it is resampled.

    Args:
        predictor: Model and settings.

    Raises:
        SynthSRError: If the model takes more than one image, or its output is added to it.
    """

    def __init__(self, predictor: Predictor) -> None:
        _check(predictor.config)
        self.predictor = predictor
        self.config = predictor.config
        self.device = predictor.device

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
        x, output = self._output(volume, None if averaged else False)
        return self._refined(x, output[0], slices)

    def with_scales(
        self, volume: Tensor, *, slices: Operators = (None, None, None)
    ) -> tuple[Tensor, Tensor]:
        """Prediction, and the scales of its errors in the same intensities; see a call."""
        x, output = self._output(volume, None)
        unit, smallest = self.config.scan.output_scale, self.config.smallest_scale
        scales = laplace_scales(output[1], unit, smallest)
        return self._refined(x, output[0], slices), scales

    def _output(self, volume: Tensor, flip: bool | None) -> tuple[Tensor, Tensor]:
        """Input `(X, Y, Z)` and output `(O, X, Y, Z)` of the network, without padding."""
        predictor, settings = self.predictor, self.config.scan
        volume = volume.to(self.device, torch.float32, copy=True)
        x, _ = network_input_(volume, settings, self.config.inputs[0].maximum)
        begin, _ = padding(volume.shape, settings.divisor)
        inside = tuple(slice(b, b + n) for b, n in zip(begin, volume.shape, strict=True))
        prepared = predictor.planned(Prepared((), x[None], None))
        return x[inside], predictor.infer(prepared, flip=flip)[(slice(None), *inside)]

    def _refined(self, x: Tensor, image: Tensor, slices: Operators) -> Tensor:
        settings = self.config.scan
        return refined(
            image if settings.clip_each_pass else scaled(image, settings),
            settings,
            scan=x if self.predictor.data_consistency else None,
            slices=slices,
            sharpen=self.predictor.sharpen,
        )

    def together(self, volumes: Sequence[Tensor], slices: Operators = (None, None, None)) -> Tensor:
        """Predict from several scans of a head on one grid, as `synthsr predict --also` does.

        Args:
            volumes: As in a call.
            slices: Those of the first, with which the prediction is made consistent.
        """
        made = [self._output(volume, None) for volume in volumes]
        image = torch.stack([output[0] for _, output in made]).mean(0)
        return self._refined(made[0][0], image, slices)


def _check(config: ModelConfig) -> None:
    if config.is_simple:
        return
    names = ", ".join(image.name for image in config.inputs)
    raise SynthSRError(
        "model must take one scan and predict an image of its own, got"
        f" {config.name!r} with {config.num_channels} input channels ({names})"
        f"{' and a residual' if config.scan.residual_input is not None else ''}. Choose another."
    )
