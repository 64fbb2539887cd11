"""Write data to try the tutorials on: label maps, T1-weighted and T2-weighted scans of phantoms.

Usage: python examples/tutorial_data.py FOLDER [--people 2] [--spacing-mm 1]

FOLDER then holds `labels`, `T1w` and `T2w`, each with a file per person and named alike. Labels are
those of FreeSurfer's `aseg.mgz`, scans are skull-stripped, as its `norm.mgz`. Files that exist are
kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torchio as tio

from synthsr_transforms import (
    CopyImage,
    GaussianSmoothing,
    LabelTable,
    SharedTexture,
    TissueContrast,
    load_config,
)
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.io.volumes import write_volume
from synthsr_transforms.phantom import head_phantom

PHANTOM_TABLE, BRAIN_TABLE = "synthseg", "freesurfer_synthsr"
STEPS = {"T1w": "target", "T2w": "t2_contrast", "CT": "ct_contrast"}
"""Steps of the preset `all_purpose` that give the intensities of tissues."""


CHOROID_PLEXUS = {136: 31, 137: 31, 163: 63, 164: 63}
"""Labels of parts that `aseg.mgz` does not tell apart, and those that it gives them."""


def contrast_of(kind: str) -> dict[str, Any]:
    """Intensities of tissues and labels in a kind of scan, arguments of `TissueContrast`."""
    params = load_config("all_purpose").steps[STEPS[kind]].params
    return {name: params[name] for name in ("by_tissue", "by_value")}


def drawn(labels: tio.LabelMap, contrast: Mapping[str, Any]) -> torch.Tensor:
    """A scan of a phantom, `(1, X, Y, Z)`; the same each time."""
    table = PHANTOM_TABLE
    steps = [
        TissueContrast(
            label_table=table, **contrast, std=2.0, same_sides=True, destination="image"
        ),
        CopyImage(),
        SharedTexture(label_table=table, std=0.04, size_mm=3.0),
        GaussianSmoothing(sigma_mm=0.5, include=["image"]),
    ]
    subject = tio.Subject(labels=labels)
    for number, step in enumerate(steps):
        subject = step(subject, generator=torch.Generator().manual_seed(number))
    return subject["image"].data


def brain_labels(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.int16]:
    """Labels as in `aseg.mgz`: those of the brain."""
    lookup = np.zeros(labels.max() + 1, np.int16)
    for value in LabelTable.ready(BRAIN_TABLE).values:
        lookup[value : value + 1] = value
    for part, whole in CHOROID_PLEXUS.items():
        lookup[part : part + 1] = whole
    return lookup[labels]


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the phantoms and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--people", type=int, default=2)
    parser.add_argument("--spacing-mm", type=float, default=1.0)
    options = parser.parse_args(arguments)
    for seed in range(options.people):
        paths = {k: options.folder / k / f"person{seed}.nii.gz" for k in ("labels", "T1w", "T2w")}
        if all(path.exists() for path in paths.values()):
            continue
        head = head_phantom(spacing_mm=options.spacing_mm, seed=seed)
        brain = brain_labels(head.data.numpy())
        for kind, path in paths.items():
            data = brain
            if kind != "labels":
                data = drawn(head, contrast_of(kind)).numpy() * (brain > 0)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_volume(path, Volume(data[0], np.asarray(head.affine.data)))


if __name__ == "__main__":
    main()
