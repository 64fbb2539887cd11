"""Painting of a label map by several steps as one: every voxel is painted once.

Steps that replace an image in some elements of a batch overwrite what others painted. As the host
knows which step comes last for which element, one table per image holds the intensities that it
gives, and one look-up paints the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from torchio.data.batch import SubjectsBatch

from synthsr_transforms.functional.mixture import tissue_mixtures
from synthsr_transforms.seeds import Seeds, normal_field
from synthsr_transforms.support import devices
from synthsr_transforms.transforms import CopyImage, TissueContrast, TissueMixture
from synthsr_transforms.transforms.base import BARE_IMAGE, Params, add_image
from synthsr_transforms.transforms.common.images import find_labels, note_of_chosen
from synthsr_transforms.transforms.common.labels_on_grid import whole_labels
from synthsr_transforms.transforms.prepared import Prepared

Painter = TissueContrast | TissueMixture
Keep = Sequence[Sequence[bool]]


def painting_length(transforms: Sequence[Any]) -> int:
    """Number of the first transforms that paint images of one channel from one label map.

    The first makes an image; those after it make others, or replace some that were made.
    """
    made: set[str] = set()
    for length, transform in enumerate(transforms):
        if not _paints(transform, transforms[0], made):
            return length
        made.add(transform.destination)
    return len(transforms)


def _paints(transform: Any, first: Any, made: set[str]) -> bool:
    if type(transform) not in (TissueMixture, TissueContrast, CopyImage):
        return False
    if transform.include is not None or transform.exclude is not None:
        return False
    if type(transform) is CopyImage:
        known = {transform.source, transform.destination} <= made
        return transform.replace and transform.channels is None and known
    if transform.labels != first.labels or getattr(transform, "num_channels", 1) != 1:
        return False
    if getattr(transform, "replace", False):
        return transform.destination in made
    return bool(transform.p >= 1)


def can_paint(batch: SubjectsBatch, sampled: Sequence[Params]) -> bool:
    """Whether steps can paint a batch as one: images have names, and noise comes from seeds."""
    return BARE_IMAGE not in batch.images and not any("noise" in params for params in sampled)


def prepare_painting(
    batch: SubjectsBatch, steps: Sequence[Any], sampled: Sequence[Params], keep: Keep
) -> Prepared:
    """What steps paint together, as tables of label values.

    Args:
        batch: The batch to be painted; only its layout is read.
        steps: See `painting_length`.
        sampled: Their parameters.
        keep: The elements that each of them paints.
    """
    last = _last_painters(steps, keep, batch.batch_size)
    tables, seeds = _tables(steps, sampled, last)
    noisy = tables[1].any((1, 2)).tolist()
    if devices.computes_all(batch.device):
        may_vary = _images_that_may_vary(steps)
        noisy = [name in may_vary for name in last]
    flat = np.concatenate([tables[0], tables[1, noisy]]).swapaxes(0, 1)
    noise = {
        f"{name}.noise": Seeds(torch.from_numpy(own))
        for name, own, varies in zip(last, seeds, noisy, strict=True)
        if varies
    }
    flat = np.ascontiguousarray(flat)
    return {"tables": torch.from_numpy(flat), "images": tuple(last), "_keep": keep, **noise}


def note_painting(batch: SubjectsBatch, steps: Sequence[Any], prepared: Prepared) -> None:
    """Note which images a coil made, as the steps do."""
    for step, chosen in zip(steps, prepared["_keep"], strict=True):
        if _notes(step):
            note_of_chosen(batch, chosen, step.note_coil)


def paint(batch: SubjectsBatch, steps: Sequence[Any], prepared: Prepared) -> None:
    """Paint as the steps do one after the other, with what was prepared on the device."""
    _, like = find_labels(batch, steps[0].labels)
    labels, tables = whole_labels(like.data), prepared["tables"]
    for step in steps:
        if isinstance(step, TissueMixture) and step.check_labels:
            step.refuse_unknown(labels)
    names, shape = prepared["images"], labels.shape[1:]
    fields = [prepared.get(f"{name}.noise") for name in names]
    noises = [None if own is None else normal_field(own, shape, labels.device) for own in fields]
    for name, made in zip(names, tissue_mixtures(labels, tables, noises), strict=True):
        add_image(batch, name, made, like)


def paints_alike(steps: Sequence[Any]) -> bool:
    """Whether `paint` is the same work for all random numbers."""
    tables = {max(step.label_table.values) for step in steps if not isinstance(step, CopyImage)}
    checks = any(isinstance(step, TissueMixture) and step.check_labels for step in steps)
    return len(tables) == 1 and not checks


def _images_that_may_vary(steps: Sequence[Any]) -> set[str]:
    """Images that a step paints with noise, or that are copied from such."""
    varying: set[str] = set()
    for step in steps:
        if isinstance(step, CopyImage):
            noisy = step.source in varying
        else:
            noisy = isinstance(step, TissueMixture) or step.std.bounds[1] > 0
        if noisy and step.may_happen():
            varying.add(step.destination)
    return varying


def _last_painters(steps: Sequence[Any], keep: Keep, size: int) -> dict[str, list[int]]:
    """Number of the step that paints each element last, by name of the image."""
    last: dict[str, list[int]] = {}
    for number, (step, chosen) in enumerate(zip(steps, keep, strict=True)):
        painter = last[step.source] if isinstance(step, CopyImage) else [number] * size
        before = last.get(step.destination, painter)
        last[step.destination] = [
            new if here else old for new, old, here in zip(painter, before, chosen, strict=True)
        ]
    return last


def _tables(
    steps: Sequence[Any], sampled: Sequence[Params], last: dict[str, list[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Means and deviations per label value, `(2, images, B, V)`, and seeds, `(images, B)`."""
    used = {number for numbers in last.values() for number in numbers}
    own = {number: steps[number].tables(sampled[number])[:, :, 0].numpy() for number in used}
    size = len(next(iter(last.values())))
    tables = np.zeros((2, len(last), size, max(t.shape[-1] for t in own.values())), np.float32)
    seeds = np.zeros((len(last), size), np.int64)
    for image, numbers in enumerate(last.values()):
        for number in set(numbers):
            rows = [row for row, painter in enumerate(numbers) if painter == number]
            tables[:, image, rows, : own[number].shape[-1]] = own[number][:, rows]
            if "noise_seed" in sampled[number]:
                seeds[image, rows] = sampled[number]["noise_seed"].numpy()[rows]
    return tables, seeds


def _notes(step: Any) -> TypeGuard[TissueContrast | CopyImage]:
    return isinstance(step, TissueContrast | CopyImage)
