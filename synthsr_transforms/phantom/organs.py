"""What a structure of the head is: its labels, its shape and how it is painted."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .distances import Knots, Triple

Label = tuple[int, int]
"""Left and right value of a structure; twice the same value for a structure without sides."""


@dataclass(frozen=True)
class Organ:
    """A chain of round cones from knot to knot, stretched along the axes."""

    name: str
    label: Label
    knots: Knots
    stretch: Triple = (1.0, 1.0, 1.0)
    shell: tuple[Label, float] | None = None
    """A second label around the organ, and its thickness in mm."""
    over: tuple[Label, ...] = ()
    """Paint only voxels that have one of these labels; empty: all voxels."""
    grain: float | None = None
    """Paint only where a fine noise of unit variance is above this value."""
    grows: bool = False
    """Grow by the individual's `ventricle_mm`, and stay off the mid-sagittal plane."""

    def box_mm(self) -> tuple[list[float], list[float]]:
        """Corners of a box in head space that holds the organ, its shell and its growth."""
        knots = torch.tensor(self.knots)
        extra = (self.shell[1] if self.shell else 0.0) + (4.0 if self.grows else 0.0)
        reach = knots[:, 3].max() * torch.tensor(self.stretch) + extra
        low, high = knots[:, :3].amin(0) - reach, knots[:, :3].amax(0) + reach
        return low.tolist(), high.tolist()
