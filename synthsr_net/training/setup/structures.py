"""What a segmentation needs beside a regression: structures, their loss, and what excludes it."""

from __future__ import annotations

from dataclasses import replace

from synthsr_net.losses import SEGMENTATION_LOSSES
from synthsr_net.training.config import TrainingConfig
from synthsr_transforms.generator.generator import Generator
from synthsr_transforms.labels.structures import StructureTable
from synthsr_transforms.support.messages import SynthSRError, check_choice
from synthsr_transforms.transforms import GroupLabels


def structures_of(generator: Generator) -> StructureTable | None:
    """Return the structures of the target, or None if it is no segmentation."""
    for transform in generator.transforms.values():
        makes_target = getattr(transform, "destination", None) == generator.config.target
        if isinstance(transform, GroupLabels) and makes_target:
            return transform.structure_table
    return None


def with_structures(training: TrainingConfig, structures: StructureTable | None) -> TrainingConfig:
    """Give the loss and the network of a segmentation its structures.

    Args:
        training: Settings.
        structures: From `structures_of`.

    Raises:
        SynthSRError: If loss and target do not go together, or the settings ask for what
            segmentations do not have.
    """
    loss = training.loss
    is_segmentation = loss.name in SEGMENTATION_LOSSES
    if is_segmentation != (structures is not None):
        needed = ", ".join(SEGMENTATION_LOSSES)
        raise SynthSRError(
            f"loss.name must be {needed} for a target that GroupLabels makes, and another for"
            f" images, got {loss.name!r}. Correct the loss, or the step that makes the target."
        )
    if structures is None:
        return training
    unusable = {
        "loss.residual_channels": loss.residual_channels is not None,
        "loss.segmentation.model": loss.segmentation.model is not None,
        "adversarial.weight": training.adversarial.weight > 0,
        "validation.images": training.validation.images is not None,
    }
    for name, is_set in unusable.items():
        if is_set:
            raise SynthSRError(f"{name} must be left out of the training of a segmentation.")
    metrics = [f"dice/{name}" for name in ("mean", *structures.names[1:])]
    check_choice("validation.metric", training.validation.metric, metrics)
    return replace(
        training,
        network=replace(training.network, softmax=True),
        loss=replace(loss, params={**loss.params, "values": structures.values}),
    )
