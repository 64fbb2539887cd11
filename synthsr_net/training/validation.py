"""Validation on real scans with label maps: thick slices are simulated, predicted and compared.

Predictions may show another contrast than the scans, see `synthsr_net.metrics.comparison`. Plain
interpolation of the same slices is measured in the same way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchio import ScalarImage, Subject

from synthsr_net.metrics.comparison import Reference, compare, mean_of, reference_of, tissue_map
from synthsr_net.models.checkpoint import ModelConfig
from synthsr_net.prediction.resampling import resample
from synthsr_net.prediction.space.preprocess import to_network_space
from synthsr_transforms.io.files import stem
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.io.scans import Scan
from synthsr_transforms.subjects.files import find_subjects, read_subject
from synthsr_transforms.transforms import SliceAcquisition

Predict = Callable[[Tensor], Tensor]

_SAME_SPACING = 1e-3  # relative


class RealPair(NamedTuple):
    """A real scan and its label map, on one grid with axes to the right, front and top.

    Attributes:
        name: Name of the label map.
        image: `(X, Y, Z)` float32 and affine.
        labels: `(X, Y, Z)` FreeSurfer values and affine.
    """

    name: str
    image: Volume
    labels: Volume


class _Degraded(NamedTuple):
    """A simulated scan.

    Attributes:
        key: Beginning of the names of its metrics, such as `real/5mm`.
        reference: Scan that it is made from.
        x: `(1, X, Y, Z)` float16, as the network takes it, padded.
        inside: Box of the reference in it.
    """

    key: str
    reference: Reference
    x: Tensor
    inside: tuple[slice, ...]


def read_real_pairs(
    images: str | os.PathLike[str], labels: str | os.PathLike[str]
) -> list[RealPair]:
    """Read scans and their label maps.

    Args:
        images: Folder of scans, or one; see `synthsr_transforms.subjects.files.find_subjects`
            for names.
        labels: Folder of label maps with values of FreeSurfer, or one.

    Raises:
        VolumeError: If files do not go together or cannot be used.
    """
    pairs = []
    for subject in find_subjects(labels, images):
        volumes = read_subject(subject, target="image").images
        image, label_map = (
            Volume(volumes[name].data[0].numpy(), np.asarray(volumes[name].affine.data))
            for name in ("image", "labels")
        )
        pairs.append(RealPair(stem(subject.name), image, label_map))
    return pairs


class RealPairs:
    """Real scans to validate a network on, whatever contrast it predicts.

    Each scan is brought to the voxel spacing of the network and cropped to the head. For each
    slice spacing, slices along each axis in turn are simulated, as thick as they are apart; a slice
    spacing that is not above that of the network stands for the scan as it is. The results become
    inputs as in `synthsr_net.prediction`, once, and are held on the CPU.

    Args:
        pairs: From `read_real_pairs`.
        config: Of the model that is trained.
        spacings_mm: Slice spacings, above 0.

    Raises:
        ValueError: If the network takes more than one image or a reliability map, or a pair shows
            no brain.
    """

    def __init__(
        self,
        pairs: Sequence[RealPair],
        config: ModelConfig,
        *,
        spacings_mm: Sequence[float] = (1.0, 3.0, 5.0),
    ) -> None:
        _check(config)
        self._scans = [
            scan for pair in pairs for scan in _degraded_scans(pair, config, spacings_mm)
        ]
        self._interpolation: list[dict[str, float]] = []

    def __len__(self) -> int:
        """Number of predictions that `measure` asks for."""
        return len(self._scans)

    def measure(self, predict: Predict, device: torch.device | str = "cpu") -> dict[str, float]:
        """Measure a network.

        Args:
            predict: Makes a prediction `(1, O, X, Y, Z)` of an input `(1, 1, X, Y, Z)`, both on
                the device. Its first channel is compared as it is: of a network with residual
                channels, the input must have been added.
            device: Device to compute on.

        Returns:
            Means over scans and axes by name, such as `real/5mm/brain/ssim`, and those of plain
            interpolation, such as `real/5mm/interpolation/brain/ssim`: L1, PSNR and SSIM in brain
            and head, where 1 is the range between percentiles 1 and 99 of the brain; and the Dice
            scores `dice_wm`, `dice_gm` and `dice_csf` of the brain. For these, voxels of the three
            tissues are divided by which mean of the prediction in a tissue they are nearest to.
        """
        rows: list[dict[str, float]] = []
        for number, scan in enumerate(self._scans):
            x = scan.x.float().to(device)
            with torch.no_grad():
                prediction = predict(x[None])[0, 0].detach()
            if number == len(self._interpolation):
                self._interpolation.append(compare(x[0][scan.inside], scan.reference))
            results = {"": compare(prediction[scan.inside], scan.reference)}
            results["interpolation/"] = self._interpolation[number]
            rows += [
                {f"{scan.key}/{what}{name}": value for name, value in values.items()}
                for what, values in results.items()
            ]
        return mean_of(rows)


def _check(config: ModelConfig) -> None:
    inputs = ", ".join(
        image.name + " with reliability map" * image.reliability_map for image in config.inputs
    )
    if config.num_channels != 1:
        raise ValueError(
            "validation on real scans needs a network that takes one image without a reliability"
            f" map, got {inputs}: the other channels cannot be made from one scan. Leave out"
            " validation.images and validation.labels."
        )


# Preparation -------------------------------------------------------------------------------------


def _degraded_scans(
    pair: RealPair, config: ModelConfig, spacings_mm: Sequence[float]
) -> Iterator[_Degraded]:
    own_mm = config.scan.spacing_mm
    image, tissues = on_grid_of_network(pair, own_mm)
    reference, box = reference_of(pair.name, image, tissues)
    image = image[box]
    affine = np.diag([own_mm, own_mm, own_mm, 1.0])
    for slice_mm in spacings_mm:
        thick = slice_mm > own_mm * (1 + _SAME_SPACING)
        for axis in range(3) if thick else [None]:
            data = image if axis is None else _sliced(image, affine, axis, slice_mm)
            x, space = to_network_space([Scan(data.numpy(), affine, pair.name)], config)
            yield _Degraded(f"real/{slice_mm:g}mm", reference, x.half(), space.inside)


def on_grid_of_network(pair: RealPair, spacing_mm: float) -> tuple[Tensor, Tensor]:
    """Bring a pair to the voxel spacing of the network.

    Args:
        pair: From `read_real_pairs`.
        spacing_mm: Voxel spacing.

    Returns:
        Image, float32, and map of tissues (see `tissue_map`), both `(X, Y, Z)`.
    """
    tissues = tissue_map(torch.from_numpy(np.ascontiguousarray(pair.labels.data)))
    image = pair.image
    if not np.allclose(image.spacing_mm, spacing_mm, rtol=_SAME_SPACING, atol=0):
        image = resample(image, spacing_mm)
        matrix = np.linalg.inv(pair.labels.affine) @ image.affine
        for axis, size in enumerate(image.data.shape):
            where = np.rint(matrix[axis, axis] * np.arange(size) + matrix[axis, 3])
            index = torch.from_numpy(where.clip(0, tissues.shape[axis] - 1).astype(np.int64))
            tissues = tissues.index_select(axis, index)
    return torch.from_numpy(np.array(image.data, dtype=np.float32)), tissues


def _sliced(image: Tensor, affine: npt.NDArray[np.float64], axis: int, slice_mm: float) -> Tensor:
    """A scan with thick slices across an axis, interpolated to the same grid."""
    spacing, blur = [float(affine[0, 0])] * 3, [0.0] * 3
    spacing[axis], blur[axis] = slice_mm, 1.0
    acquire = SliceAcquisition(spacing_mm=tuple(spacing), blur_multiplier=tuple(blur))
    subject = Subject(image=ScalarImage(image[None], affine=affine))
    acquired = acquire(subject, generator=torch.Generator().manual_seed(0))
    return torch.as_tensor(acquired.images["image"].data[0])
