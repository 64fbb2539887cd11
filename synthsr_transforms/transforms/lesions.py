"""Lesions: blobs from random fields, and shapes that patients had."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torchio.data.batch import SubjectsBatch

from synthsr_transforms.distributions import DistributionSpec, as_distribution
from synthsr_transforms.functional.blur import gaussian_blur
from synthsr_transforms.functional.fields import elastic_displacement
from synthsr_transforms.functional.geometry import affine_matrix
from synthsr_transforms.functional.intensity import total
from synthsr_transforms.functional.lesions import blend_lesions, lesion_share
from synthsr_transforms.functional.warp import patch_coordinates, sample_linear, whole_grid
from synthsr_transforms.io.files import list_volumes
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.seeds import sample_seeds
from synthsr_transforms.support import devices
from synthsr_transforms.support.messages import integers

from .base import Grid, Params, grid_of
from .common.arguments import grid_ratio, positive, probability
from .common.images import float_dtype
from .common.labels_on_grid import LabelSet, whole_labels
from .common.lesion_masks import LesionMask, read_lesion_mask
from .common.random_fields import (
    SmoothFields,
    as_field,
    coarse_velocity,
    per_element,
    prepared_field,
    smooth_fields,
)
from .kinds import SynthLabelTransform
from .prepared import Prepared, prefixed, sent, under

_BORDER = 0.1  # width of the border of cavities, in standard deviations of their field


class LesionTransform(SynthLabelTransform, abstract=True):
    """Gives lesions an intensity, and a part of them that of fluid: cavities.

    Args:
        label_table: Which labels belong to the tissues.
        tissues: Tissues in which lesions lie, see `labels.TISSUES`.
        intensity: Distribution of the intensity of lesions, per channel, in the unit of the image.
        std: Distribution of the standard deviation inside a lesion, per channel, in the same unit.
        cavity_probability: Probability that lesions hold cavities.
        cavity_share: Distribution of the share of the lesions that are cavities then, where a
            smooth random field is highest: from a few holes to 1, all. They have the mean intensity
            of the fluid in the image, if it shows any.
        cavity_size_mm: Distribution of the distance between the coarse grid points of that field,
            in mm: about the size of a cavity.
        **kwargs: See `SynthLabelTransform`.
    """

    of_the_scan = ("intensity", "std", "noise_seed")

    def __init__(
        self,
        *,
        label_table: LabelTable | str,
        tissues: Sequence[str] = ("white_matter",),
        intensity: DistributionSpec = (0.0, 255.0),
        std: DistributionSpec = 0.0,
        cavity_probability: float = 0.0,
        cavity_share: DistributionSpec = (0.1, 1.0),
        cavity_size_mm: DistributionSpec = (4.0, 20.0),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.label_table = LabelTable.resolve(label_table)
        self.tissues = list(tissues)
        self.intensity = as_distribution(intensity, name="intensity")
        self.std = as_distribution(std, name="std", minimum=0)
        self.cavity_probability = probability(cavity_probability, "cavity_probability")
        self.cavity_share = as_distribution(
            cavity_share, name="cavity_share", minimum=0, single=True
        )
        if self.cavity_share.bounds[1] > 1:
            raise ValueError(f"cavity_share must be within 0 and 1, got {cavity_share!r}.")
        self.cavity_size_mm = as_distribution(
            cavity_size_mm, name="cavity_size_mm", minimum=0.5, single=True
        )
        self._candidate = LabelSet.of_tissues(self.label_table, self.tissues)
        self._fluid = LabelSet.of_tissues(self.label_table, ["csf"])

    def sample_shape(self, grid: Grid, generator: Generator | None) -> Params:
        """Sample where lesions lie, and the seed of the noise inside, `noise_seed`."""
        raise NotImplementedError

    def lesion_fraction(self, labels: Tensor, params: Params, grid: Grid) -> Tensor:
        """Share of lesion in each voxel, `(B, 1, X, Y, Z)` within 0 and 1."""
        shape = self.prepare_shape(params, grid, labels.device)
        return self.compute_fraction(labels, sent(shape, labels.device))

    def prepare_shape(self, params: Params, grid: Grid, device: torch.device) -> Prepared:
        """What `compute_fraction` needs, see `prepare`."""
        raise NotImplementedError

    def compute_fraction(self, labels: Tensor, prepared: Prepared) -> Tensor:
        """Share of lesion in each voxel, see `lesion_fraction` and `compute`."""
        raise NotImplementedError

    def sample_params(self, batch: SubjectsBatch, generator: Generator | None) -> Params:
        """Sample place and shape of lesions, their intensity, and their cavities."""
        size = batch.batch_size
        params = self.sample_shape(grid_of(self.label_image(batch)[1]), generator)
        for name, image in self.scalar_images(batch).items():
            count = image.data.shape[1]
            params[f"{name}.intensity"] = self.intensity.sample((size, count), generator)
            params[f"{name}.std"] = self.std.sample((size, count), generator)
        if self.cavity_probability > 0:
            holds = torch.rand(size, generator=generator) < self.cavity_probability
            params["cavity_share"] = holds * self.cavity_share.sample((size,), generator)
            params["cavity_size_mm"] = self.cavity_size_mm.sample((size,), generator)
            params["cavity_seed"] = sample_seeds(size, generator)
        return params

    def prepare(self, batch: SubjectsBatch, params: Params) -> Prepared:
        """Shape, looks and cavities of lesions."""
        _, labels = self.label_image(batch)
        device, grid = labels.data.device, grid_of(labels)
        prepared = prefixed("shape", self.prepare_shape(params, grid, device))
        may_vary = devices.computes_all(device) and self.std.bounds[1] > 0
        for name in self.scalar_images(batch):
            intensity, std = params[f"{name}.intensity"], params[f"{name}.std"]
            prepared[f"{name}.look"] = torch.stack([intensity, std])
            if may_vary or bool(std.any()):
                prepared["noise"] = prepared_field(params, "noise")
                prepared[f"{name}.varies"] = True
        return prepared | prefixed("cavity", self._prepare_cavity(params, grid, device))

    def compute(self, batch: SubjectsBatch, prepared: Prepared) -> None:
        """Blend lesions into every chosen image."""
        labels = self.label_image(batch)[1].data
        lesion = self.compute_fraction(labels, under("shape", prepared))
        cavity = self._cavity(under("cavity", prepared))
        fluid = None if cavity is None else self._fluid.mask(labels)
        noise: dict[torch.Size, Tensor] = {}
        for name, image in self.scalar_images(batch).items():
            value, std = prepared[f"{name}.look"]
            data, own = image.data.float(), None
            shape = data.shape[1:]
            if f"{name}.varies" in prepared:
                if shape not in noise:
                    noise[shape] = as_field(prepared["noise"], shape, data.device)
                own = noise[shape]
            if cavity is None or fluid is None:
                made = blend_lesions(data, lesion, value, std, own)
            else:
                value, std = (number[..., None, None, None] for number in (value, std))
                inside = value.expand_as(data) if own is None else value + std * own
                inside = torch.lerp(inside, _mean_of(data, fluid, otherwise=value), cavity)
                made = torch.lerp(data, inside, lesion)
            image.data = made.to(float_dtype(image.data))

    def _prepare_cavity(self, params: Params, grid: Grid, device: torch.device) -> Prepared:
        """The field of cavities, and its height; nothing where no lesion holds any."""
        if "cavity_share" not in params:
            return {}
        if not devices.computes_all(device) and not bool(params["cavity_share"].any()):
            return {}
        size_mm, smallest_mm = params["cavity_size_mm"], self.cavity_size_mm.bounds[0]
        field = SmoothFields(params["cavity_seed"], size_mm, smallest_mm)
        height = torch.special.ndtri(1 - params["cavity_share"].double()).float()
        return {"height": height, **field.prepare(grid, device, coarse_on_cpu=True)}

    @staticmethod
    def _cavity(prepared: Prepared) -> Tensor | None:
        """Share of cavity in each voxel, `(B, 1, X, Y, Z)`; None where no lesion holds any."""
        if not prepared:
            return None
        field = smooth_fields(prepared)
        return torch.sigmoid((field - per_element(prepared["height"])) / _BORDER)


def _mean_of(data: Tensor, mask: Tensor, otherwise: Tensor) -> Tensor:
    """Mean of each channel in a mask, `(B, C, 1, 1, 1)`, or another value where that is empty."""
    count = total(mask)
    return torch.where(count > 0, total(data * mask) / count.clamp_min(1), otherwise)


class LesionSimulation(LesionTransform):
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
        size_mm: Distribution of the distance between the coarse grid points of the field, in mm:
            about the size of a blob.
        height: Distribution of z, in standard deviations.
        softness: Width w of the border, in standard deviations.
        beside: Label values beside which lesions are likelier, such as the ventricles; those that
            a label map lacks change nothing.
        beside_mm: Standard deviation of the Gaussian, in mm.
        beside_lift: Distribution of h, in standard deviations.
        **kwargs: See `LesionTransform`.

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

    def __init__(
        self,
        *,
        size_mm: DistributionSpec = (4.0, 12.0),
        height: DistributionSpec = (1.3, 2.8),
        softness: float = 0.1,
        beside: Sequence[int] = (),
        beside_mm: float = 4.0,
        beside_lift: DistributionSpec = (0.0, 2.5),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.size_mm = as_distribution(size_mm, name="size_mm", minimum=0.5, single=True)
        self.height = as_distribution(height, name="height", single=True)
        self.softness = positive(softness, "softness")
        self.beside = integers(beside, "beside")
        if min(self.beside, default=0) < 0:
            raise ValueError(f"beside must be label values, from 0 on, got {self.beside}.")
        self.beside_mm = positive(beside_mm, "beside_mm")
        self.beside_lift = as_distribution(beside_lift, name="beside_lift", single=True)
        self._beside = LabelSet(self.beside)

    def sample_shape(self, grid: Grid, generator: Generator | None) -> Params:
        """Sample size and number of lesions."""
        size = grid.batch_size
        params: Params = {
            "size_mm": self.size_mm.sample((size,), generator),
            "height": self.height.sample((size,), generator),
            "shape_seed": sample_seeds(size, generator),
            "noise_seed": sample_seeds(size, generator),
        }
        if self.beside:
            params["beside_lift"] = self.beside_lift.sample((size,), generator)
        return params

    def prepare_shape(self, params: Params, grid: Grid, device: torch.device) -> Prepared:
        """The field, its height, and where it is lower."""
        field = SmoothFields(params["shape_seed"], params["size_mm"], self.size_mm.bounds[0])
        prepared = field.prepare(grid, device, coarse_on_cpu=True)
        prepared["height"] = params["height"]
        if "beside_lift" in params:
            prepared["lift"] = params["beside_lift"]
            prepared["sigma"] = (self.beside_mm / grid.spacing_mm[:, None, :]).float()
        return prepared

    def compute_fraction(self, labels: Tensor, prepared: Prepared) -> Tensor:
        """Share of lesion in each voxel, `(B, 1, X, Y, Z)` within 0 and 1."""
        field, labels = smooth_fields(prepared), whole_labels(labels)
        tissue = self._candidate.table(labels.device)
        near, lift = None, prepared.get("lift")
        if lift is not None:
            near = gaussian_blur(self._beside.mask(labels), prepared["sigma"])
        return lesion_share(field, prepared["height"], self.softness, labels, tissue, near, lift)

    def repeats(self) -> bool:
        """Always."""
        return True

    def neutral(self, params: Params, keep: Tensor) -> Params:
        """Fields cut at an infinite height, and the largest blobs, which are cheap."""
        result = dict(params)
        for name, value in params.items():
            if name.endswith(".std") or name == "cavity_share":
                result[name] = value * keep.view(-1, *[1] * (value.ndim - 1))
            elif name in ("height", "size_mm", "cavity_size_mm"):
                result[name] = torch.where(keep, value, math.inf)
        return result


class LesionInsertion(LesionTransform):
    r"""Insert lesions with the shapes of masks, such as those of strokes or multiple sclerosis.

    The mask of one person, turned, scaled, mirrored and deformed at random, is moved so that a
    random voxel of its lesions lies on a random voxel of the tissues: output voxel x reads the mask
    at \(m + A (x - v + u(x) - u(v))\), where m and v are these voxels, A scales and turns, and u is
    the integral of a stationary velocity, see `SpatialDeformation`. Only what lies in the tissues
    becomes a lesion. Put it after the target was copied or made, and name the input with `include`.

    Args:
        masks: Folder of masks (subfolders too), or one; values above 0.5 are lesions. Each is read
            when it is needed first. None: nothing is inserted.
        tissues: Tissues in which lesions lie, see `labels.TISSUES`.
        rotation_degrees: Distribution of the angle about each image axis, in degrees.
        scaling: Distribution of the factor along each axis; above 1 the lesions shrink.
        mirror_probability: Probability that left and right of the mask are exchanged.
        velocity_std_mm: Distribution of the standard deviation of the coarse velocity, in mm.
        velocity_shape_factor: Ratio of its coarse grid points to voxels along an axis.
        border_mm: Distribution of the standard deviation of the Gaussian that softens borders, in
            mm.
        **kwargs: See `LesionTransform`.

    Raises:
        ValueError: If there is no mask, or a distribution or ratio is of another kind.
        VolumeError: If a mask that is needed cannot be read, or marks no lesion.

    Examples:
        >>> import torch
        >>> subject = {"labels": torch.full((1, 8, 8, 8), 2), "image": torch.ones(1, 8, 8, 8)}
        >>> lesions = LesionInsertion(label_table="freesurfer_aseg", include=["image"])
        >>> lesions(subject)["image"].mean().item()  # without masks
        1.0
    """

    def __init__(
        self,
        *,
        masks: str | os.PathLike[str] | None = None,
        tissues: Sequence[str] = ("white_matter", "grey_matter", "deep_grey"),
        rotation_degrees: DistributionSpec = (-30.0, 30.0),
        scaling: DistributionSpec = (0.8, 1.8),
        mirror_probability: float = 0.5,
        velocity_std_mm: DistributionSpec = (0.0, 4.0),
        velocity_shape_factor: float = 0.0625,
        border_mm: DistributionSpec = (0.3, 1.2),
        **kwargs: Any,
    ) -> None:
        super().__init__(tissues=tissues, **kwargs)
        self.masks = masks
        try:
            self._files = [] if masks is None else list_volumes(masks, recursive=True)
        except ValueError as error:
            raise ValueError(f"masks: {error}") from error
        self.rotation_degrees = as_distribution(rotation_degrees, name="rotation_degrees")
        self.scaling = as_distribution(scaling, name="scaling", minimum=1e-3)
        self.mirror_probability = probability(mirror_probability, "mirror_probability")
        self.velocity_std_mm = as_distribution(
            velocity_std_mm, name="velocity_std_mm", minimum=0, single=True
        )
        self.velocity_shape_factor = grid_ratio(velocity_shape_factor, "velocity_shape_factor")
        self.border_mm = as_distribution(border_mm, name="border_mm", minimum=0, single=True)

    def sample_keep(self, size: int, generator: Generator | None) -> list[bool]:
        """None of the elements where there are no masks."""
        kept = super().sample_keep(size, generator)
        return kept if self._files else [False] * size

    def sample_shape(self, grid: Grid, generator: Generator | None) -> Params:
        """Sample the masks, numbers in the sorted list of files, and their places and shapes."""
        size = grid.batch_size
        scaling = self.scaling.sample((size, 3), generator)
        mirrored = torch.rand(size, generator=generator) < self.mirror_probability
        scaling[:, 0] = torch.where(mirrored, -scaling[:, 0], scaling[:, 0])
        return {
            "mask": torch.randint(len(self._files), (size,), generator=generator),
            "mask_voxel": torch.rand(size, generator=generator),
            "tissue_voxel": torch.rand(size, generator=generator),
            "rotation_degrees": self.rotation_degrees.sample((size, 3), generator),
            "scaling": scaling,
            "velocity_std_mm": self.velocity_std_mm.sample((size,), generator),
            "border_mm": self.border_mm.sample((size,), generator),
            "velocity_seed": sample_seeds(size, generator),
            "noise_seed": sample_seeds(size, generator),
        }

    def may_happen(self) -> bool:
        """Not where there are no masks."""
        return super().may_happen() and bool(self._files)

    def prepare_shape(self, params: Params, grid: Grid, device: torch.device) -> Prepared:
        """The parameters: masks are read, and places chosen, where voxels are computed."""
        return {"params": params, "grid": grid}

    def compute_fraction(self, labels: Tensor, prepared: Prepared) -> Tensor:
        """Share of lesion in each voxel, `(B, 1, X, Y, Z)` within 0 and 1."""
        params, grid = prepared["params"], prepared["grid"]
        tissue = self._candidate.mask(labels)
        masks = [read_lesion_mask(self._files[number]) for number in params["mask"].tolist()]
        where = self._coordinates(masks, tissue, params, grid)
        placed = [
            sample_linear(mask.data.to(labels.device, torch.float32)[None, None] / 255, own[None])
            for mask, own in zip(masks, where, strict=True)
        ]
        sigma = (params["border_mm"][:, None, None] / grid.spacing_mm[:, None, :]).float()
        return gaussian_blur(torch.cat(placed), sigma).clamp(0, 1) * tissue

    def _coordinates(
        self, masks: Sequence[LesionMask], tissue: Tensor, params: Params, grid: Grid
    ) -> Tensor:
        """Voxels of the masks that the voxels of the output read, `(B, 3, X, Y, Z)`."""
        device = tissue.device
        spacing = torch.stack([mask.spacing_mm for mask in masks])
        matrix = affine_matrix(params["rotation_degrees"], scaling=params["scaling"])
        matrix[:, :3, :3] *= grid.spacing_mm[:, None, :] / spacing[:, :, None]
        anchor = [
            mask.voxels[_chosen(unit, len(mask.voxels))]
            for mask, unit in zip(masks, params["mask_voxel"].tolist(), strict=True)
        ]
        where = patch_coordinates(
            matrix,
            grid.shape,
            whole_grid(grid.shape, grid.batch_size, "cpu"),
            self._displacement(params, grid, device),
            device,
        )
        index = _random_voxel(tissue, params["tissue_voxel"])
        there = where.flatten(2).gather(2, index[:, None, None].expand(-1, 3, 1))
        offset = torch.stack(anchor).float().to(device, non_blocking=True)[..., None] - there
        return where + offset[..., None, None]

    def _displacement(self, params: Params, grid: Grid, device: torch.device) -> Tensor | None:
        coarse = coarse_velocity(params, grid, self.velocity_shape_factor)
        if coarse is None:
            return None
        coarse = coarse / grid.spacing_mm.float()[:, :, None, None, None]
        return elastic_displacement(coarse.to(device, non_blocking=True), grid.shape)


def _chosen(unit: float, number: int) -> int:
    """One of some things, from a random number within 0 and 1."""
    return min(int(unit * number), number - 1)


def _random_voxel(mask: Tensor, unit: Tensor) -> Tensor:
    """A voxel of a mask for each element, `(B,)` in the order of memory, without waiting for a GPU.

    Args:
        mask: `(B, 1, X, Y, Z)` of 0 and 1; an empty one gives the last voxel.
        unit: `(B,)` random numbers within 0 and 1.
    """
    counts = mask.flatten(1).to(torch.int32).cumsum(1, dtype=torch.int32)
    unit = unit.to(mask.device, torch.float64, non_blocking=True)[:, None]
    rank = (unit * counts[:, -1:]).to(torch.int32)
    found = torch.searchsorted(counts, rank, right=True)[:, 0]
    return found.clamp(max=counts.shape[1] - 1)
