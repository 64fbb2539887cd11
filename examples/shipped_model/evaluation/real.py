"""Part (b): real T1-weighted scans with label maps, seen through simulated slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from synthsr_net.metrics.comparison import reference_of
from synthsr_net.training.validation import RealPair, on_grid_of_network
from synthsr_transforms.io.grids import Volume

from .held_out import AXES, check_slices
from .likeness import mapped_scores
from .network import HeadNetwork
from .pictures import Pictures
from .slices import acquire, cubic, linear, operators

SPACINGS_MM = (1.0, 3.0, 5.0, 7.0)
"""Slice spacings that are simulated."""


def evaluate_real_pairs(
    pairs: Sequence[RealPair],
    network: HeadNetwork,
    pictures: Pictures | None = None,
    *,
    spacings_mm: Sequence[float] = SPACINGS_MM,
    axes: Sequence[int] = (0, 1, 2),
    on_row: Callable[[], object] | None = None,
) -> list[dict[str, Any]]:
    """Predict from slices of real scans and compare with the scans.

    Slices and measures are those of `synthsr_net.training.validation`, whose means the means of
    these rows equal; interpolation is cubic here, and linear there.

    Args:
        pairs: From `read_real_pairs`.
        network: The model.
        pictures: Where to draw each scan, from slices of 5 mm or the thickest.
        spacings_mm: Slice spacings; one that is not above that of the network stands for the scan
            as it is.
        axes: Axes across which slices lie.
        on_row: Called after each prediction, to show progress.

    Returns:
        One row per prediction: `scan`, `slice_mm`, `axis`, and measures in the brain of the
        prediction (`network`) and of cubic interpolation of the same slices (`interpolation`),
        both after a cubic mapping of intensities.
    """
    check_slices(spacings_mm, axes)
    affine = np.diag([*[network.spacing_mm] * 3, 1.0])
    drawn = 5.0 if 5.0 in spacings_mm else max(spacings_mm)
    rows = []
    for pair in pairs:
        image, tissues = on_grid_of_network(pair, network.spacing_mm)
        reference, box = reference_of(pair.name, image, tissues)
        image = image[box].contiguous().to(network.device)
        reference = reference.to(network.device)
        for slice_mm in spacings_mm:
            thick = slice_mm > network.spacing_mm
            for axis in axes if thick else axes[-1:]:
                scan = acquire(image, affine, slice_mm, axis)
                prediction = network(linear(scan), slices=operators(scan))
                rows.append(
                    {
                        "scan": pair.name,
                        "slice_mm": float(slice_mm),
                        "axis": AXES[axis],
                        "network": mapped_scores(prediction, reference),
                        "interpolation": mapped_scores(cubic(scan), reference),
                    }
                )
                if pictures is not None and slice_mm == drawn and axis == axes[-1]:
                    pictures.add(
                        f"real_{pair.name}",
                        {
                            "input": Volume(scan.data.cpu().numpy(), scan.affine),
                            "scan": Volume(image.cpu().numpy(), affine),
                        },
                        Volume(prediction.cpu().numpy(), affine),
                        f"{pair.name}: {AXES[axis]} slices of {slice_mm:g} mm",
                    )
                if on_row is not None:
                    on_row()
    return rows
