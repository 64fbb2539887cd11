"""From a plan to everything that a run needs, checked before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from synthsr_net.inference.precision import resolve_precision
from synthsr_net.losses import SEGMENTATION_LOSSES, build_loss
from synthsr_net.losses.base import crop_sizes
from synthsr_net.models.checkpoint import ModelConfig
from synthsr_net.models.transfer import start_from
from synthsr_net.networks.critic import Critic, CriticConfig
from synthsr_net.networks.seeding import seeded
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_net.training.config import Experiment, TrainingConfig
from synthsr_net.training.data.bank import Entry
from synthsr_net.training.data.stream import Origin, PairData, Position
from synthsr_net.training.task.adversarial import AdversarialTask
from synthsr_net.training.task.objective import (
    Objective,
    input_channels,
    make_segmentation,
)
from synthsr_net.training.task.regression import TrainingTask
from synthsr_net.training.task.segmentation import SegmentationTask
from synthsr_net.training.task.uncertainty import UncertaintyTask
from synthsr_net.training.validation import RealPairs, read_real_pairs
from synthsr_transforms.generator.generator import Pair
from synthsr_transforms.job.record import JobSettings, job_config
from synthsr_transforms.labels.structures import StructureTable
from synthsr_transforms.subjects.files import SubjectFiles
from synthsr_transforms.subjects.pairs import ScanPair
from synthsr_transforms.support.memory import available_bytes
from synthsr_transforms.support.messages import SynthSRError, bytes_in_words

from .experiment import RunPlan, with_absolute_paths
from .fitting import (
    Fitted,
    check_spacing,
    fit,
    output_shapes,
    probe,
    structures_of,
    with_structures,
)
from .model_config import model_config
from .scan_pairs import fit_mixed, read_sources, split


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that a run needs."""

    training: TrainingConfig
    """Settings, with the channels of the network."""
    fitted: Fitted
    """Generator and label maps."""
    structures: StructureTable | None
    """Those of a segmentation."""
    num_training: int
    """Number of label maps for training, or of pairs of real scans if there are such alone; the
    others are for validation."""
    model: ModelConfig
    """Description in the model files."""
    precision: str
    """`fp32`, `tf32` or `bf16`."""
    network: UNet3d
    """The network with its first weights."""
    objective: Objective
    """Training loss."""
    patch: tuple[int, int, int]
    """Size of the first pair."""
    real: RealPairs | None
    """Real scans of validation."""
    notes: list[str]
    """Notes to the user, in sentences."""
    position: Position
    """Counter of batches."""
    mixed: Origin | None = None
    """Pairs of real scans beside those that are made from label maps."""

    @property
    def is_adversarial(self) -> bool:
        """Whether there is a critic."""
        return self.training.adversarial.weight > 0

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches of an epoch, those of the critic included."""
        turns = self.training.adversarial.critic_steps + 1 if self.is_adversarial else 1
        return self.training.run.steps_per_epoch * turns

    @property
    def num_batches(self) -> int:
        """Number of batches of the whole run."""
        return self.training.run.epochs * self.batches_per_epoch

    @property
    def entries(self) -> list[Entry]:
        """Label maps of training."""
        return self.fitted.entries[: self.num_training]

    @property
    def expected_bytes(self) -> float:
        """Rough size of the files of the run."""
        keep = self.training.run.keep_models
        models = 2 + (self.training.run.epochs if keep < 0 else keep)
        return 4.0 * sum(p.numel() for p in self.network.parameters()) * (models + 8)

    def record(self, plan: RunPlan, device: torch.device) -> Experiment:
        """Return the experiment as the run's folder records it, complete by itself."""
        settings = JobSettings(
            synthsr_version=version("synthsr"),
            seed=self.training.run.seed,
            num_samples=self.num_batches,
            device=device.type,
            sources=[subject.record() for subject in plan.subjects],
        )
        training = replace(
            with_absolute_paths(self.training),
            validation_sources=[subject.record() for subject in plan.held_out],
            pairs=replace(
                self.training.pairs,
                sources=[pair.record() for pair in plan.pairs],
                validation_sources=[pair.record() for pair in plan.held_out_pairs],
            ),
        )
        job = job_config(self.fitted.generator, settings)
        return Experiment(**{f.name: getattr(job, f.name) for f in fields(job)}, training=training)

    def check_state(self, path: Path) -> None:
        """Refuse a saved state that is damaged, of another architecture, or of a longer run.

        Raises:
            SynthSRError: If so.
        """
        advice = "Start anew with --overwrite, or from the weights of a model file in a new folder."
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            saved, position = state["state_dict"], int(state["position"])
        except Exception as error:
            raise SynthSRError(
                f"{path} must be the state of a run, but cannot be read. {advice}"
            ) from error
        if position > self.num_batches:
            raise SynthSRError(
                f"run.epochs must be at least {-(-position // self.batches_per_epoch)}, of which"
                f" {path} is the state, got {self.training.run.epochs}. Raise it."
            )
        for name, tensor in self.network.state_dict().items():
            there = saved.get(f"network.{name}")
            if there is None or there.shape != tensor.shape:
                got = "nothing" if there is None else f"shape {tuple(there.shape)}"
                raise SynthSRError(
                    f"{path} must be the state of this network, but has {got} for {name} of shape"
                    f" {tuple(tensor.shape)}. {advice}"
                )

    def task(self) -> TrainingTask:
        """Make the training, as Lightning runs it."""
        arguments = (self.network, self.objective, self.training)
        shared: dict[str, Any] = {
            "table": self.fitted.generator.label_table,
            "position": self.position,
            "real": self.real,
        }
        if self.structures is not None:
            values, names = self.structures.values, self.structures.names
            return SegmentationTask(values, names, *arguments, **shared)
        if self.training.uncertainty:
            return UncertaintyTask(*arguments, **shared)
        if not self.is_adversarial:
            return TrainingTask(*arguments, **shared)
        settings = self.training.adversarial
        architecture = CriticConfig(
            shape=self.patch,
            in_channels=self.network.config.out_channels // self.objective.outputs_per_target,
            num_features=settings.num_features,
            num_levels=settings.num_levels,
        )
        with seeded(self.training.run.seed + 1):
            critic = Critic(architecture)
        return AdversarialTask(critic, *arguments, **shared)

    def data(self) -> PairData:
        """Make the pairs, as Lightning asks for them."""
        held_out = self.fitted.entries[self.num_training :]
        return PairData(
            Origin(self.fitted.generator, self.entries, held_out),
            self.training,
            position=self.position,
            batches_per_epoch=self.batches_per_epoch,
            mixed=self.mixed,
        )


def prepare(
    plan: RunPlan,
    *,
    device: torch.device,
    folder_name: str,
    on_subject: Callable[[SubjectFiles | ScanPair], object] | None = None,
    resumed: bool = False,
) -> Prepared:
    """Read label maps, make the first pair and the network, and check that all fit.

    Args:
        plan: Settings and label maps.
        device: Device to train on.
        folder_name: Name of the model where the settings name none.
        on_subject: Called with each subject after it was read.
        resumed: Whether weights come from a saved state, so that initial ones are not needed.

    Raises:
        ValueError: If anything does not fit; the message says what to do.
    """
    config, training = plan.experiment.generator, plan.experiment.training
    _check_uncertainty(training)
    if training.loss.name not in SEGMENTATION_LOSSES:
        build_loss(training.loss.name, training.loss.params)  # refuse it before anything is read
    read = read_sources(plan, on_subject)
    entries = read.entries or read.pairs
    spacing = check_spacing(entries)
    fitted = fit(config, training, entries)
    structures = structures_of(fitted.generator)
    training = with_structures(training, structures)
    pair = probe(fitted, training)
    inputs, targets = pair.image.shape[-4], pair.target.shape[1]
    outputs = targets * build_loss(training.loss.name, training.loss.params).outputs_per_target
    architecture = _architecture(training.network, inputs, outputs)
    training = replace(training, network=architecture)
    mixed = fit_mixed(plan, training, read.pairs, fitted, pair) if read.entries else None
    residual = input_channels(fitted.generator.config, training.loss, inputs, targets)
    _check_pair(training, pair)
    shapes = output_shapes(fitted) | (output_shapes(mixed) if mixed else set())
    if training.adversarial.weight and len(shapes) > 1:
        raise SynthSRError(
            "adversarial training needs patches of one size, got several, as label maps differ."
            " Add a PatchCrop step with a shape to the generator."
        )
    objective = Objective(
        training.loss,
        residual=residual,
        segmentation=make_segmentation(
            training.loss, fitted.generator.label_table, targets=fitted.entries
        ),
    )
    example = pair.image.flatten(1, -4)[:, :1].expand(-1, architecture.out_channels, -1, -1, -1)
    objective.image_part(example, pair.target)  # refuses patches below its windows
    model = model_config(
        fitted.generator,
        training,
        architecture,
        spacing_mm=spacing,
        folder_name=folder_name,
        num_maps=len(plan.subjects),
        num_pairs=len(plan.pairs),
        structures=structures,
    )
    with seeded(training.run.seed):
        network = UNet3d(architecture)
    notes = [*plan.notes, *read.doubts, *fitted.notes, *(mixed.notes if mixed else ())]
    notes += _notes(plan, training, targets)
    if training.initial_weights is not None and not resumed:
        new = start_from(network, training.initial_weights, training.run.seed)
        _refuse_other_new(training, new)
        notes += _brief(new)
    x, y, z = pair.image.shape[-3:]
    return Prepared(
        training=training,
        fitted=fitted,
        structures=structures,
        num_training=len(plan.subjects) or len(plan.pairs),
        mixed=None if mixed is None else split(mixed, len(plan.pairs)),
        model=model,
        precision=resolve_precision(training.run.precision, device, training=True),
        network=network,
        objective=objective,
        patch=(x, y, z),
        real=_real_pairs(training, model),
        notes=notes,
        position=Position(),
    )


def _architecture(config: UNetConfig, inputs: int, outputs: int) -> UNetConfig:
    """Return the network with the channels of pairs, unless the settings name others."""
    for name, count in (("in_channels", inputs), ("out_channels", outputs)):
        given = getattr(config, name)
        if given not in (1, count):
            raise SynthSRError(
                f"network.{name} must be {count}, which the generator and the loss make, got"
                f" {given}. Leave it out."
            )
    return replace(config, in_channels=inputs, out_channels=outputs)


def _check_uncertainty(training: TrainingConfig) -> None:
    """Refuse settings by which a second head cannot be trained."""
    if not training.uncertainty:
        return
    wrong = {
        "initial_weights must be a model": training.initial_weights is None,
        "loss.name must be laplace": training.loss.name != "laplace",
        "network.scale_features must be above 0": not training.network.scale_features,
        "loss.residual_channels must be null": training.loss.residual_channels is not None,
        "adversarial.weight must be 0": training.adversarial.weight > 0,
        "loss.segmentation.model must be null": training.loss.segmentation.model is not None,
    }
    found = [text for text, is_wrong in wrong.items() if is_wrong]
    if found:
        raise SynthSRError(
            f"{' and '.join(found)} to train uncertainty, which changes the second head alone."
            " Correct that, or leave uncertainty out."
        )


def _refuse_other_new(training: TrainingConfig, new: Sequence[str]) -> None:
    """Refuse initial weights that leave more than the second head new, if that alone is trained."""
    others = [note for note in new if not note.startswith("scales.")]
    if training.uncertainty and others:
        raise SynthSRError(
            f"initial weights must be all but those of the second head to train uncertainty, but"
            f" {others[0]}. Train the network on such pairs first."
        )


def _check_pair(training: TrainingConfig, pair: Pair) -> None:
    """Refuse losses that cannot be computed of such pairs, and batches beyond memory."""
    needed = 4 * training.run.batch_size * (pair.image.numel() + pair.target.numel())
    if needed > available_bytes():
        raise SynthSRError(
            "run.batch_size must be such that a batch fits into memory, got"
            f" {training.run.batch_size}, which needs {bytes_in_words(needed)} for the pairs alone."
            " Lower it, or the shape of the crop."
        )
    crop, patch = crop_sizes(training.loss.crop, "loss.crop"), tuple(pair.image.shape[-3:])
    if any(inner > size for inner, size in zip(crop, patch, strict=True)):
        raise SynthSRError(
            f"loss.crop must be at most the size of patches, {patch}, got {crop}."
            " Lower it, or set loss.crop=null to read all."
        )
    channels, grid, labels = pair.target.shape[1], pair.target.shape[2:], pair.labels.shape[2:]
    if training.loss.segmentation.model is not None and (channels != 1 or grid != labels):
        raise SynthSRError(
            "the segmentation regulariser needs one target channel on the grid of the label maps,"
            f" got {channels} channels of {tuple(grid)} for labels of {tuple(labels)}."
            " Leave out loss.segmentation, or the step that resamples the target."
        )
    adversarial = training.adversarial
    if adversarial.weight and adversarial.masked_labels and grid != labels:
        raise SynthSRError(
            "adversarial.masked_labels need targets on the grid of the label maps, got"
            f" {tuple(grid)} for labels of {tuple(labels)}. Leave them out, or the step that"
            " resamples the target."
        )


def _real_pairs(training: TrainingConfig, model: ModelConfig) -> RealPairs | None:
    settings = training.validation
    if settings.images is None or settings.labels is None or not settings.every_epochs:
        return None
    pairs = read_real_pairs(settings.images, settings.labels)
    return RealPairs(pairs, model, spacings_mm=settings.slice_spacings_mm)


def _notes(plan: RunPlan, training: TrainingConfig, num_targets: int) -> list[str]:
    """Say what the user may not expect."""
    notes = []
    if training.validation.every_epochs and not (plan.held_out_pairs or plan.held_out):
        what = "pair" if plan.pairs else "label map"
        notes.append(
            f"no {what} is held out: validation samples come from those of training (hold some"
            " out by --set validation.held_out=2)"
        )
    if num_targets > 1:
        notes.append(
            f"the network predicts {num_targets} images, which `synthsr predict` does not: use it"
            " from Python, or export it"
        )
    return notes


def _brief(notes: Sequence[str]) -> list[str]:
    """Say what is new in a network that starts from other weights."""
    if len(notes) <= 6:
        return [f"initial weights: {note}" for note in notes]
    return [f"initial weights: {len(notes)} tensors are new, first {notes[0].split()[0]}"]
