"""Part (c): real scans without a known truth, seen through thicker slices or changed otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from synthsr_net.prediction.intensities import correlation
from synthsr_net.prediction.refinement.brain_mask import Regions, find_regions
from synthsr_net.prediction.refinement.contrast_inversion import inverted
from synthsr_net.prediction.refinement.data_consistency import Operators
from synthsr_net.prediction.resampling import Grid
from synthsr_transforms.functional.geometry import about_centre, affine_matrix
from synthsr_transforms.functional.warp import affine_grid, sample_grid
from synthsr_transforms.io.files import stem
from synthsr_transforms.io.grids import Volume, reorient
from synthsr_transforms.io.scans import Scan

from .held_out import AXES, check_slices
from .network import HeadNetwork
from .pictures import Pictures
from .slices import acquire, cubic, linear, operators

DEGRADED_MM = (3.0, 5.0)
"""Slice spacings that scans are degraded to."""
ROTATION_DEGREES = (10.0, -10.0, 10.0)
"""Rotation about the axes to the right, front and top."""
_THICKER = 1.2  # slices are simulated if they are thicker than those of the scan by this
_ISOTROPIC = 1.5  # largest ratio of spacings of a scan whose slices may lie across any axis


class Seen(NamedTuple):
    """A scan and what the network makes of it, on the grid of the network.

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
    grid = prepared.space.aligned_grid
    regions = find_regions(t1, network.spacing_mm)
    return Seen(stem(scan.name), scan, image, grid, t1, regions, slices)


def evaluate_scan(
    seen: Seen,
    network: HeadNetwork,
    *,
    spacings_mm: Sequence[float] = DEGRADED_MM,
    axes: Sequence[int] = (0, 1, 2),
    on_row: Callable[[], object] | None = None,
) -> list[dict[str, Any]]:
    """Predict from a scan that is changed, and compare with the prediction from the scan itself.

    Args:
        seen: From `see`.
        network: The model.
        spacings_mm: Slice spacings to degrade to, where they are above that of the scan.
        axes: Axes across which slices lie, for scans that have no thick slices themselves.
        on_row: Called after each prediction, to show progress.

    Returns:
        One row per change: `scan`, `change`, `axis` (of slices), and correlations in the brain with
        the unchanged prediction: `network` of the prediction; `interpolation`, for slices, of their
        cubic interpolation with the scan; `resampling`, for the rotation, of the unchanged
        prediction resampled there and back.
    """
    check_slices(spacings_mm, axes)
    rows = []
    changes = [*_degraded(seen, network, spacings_mm, axes), *_robustness(seen, network)]
    for change in changes:
        rows.append({"scan": seen.name, **change()})
        if on_row is not None:
            on_row()
    return rows


def draw_scan(seen: Seen, pictures: Pictures, name: str = "scan") -> None:
    """Draw a scan and its prediction."""
    above = {"input": seen.scan.volume}
    pictures.add(f"{name}_{seen.name}", above, seen.prediction, seen.name)


Change = Callable[[], dict[str, Any]]


def _degraded(
    seen: Seen, network: HeadNetwork, spacings_mm: Sequence[float], axes: Sequence[int]
) -> Iterator[Change]:
    own = reorient(seen.scan.volume).spacing_mm
    thick = max(own) > _ISOTROPIC * min(own)
    for slice_mm in spacings_mm:
        for axis in [int(np.argmax(own))] if thick else axes:
            if slice_mm > _THICKER * max(own[axis], network.spacing_mm):
                yield partial(_through_slices, seen, network, slice_mm, axis)


def _through_slices(seen: Seen, network: HeadNetwork, slice_mm: float, axis: int) -> dict[str, Any]:
    affine = np.diag([*[network.spacing_mm] * 3, 1.0])
    slices = acquire(seen.image, affine, slice_mm, axis)
    brain = seen.regions.brain
    return {
        "change": f"{slice_mm:g} mm",
        "axis": AXES[axis],
        "network": correlation(network(linear(slices), slices=operators(slices)), seen.t1, brain),
        "interpolation": correlation(cubic(slices), seen.image, brain),
    }


def _robustness(seen: Seen, network: HeadNetwork) -> Iterator[Change]:
    brain = seen.regions.brain

    def compared(change: str, t1: Tensor, usual: Tensor) -> dict[str, Any]:
        return {"change": change, "axis": None, "network": correlation(t1, usual, brain)}

    def flipped() -> dict[str, Any]:
        x, y, z = seen.slices
        turned = (None if x is None else x.flip(0, 1), y, z)
        usual = network(seen.image, averaged=False, slices=seen.slices)
        flipped = network(seen.image.flip(0), averaged=False, slices=turned)
        return compared("flipped", flipped.flip(0), usual)

    def turned_round() -> dict[str, Any]:
        changed = network(inverted(seen.image, seen.regions.head), slices=seen.slices)
        return compared("inverted", changed, seen.t1)

    def rotated() -> dict[str, Any]:
        there, back = _rotations(seen.image.shape)
        t1 = _turned(network(_turned(seen.image, there)), back)
        there_and_back = _turned(_turned(seen.t1, there), back)
        resampling = correlation(there_and_back, seen.t1, brain)
        return {**compared("rotated", t1, seen.t1), "resampling": resampling}

    yield from (rotated, flipped, turned_round)


def _rotations(shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Pull-back matrices in voxels, `(1, 4, 4)`: there, and back."""
    there = about_centre(affine_matrix(torch.tensor([ROTATION_DEGREES])), shape)
    return there, torch.linalg.inv(there)


def _turned(volume: Tensor, matrix: Tensor) -> Tensor:
    """A volume read through a pull-back matrix, 0 where it ends."""
    where = affine_grid(matrix, volume.shape, volume.shape, volume.device)
    inside = (where.abs() <= 1 + 1e-4).all(-1)[0]
    return sample_grid(volume[None, None], where)[0, 0] * inside
