"""The label map of a head: grid, halves and affine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product

import numpy as np
import torch
import torchio as tio
from torch import Tensor

from .fields import interpolate, lattice_fields
from .individuals import Person, sample_person
from .painting import Brick, paint
from .shapes import Triple

_FIELD_OF_VIEW_MM = (184.0, 240.0, 208.0)
_BRICK_VOXELS = 48


def head_phantom(
    *,
    spacing_mm: float | Sequence[float] = 1.0,
    shape: Sequence[int] | None = None,
    seed: int = 0,
) -> tio.LabelMap:
    """Make the label map of a head.

    The head has a folded cortex, a foliated cerebellum, deep nuclei, ventricles, vessels, skull,
    face, skin and a neck that is cut flat, with the FreeSurfer and SynthSeg labels of
    `PHANTOM_LABELS` (left structures at `x < 0`, right ones at `x >= 0`). It is plausible, not
    anatomical truth: use it for tests and first steps, not to measure anatomy.

    Args:
        spacing_mm: Voxel size in mm, one number or one per axis (R, A, S). Any spacing samples
            the same head; structures thinner than a voxel may vanish.
        shape: Number of voxels per axis. By default as many as cover a field of view of
            184 x 240 x 208 mm, which holds every individual. The grid is centred on the head.
        seed: The individual. The same seed gives the same voxels; different seeds give heads of
            different size, shape, folds, ventricles, atrophy and skull.

    Returns:
        Label map with a tensor of shape `(1, *shape)`, dtype `int16`, and an RAS affine in mm
        whose origin is the middle of the head and of the grid.

    Examples:
        >>> head = head_phantom(spacing_mm=4.0, seed=1)
        >>> head.shape
        (1, 46, 60, 52)
        >>> left, right = (int((head.data == label).sum()) for label in (2, 41))
        >>> 0.8 < left / right < 1.25
        True
    """
    spacing = _spacing(spacing_mm)
    size = _size(shape, spacing)
    centres = [(torch.arange(n) - (n - 1) / 2) * s for n, s in zip(size, spacing, strict=True)]
    near = [
        slice(int((a < -f / 2).sum()), int((a <= f / 2).sum()))
        for a, f in zip(centres, _FIELD_OF_VIEW_MM, strict=True)
    ]
    x, y, z = (a[s] for a, s in zip(centres, near, strict=True))
    with _one_thread():
        person = sample_person(seed)
        left = _half_head((x[x < 0].abs().flip(0), y, z), person, side=0)
        right = _half_head((x[x >= 0], y, z), person, side=1)
    labels = torch.zeros(size, dtype=torch.int16)
    labels[tuple(near)] = torch.cat([left.flip(0), right])
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * s for n, s in zip(size, spacing, strict=True)]
    return tio.LabelMap(labels[None], affine=affine)


def _half_head(axes: tuple[Tensor, ...], person: Person, side: int) -> Tensor:
    """Labels of the voxels of one side; the first axis is the distance from the midline."""
    labels = torch.zeros([len(a) for a in axes], dtype=torch.int16)
    lattice = lattice_fields(person, side)
    for corner in product(*(range(0, len(a), _BRICK_VOXELS) for a in axes)):
        part = tuple(slice(i, i + _BRICK_VOXELS) for i in corner)
        brick_axes = tuple(a[s] for a, s in zip(axes, part, strict=True))
        fields = interpolate(lattice, brick_axes)
        if fields is not None:
            paint(Brick(brick_axes, fields, labels[part], side, person))
    return labels


def _spacing(spacing_mm: float | Sequence[float]) -> Triple:
    values = [spacing_mm] * 3 if isinstance(spacing_mm, (int, float)) else list(spacing_mm)
    if len(values) != 3 or not all(0 < value < math.inf for value in values):
        msg = (
            f"spacing_mm must be one or three positive numbers, got {spacing_mm}. "
            f"Give the voxel size in mm along R, A and S."
        )
        raise ValueError(msg)
    return values[0], values[1], values[2]


def _size(shape: Sequence[int] | None, spacing_mm: Triple) -> tuple[int, ...]:
    if shape is None:
        return tuple(math.ceil(f / s) for f, s in zip(_FIELD_OF_VIEW_MM, spacing_mm, strict=True))
    size = tuple(int(n) for n in shape)
    if len(size) != 3 or size != tuple(shape) or min(size) < 1:
        msg = (
            f"shape must be three positive whole numbers, got {tuple(shape)}. "
            f"Give the number of voxels along R, A and S, or None for the whole head."
        )
        raise ValueError(msg)
    return size


@contextmanager
def _one_thread() -> Iterator[None]:
    """Thousands of small operations gain nothing from threads, and wait for them on busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
