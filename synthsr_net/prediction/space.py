"""Where a scan lies in the input of a network, and what leads back to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from synthsr_net.models.checkpoint import ModelConfig, ScanConfig
from synthsr_net.prediction.refinement.data_consistency import slices_between

from .intensities import Rescaling
from .resampling import Grid

LEGACY = ("v1", "v2")
"""Programs that can be followed exactly: the original repository, and FreeSurfer's script."""
LEGACY_DIVISOR = 32
"""Both pad to multiples of this, whatever the depth of the network."""


@dataclass(frozen=True, eq=False)
class ScanSpace:
    """What is needed to bring the output of a network back to a scan."""

    input_grid: Grid
    """Grid of the (first) scan."""
    grid: Grid
    """Grid with the network's spacing, along the axes of the scan."""
    aligned_grid: Grid
    """The same voxels with axes to the right, front and top."""
    begin: tuple[int, int, int]
    """First voxel of the aligned grid in the padded input of the network."""
    parallel: bool
    """Whether the axes of the scan are those of `grid` (no shear)."""
    legacy: str | None
    """The program that is followed, of `LEGACY`."""
    rescalings: tuple[Rescaling, ...]
    """Of each input image."""
    residual: Tensor | None
    """Input that the output is added to, `(X, Y, Z)`, padded."""
    warnings: tuple[str, ...]
    """Of the scans and their conversion, one line each."""

    @property
    def inside(self) -> tuple[slice, ...]:
        """Where the scan lies in the padded volume, three slices."""
        return inside(self.begin, self.aligned_grid[0])

    def slices(self) -> list[Tensor | None]:
        """Operators of the (first) scan's slices on the aligned grid, see `slices_between`.

        A scan with sheared axes was read on a grid at right angles, and counts as made there.
        """
        if not self.parallel:
            return [None] * 3
        return slices_between(self.aligned_grid, self.input_grid)


def settings_of(config: ModelConfig, legacy: str | None = None) -> ScanConfig:
    """How scans are treated: as the model says, or as an original program does.

    Args:
        config: Of the model.
        legacy: `"v1"`, `"v2"` or None.

    Raises:
        ValueError: If `legacy` is another word.

    Examples:
        >>> settings_of(ModelConfig(), "v2").sharpen
        True
    """
    if legacy is None:
        return config.scan
    if legacy not in LEGACY:
        raise ValueError(f"legacy must be one of {', '.join(LEGACY)}, got {legacy!r}.")
    one_image = config.scan.residual_input is None
    v2 = legacy == "v2" and one_image
    return replace(
        config.scan,
        divisor=LEGACY_DIVISOR,
        normalisation="min_max",
        normalise_after_padding=v2,
        clip_each_pass=v2,
        sharpen=v2,
        data_consistency=False,
        inverse_contrast=False,
        flip=one_image,
    )


def padding(shape: Sequence[int], divisor: int) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Where a volume begins when it is padded on both sides to multiples of a number.

    Returns:
        First voxel, and padded shape.

    Examples:
        >>> padding((31, 32, 34), 32)
        ((0, 0, 15), (32, 32, 64))
    """
    padded = tuple(divisor * -(-n // divisor) for n in shape)
    x, y, z = ((large - n) // 2 for large, n in zip(padded, shape, strict=True))
    return (x, y, z), padded


def inside(begin: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    """Slices of a part of a volume, by its first voxel and its shape."""
    return tuple(slice(b, b + n) for b, n in zip(begin, shape, strict=True))
