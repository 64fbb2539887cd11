"""Fitting the generator to the label maps, the network and the loss before a run begins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torchio.data.affine import AffineMatrix

from synthsr_net.losses import SEGMENTATION_LOSSES
from synthsr_net.losses.base import crop_sizes
from synthsr_net.training.config import TrainingConfig
from synthsr_net.training.data.bank import Bank, Entry, Size, common_shape, with_brain_boxes
from synthsr_net.training.data.stream import PairStream
from synthsr_transforms.generator.config import GeneratorConfig, StepConfig
from synthsr_transforms.generator.generator import Generator, Pair
from synthsr_transforms.labels.structures import StructureTable
from synthsr_transforms.support.messages import SynthSRError, check_choice, listed
from synthsr_transforms.transforms import (
    GroupLabels,
    PatchCrop,
    SpatialDeformation,
    TargetResolution,
)
from synthsr_transforms.transforms.base import Grid

ADDED_STEP = "crop_to_multiple"
"""Step that is added where label maps are not divided by what the network divides by."""


class Fitted(NamedTuple):
    """A generator and label maps that fit each other and the network.

    Attributes:
        generator: With its label table chosen and its patch of a size that the network takes.
        entries: Label maps, padded where the loss or the batch asks for it.
        notes: Corrections, in sentences.
    """

    generator: Generator
    entries: list[Entry]
    notes: list[str]


def fit(config: GeneratorConfig, training: TrainingConfig, entries: Sequence[Entry]) -> Fitted:
    """Choose the label table, pad label maps and correct the patch.

    Args:
        config: The generator.
        training: The training.
        entries: Label maps of training and validation.

    Raises:
        SynthSRError: If the label table lacks labels, the patch is larger than a label map, or the
            target is both real and made, or neither.
    """
    generator = Generator.for_labels(config, set().union(*(e.present() for e in entries)))
    _check_target(generator)
    name, crop = _last_crop(generator)
    margin = padding(training, None if crop is None else crop.shape)
    entries = [entry.padded(margin, margin) for entry in entries]
    _check_batches(generator, training.run.batch_size, entries)
    notes = [] if not any(margin) else [f"label maps are padded by {_times(margin)} voxels"]
    if training.run.batch_size > 1 and len({entry.shape for entry in entries}) > 1:
        entries = common_shape(entries)
        notes.append(f"label maps are padded to {_times(entries[0].shape)} voxels, for batches")
    divisor = training.network.divisor
    if crop is None:
        generator = _cropped(generator, entries, divisor, notes)
    else:
        for entry in entries:
            _check_reach(name, crop, entry, margin)
        generator = _rounded(generator, entries, divisor, notes)
    return Fitted(generator, with_brain_boxes(entries, generator), notes)


def _last_crop(generator: Generator) -> tuple[str, PatchCrop | None]:
    """The step that decides on the size of patches, with its name."""
    crops = [(n, t) for n, t in generator.transforms.items() if isinstance(t, PatchCrop)]
    return crops[-1] if crops else ("", None)


def _check_target(generator: Generator) -> None:
    """Refuse a target that is both real and made by a step."""
    makers = list(_makers_of_target(generator))
    if generator.config.real_target and makers:
        raise SynthSRError(
            f"the target must be a real image or made by a step, got both: real_target is true and"
            f" step {makers[0]!r} makes {generator.config.target!r}. Set real_target=false, or"
            " remove the step."
        )


def _makers_of_target(generator: Generator) -> dict[str, Any]:
    """Steps that make the target, by name."""
    steps, target = generator.transforms, generator.config.target
    return {n: t for n, t in steps.items() if getattr(t, "destination", None) == target}


def _check_batches(generator: Generator, batch_size: int, entries: Sequence[Entry]) -> None:
    """Refuse batches of label maps of several spacings where targets are resampled."""
    resampled = any(isinstance(t, TargetResolution) for t in generator.transforms.values())
    spacings = sorted({tuple(_grid(entry).spacing_mm[0].tolist()) for entry in entries})
    if batch_size > 1 and resampled and len(spacings) > 1:
        raise SynthSRError(
            "batches of several samples need label maps of one voxel spacing where targets are"
            f" resampled, got {spacings[0]} and {spacings[-1]} mm. Use run.batch_size=1, or correct"
            " the headers."
        )


def padding(training: TrainingConfig, patch: Size | None) -> Size:
    """Return the zeros to add on each side of label maps, so that the loss reaches all voxels.

    With a loss in a central box, voxels within half of what it leaves out of the patch from the
    border would never count; see `padding_margin` of the original.
    """
    given = crop_sizes(training.loss.padding_voxels, "loss.padding_voxels")
    crop = crop_sizes(training.loss.crop, "loss.crop")
    if training.loss.padding_voxels is not None or patch is None:
        return given
    x, y, z = (
        max(0, (size - inner) // 2) if inner else 0 for size, inner in zip(patch, crop, strict=True)
    )
    return x, y, z


def _rounded(
    generator: Generator, entries: Sequence[Entry], divisor: int, notes: list[str]
) -> Generator:
    """Return a generator whose patch has sizes that are multiples of the divisor."""
    name, before = _last_crop(generator)
    assert before is not None
    multiple = math.lcm(before.multiple_of or 1, divisor)
    if before.shape is not None and min(before.shape) < multiple:
        raise SynthSRError(
            f"{name}.shape must be at least {multiple}, the multiple that the network with"
            f" its levels needs, got {_times(before.shape)}. Raise it, or lower network.num_levels."
        )
    if multiple == before.multiple_of:
        return generator
    steps = generator.config.steps
    step = replace(steps[name], params={**steps[name].params, "multiple_of": multiple})
    result = Generator(replace(generator.config, steps={**steps, name: step}))
    _, after = _last_crop(result)
    assert after is not None
    grids = [_grid(entry) for entry in entries]
    sizes = {(before.plan(grid).output_shape, after.plan(grid).output_shape) for grid in grids}
    notes += [
        f"patches of {_times(a)} voxels become {_times(b)}, multiples of {divisor}"
        for a, b in sorted(sizes)
        if a != b
    ]
    return result


def _cropped(
    generator: Generator, entries: Sequence[Entry], divisor: int, notes: list[str]
) -> Generator:
    """Return a generator that crops whole label maps to multiples of the divisor where needed."""
    whole = all(size % divisor == 0 for entry in entries for size in entry.shape)
    if whole or any(isinstance(t, TargetResolution) for t in generator.transforms.values()):
        return generator
    notes.append(f"label maps are cropped to sizes that are multiples of {divisor}")
    items = list(generator.config.steps.items())
    first = next(iter(generator.transforms.values()), None)
    place = 1 if isinstance(first, SpatialDeformation) else 0
    items.insert(place, (ADDED_STEP, StepConfig(name="PatchCrop", params={"multiple_of": divisor})))
    return Generator(replace(generator.config, steps=dict(items)))


def _check_reach(name: str, crop: PatchCrop, entry: Entry, margin: Size) -> None:
    """Refuse a patch that is larger than a label map."""
    if crop.shape is None:
        return
    whole = PatchCrop(target_spacing_mm=crop.target_spacing_mm).plan(_grid(entry)).output_shape
    if any(size > most for size, most in zip(crop.shape, whole, strict=True)):
        missing = max(
            math.ceil((size - most) * n / most / 2) + added
            for size, most, n, added in zip(crop.shape, whole, entry.shape, margin, strict=True)
        )
        raise SynthSRError(
            f"{name}.shape must be at most the size of each label map, got {_times(crop.shape)} for"
            f" {entry.place} of {_times(whole)} voxels. Use --set"
            f" {name}.shape={min(whole)} or less, or pad label maps with zeros by"
            f" --set loss.padding_voxels={missing}."
        )


def _grid(entry: Entry) -> Grid:
    return Grid(1, 1, entry.shape, [AffineMatrix(entry.affine)])


def structures_of(generator: Generator) -> StructureTable | None:
    """Return the structures of the target, or None if it is no segmentation."""
    makers = _makers_of_target(generator).values()
    return next((t.structure_table for t in makers if isinstance(t, GroupLabels)), None)


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


def probe(fitted: Fitted, training: TrainingConfig) -> Pair:
    """Make the first pair on the CPU, and check that a network can be trained on it.

    Raises:
        SynthSRError: If sizes are not divided by what the network divides by, differ between input
            and target, or values are not finite.
    """
    config = fitted.generator.config
    bank = Bank(fitted.entries[:1], target=config.target, image=config.image)
    stream = PairStream(fitted.generator, bank)
    pair = stream.pair(0)
    image, target = pair.image.shape[-3:], pair.target.shape[2:]
    divisor = training.network.divisor
    if image != target:
        raise SynthSRError(
            f"input and target must have one size, got {_times(image)} and {_times(target)} voxels."
            " Resample the input to the target's grid (SliceAcquisition, TargetResolution)."
        )
    if any(size % divisor for size in image):
        raise SynthSRError(
            f"patches must have sizes that are multiples of {divisor}, got {_times(image)}."
            " Change the shape of the crop, or network.num_levels."
        )
    alone = training.run.batch_size == 1 and all(size == divisor for size in image)
    if training.network.normalisation == "batch" and alone:
        raise SynthSRError(
            "batch normalisation needs more than one voxel at the lowest level, got patches of"
            f" {_times(image)}. Use larger ones, or --set network.normalisation=group."
        )
    for name, volume in (("image", pair.image), ("target", pair.target)):
        if not bool(torch.isfinite(volume).all()):
            raise SynthSRError(f"the {name} of pairs must be finite, got NaN. Check the steps.")
    return pair


def output_shapes(fitted: Fitted) -> set[Size]:
    """Return the sizes of patches of all label maps."""
    _, crop = _last_crop(fitted.generator)
    if crop is None:
        return {entry.shape for entry in fitted.entries}
    return {crop.plan(_grid(entry)).output_shape for entry in fitted.entries}


def check_spacing(entries: Sequence[Entry]) -> float:
    """Return the voxel spacing in mm of all label maps, for the model file.

    Raises:
        SynthSRError: If it differs between label maps by more than a twentieth.
    """
    spacings = [_grid(entry).spacing_mm[0].tolist() for entry in entries]
    low = min(min(spacing) for spacing in spacings)
    high = max(max(spacing) for spacing in spacings)
    if high > 1.05 * low:
        pairs = zip(entries, spacings, strict=True)
        odd = [e.subject.name for e, spacing in pairs if max(spacing) > 1.05 * low]
        raise SynthSRError(
            "label maps must have one isotropic voxel spacing, got"
            f" {low:g} to {high:g} mm ({listed(odd, 3)}). Resample them with nearest neighbour."
        )
    return float(low)


def _times(sizes: Sequence[int]) -> str:
    return " x ".join(str(int(size)) for size in sizes)
