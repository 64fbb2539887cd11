"""A standard contrast, such as the target of a regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator
from torchio.data.batch import SubjectsBatch

from synthsr_transforms.distributions import (
    Constant,
    Distribution,
    DistributionSpec,
    Uniform,
    as_distribution,
)
from synthsr_transforms.functional.mixture import look_up, tissue_mixture
from synthsr_transforms.labels.rows import TISSUES
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.seeds import sample_seeds
from synthsr_transforms.transforms.base import (
    BARE_IMAGE,
    Params,
    check_destination,
    replace_image,
)
from synthsr_transforms.transforms.images import add_made_image
from synthsr_transforms.transforms.kinds import SynthLabelTransform
from synthsr_transforms.transforms.labels_on_grid import ValueIndex, whole_labels
from synthsr_transforms.transforms.random_fields import field_from_params


class TissueContrast(SynthLabelTransform):
    """Make an image in which every tissue has a chosen intensity.

    Unlike `TissueMixture`, which samples contrasts at random, this gives one known contrast
    whatever the label set: each label takes the intensity of its value, else of its tissue.

    Args:
        label_table: Labels and their tissues: a `LabelTable`, the name of a ready one or a file.
        by_tissue: Distribution of the intensity of each tissue (see `labels.TISSUES`); those not
            named are 0.
        by_value: Distributions of single label values, which win over those of the tissue.
        std: Distribution of the standard deviation inside each label.
        destination: Name of the image to make. A bare tensor, array or image is replaced.
        replace: The destination exists already, with one channel and the shape of the label map,
            and is replaced, in the elements of a batch that `p` chooses, decided for each.
        **kwargs: See `SynthLabelTransform`.

    Examples:
        >>> import torch
        >>> t1 = TissueContrast(label_table="freesurfer_aseg", by_tissue={"white_matter": 110})
        >>> t1(torch.tensor([0, 2]).reshape(1, 2, 1, 1)).flatten().tolist()
        [0.0, 110.0]
    """

    preserves_layout = False

    def __init__(
        self,
        *,
        label_table: LabelTable | str,
        by_tissue: Mapping[str, DistributionSpec] | None = None,
        by_value: Mapping[int, DistributionSpec] | None = None,
        std: DistributionSpec = 0.0,
        destination: str = "target",
        replace: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.label_table = LabelTable.resolve(label_table)
        self.by_tissue = _distributions(by_tissue or {}, "by_tissue")
        unknown = set(self.by_tissue) - set(TISSUES)
        if unknown:
            raise ValueError(f"by_tissue must name tissues of {list(TISSUES)}, got {unknown}.")
        self.by_value = {int(k): v for k, v in _distributions(by_value or {}, "by_value").items()}
        self.std = as_distribution(std, name="std", minimum=0, single=True)
        self.destination = destination
        self.replace = self.preserves_layout = bool(replace)
        self._row_index = ValueIndex(self.label_table.index_lookup())
        zero = as_distribution(0)
        self._of_rows = [
            self.by_value.get(row.value) or self.by_tissue.get(row.tissue) or zero
            for row in self.label_table.rows
        ]
        self._together = _as_one(self._of_rows)

    def check(self, batch: SubjectsBatch) -> None:
        """Refuse a batch without the image to replace."""
        super().check(batch)
        if self.replace:
            check_destination(batch, self.destination)

    def sample_params(self, batch: SubjectsBatch, generator: Generator | None) -> Params:
        """Sample intensity and standard deviation per label, and the seed of the noise."""
        size = (batch.batch_size, 1, len(self.label_table))
        return {
            "means": self._together.sample(size, generator)
            if self._together
            else torch.stack([one.sample(size[:2], generator) for one in self._of_rows], -1),
            "stds": self.std.sample(size, generator),
            "noise_seed": sample_seeds(batch.batch_size, generator),
        }

    def apply_params(self, batch: SubjectsBatch, params: Params) -> None:
        """Make the image."""
        _, image = self.label_image(batch)
        numbers = torch.stack([params["means"], params["stds"]])
        means, stds = self._row_index.spread(numbers, image.device)
        labels = whole_labels(image.data).clamp(0, means.shape[-1] - 1)
        if bool(params["stds"].any()):
            noise = field_from_params(params, "noise", (1, *labels.shape[2:]), labels.device)
            made = tissue_mixture(labels, means, stds, noise)
        else:
            made = look_up(labels, means)
        if self.replace and BARE_IMAGE not in batch.images:
            replace_image(batch, self.destination, made)
        else:
            add_made_image(batch, self.destination, made, image)


def _distributions(specs: Mapping[Any, DistributionSpec], name: str) -> dict[Any, Distribution]:
    if not isinstance(specs, Mapping):
        raise ValueError(f"{name} must be a mapping to intensities, got {specs!r}.")
    return {
        key: as_distribution(spec, name=f"{name}.{key}", single=True) for key, spec in specs.items()
    }


def _as_one(distributions: Sequence[Distribution]) -> Distribution | None:
    """Constant and uniform distributions as one with bounds per label, which is faster."""
    simple = [one for one in distributions if isinstance(one, Constant | Uniform)]
    if len(simple) < len(distributions):
        return None
    bounds = [one.bounds for one in simple]
    return Uniform(tuple(low for low, _ in bounds), tuple(high for _, high in bounds))
