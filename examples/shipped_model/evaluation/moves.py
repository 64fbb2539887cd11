"""Exams of heads that moved between their scans, and how far registrations are from the moves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import Tensor

from synthsr_net.prediction.resampling import Grid
from synthsr_transforms.io.scans import Scan
from synthsr_transforms.subjects.files import SubjectFiles

from .heads import MARGIN_MM, Head
from .network import HeadNetwork
from .slices import AXES, Affine, Slices
from .truth import Setting, SimulationPlan, head_for, scan_of_head, seed_of

EXAM = (("T1", 0), ("T2", 2), ("FLAIR", 1))
"""Contrast of each scan of an exam, and the axis across which its slices lie."""
SAME_PLANE = ("T2", 0)
"""A further scan, in the orientation of the first."""
SLICE_MM = 5.0
"""Spacing of the slices."""
MOST_MM, MOST_DEGREES = 5.0, 5.0
"""Largest moves between two scans."""
_ROOM_MM = 15.0  # what moves can bring into the field of view


class MovedScan(NamedTuple):
    """A scan of a head that may have moved.

    Attributes:
        name: Contrast and orientation.
        slices: The scan.
        first_to_scan: `(4, 4)` from points of the first scan to those of this one, in mm.
    """

    name: str
    slices: Slices
    first_to_scan: Affine

    @property
    def scan(self) -> Scan:
        """The scan as it would be read from a file."""
        data = np.ascontiguousarray(self.slices.data.cpu().numpy())
        return Scan(data, self.slices.affine, self.name)


def in_words(contrast: str, axis: int) -> str:
    """Name of a scan in tables."""
    return f"{contrast}, {AXES[axis]}"


def grid_of(head: Head) -> Grid:
    """Grid of a head."""
    x, y, z = head.labels.shape
    return (x, y, z), head.affine


def moved_exam(
    subject: SubjectFiles, network: HeadNetwork, plan: SimulationPlan, number: int
) -> tuple[Head, list[MovedScan]]:
    """Scans of `EXAM` and `SAME_PLANE`, all but the first after a move of its own.

    Args:
        subject: Label map.
        network: Says what the head must be like.
        plan: Seed and target.
        number: Of the moves; the first scan is the same for all.
    """
    head = head_for(subject, network, plan)
    wide = head_for(subject, network, plan, margin_mm=MARGIN_MM + _ROOM_MM)
    scans = []
    for index, (contrast, axis) in enumerate((*EXAM, SAME_PLANE)):
        name = in_words(contrast, axis)
        seed = seed_of(plan.seed, head.name, name, "move", str(number if index else 0))
        image, move = wide.image(contrast, seed), np.eye(4)
        if index:
            move = random_move(np.random.default_rng(seed), centre_of(grid_of(head)))
        image = moved(image, wide.affine, move, grid_of(head)).clamp(min=0)
        slices = scan_of_head(head, Setting(contrast, False, SLICE_MM, axis), image, seed)
        scans.append(MovedScan(name, slices, move))
    return head, scans


def random_move(rng: np.random.Generator, centre_mm: Affine) -> Affine:
    """A rotation about a point and a shift, in any direction, each up to the largest."""
    turn, shift = rng.normal(size=(2, 3))
    turn *= rng.uniform(0, MOST_DEGREES) / np.linalg.norm(turn)
    shift *= rng.uniform(0, MOST_MM) / np.linalg.norm(shift)
    move = np.eye(4)
    move[:3, :3] = Rotation.from_rotvec(turn, degrees=True).as_matrix()
    move[:3, 3] = centre_mm + shift - move[:3, :3] @ centre_mm
    return move


def moved(volume: Tensor, affine: Affine, move: Affine, grid: Grid) -> Tensor:
    """A volume after a move, read on a grid by cubic splines, 0 outside.

    Args:
        volume: `(X, Y, Z)` on any device, where the result is as well.
        affine: Its `(4, 4)` voxel-to-world matrix.
        move: `(4, 4)`, from where a point was to where it is now, in mm.
        grid: Where to read.
    """
    shape, goal = grid
    matrix = np.linalg.inv(move @ affine) @ goal
    data = volume.cpu().numpy()
    where = (matrix[:3, :3], matrix[:3, 3], shape)
    read = ndimage.affine_transform(data, *where, order=3, mode="grid-constant")
    return torch.from_numpy(read).to(volume.device)


def centre_of(grid: Grid) -> Affine:
    """World coordinates of the middle of a grid."""
    shape, affine = grid
    return np.asarray(affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3])


def misalignment(found: Affine, truth: Affine, centre_mm: Affine) -> tuple[float, float]:
    """What a registration leaves: shift of a point in mm, and angle in degrees.

    Examples:
        >>> off = np.eye(4)
        >>> off[:3, 3] = 0.3, 0.0, 0.4
        >>> shift, angle = misalignment(off, np.eye(4), np.zeros(3))
        >>> round(shift, 6), angle
        (0.5, 0.0)
    """
    rest = np.linalg.inv(truth) @ found
    shift = rest[:3, :3] @ centre_mm + rest[:3, 3] - centre_mm
    angle = Rotation.from_matrix(rest[:3, :3]).magnitude()
    return float(np.linalg.norm(shift)), float(np.degrees(angle))


def read_registrations(path: Path | None) -> list[dict[str, Any]]:
    """Rows that `measure_registration.py` wrote; none if there is no file."""
    lines = path.read_text().splitlines() if path is not None and path.exists() else []
    return [json.loads(line) for line in lines]


def numbers_of(rows: Sequence[dict[str, Any]], name: str) -> list[int]:
    """Numbers of the moves of a label map that were registered."""
    return sorted({row["move"] for row in rows if row["map"] == name})
