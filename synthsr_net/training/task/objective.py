"""Training loss of a prediction: image loss, residual, crop and regulariser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from synthsr_net.losses import add_residual, build_loss, central_crop
from synthsr_net.losses.segmentation import IGNORED, SegmentationLoss
from synthsr_net.models.loading import load_model_config, load_weights
from synthsr_net.models.zoo.files import resolve_model
from synthsr_net.networks.unet import UNet3d
from synthsr_net.training.config import LossConfig, SegmentationConfig
from synthsr_net.training.data.bank import Entry
from synthsr_transforms.generator.config import GeneratorConfig
from synthsr_transforms.generator.generator import Pair
from synthsr_transforms.labels.files import read_integers
from synthsr_transforms.labels.structures import AUTO, StructureTable
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.support.messages import SynthSRError


class Objective(nn.Module):
    """Makes a prediction of the output of a network, and computes its loss.

    Args:
        config: Settings.
        residual: For each target channel, the channel of the input that the output is added to;
            empty means none.
        segmentation: The regulariser, or None.
    """

    def __init__(
        self,
        config: LossConfig,
        *,
        residual: Sequence[int] = (),
        segmentation: SegmentationLoss | None = None,
    ) -> None:
        super().__init__()
        self.image_loss = build_loss(config.name, config.params)
        self.crop = config.crop
        self.residual = list(residual)
        self.segmentation = segmentation
        self.segmentation_weight = config.segmentation.weight

    @property
    def outputs_per_target(self) -> int:
        """Number of outputs of the network per channel of the target."""
        return int(self.image_loss.outputs_per_target)

    def prediction(self, output: Tensor, image: Tensor) -> Tensor:
        """Return the prediction: the output, added to channels of the input if it is residual.

        Args:
            output: `(B, O, X, Y, Z)` of the network.
            image: `(B, Cin, X, Y, Z)` input.

        Returns:
            `(B, O, X, Y, Z)` float32.
        """
        output = output.float()
        return add_residual(output, image, self.residual) if self.residual else output

    def intensities(self, prediction: Tensor) -> Tensor:
        """Return the channels that are compared with the target, without Laplace scales."""
        compared: Tensor = self.image_loss.compared(prediction)
        return compared

    def image_part(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the image loss between prediction and target, in the central box."""
        measured: Tensor = self.image_loss(
            central_crop(prediction, self.crop), central_crop(target, self.crop)
        )
        return measured

    def forward(self, prediction: Tensor, pair: Pair) -> Tensor:
        """Return the loss of a prediction.

        Args:
            prediction: From `prediction`.
            pair: Pair that it was predicted from.

        Returns:
            Scalar, float32.
        """
        loss = self.image_part(prediction, pair.target)
        if self.segmentation is not None:
            dice = self.segmentation(self.intensities(prediction), pair.labels)
            loss = loss + self.segmentation_weight * dice
        return loss


def input_channels(
    config: GeneratorConfig, loss: LossConfig, num_inputs: int, num_targets: int
) -> list[int]:
    """Return the input channels that the output is added to.

    Args:
        config: The generator, whose reliability maps stand between the image channels.
        loss: Settings with the image channels.
        num_inputs: Number of channels of the input.
        num_targets: Number of channels of the target.

    Raises:
        SynthSRError: If there are not as many as target channels, or one does not exist.
    """
    chosen = loss.residual_channels
    if chosen is None:
        return []
    step = 1 if config.reliability is None else 2
    images = num_inputs // step
    wrong = len(chosen) != num_targets or any(not 0 <= channel < images for channel in chosen)
    if wrong:
        raise SynthSRError(
            f"loss.residual_channels must be {num_targets} numbers, one per target channel, from 0"
            f" to {images - 1}, got {chosen}. Number the images of the input from 0, without"
            " reliability maps."
        )
    return [step * channel for channel in chosen]


def make_segmentation(
    config: LossConfig, table: LabelTable, *, targets: Sequence[Entry] = ()
) -> SegmentationLoss | None:
    """Make the regulariser, if the settings ask for one.

    Args:
        config: Settings.
        table: Table of the label maps.
        targets: Entries with real targets, whose percentiles the prediction is clipped to.

    Raises:
        ValueError: If the network or the list of labels cannot be used.
    """
    settings = config.segmentation
    if settings.model is None:
        return None
    architecture, state = load_weights(settings.model)
    network = UNet3d(replace(architecture, softmax=True))
    network.load_state_dict(state)
    output_labels, groups = _output_labels(settings, network.config.out_channels, table)
    return SegmentationLoss(
        network,
        output_labels,
        list(table.values) if groups is None else groups.unique().tolist(),
        fs_header=settings.freesurfer_axes,
        intensity_range=_intensity_range(settings, targets),
        crop=config.crop,
        groups=groups,
    )


def _output_labels(
    settings: SegmentationConfig, channels: int, table: LabelTable
) -> tuple[list[int], Tensor | None]:
    """Return the label of each output of the regulariser, and how labels are grouped to them.

    A model file that says which structures it tells apart needs no list.
    """
    labels = settings.output_labels
    if labels is None:
        structures = load_model_config(resolve_model(str(settings.model))).structures
        if structures:
            values = [structure.value for structure in structures]
            groups = StructureTable.resolve(AUTO, table).lookup()
            known = set(groups.tolist())
            return [value if value in known else IGNORED for value in values], groups
    if isinstance(labels, str):
        labels = read_integers(Path(labels))
    if not isinstance(labels, list) or len(labels) != channels:
        got = "nothing" if labels is None else f"{len(labels)} labels"
        raise SynthSRError(
            "loss.segmentation.output_labels must name a label, or -1, for each of the"
            f" {channels} outputs of {settings.model}, got {got}. Give a list or a .npy file."
        )
    return [int(value) for value in labels], None


def _intensity_range(
    config: SegmentationConfig, targets: Sequence[Entry]
) -> tuple[float, float] | None:
    """Return mean percentiles of real targets, each rescaled to [0, 1] as in training."""
    images = [entry.image.float() for entry in targets if entry.image is not None]
    if config.clip_percentiles is None or not images:
        return None
    bounds = []
    for image in images:
        values = (image - image.min()) / (image.max() - image.min())
        ranks = (
            torch.tensor(config.clip_percentiles, dtype=torch.float64) / 100 * (values.numel() - 1)
        )
        bounds.append(values.flatten().sort().values[ranks.round().long()])
    low, high = torch.stack(bounds).mean(0).tolist()
    return low, high
