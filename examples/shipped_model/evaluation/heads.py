"""Held-out label maps, the scans that are simulated from them, and the T1 to be predicted."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchio import LabelMap
from torchio.data.affine import AffineMatrix
from torchio.data.batch import ImagesBatch, SubjectsBatch

from synthsr_net.metrics.comparison import (
    DICE_TISSUES,
    OTHER,
    OUTSIDE,
    RANGE_PERCENTILES,
    Reference,
    tissue_map,
)
from synthsr_net.prediction.intensities import percentile
from synthsr_transforms.functional.layout import bounding_box
from synthsr_transforms.generator.generator import Generator
from synthsr_transforms.io.files import VolumeError, list_volumes, stem
from synthsr_transforms.subjects.files import SubjectFiles, read_subject
from synthsr_transforms.support.messages import SynthSRError

from .contrasts import TARGET_PRESET, lesion_generator, scan_generator, target_generator

MARGIN_MM = 10.0
"""Least distance from the brain to the border of the field of view, unless another is named."""
_SAME_SPACING = 0.02  # relative
_FLUID = list(DICE_TISSUES.values()).index("csf") + OTHER + 1


class Head:
    """A label map on a device, and its standard T1.

    Args:
        name: For reports.
        labels: `(X, Y, Z)` label values, axes to the right, front and top.
        affine: `(4, 4)` voxel-to-world matrix in mm.
        device: Where to keep it.
        preset: Preset whose target it is.

    Raises:
        VolumeError: If it shows no brain.
    """

    def __init__(
        self,
        name: str,
        labels: Tensor,
        affine: npt.NDArray[np.float64],
        device: torch.device | str,
        preset: str = TARGET_PRESET,
    ) -> None:
        self.name = name
        """For reports."""
        self.affine = np.asarray(affine, dtype=np.float64)
        """As given."""
        self.values = [int(value) for value in labels.unique().tolist()]
        """Labels that occur."""
        self._matrix = AffineMatrix(torch.from_numpy(self.affine.copy()))
        self.labels: Tensor = labels.int().to(device)
        """As given, `(X, Y, Z)` int32."""
        self.target = self._made(target_generator(self.values, preset), "target", 0)
        """Standard T1 `(X, Y, Z)` float32, white matter 110."""
        tissues = tissue_map(labels).to(device)
        brain = self.target[tissues > OUTSIDE]
        if brain.numel() < 2:
            raise VolumeError(f"{name} must label a brain, but does not. Leave it out.")
        low, high = (percentile(brain, p) for p in RANGE_PERCENTILES)
        image = (self.target - low) / (high - low)
        self.reference = Reference(image, self.labels > 0, tissues, low, high)
        """The target as predictions are compared with it."""

    def image(self, contrast: str, seed: int, *, stripped: bool = False) -> Tensor:
        """A scan with the voxels of the label map, without noise.

        Args:
            contrast: One of `evaluation.contrasts.CONTRASTS`.
            seed: Of bias field and random contrast.
            stripped: Whether the skull is removed.

        Returns:
            `(X, Y, Z)` float32.
        """
        return self._made(scan_generator(contrast, self.values, stripped=stripped), "image", seed)

    def lesion_weights(self, seed: int) -> Tensor:
        """Share of lesion in each voxel, `(X, Y, Z)` float32; see `contrasts.lesion_generator`."""
        return self._made(lesion_generator(self.values), "image", seed)

    def _made(self, generator: Generator, name: str, seed: int) -> Tensor:
        """An image that a generator makes of the labels, `(X, Y, Z)`."""
        labels = ImagesBatch(self.labels[None, None], [self._matrix], image_class=LabelMap)
        batch, _ = generator.run(SubjectsBatch({"labels": labels}), seed)
        data: Tensor = batch.images[name].data[0, 0]
        return data


def find_label_maps(paths: Sequence[str | os.PathLike[str]]) -> list[SubjectFiles]:
    """Label maps of files and folders, each file once."""
    found = [file for path in paths for file in list_volumes(path)]
    return [SubjectFiles(file) for file in dict.fromkeys(found)]


def read_head(
    subject: SubjectFiles,
    spacing_mm: float,
    multiple_of: int,
    device: torch.device | str,
    preset: str = TARGET_PRESET,
    margin_mm: float = MARGIN_MM,
) -> Head:
    """Read a label map and crop it to a field of view around the brain.

    Args:
        subject: The file.
        spacing_mm: Voxel spacing that it must have, in mm.
        multiple_of: The field of view is made a multiple of this, where the label map reaches so
            far.
        device: Where to keep it.
        preset: Preset whose target the standard T1 is.
        margin_mm: Least distance from the brain to the border of the field of view.

    Raises:
        SynthSRError: If its voxels have another spacing.
        VolumeError: If it cannot be read, or shows no brain.
    """
    image = read_subject(subject).images["labels"]
    labels, affine = image.data[0], np.asarray(image.affine.data, dtype=np.float64)
    own = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.allclose(own, spacing_mm, rtol=_SAME_SPACING, atol=0):
        raise SynthSRError(
            f"{subject.labels} must have voxels of {spacing_mm:g} mm, as the model, got"
            f" {' x '.join(f'{mm:.3g}' for mm in own)} mm. Resample it."
        )
    tissues = tissue_map(labels)
    inside = (tissues > OUTSIDE) & (tissues != _FLUID)
    if not bool(inside.any()):
        raise VolumeError(f"{subject.labels} must label a brain, but does not. Leave it out.")
    box = field_of_view(inside, margin_mm / spacing_mm, multiple_of)
    affine[:3, 3] += affine[:3, :3] @ [part.start for part in box]
    return Head(stem(subject.labels), labels[box].contiguous(), affine, device, preset)


def field_of_view(inside: Tensor, margin: float, multiple_of: int) -> tuple[slice, ...]:
    """Box around a mask, as near to its middle as the volume allows.

    Args:
        inside: `(X, Y, Z)` bool.
        margin: Least distance from the mask to the border, in voxels, where there is room.
        multiple_of: What sizes shall be multiples of, where there is room.

    Examples:
        >>> mask = torch.zeros(40, 40, 40, dtype=torch.bool)
        >>> mask[2:12, 15:20, :] = True
        >>> [(part.start, part.stop) for part in field_of_view(mask, 3, 16)]
        [(0, 16), (9, 25), (0, 40)]
    """
    first, end = bounding_box(inside[None, None])[0].tolist()
    box = []
    for a, b, size in zip(first, end, inside.shape, strict=True):
        wanted = b - a + 2 * round(margin)
        wanted = min(size, multiple_of * -(-wanted // multiple_of))
        start = min(max(0, (a + b - wanted) // 2), size - wanted)
        box.append(slice(start, start + wanted))
    return tuple(box)
