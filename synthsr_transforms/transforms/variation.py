"""Variation inside tissues by smooth random fields: texture and lesions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torchio.data.batch import SubjectsBatch

from synthsr_transforms.distributions import DistributionSpec, as_distribution
from synthsr_transforms.functional.blur import gaussian_blur
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.seeds import sample_seeds
from synthsr_transforms.support.messages import integers

from .arguments import positive
from .base import Grid, Params, grid_of
from .images import float_dtype, named_image
from .kinds import SynthLabelTransform
from .labels_on_grid import LabelSet
from .random_fields import field_from_params, per_element, smooth_fields


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
        device = t.device
        field = smooth_fields(
            params["texture_seed"], params["size_mm"], grid_of(target), device, coarse_on=device
        )
        change = t * where * (field * per_element(params["std"].float(), device))
        image.data = (x + slope(x, t[:, :1] * where) * change[:, :1]).to(float_dtype(image.data))
        target.data = (t + change).to(float_dtype(target.data))

    def _where(self, batch: SubjectsBatch, t: Tensor) -> Tensor:
        """1 where to vary, else 0, `(B, 1, X, Y, Z)`."""
        if self._varied is None:
            return torch.ones((), device=t.device)
        return self._varied.mask(self.label_image(batch)[1].data)


def slope(x: Tensor, t: Tensor) -> Tensor:
    """Slope of the line that fits x to t best, over the voxels where t is above 0.

    Args:
        x: `(B, C, X, Y, Z)`.
        t: `(B, 1, X, Y, Z)`.

    Returns:
        `(B, C, 1, 1, 1)`; 0 where t does not vary.
    """
    inside = (t > 0).float()
    count = total(inside).clamp_min(1)
    centred = (t - total(t * inside) / count) * inside
    variance = total(centred.square())
    return torch.where(variance > 0, total(x * centred) / variance.clamp_min(1e-12), 0.0)


def total(x: Tensor) -> Tensor:
    """Sum over voxels, `(B, C, 1, 1, 1)`, axis by axis: in one order with any number of threads."""
    for axis in (4, 3, 2):
        x = x.sum(axis, keepdim=True)
    return x


class LesionSimulation(SynthLabelTransform):
    r"""Paint blobs of abnormal intensity inside chosen tissues of an image.

    A smooth random field f, standard normal at every voxel, is cut at a height z: the lesion is
    \(\mathrm{sigmoid}((f - z) / w)\) within the tissue. It covers about the share of the tissue
    that a normal distribution has above z: 16 % for 1, 2 % for 2. Put it after the target was
    copied or made, and name the input with `include`.

    Lesions of white matter are often caps and bands at the ventricles. There, z is lower by
    \(h \min(1, 4 s)\), with s the share of the labels `beside` within a Gaussian of `beside_mm`:
    by h from a plane border to two thirds of that distance, by less than a tenth of h from twice
    it on.

    Args:
        label_table: Which labels belong to the tissues.
        tissues: Tissues in which lesions lie, see `labels.TISSUES`.
        intensity: Distribution of the intensity of lesions, per channel, in the unit of the image.
        std: Distribution of the standard deviation inside a lesion, per channel, in the same unit.
        size_mm: Distribution of the distance between the coarse grid points of the field, in mm:
            about the size of a blob.
        height: Distribution of z, in standard deviations.
        softness: Width w of the border, in standard deviations.
        beside: Label values beside which lesions are likelier, such as the ventricles; those that
            a label map lacks change nothing.
        beside_mm: Standard deviation of the Gaussian, in mm.
        beside_lift: Distribution of h, in standard deviations.
        **kwargs: See `SynthLabelTransform`.

    Raises:
        ValueError: If a distribution is of another kind, `softness` or `beside_mm` is not positive,
            or a value of `beside` is not a label.

    Examples:
        >>> import torch
        >>> subject = {"labels": torch.full((1, 8, 8, 8), 2), "image": torch.zeros(1, 8, 8, 8)}
        >>> lesions = LesionSimulation(label_table="freesurfer_aseg", height=-9, intensity=5,
        ...                            include=["image"])
        >>> round(lesions(subject)["image"].mean().item(), 3)
        5.0
    """

    of_the_scan = ("intensity", "std", "noise_seed")

    def __init__(  # noqa: PLR0913 - each is one property of lesions
        self,
        *,
        label_table: LabelTable | str,
        tissues: Sequence[str] = ("white_matter",),
        intensity: DistributionSpec = (0.0, 255.0),
        std: DistributionSpec = 0.0,
        size_mm: DistributionSpec = (4.0, 12.0),
        height: DistributionSpec = (1.3, 2.8),
        softness: float = 0.1,
        beside: Sequence[int] = (),
        beside_mm: float = 4.0,
        beside_lift: DistributionSpec = (0.0, 2.5),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.label_table = LabelTable.resolve(label_table)
        self.tissues = list(tissues)
        self.intensity = as_distribution(intensity, name="intensity")
        self.std = as_distribution(std, name="std", minimum=0)
        self.size_mm = as_distribution(size_mm, name="size_mm", minimum=0.5, single=True)
        self.height = as_distribution(height, name="height", single=True)
        self.softness = positive(softness, "softness")
        self.beside = integers(beside, "beside")
        if min(self.beside, default=0) < 0:
            raise ValueError(f"beside must be label values, from 0 on, got {self.beside}.")
        self.beside_mm = positive(beside_mm, "beside_mm")
        self.beside_lift = as_distribution(beside_lift, name="beside_lift", single=True)
        self._candidate = LabelSet.of_tissues(self.label_table, self.tissues)
        self._beside = LabelSet(self.beside)

    def sample_params(self, batch: SubjectsBatch, generator: Generator | None) -> Params:
        """Sample size, number and intensity of lesions."""
        size = batch.batch_size
        params: Params = {
            "size_mm": self.size_mm.sample((size,), generator),
            "height": self.height.sample((size,), generator),
            "shape_seed": sample_seeds(size, generator),
            "noise_seed": sample_seeds(size, generator),
        }
        if self.beside:
            params["beside_lift"] = self.beside_lift.sample((size,), generator)
        for name, image in self.scalar_images(batch).items():
            count = image.data.shape[1]
            params[f"{name}.intensity"] = self.intensity.sample((size, count), generator)
            params[f"{name}.std"] = self.std.sample((size, count), generator)
        return params

    def apply_params(self, batch: SubjectsBatch, params: Params) -> None:
        """Blend lesions into every chosen image."""
        _, labels = self.label_image(batch)
        lesion = self.lesion_fraction(labels.data, params, grid_of(labels))
        for name, image in self.scalar_images(batch).items():
            device = image.data.device
            value, std = (
                params[f"{name}.{key}"].to(device, non_blocking=True)[:, :, None, None, None]
                for key in ("intensity", "std")
            )
            data = image.data.float()
            inside = value.expand_as(data)
            if bool(params[f"{name}.std"].any()):
                inside = inside + std * field_from_params(params, "noise", data.shape[1:], device)
            image.data = torch.lerp(data, inside, lesion).to(float_dtype(image.data))

    def lesion_fraction(self, labels: Tensor, params: Params, grid: Grid) -> Tensor:
        """Share of lesion in each voxel, `(B, 1, X, Y, Z)` within 0 and 1."""
        device = labels.device
        field = smooth_fields(
            params["shape_seed"], params["size_mm"], grid, device, coarse_on=torch.device("cpu")
        )
        height = per_element(params["height"], device)
        if "beside_lift" in params:
            lift = per_element(params["beside_lift"], device)
            height = height - lift * self._nearness(labels, grid)
        return torch.sigmoid((field - height) / self.softness) * self._candidate.mask(labels)

    def _nearness(self, labels: Tensor, grid: Grid) -> Tensor:
        """From 1 at the labels `beside` to 0 far from them, `(B, 1, X, Y, Z)`."""
        sigma = (self.beside_mm / grid.spacing_mm[:, None, :]).float()
        return (4 * gaussian_blur(self._beside.mask(labels), sigma)).clamp(max=1)
