"""Transforms of channels and of the set of images: copies, choices, and misalignment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torchio.data.batch import SubjectsBatch

from synthsr_transforms.distributions import DistributionSpec, as_distribution
from synthsr_transforms.functional.geometry import (
    about_centre,
    affine_matrix,
    millimetres_to_voxels,
)
from synthsr_transforms.functional.layout import take_channels
from synthsr_transforms.functional.warp import grid_of_rows, grid_rows, sample_grid
from synthsr_transforms.support import devices

from .base import (
    Params,
    SynthTransform,
    add_image,
    check_destination,
    grid_of,
    image_to_replace,
    is_label_map,
    replace_image,
)
from .common.images import (
    REGISTRATION_ERROR,
    SCAN,
    Notes,
    channel_indices,
    check_channels,
    check_one_shape,
    float_dtype,
    has_coil,
    named_image,
    note_coil,
    note_of_chosen,
)
from .common.random_fields import per_element
from .kinds import SynthIntensityTransform
from .prepared import Prepared


class CopyImage(SynthTransform):
    """Copy an image, or some of its channels, under another name.

    What happens to the one later does not touch the other, so a target keeps the quality that
    the image has at this step.

    Args:
        source: Name of the image to copy.
        destination: Name of the copy.
        channels: Indices of the channels to copy; None copies all.
        replace: The destination exists already, with the same channels and shape, and is replaced,
            in the elements of a batch that `p` chooses, decided for each. A bare tensor, array or
            image is its own destination.
        **kwargs: See `SynthTransform`.

    Examples:
        >>> import torch
        >>> sorted(CopyImage()({"image": torch.rand(1, 4, 4, 4)}))
        ['image', 'target']
    """

    preserves_layout = False

    def __init__(
        self,
        *,
        source: str = "image",
        destination: str = "target",
        channels: Sequence[int] | None = None,
        replace: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source, self.destination = source, destination
        self.channels = None if channels is None else channel_indices(channels)
        self.replace = self.preserves_layout = bool(replace)

    def check(self, batch: SubjectsBatch) -> None:
        """Refuse a batch without the image to replace."""
        super().check(batch)
        if self.replace:
            check_destination(batch, self.destination)

    def neutral(self, params: Params, keep: Tensor) -> Params | None:
        """A copy into the chosen elements alone."""
        return {"chosen": keep} if self.replace else None

    def prepare(self, batch: SubjectsBatch, params: Params) -> Prepared:
        """The chosen elements, where there are others."""
        image = named_image(batch, self.source)
        if self.channels is not None:
            check_channels(self.channels, image.data, self.source)
        if self.replace:
            count = image.data.shape[1] if self.channels is None else len(self.channels)
            image_to_replace(batch, self.destination, (count, *image.data.shape[2:]))
        return {**params, "_chosen": params["chosen"].tolist() if "chosen" in params else None}

    def note(self, batch: SubjectsBatch, prepared: Prepared) -> None:
        """Note whether a coil made the copy."""
        if prepared["_chosen"] is None:
            self.note_coil(batch)
        else:
            note_of_chosen(batch, prepared["_chosen"], self.note_coil)

    def compute(self, batch: SubjectsBatch, prepared: Prepared) -> None:
        """Add the copy, or put it in the place of another image."""
        image = named_image(batch, self.source)
        data = image.data if self.channels is None else take_channels(image.data, self.channels)
        if "chosen" in prepared:
            before = image_to_replace(batch, self.destination, data.shape[1:]).data
            data = data.to(before.dtype) if before.is_floating_point() else data
            data = torch.where(per_element(prepared["chosen"]), data, before.to(data.dtype))
        if self.replace:
            replace_image(batch, self.destination, data)
        else:
            add_image(batch, self.destination, data, image, labels=is_label_map(image))

    def repeats(self) -> bool:
        """Where all channels are copied."""
        return self.channels is None

    def note_coil(self, batch: SubjectsBatch | Notes) -> None:
        """Note whether a coil made the copy."""
        note_coil(batch, self.destination, has_coil(batch, self.source))


class SelectChannels(SynthTransform):
    """Keep some channels of an image, in a given order.

    Args:
        channels: Indices of the channels to keep.
        **kwargs: See `SynthTransform`; `include` names the images.

    Examples:
        >>> import torch
        >>> SelectChannels(channels=[2, 0])(torch.rand(3, 4, 4, 4)).shape
        torch.Size([2, 4, 4, 4])
    """

    preserves_layout = False

    def __init__(self, *, channels: Sequence[int] = (0,), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channel_indices(channels)

    def apply_params(self, batch: SubjectsBatch, params: Params) -> None:
        """Keep the channels."""
        for name, image in self.chosen_images(batch).items():
            check_channels(self.channels, image.data, name)
            image.data = take_channels(image.data, self.channels)


class _RigidChannels(SynthIntensityTransform, abstract=True):
    """One rigid motion per element and channel, the same for all images.

    Where elements are several scans of one head (`scan` in the metadata), the first stays.
    """

    def __init__(
        self,
        *,
        rotation_degrees: DistributionSpec,
        translation_mm: DistributionSpec,
        reference_channel: int | None = 0,
        index_grid: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rotation_degrees = as_distribution(rotation_degrees, name="rotation_degrees")
        self.translation_mm = as_distribution(translation_mm, name="translation_mm")
        self.reference_channel = reference_channel
        self.index_grid = bool(index_grid)

    def sample_params(self, batch: SubjectsBatch, generator: Generator | None) -> Params:
        """Sample angles and shifts; the reference channel and the first scan get none."""
        images = self.images(batch)
        check_one_shape(images, type(self).__name__, channels=True)
        count = next(iter(images.values())).data.shape[1]
        moving = torch.tensor([self._moves(c) for c in range(count)])[:, None]
        if SCAN in batch.metadata:
            moving = moving & (torch.tensor(batch.metadata[SCAN]) > 0)[:, None, None]
        size = (batch.batch_size, count, 3)
        return {
            "rotation_degrees": self.rotation_degrees.sample(size, generator) * moving,
            "translation_mm": self.translation_mm.sample(size, generator) * moving,
        }

    def _moves(self, channel: int) -> bool:
        chosen = self.channels is None or channel in self.channels
        return chosen and channel != self.reference_channel

    def matrices(self, batch: SubjectsBatch, params: Params) -> Tensor:
        """Pull-backs of all channels in mm, `(B, C, 4, 4)`."""
        return rigid_matrices(params)

    def apply_params(self, batch: SubjectsBatch, params: Params) -> None:
        """Move the channels."""
        SynthTransform.apply_params(self, batch, params)

    def prepare(self, batch: SubjectsBatch, params: Params) -> Prepared:
        """Which channels move, and where their voxels are read."""
        matrices_mm = self.matrices(batch, params)
        image = next(iter(self.images(batch).values()))
        grid = grid_of(image)
        moving = (matrices_mm != torch.eye(4, dtype=torch.float64)).flatten(2).any(-1)
        channels = moving.any(0).nonzero().flatten().tolist()
        if devices.computes_all(image.device):
            channels = [c for c in range(grid.channels) if self._moves(c)]
        prepared: Prepared = {"channels": tuple(channels), "_matrices": matrices_mm}
        for c in channels:
            matrix = matrices_mm[:, c]
            if not self.index_grid:
                matrix = millimetres_to_voxels(matrix, grid.spacing_mm)
            prepared[f"rows.{c}"] = grid_rows(about_centre(matrix, grid.shape), grid.shape)
            prepared[f"moving.{c}"] = moving[:, c]
        return prepared

    def compute(self, batch: SubjectsBatch, prepared: Prepared) -> None:
        """Warp every channel that moves, all images at once."""
        images = list(self.images(batch).values())
        stacks = [list(image.data.float().unbind(1)) for image in images]
        for c in prepared["channels"]:
            together = torch.stack([channels[c] for channels in stacks], dim=1)
            where = grid_of_rows(prepared[f"rows.{c}"], together.shape[2:])
            moving = prepared[f"moving.{c}"][:, None, None, None, None]
            warped = torch.where(moving, sample_grid(together, where), together)
            for channels, data in zip(stacks, warped.unbind(1), strict=True):
                channels[c] = data
        for image, channels in zip(images, stacks, strict=True):
            image.data = torch.stack(channels, 1).to(float_dtype(image.data))

    def repeats(self) -> bool:
        """Always."""
        return True


def rigid_matrices(params: Params) -> Tensor:
    """`(B, C, 4, 4)` pull-backs in mm from angles and shifts `(B, C, 3)`."""
    angles, shifts = params["rotation_degrees"], params["translation_mm"]
    matrix = affine_matrix(angles.flatten(0, 1), translation=shifts.flatten(0, 1))
    return matrix.view(*angles.shape[:2], 4, 4)


class RegistrationError(_RigidChannels):
    """Move every channel but one rigidly, as if scans were not aligned.

    The motion acts about the centre of the image and is noted in the metadata of the subject
    (`registration_error`, pull-backs in mm), where `RegistrationCorrection` finds it. Of several
    scans of one head, each an element of its own, the first stays.

    Args:
        rotation_degrees: Distribution of the angle about each axis, in degrees.
        translation_mm: Distribution of the shift along each axis, in mm.
        reference_channel: Channel that stays; None moves all.
        index_grid: Take every voxel as 1 mm wide, as the original does.
        **kwargs: See `SynthIntensityTransform`; all images move alike, so name them with `include`.

    Examples:
        >>> import torch
        >>> two = torch.rand(2, 8, 8, 8)
        >>> moved = RegistrationError()(two)
        >>> torch.equal(moved[0], two[0]), torch.equal(moved[1], two[1])
        (True, False)
    """

    def __init__(
        self,
        *,
        rotation_degrees: DistributionSpec = (-5.0, 5.0),
        translation_mm: DistributionSpec = (-5.0, 5.0),
        **kwargs: Any,
    ) -> None:
        super().__init__(rotation_degrees=rotation_degrees, translation_mm=translation_mm, **kwargs)

    def note(self, batch: SubjectsBatch, prepared: Prepared) -> None:
        """Record how channels moved."""
        batch.metadata[REGISTRATION_ERROR] = prepared["_matrices"].tolist()


class RegistrationCorrection(_RigidChannels):
    r"""Undo a `RegistrationError` imperfectly: warp by \(E T^{-1}\) with a small error E.

    Where no error was recorded, the warp is E.

    Args:
        rotation_degrees: Distribution of the remaining angle about each axis, in degrees.
        translation_mm: Distribution of the remaining shift along each axis, in mm.
        reference_channel: Channel that stays; None moves all.
        index_grid: Take every voxel as 1 mm wide, as the original does.
        **kwargs: See `SynthIntensityTransform`; name image and reliability map with `include`.

    Examples:
        >>> import torch
        >>> RegistrationCorrection()(torch.rand(2, 8, 8, 8)).shape
        torch.Size([2, 8, 8, 8])
    """

    def __init__(
        self,
        *,
        rotation_degrees: DistributionSpec = (-0.5, 0.5),
        translation_mm: DistributionSpec = (-0.5, 0.5),
        **kwargs: Any,
    ) -> None:
        super().__init__(rotation_degrees=rotation_degrees, translation_mm=translation_mm, **kwargs)

    def matrices(self, batch: SubjectsBatch, params: Params) -> Tensor:
        """Pull-backs that undo what was recorded, but for the error."""
        matrices = rigid_matrices(params)
        for element, applied in enumerate(batch.metadata.get(REGISTRATION_ERROR, [])):
            if applied is not None:
                inverse = torch.linalg.inv(torch.tensor(applied, dtype=torch.float64))
                matrices[element] = matrices[element] @ inverse
        return matrices
