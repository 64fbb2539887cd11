"""Left-right flip."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchio.data.batch import SubjectsBatch

from synthsr_transforms.functional.mixture import look_up
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.transforms.base import Grid, Params, is_label_map
from synthsr_transforms.transforms.kinds import SynthSpatialTransform
from synthsr_transforms.transforms.random_fields import per_element


class HemisphereFlip(SynthSpatialTransform):
    """Mirror the head left to right and exchange left and right labels.

    The axis is the one closest to the left-right axis of the world. Affines stay: a mirrored head
    lies where the head was. Applying the flip twice gives the input back.

    Args:
        label_table: Which labels are partners: a `LabelTable`, the name of a ready one or a file.
            None mirrors without an exchange (right for labels without sides).
        **kwargs: See `SynthTransform`; `p` is the probability of a flip.

    Examples:
        >>> import torch
        >>> HemisphereFlip()(torch.arange(2.0).reshape(1, 2, 1, 1)).flatten().tolist()
        [1.0, 0.0]
    """

    def __init__(self, *, label_table: LabelTable | str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.label_table = None if label_table is None else LabelTable.resolve(label_table)
        self._swap = None if self.label_table is None else self.label_table.swap_lookup()

    def apply_params(self, batch: SubjectsBatch, params: Params) -> None:
        """Reverse the axis and exchange labels."""
        axis = left_right_axis(self.grid(batch))
        for image in self.chosen_images(batch).values():
            image.data = image.data.flip(axis + 2)
        self.swap_sides(batch, torch.ones(batch.batch_size, dtype=torch.bool))

    def swap_sides(self, batch: SubjectsBatch, flipped: Tensor) -> None:
        """Exchange left and right labels in the elements that were mirrored."""
        if self._swap is None or not bool(flipped.any()):
            return
        for image in self.chosen_images(batch).values():
            if is_label_map(image):
                image.data = _swapped(image.data, self._swap, flipped)


def _swapped(labels: Tensor, swap: Tensor, flipped: Tensor) -> Tensor:
    """Exchange partners where flipped; values beyond the table stay."""
    index = labels.int().clamp(0, len(swap) - 1)
    table = swap.to(labels.device, non_blocking=True).expand(len(labels), 1, -1)
    exchange = (index == labels) & per_element(flipped, labels.device)
    return torch.where(exchange, look_up(index, table).to(labels.dtype), labels)


def left_right_axis(grid: Grid) -> int:
    """The voxel axis closest to the left-right axis of the world, the same for all elements.

    Raises:
        ValueError: If elements of the batch are oriented differently.
    """
    columns = torch.stack([affine.data[0, :3] for affine in grid.affines]).cpu()
    axes = (columns / grid.spacing_mm).abs().argmax(1)
    if bool((axes != axes[0]).any()):
        raise ValueError(
            "HemisphereFlip needs images of one orientation in a batch, got left-right axes"
            f" {axes.tolist()}. Reorient them first, for example with torchio.Reorient."
        )
    return int(axes[0])
