"""Part (c): real scans without a known truth, seen through thicker slices or changed otherwise.

Co-registered scans of one person must give nearly the same T1.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from SimpleITK import ReadTransform
from torch import Tensor

from synthsr_net.metrics.comparison import RANGE_PERCENTILES, measure_inside
from synthsr_net.metrics.volumes import MEASURES
from synthsr_net.prediction.intensities import correlation, percentile
from synthsr_net.prediction.refinement.brain_mask import Regions, find_regions
from synthsr_net.prediction.refinement.contrast_inversion import inverted
from synthsr_net.prediction.refinement.data_consistency import Operators
from synthsr_net.prediction.resampling import Grid
from synthsr_transforms.functional.geometry import about_centre, affine_matrix
from synthsr_transforms.functional.warp import affine_grid, sample_grid
from synthsr_transforms.io.files import stem
from synthsr_transforms.io.grids import Volume, reorient
from synthsr_transforms.io.scans import Scan
from synthsr_transforms.support.messages import SynthSRError

from .network import HeadNetwork
from .pictures import Pictures
from .slices import AXES, Affine, acquire, check_slices, cubic, predict_from

DEGRADED_MM = (3.0, 5.0)
"""Slice spacings that scans are degraded to."""
ROTATION_DEGREES = (10.0, -10.0, 10.0)
"""Rotation about the axes to the right, front and top."""
_THICKER = 1.2  # slices are simulated if they are thicker than those of the scan by this
_ISOTROPIC = 1.5  # largest ratio of spacings of a scan whose slices may lie across any axis
_MIN_VOXELS = 1000  # of brain, to be measured


class Seen(NamedTuple):
    """A scan and its prediction, on the grid of the network.

    Attributes:
        name: Of the scan.
        scan: The scan as read.
        image: `(X, Y, Z)` float32, axes to the right, front and top, 0 to 1.
        grid: Its shape and voxel-to-world matrix.
        t1: Prediction on the same grid.
        regions: Found in the prediction.
        slices: Of the scan, as `HeadNetwork` takes them.
    """

    name: str
    scan: Scan
    image: Tensor
    grid: Grid
    t1: Tensor
    regions: Regions
    slices: Operators

    @property
    def prediction(self) -> Volume:
        """Prediction and affine."""
        return Volume(self.t1.cpu().numpy(), self.grid[1])

    def draw(self, pictures: Pictures, name: str) -> None:
        """Draw the scan and its prediction."""
        pictures.add(f"{name}_{self.name}", {"input": self.scan.volume}, self.prediction, self.name)


def see(scan: Scan, network: HeadNetwork, *, ct: bool = False) -> Seen:
    """Predict from a scan, through the same steps as `Predictor.predict`.

    Args:
        scan: From `synthsr_transforms.io.scans.read_scan`.
        network: The model.
        ct: Whether the scan is CT, to be clipped to [0, 80] HU.
    """
    prepared = network.predictor.prepare([scan], ct=ct)
    image = prepared.tensor[0][prepared.space.inside].contiguous().to(network.device)
    slices = prepared.space.slices()
    t1 = network(image, slices=slices)
    regions = find_regions(t1, network.spacing_mm)
    return Seen(stem(scan.name), scan, image, prepared.space.aligned_grid, t1, regions, slices)


# One scan, changed -------------------------------------------------------------------------------


def evaluate_scan(
    seen: Seen,
    network: HeadNetwork,
    *,
    spacings_mm: Sequence[float] = DEGRADED_MM,
    axes: Sequence[int] = (0, 1, 2),
) -> Iterator[dict[str, Any]]:
    """Predict from a scan that is changed, and compare with the prediction from the scan itself.

    Args:
        seen: From `see`.
        network: The model.
        spacings_mm: Slice spacings to degrade to, where they are above that of the scan.
        axes: Axes across which slices lie, for scans that have no thick slices themselves.

    Yields:
        One row per change: `scan`, `change`, `axis` (of slices), and correlations in the brain with
        the unchanged prediction: `network` of the prediction; `interpolation`, for slices, of their
        cubic interpolation with the scan; `resampling`, for the rotation, of the unchanged
        prediction resampled there and back.
    """
    check_slices(spacings_mm, axes)
    brain = seen.regions.brain

    def row(change: str, t1: Tensor, expected: Tensor, **more: Any) -> dict[str, Any]:
        found = correlation(t1, expected, brain)
        return {"scan": seen.name, "change": change, "axis": None, "network": found, **more}

    own = reorient(seen.scan.volume).spacing_mm
    thick = max(own) > _ISOTROPIC * min(own)
    grid = np.diag([*[network.spacing_mm] * 3, 1.0])
    for slice_mm in spacings_mm:
        for axis in [int(np.argmax(own))] if thick else axes:
            if slice_mm > _THICKER * max(own[axis], network.spacing_mm):
                slices = acquire(seen.image, grid, slice_mm, axis)
                interpolation = correlation(cubic(slices), seen.image, brain)
                t1 = predict_from(slices, network)
                more = {"axis": AXES[axis], "interpolation": interpolation}
                yield row(f"{slice_mm:g} mm", t1, seen.t1, **more)

    there, back = _rotations(seen.image.shape)
    t1 = _turned(network(_turned(seen.image, there)), back)
    resampling = correlation(_turned(_turned(seen.t1, there), back), seen.t1, brain)
    yield row("rotated", t1, seen.t1, resampling=resampling)

    x, y, z = seen.slices
    mirrored = (None if x is None else x.flip(0, 1), y, z)
    alone = network(seen.image, averaged=False, slices=seen.slices)
    flipped = network(seen.image.flip(0), averaged=False, slices=mirrored)
    yield row("flipped", flipped.flip(0), alone)

    inverse = inverted(seen.image, seen.regions.head)
    yield row("inverted", network(inverse, slices=seen.slices), seen.t1)


def _rotations(shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Pull-back matrices in voxels, `(1, 4, 4)`: there, and back."""
    there = about_centre(affine_matrix(torch.tensor([ROTATION_DEGREES])), shape)
    return there, torch.linalg.inv(there)


def _turned(volume: Tensor, matrix: Tensor) -> Tensor:
    """A volume read through a pull-back matrix, 0 where it ends."""
    turned, inside = _read(volume, matrix, volume.shape)
    return turned * inside


# Scans of one person -----------------------------------------------------------------------------


def evaluate_patient(
    scans: Sequence[Seen], registrations: Sequence[Affine | None]
) -> Iterator[dict[str, Any]]:
    """Compare the predictions of co-registered scans, pair by pair.

    Args:
        scans: At least two, from `see`.
        registrations: For each, a matrix from points of the common world to those of its own, or
            None where they are the same; see `read_registration`.

    Yields:
        One row per pair: `pair` (two names), and measures in the brain that both scans cover, on
        the grid of the prediction that lies in the common world: `correlation` and `ssim` of the
        predictions, `psnr` and `l1` likewise (the range of the first one's intensities from
        percentile 1 to 99 counts as 1; nothing is mapped), and `inputs`, the correlation of the
        scans themselves.
    """
    first = scans[next((k for k, matrix in enumerate(registrations) if matrix is None), 0)]
    placed = []
    for scan, matrix in zip(scans, registrations, strict=True):
        image, inside = read_on(scan.image, scan.grid[1], first.grid, matrix)
        t1, _ = read_on(scan.t1, scan.grid[1], first.grid, matrix)
        placed.append((scan.name, t1, image, inside))
    for (name, t1, image, covered), (
        other_name,
        other_t1,
        other_image,
        other_covered,
    ) in combinations(placed, 2):
        inside = first.regions.brain & covered & other_covered
        row: dict[str, Any] = {"pair": [name, other_name]}
        if int(inside.sum()) < _MIN_VOXELS:
            yield row | dict.fromkeys(("correlation", *MEASURES, "inputs"), math.nan)
            continue
        low, high = (percentile(t1[inside], p) for p in RANGE_PERCENTILES)
        one, other = ((volume - low) / max(high - low, 1e-6) for volume in (t1, other_t1))
        yield {
            **row,
            "correlation": correlation(one, other, inside),
            **measure_inside(other, one, inside),
            "inputs": correlation(image, other_image, inside),
        }


def read_registration(path: str | os.PathLike[str]) -> Affine:
    """Read an affine registration that ITK (ANTs, elastix, 3D Slicer) wrote.

    Args:
        path: The file.

    Returns:
        `(4, 4)` matrix between points in mm to the right, front and top: from the space of the
        fixed scan to that of the moving one, as ITK keeps it.

    Raises:
        SynthSRError: If the file holds no affine transform.
    """
    try:
        transform = ReadTransform(os.fspath(path))
    except RuntimeError:
        raise SynthSRError(f"{path} must be the file of an ITK transform.") from None
    if not transform.IsLinear() or transform.GetDimension() != 3:
        raise SynthSRError(
            f"{path} must hold an affine transform in 3-D. Save it as an affine transform."
        )
    far = 2.0**20  # mm; a power of 2, which adds no rounding errors
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    for axis, point in enumerate(np.eye(3) * far):
        matrix[:3, axis] = (np.array(transform.TransformPoint(point.tolist())) - origin) / far
    matrix[:3, 3] = origin
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    return np.asarray(to_lps @ matrix @ to_lps)


def read_on(
    volume: Tensor, affine: Affine, grid: Grid, registration: Affine | None = None
) -> tuple[Tensor, Tensor]:
    """Read a volume on another grid by linear interpolation.

    Args:
        volume: `(X, Y, Z)` floating point.
        affine: Its `(4, 4)` voxel-to-world matrix.
        grid: Where to read.
        registration: `(4, 4)`, from points in the world of the grid to that of the volume; None if
            they are one world.

    Returns:
        `(x, y, z)`, border voxels repeated outside, and a mask of what lies in the volume.
    """
    shape, goal = grid
    matrix = np.linalg.inv(affine) @ (np.eye(4) if registration is None else registration) @ goal
    return _read(volume, torch.from_numpy(matrix)[None], shape)


def _read(volume: Tensor, matrix: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Read a volume through a `(1, 4, 4)` pull-back matrix in voxels, and what lies within it."""
    where = affine_grid(matrix, shape, volume.shape, volume.device)
    inside = (where.abs() <= 1 + 1e-4).all(-1)[0]
    return sample_grid(volume[None, None].float(), where)[0, 0], inside
