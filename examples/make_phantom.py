"""Write a procedural head to a NIfTI file, with a picture of three planes.

Usage: python make_phantom.py OUTPUT_FOLDER [--seed 0] [--spacing-mm 1.0 | R A S]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torchio as tio
from matplotlib import colors
from matplotlib.figure import Figure

from synthsr_transforms.phantom import PHANTOM_LABELS, head_phantom

COLOURS = {
    0: "black",
    2: "whitesmoke", 41: "gainsboro",  # white matter
    3: "grey", 42: "dimgrey",  # cortex
    4: "slateblue", 43: "slateblue", 14: "mediumpurple", 15: "mediumpurple",  # ventricles
    5: "orchid", 44: "orchid",
    7: "wheat", 46: "tan", 8: "darkorange", 47: "peru",  # cerebellum
    10: "seagreen", 49: "seagreen", 11: "skyblue", 50: "skyblue",  # deep nuclei
    12: "hotpink", 51: "hotpink", 13: "royalblue", 52: "royalblue",
    17: "gold", 53: "gold", 18: "turquoise", 54: "turquoise",
    26: "coral", 58: "coral", 28: "sienna", 60: "sienna", 16: "darkseagreen",
    24: "midnightblue",
    502: "red", 514: "forestgreen",  # vessels
    506: "cyan", 508: "yellow", 509: "darkmagenta", 530: "lime", 512: "blue",
    507: "rosybrown", 511: "saddlebrown", 515: "khaki", 516: "burlywood",
}  # fmt: skip
"""Colours of the main structures; the others are drawn in violet."""


def paint(labels: npt.NDArray[np.int16]) -> npt.NDArray[np.float64]:
    """Labels to colours: `(X, Y)` to `(X, Y, 3)`."""
    table = np.zeros((max(PHANTOM_LABELS) + 1, 3))
    for label in PHANTOM_LABELS:
        table[label] = colors.to_rgb(COLOURS.get(label, "violet"))
    return table[labels]


def save_preview(phantom: tio.LabelMap, path: Path) -> None:
    """Save the sagittal, coronal and axial planes through the middle of the brain."""
    labels = phantom.data[0].numpy()
    spacing = phantom.spacing
    brain = np.argwhere(np.isin(labels, (2, 41, 3, 42)))
    centre = brain.mean(axis=0).round().astype(int) if len(brain) else np.array(labels.shape) // 2
    centre[0] = min(centre[0] + round(6 / spacing[0]), labels.shape[0] - 1)  # off the fissure
    figure = Figure(figsize=(15, 6), facecolor="black", layout="constrained")
    for axis, panel in enumerate(figure.subplots(1, 3)):
        across, up = (a for a in range(3) if a != axis)
        plane = np.rot90(labels.take(centre[axis], axis))
        panel.imshow(paint(plane), interpolation="nearest", aspect=spacing[up] / spacing[across])
        panel.axis("off")
    figure.savefig(path, dpi=100)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("output", type=Path, help="folder for the NIfTI file and the picture")
    parser.add_argument("--seed", type=int, default=0, help="the individual (default: 0)")
    parser.add_argument("--spacing-mm", type=float, nargs="+", default=[1.0], help="voxel size")
    options = parser.parse_args(arguments)
    spacing_mm = options.spacing_mm[0] if len(options.spacing_mm) == 1 else options.spacing_mm
    phantom = head_phantom(spacing_mm=spacing_mm, seed=options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    stem = f"phantom_{options.seed}"
    phantom.save(options.output / f"{stem}_labels.nii.gz")
    save_preview(phantom, options.output / f"{stem}_labels.png")
    print(f"Wrote {stem}_labels.nii.gz and {stem}_labels.png to {options.output}")


if __name__ == "__main__":
    main()
