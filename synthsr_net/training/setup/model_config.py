"""Descriptions in the model files of a run, which `synthsr predict` reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from synthsr_net.models.checkpoint import SEGMENTATION, InputConfig, ModelConfig, StructureConfig
from synthsr_net.models.loading import load_model_config
from synthsr_net.models.zoo.files import resolve_model
from synthsr_net.networks.unet import UNetConfig
from synthsr_net.training.config import ModelSettings, TrainingConfig
from synthsr_transforms.generator.config import GeneratorConfig
from synthsr_transforms.generator.generator import Generator
from synthsr_transforms.labels.structures import StructureTable
from synthsr_transforms.support.messages import SynthSRError
from synthsr_transforms.transforms import TargetResolution


def model_config(
    generator: Generator,
    training: TrainingConfig,
    network: UNetConfig,
    *,
    spacing_mm: float,
    folder_name: str,
    num_maps: int,
    num_pairs: int = 0,
    structures: StructureTable | None = None,
) -> ModelConfig:
    """Describe the model that a run trains.

    Args:
        generator: Makes the pairs.
        training: Settings.
        network: Architecture, with channels.
        spacing_mm: Voxel spacing of the label maps.
        folder_name: Name of the model where the settings name none.
        num_maps: Number of label maps that it is trained on.
        num_pairs: Number of pairs of real scans that it is trained on.
        structures: Those of a segmentation.

    Raises:
        SynthSRError: If the settings name another number of images than the generator makes.
    """
    settings, loss = training.model, training.loss
    if training.uncertainty:
        return _with_scales(
            training, network, _summary(generator.config, training, num_maps, num_pairs)
        )
    spacing = _target_spacing_mm(generator, spacing_mm)
    residual = loss.residual_channels
    alone = residual is None or len(residual) != 1
    scan = replace(
        settings.scan,
        spacing_mm=spacing,
        divisor=2**network.num_levels,
        residual_input=None if alone else residual[0],  # type: ignore[index]
        output_range=settings.scan.output_range if alone else None,
    )
    output = settings.output
    if structures is not None:
        output, scan = SEGMENTATION, replace(scan, output_scale=1.0, output_range=None, flip=False)
    return ModelConfig(
        name=settings.name or folder_name,
        description=settings.description or generator.config.description,
        licence=settings.licence,
        citation=settings.citation,
        network=network,
        inputs=_inputs(generator.config, settings, network.in_channels),
        output=output,
        structures=[StructureConfig(value=s.value, name=s.name) for s in structures or ()],
        spread=loss.name == "laplace",
        scan=scan,
        training=_summary(generator.config, training, num_maps, num_pairs),
    )


def _with_scales(
    training: TrainingConfig, network: UNetConfig, summary: dict[str, Any]
) -> ModelConfig:
    """Describe the model of the initial weights with a second head.

    Raises:
        SynthSRError: If it is not known, or takes other inputs.
    """
    source = resolve_model(str(training.initial_weights))
    base = load_model_config(source)
    if (base.num_channels, base.scan.residual_input) != (network.in_channels, None):
        raise SynthSRError(
            f"uncertainty needs pairs of what {source} takes and predicts, {base.num_channels}"
            f" channels in and an image of its own, got {network.in_channels} channels. Train on"
            " pairs as they were for the network itself."
        )
    name = training.model.name or base.name
    about = {**base.training, "uncertainty": summary}
    return replace(base, name=name, network=network, spread=True, training=about)


def _target_spacing_mm(generator: Generator, spacing_mm: float) -> float:
    """Return the voxel spacing of the targets, in mm.

    Raises:
        SynthSRError: If it differs between axes, which predictions cannot have.
    """
    for transform in generator.transforms.values():
        if isinstance(transform, TargetResolution):
            spacing = set(transform.spacing_mm)
            if len(spacing) > 1:
                raise SynthSRError(
                    "the target must have one spacing along all axes, got"
                    f" {transform.spacing_mm} mm. Give one number."
                )
            spacing_mm = float(spacing.pop())
    return spacing_mm


def _inputs(config: GeneratorConfig, settings: ModelSettings, channels: int) -> list[InputConfig]:
    """Describe the input images, as the settings name them."""
    maps = config.reliability is not None
    count = channels // (2 if maps else 1)
    numbered = ["image"] if count == 1 else [f"image_{number}" for number in range(1, count + 1)]
    names, contrasts = settings.inputs or numbered, settings.contrasts or ["any"] * count
    for what, given in (("inputs", names), ("contrasts", contrasts)):
        if len(given) != count:
            raise SynthSRError(
                f"model.{what} must name the {count} images of the input, got {given}."
            )
    return [
        InputConfig(name=name, contrast=contrast, reliability_map=maps)
        for name, contrast in zip(names, contrasts, strict=True)
    ]


def _summary(
    config: GeneratorConfig, training: TrainingConfig, num_maps: int, num_pairs: int
) -> dict[str, Any]:
    of_scans = {"pairs": num_pairs, "pairs_share": training.pairs.share} if num_pairs else {}
    return {
        "generator": config.description,
        "steps": list(config.steps),
        "real_target": config.real_target,
        "label_maps": num_maps,
        **of_scans,
        "loss": training.loss.name,
        "epochs": training.run.epochs,
        "steps_per_epoch": training.run.steps_per_epoch,
        "batch_size": training.run.batch_size,
        "learning_rate": training.optimiser.learning_rate,
        "seed": training.run.seed,
    }
