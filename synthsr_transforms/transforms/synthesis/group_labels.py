"""Segmentations to train on."""

from __future__ import annotations

from typing import Any

from torchio.data.batch import SubjectsBatch

from synthsr_transforms.labels.structures import AUTO, StructureTable
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.transforms.base import Params
from synthsr_transforms.transforms.images import add_made_image
from synthsr_transforms.transforms.kinds import SynthLabelTransform
from synthsr_transforms.transforms.labels_on_grid import whole_labels


class GroupLabels(SynthLabelTransform):
    """Group the labels of a label map into structures: the target of a segmentation.

    The result is a label map. `SkullStripping` and `PartialFieldOfView` mask it if their `include`
    names it, so that structures which the image does not show become background.

    Args:
        label_table: Labels of the label map: a `LabelTable`, the name of a ready one or a file.
        structures: Name of a ready structure table, path of a `.tsv` file with the columns value,
            name and labels, `each` for one structure per label, or `auto`; see
            `labels.structures.StructureTable.resolve`.
        destination: Name of the label map to make. A bare tensor, array or image is replaced.
        **kwargs: See `SynthLabelTransform`.

    Examples:
        >>> import torch
        >>> group = GroupLabels(label_table="freesurfer_aparc_aseg")
        >>> group(torch.tensor([2, 1005, 77]).reshape(1, 3, 1, 1)).flatten().tolist()
        [2, 3, 2]
    """

    preserves_layout = False

    def __init__(
        self,
        *,
        label_table: LabelTable | str,
        structures: str = AUTO,
        destination: str = "target",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.label_table = LabelTable.resolve(label_table)
        self.structures, self.destination = structures, destination
        self.structure_table = StructureTable.resolve(structures, self.label_table)
        self._lookup = self.structure_table.lookup()

    def apply_params(self, batch: SubjectsBatch, params: Params) -> None:
        """Add the label map of structures."""
        _, labels = self.label_image(batch)
        lookup = self._lookup.to(labels.device, non_blocking=True)
        values = whole_labels(labels.data).clamp(0, len(lookup) - 1).long()
        add_made_image(batch, self.destination, lookup[values], labels, labels=True)
