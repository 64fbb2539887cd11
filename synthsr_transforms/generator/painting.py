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
from synthsr_transforms.seeds import normal_field
from synthsr_transforms.transforms import CopyImage, TissueContrast, TissueMixture
from synthsr_transforms.transforms.base import BARE_IMAGE, Params, add_image, put_notes
from synthsr_transforms.transforms.common.images import Notes, find_labels
from synthsr_transforms.transforms.common.labels_on_grid import whole_labels

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


def paint(
    batch: SubjectsBatch, steps: Sequence[Any], sampled: Sequence[Params], keep: Keep
) -> None:
    """Paint as the steps do one after the other.

    Args:
        batch: The batch to change.
        steps: See `painting_length`.
        sampled: Their parameters.
        keep: The elements that each of them paints.
    """
    _, like = find_labels(batch, steps[0].labels)
    last = _last_painters(steps, keep, batch.batch_size)
    tables, seeds = _tables(steps, sampled, last)
    labels = whole_labels(like.data)
    for step in steps:
        if isinstance(step, TissueMixture) and step.check_labels:
            step.refuse_unknown(labels)
    noisy = tables[1].any((1, 2))
    flat = torch.from_numpy(np.concatenate([tables[0], tables[1, noisy]]).swapaxes(0, 1))
    shape, device = labels.shape[1:], labels.device
    noises = [
        normal_field(torch.from_numpy(own), shape, device) if wanted else None
        for own, wanted in zip(seeds, noisy, strict=True)
    ]
    painted = tissue_mixtures(labels, flat.to(device, non_blocking=True), noises)
    for name, made in zip(last, painted, strict=True):
        add_image(batch, name, made, like)
    _note(batch, steps, keep)


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


def _note(batch: SubjectsBatch, steps: Sequence[Any], keep: Keep) -> None:
    """Note which images a coil made, as the steps do."""
    for step, chosen in zip(steps, keep, strict=True):
        index = [element for element, here in enumerate(chosen) if here]
        if index and _notes(step):
            part = {key: [values[i] for i in index] for key, values in batch.metadata.items()}
            notes = Notes(part, len(index))
            step.note(notes)
            put_notes(batch, notes.metadata, index)


def _notes(step: Any) -> TypeGuard[TissueContrast | CopyImage]:
    return isinstance(step, TissueContrast | CopyImage)
