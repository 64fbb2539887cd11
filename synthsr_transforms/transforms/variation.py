"""Variation inside tissues by smooth random fields."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torchio.data.batch import SubjectsBatch

from synthsr_transforms.distributions import DistributionSpec, as_distribution
from synthsr_transforms.functional.texture import vary_alike
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.seeds import sample_seeds

from .base import Params, grid_of
from .common.images import float_dtype, named_image
from .common.labels_on_grid import LabelSet, whole_labels
from .common.random_fields import SmoothFields, smooth_fields
from .kinds import SynthLabelTransform
from .prepared import Prepared, prefixed, under


class SharedTexture(SynthLabelTransform):
    r"""Vary the intensities of a target inside its tissues, and those of the input alike.

    Label maps give every voxel of a structure one mean, and noise of the input says nothing about
    the target. In real scans, structures vary inside: borders run through voxels, and tissues mix.
    Such variation has the sign of the contrast: where a T1 gets brighter, a T2 gets darker. A
    smooth random field f, standard normal at every voxel, multiplies the target t, and the input
    follows along the line that fits its intensities to those of the target best (least squares over
    the voxels where t > 0):
    \(t \leftarrow t (1 + s f)\), \(x \leftarrow x + a\, t s f\), \(a = \mathrm{cov}(x, t) /
    \mathrm{var}(t)\). Where input and target have no common contrast, a is near 0.

    Contrasts of several tissues seldom lie on one line. With `tissues`, such as white and grey
    matter, both the texture and the fit are restricted to them, so that the texture looks as if
    these tissues were mixed.

    Args:
        std: Distribution of the standard deviation s, a ratio of the intensity of the target.
        size_mm: Distribution of the distance between the grid points of the field, in mm: about the
            size of a grain.
        tissues: The only tissues to vary, see `labels.TISSUES`; None varies all voxels.
        label_table: Which labels belong to the tissues; needed to name tissues.
        image: Name of the input.
        target: Name of the target, on the same grid; channels of the input follow its first one.
        **kwargs: See `SynthLabelTransform`.

    Examples:
        >>> import torch
        >>> ramp = torch.linspace(0, 1, 8).expand(1, 8, 8, 8)
        >>> out = SharedTexture(std=0.1)({"image": 1 - ramp, "target": ramp})
        >>> bool(torch.allclose(out["image"] + out["target"], torch.ones(()), atol=1e-5))
        True
    """

    def __init__(
        self,
        *,
        std: DistributionSpec = (0.0, 0.08),
        size_mm: DistributionSpec = (2.0, 8.0),
        tissues: Sequence[str] | None = None,
        label_table: LabelTable | str | None = None,
        image: str = "image",
        target: str = "target",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.std = as_distribution(std, name="std", minimum=0, single=True)
        self.size_mm = as_distribution(size_mm, name="size_mm", minimum=0.5, single=True)
        self.tissues = None if tissues is None else list(tissues)
        self.label_table = None if label_table is None else LabelTable.resolve(label_table)
        if tissues is not None and self.label_table is None:
            raise ValueError("label_table must be given to name tissues, got none. Give its name.")
        self._varied = (
            None
            if self.tissues is None or self.label_table is None
            else LabelSet.of_tissues(self.label_table, self.tissues)
        )
        self.image, self.target = image, target

    def sample_params(self, batch: SubjectsBatch, generator: Generator | None) -> Params:
        """Sample strength, grain and seed of the field."""
        size = batch.batch_size
        return {
            "std": self.std.sample((size,), generator),
            "size_mm": self.size_mm.sample((size,), generator),
            "texture_seed": sample_seeds(size, generator),
        }

    def prepare(self, batch: SubjectsBatch, params: Params) -> Prepared:
        """The field, and its strength."""
        image, target = named_image(batch, self.image), named_image(batch, self.target)
        if image.data.shape[2:] != target.data.shape[2:]:
            raise ValueError(
                "image and target must have one shape, got"
                f" {tuple(image.data.shape[2:])} and {tuple(target.data.shape[2:])}. Put"
                " SharedTexture before steps that resample one of them."
            )
        fields = SmoothFields(params["texture_seed"], params["size_mm"], self.size_mm.bounds[0])
        field = fields.prepare(grid_of(target), target.device, coarse_on_cpu=False)
        return {"std": params["std"].float(), **prefixed("field", field)}

    def compute(self, batch: SubjectsBatch, prepared: Prepared) -> None:
        """Vary both images."""
        image, target = named_image(batch, self.image), named_image(batch, self.target)
        x, t = image.data.float(), target.data.float()
        field = smooth_fields(under("field", prepared))
        x, t = vary_alike(x, t, field, prepared["std"], *self._where(batch))
        image.data, target.data = x.to(float_dtype(image.data)), t.to(float_dtype(target.data))

    def repeats(self) -> bool:
        """Always."""
        return True

    def neutral(self, params: Params, keep: Tensor) -> Params:
        """No strength, and the largest grain, which is cheap."""
        size_mm = torch.where(keep, params["size_mm"], math.inf)
        return {**params, "std": params["std"] * keep, "size_mm": size_mm}

    def _where(self, batch: SubjectsBatch) -> tuple[Tensor | None, Tensor | None]:
        """Labels, and a table of 1 for those to vary, else 0; None where all vary."""
        if self._varied is None:
            return None, None
        labels = whole_labels(self.label_image(batch)[1].data)
        return labels, self._varied.table(labels.device)
