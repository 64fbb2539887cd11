"""Lesions in the input only, so that a network learns to inpaint them."""

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
from synthsr_transforms.transforms.arguments import positive
from synthsr_transforms.transforms.base import Grid, Params, grid_of
from synthsr_transforms.transforms.images import float_dtype
from synthsr_transforms.transforms.kinds import SynthLabelTransform
from synthsr_transforms.transforms.labels_on_grid import LabelSet
from synthsr_transforms.transforms.random_fields import (
    field_from_params,
    per_element,
    smooth_fields,
)


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
