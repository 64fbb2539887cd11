"""Images of a batch: found by name, made, moved; and what steps note in the metadata for others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchio.data.batch import ImagesBatch, SubjectsBatch

from ..base import BARE_IMAGE, add_image, is_label_map, put_notes, set_affines

ACQUISITION_SPACING = "acquisition_spacing_mm"
"""Spacing of each channel to be acquired, `(C, 3)` in mm."""
ACQUISITION_THICKNESS = "acquisition_thickness_mm"
"""Slice thickness of each channel to be acquired, `(C, 3)` in mm."""
SLICES = "slices"
"""Plan of the last slice acquisition."""
OUTPUT_SHAPE = "output_shape"
"""Size of the patch on the target grid."""
REGISTRATION_ERROR = "registration_error"
"""Pull-backs in mm that channels were moved by, `(C, 4, 4)`."""
SCAN = "scan"
"""Number of the scan of a head, from 0; the first is the reference."""
WITHOUT_COIL = "without_coil"
"""Names of the images that no receive coil made, such as computed tomography."""


def named_image(batch: SubjectsBatch, name: str) -> Any:
    """The image of that name, or the only one; for `image` also the only one beside label maps.

    Raises:
        ValueError: If there is none of them.
    """
    if name in batch.images:
        return batch.images[name]
    images = list(batch.images.values())
    if len(images) > 1 and name == "image":
        images = [image for image in images if not is_label_map(image)]
    if len(images) == 1:
        return images[0]
    raise ValueError(
        f"image must be one of {list(batch.images)}, got {name!r}. Name an image of the subject."
    )


def find_labels(batch: SubjectsBatch, name: str = "labels") -> tuple[str, ImagesBatch]:
    """The label map of a batch: the one of that name, the only label map, or the only image.

    Raises:
        ValueError: If none of the three exists.
    """
    if name in batch.images:
        return name, batch.images[name]
    maps = [k for k, image in batch.images.items() if is_label_map(image)]
    candidates = maps if len(maps) == 1 else list(batch.images)
    if len(candidates) == 1:
        return candidates[0], batch.images[candidates[0]]
    raise ValueError(
        f"label map must be named {name!r}, got images {list(batch.images)}."
        " Rename it or pass its name as labels=."
    )


def add_made_image(
    batch: SubjectsBatch, name: str, data: Tensor, like: ImagesBatch, *, labels: bool = False
) -> None:
    """Add the image that a transform makes; an input without a name is replaced."""
    own = BARE_IMAGE if BARE_IMAGE in batch.images else name
    add_image(batch, own, data, like, labels=labels)


@dataclasses.dataclass
class Notes:
    """Metadata of some elements of a batch.

    Attributes:
        metadata: One value for each of them, by key.
        batch_size: Their number.
    """

    metadata: dict[str, list[Any]]
    batch_size: int


def note_coil(batch: SubjectsBatch | Notes, name: str, has_coil: Sequence[bool]) -> None:
    """Note of which elements a receive coil made an image, which is what images are without a note.

    Args:
        batch: The batch to change.
        name: Of the image.
        has_coil: One for each element.
    """
    noted = batch.metadata.get(WITHOUT_COIL)
    if noted is None and all(has_coil):
        return
    others = [sorted({*(names or ())} - {name}) for names in noted or [()] * batch.batch_size]
    batch.metadata[WITHOUT_COIL] = [
        names if coil else sorted([*names, name])
        for names, coil in zip(others, has_coil, strict=True)
    ]


def note_of_chosen(
    batch: SubjectsBatch, chosen: Sequence[bool], note: Callable[[Notes], None]
) -> None:
    """Let a function change the metadata of some elements of a batch only."""
    index = [element for element, here in enumerate(chosen) if here]
    if index:
        part = {key: [values[i] for i in index] for key, values in batch.metadata.items()}
        notes = Notes(part, len(index))
        note(notes)
        put_notes(batch, notes.metadata, index)


def has_coil(batch: SubjectsBatch | Notes, name: str) -> list[bool]:
    """Of which elements a receive coil made an image."""
    noted = batch.metadata.get(WITHOUT_COIL) or [()] * batch.batch_size
    return [name not in (names or ()) for names in noted]


def check_one_shape(
    images: Mapping[str, ImagesBatch], user: str, *, channels: bool = False
) -> None:
    """Refuse images of several shapes, or none.

    Raises:
        ValueError: If shapes differ, or numbers of channels where they count.
    """
    first = 1 if channels else 2
    shapes = {name: tuple(image.data.shape[first:]) for name, image in images.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(
            f"{user} needs images of one shape, got {shapes}."
            " Resample them to one grid or name those to transform with include."
        )


def outside(image: ImagesBatch, value: float) -> float:
    """Value of voxels that a mask leaves out, a whole number for label maps."""
    return int(value) if is_label_map(image) else value


def float_dtype(data: Tensor) -> torch.dtype:
    """Type of an image after a change: its own, or float32 for whole numbers."""
    return data.dtype if data.is_floating_point() else torch.float32


def channel_indices(channels: Sequence[int]) -> list[int]:
    """Indices of channels as a list.

    Raises:
        ValueError: If there is none, or one is negative.
    """
    indices = [int(c) for c in channels]
    if not indices or min(indices) < 0:
        raise ValueError(
            f"channels must be indices from 0 on, got {channels!r}. Name at least one."
        )
    return indices


def check_channels(channels: Sequence[int], data: Tensor, name: str) -> None:
    """Refuse channels that an image `(B, C, X, Y, Z)` does not have."""
    if max(channels) >= data.shape[1]:
        raise ValueError(
            f"channels must be below {data.shape[1]} for image {name!r}, got {list(channels)}."
        )


def noted_output_shape(batch: SubjectsBatch) -> tuple[int, int, int] | None:
    """Size on the target grid that `PatchCrop` noted, if it did."""
    noted = batch.metadata.get(OUTPUT_SHAPE)
    if not noted:
        return None
    x, y, z = (int(n) for n in noted[0])
    return x, y, z


def move_origins(image: ImagesBatch, start: Tensor, ratio: Tensor | None = None) -> None:
    """Affines of a grid that begins at voxel `start`, `(B or 1, 3)`, its spacing times `ratio`."""
    firsts = start.double().expand(len(image.affines), 3).numpy()
    scale = None if ratio is None else ratio.double().numpy()
    matrices = []
    for affine, first in zip(image.affines, firsts, strict=True):
        matrix = affine.data.numpy().copy()
        matrix[:3, 3] += matrix[:3, :3] @ first
        if scale is not None:
            matrix[:3, :3] *= scale
        matrices.append(torch.from_numpy(matrix))
    set_affines(image, matrices)


def rescale_affines(
    image: ImagesBatch, before: Sequence[int], after: Sequence[int], *, centred: bool = False
) -> None:
    """Affines of a resized image, whose spacing changes by `before / after`.

    Index 0 stays where it is, or, if `centred`, the field of view does.
    """
    if tuple(before) != tuple(after):
        ratio = torch.tensor(list(before), dtype=torch.float64) / torch.tensor(list(after))
        move_origins(image, (ratio[None] - 1) / 2 * centred, ratio)
