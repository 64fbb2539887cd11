"""Texture that input and target share, so that a network learns to carry it over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torchio.data.batch import SubjectsBatch

from synthsr_transforms.distributions import DistributionSpec, as_distribution
from synthsr_transforms.functional.cache import DeviceCopies
from synthsr_transforms.functional.fields import smooth_normal_field
from synthsr_transforms.functional.mixture import look_up
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.seeds import normal_field, sample_seeds
from synthsr_transforms.transforms.base import Grid, Params, grid_of
from synthsr_transforms.transforms.channels.copy_image import named_image
from synthsr_transforms.transforms.kinds import SynthLabelTransform

from .lesion_simulation import in_one, membership
from .tissue_mixture import whole_labels


class SharedTexture(SynthLabelTransform):
    r"""Vary the intensities of a target inside its tissues, and those of the input alike.

    Label maps give every voxel of a structure one mean, and noise of the input tells nothing of the
    target. In real scans, structures vary inside: borders run through voxels, and tissues mix. Such
    variation has the sign of the contrast: where a T1 gets brighter, a T2 gets darker. A smooth
    random field f, standard normal at every voxel, multiplies the target t, and the input follows
    along the line that fits its intensities to those of the target best (least squares over the
    voxels where t > 0):
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
        self._member = self._membership()
        self.image, self.target = image, target

    def _membership(self) -> DeviceCopies | None:
        if self.tissues is None:
            return None
        if self.label_table is None:
            raise ValueError("label_table must be given to name tissues, got none. Give its name.")
        values = [v for tissue in self.tissues for v in self.label_table.values_of(tissue)]
        return DeviceCopies(membership(values, max(self.label_table.values)))

    def sample_params(self, batch: SubjectsBatch, generator: Generator | None) -> Params:
        """Draw strength, grain and seed of the field."""
        size = batch.batch_size
        return {
            "std": self.std.sample((size,), generator),
            "size_mm": self.size_mm.sample((size,), generator),
            "texture_seed": sample_seeds(size, generator),
        }

    def apply_params(self, batch: SubjectsBatch, params: Params) -> None:
        """Vary both images."""
        image, target = named_image(batch, self.image), named_image(batch, self.target)
        if image.data.shape[2:] != target.data.shape[2:]:
            raise ValueError(
                "image and target must have one shape, got"
                f" {tuple(image.data.shape[2:])} and {tuple(target.data.shape[2:])}. Put"
                " SharedTexture before steps that resample one of them."
            )
        x, t = image.data.float(), target.data.float()
        where = self._where(batch, t)
        change = t * where * texture(params, grid_of(target), t.device)
        image.data = (x + slope(x, t[:, :1] * where) * change[:, :1]).to(_kept(image.data))
        target.data = (t + change).to(_kept(target.data))

    def _where(self, batch: SubjectsBatch, t: Tensor) -> Tensor:
        """1 where to vary, else 0, `(B, 1, X, Y, Z)`."""
        if self._member is None:
            return torch.ones((), device=t.device)
        labels = whole_labels(self.label_image(batch)[1].data)
        table = self._member.on(t.device).expand(len(labels), 1, -1)
        return look_up(labels.clamp(0, table.shape[-1] - 1), table)


def texture(params: Params, grid: Grid, device: torch.device) -> Tensor:
    """Field of each element times its strength, `(B, 1, X, Y, Z)`."""
    fields = []
    for b, size_mm in enumerate(params["size_mm"].tolist()):
        shape = _coarse_shape(grid.shape, grid.spacing_mm[b].tolist(), size_mm)
        coarse = normal_field(params["texture_seed"][b : b + 1], (1, *shape), device)
        fields.append(smooth_normal_field(coarse, grid.shape))
    strength = params["std"].to(device, torch.float32, non_blocking=True)
    return in_one(fields) * strength[:, None, None, None, None]


def _coarse_shape(
    shape: Sequence[int], spacing_mm: Sequence[float], size_mm: float
) -> tuple[int, ...]:
    extents = [n * mm for n, mm in zip(shape, spacing_mm, strict=True)]
    return tuple(max(2, math.ceil(mm / size_mm) + 1) for mm in extents)


def slope(x: Tensor, t: Tensor) -> Tensor:
    """Slope of the line that fits x to t best, over the voxels where t is above 0.

    Args:
        x: `(B, C, X, Y, Z)`.
        t: `(B, 1, X, Y, Z)`.

    Returns:
        `(B, C, 1, 1, 1)`; 0 where t does not vary.
    """
    inside = (t > 0).float()
    count = inside.sum((2, 3, 4), keepdim=True).clamp_min(1)
    axes = (2, 3, 4)
    centred = (t - (t * inside).sum(axes, keepdim=True) / count) * inside
    variance = centred.square().sum(axes, keepdim=True)
    covariance = (x * centred).sum(axes, keepdim=True)
    return torch.where(variance > 0, covariance / variance.clamp_min(1e-12), 0.0)


def _kept(data: Tensor) -> torch.dtype:
    return data.dtype if data.is_floating_point() else torch.float32
