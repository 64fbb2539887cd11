"""Make the scan that `synthsr example` writes: a FLAIR-like head in 5 mm slices.

The head is the built-in phantom, so the scan shows nobody. It has lesions in its white matter, a
bias field and noise, and its header is oblique, as that of a patient who lay askew. The same
version of PyTorch makes the same file again.

Usage: python examples/make_example_scan.py OUTPUT.nii.gz [--seed 7]
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
import torchio as tio

from synthsr_transforms import (
    BiasCorruption,
    GaussianSmoothing,
    LesionSimulation,
    SliceAcquisition,
    SpatialDeformation,
    TissueContrast,
)
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.phantom import head_phantom

TABLE = "synthseg"
SLICE_MM = 5
NUM_SLICES = 30
TILT_DEGREES = (6.0, -4.0, 3.0)
"""Orientation of the slices in the scanner: turns about the axes right, anterior and superior."""
ASKEW_DEGREES = (3.0, -5.0, 6.0)
"""Orientation of the head in the slices, likewise."""

FLAIR = {
    "background": 3,
    "white_matter": 118,
    "grey_matter": 152,
    "deep_grey": 138,
    "csf": 22,
    "brain_other": 126,
    "vessel": 40,
    "lesion": 225,
    "extracerebral": 105,
}
"""Intensity of each tissue."""
FLAIR_OF_LABELS = {
    **{13: 122, 52: 122, 16: 130, 8: 150, 47: 150, 7: 122, 46: 122},  # pallidum to cerebellum
    **{502: 25, 506: 30, 507: 78, 508: 95, 509: 105, 511: 120, 512: 122},  # vessels to cord
    **{514: 45, 515: 12, 516: 85, 530: 110},  # veins, bones, optic nerve
}
"""Intensity of single labels, where that differs from their tissue."""


def acquire() -> tio.Compose:
    """From a label map to an image in thick slices, on the 1 mm grid of the label map."""
    image = {"include": ["image"]}
    return tio.Compose(
        [
            SpatialDeformation(rotation_degrees=ASKEW_DEGREES, velocity_std_mm=1.5),
            TissueContrast(
                label_table=TABLE,
                by_tissue=FLAIR,
                by_value=FLAIR_OF_LABELS,
                std=4.0,
                destination="image",
            ),
            LesionSimulation(
                label_table=TABLE, intensity=215, std=6, size_mm=8, height=2.5, **image
            ),
            GaussianSmoothing(sigma_mm=0.5, **image),
            BiasCorruption(std=0.12, shape_factor=0.02, **image),
            SliceAcquisition(
                spacing_mm=(1, 1, SLICE_MM),
                thickness_mm=(1, 1, 4.5),
                noise_std=1.4,
                rician_probability=1.0,
            ),
        ]
    )


def slices_of(image: tio.ScalarImage) -> Volume:
    """The acquired slices alone, as a scanner stores them."""
    fine = image.data[0].numpy()
    centre = SLICE_MM // 2
    data = np.rint(fine[:, :, centre::SLICE_MM]).clip(0, 2**15 - 1).astype(np.int16)
    affine = np.asarray(image.affine.data, dtype=np.float64).copy()
    affine[:3, 3] += centre * affine[:3, 2]
    affine[:3, 2] *= SLICE_MM
    first = data.shape[2] - NUM_SLICES  # from the vertex down; the neck is left out
    affine[:3, 3] += first * affine[:3, 2]
    return Volume(data[:, :, first:], tilt() @ affine)


def tilt() -> npt.NDArray[np.float64]:
    """Rotation about the middle of the head, `(4, 4)`."""
    matrix = np.eye(4)
    for axis, angle in enumerate(np.deg2rad(TILT_DEGREES)):
        turn = np.eye(4)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def make_scan(seed: int, shape: Sequence[int] = (180, 236, 200)) -> Volume:
    """The scan: int16, 1 mm pixels in slices of 5 mm."""
    subject = tio.Subject(labels=head_phantom(shape=shape, seed=seed))
    torch.manual_seed(seed)
    return slices_of(acquire()(subject).image)


def save(path: Path, scan: Volume) -> None:
    """Write a `.nii.gz` file: as small as zip makes it, and the same bytes each time."""
    image = nib.Nifti1Image(scan.data, scan.affine)
    image.set_sform(scan.affine, code="scanner")
    image.set_qform(scan.affine, code="scanner")
    image.header.set_xyzt_units("mm")
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=9, mtime=0))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("output", type=Path, help="file to write, ending in .nii.gz")
    parser.add_argument("--seed", type=int, default=7, help="the individual (default: 7)")
    options = parser.parse_args(arguments)
    save(options.output, make_scan(options.seed))
    size = options.output.stat().st_size
    print(f"Wrote {options.output} ({size / 1e6:.2f} MB)")


if __name__ == "__main__":
    main()
