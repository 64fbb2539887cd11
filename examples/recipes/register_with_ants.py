"""Carry the labels of an atlas to a scan in thick slices, with ANTs: from its prediction or not?

Usage: python examples/recipes/register_with_ants.py [OUTPUT_FOLDER]
           [SCAN LABELS ATLAS ATLAS_LABELS]

SCAN and ATLAS are T1-weighted scans of 1 mm, of two people, with label maps of FreeSurfer
(aparc+aseg) on their grids. SCAN is averaged to axial slices of 5 mm, and the atlas registered to
three images: SCAN itself, cubic interpolation of the slices, and the prediction from the slices.
Without arguments, the scan is the one that comes with the package, its labels are those that
`synthsr segment` finds, and the atlas is a head phantom.

It needs `pip install antspyx`. A registration takes minutes; environment variable
ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS says how many processor cores.
"""

import sys
from pathlib import Path

import ants
import nibabel as nib
import numpy as np
import torch
import torchio as tio
from nibabel.processing import resample_from_to

from synthsr_net import Predictor, Segmenter
from synthsr_net.example import EXAMPLE_SCAN
from synthsr_net.metrics.volumes import dice
from synthsr_transforms import TissueContrast
from synthsr_transforms.labels.structures import StructureTable
from synthsr_transforms.phantom import head_phantom

SLICE_MM = 5
MARGIN_MM = 25  # of the field of view around the brain
GROUPS = {
    "cortex": (3, 42),
    "white_matter": (2, 41),
    "deep": (10, 11, 12, 13, 17, 18, 26, 28, 49, 50, 51, 52, 53, 54, 58, 60),
    "ventricles": (4, 14, 15, 43),
    "cerebellum": (7, 8, 46, 47),
}
STRUCTURES = StructureTable.ready("freesurfer").lookup()  # parcels become cortex, and so on


def read(scan, labels):
    """Both, of float32 and int16, with axes to the right, front and top, cut to the brain."""
    scan, labels = (nib.as_closest_canonical(nib.load(path)) for path in (scan, labels))
    brain = np.argwhere(np.asarray(labels.dataobj) > 0)
    low = np.maximum(brain.min(0) - MARGIN_MM, 0)
    high = np.minimum(brain.max(0) + MARGIN_MM, labels.shape)
    high = low + (high - low) // SLICE_MM * SLICE_MM  # whole slices
    box = tuple(slice(*ends) for ends in zip(low, high, strict=True))
    scan, labels = (image.slicer[box] for image in (scan, labels))
    values = STRUCTURES[torch.from_numpy(np.asarray(labels.dataobj, np.int64))].short()
    return (
        nib.Nifti1Image(scan.get_fdata(dtype=np.float32), scan.affine),
        nib.Nifti1Image(values.numpy(), labels.affine),
    )


def thick_slices(scan):
    """Axial slices of 5 mm without gaps: means of five."""
    data = scan.get_fdata(dtype=np.float32)
    number = data.shape[2] // SLICE_MM
    data = data[:, :, : number * SLICE_MM].reshape(*data.shape[:2], number, SLICE_MM).mean(-1)
    affine = scan.affine @ np.diag([1, 1, SLICE_MM, 1])
    affine[:3, 3] += scan.affine[:3, 2] * (SLICE_MM - 1) / 2
    return nib.Nifti1Image(data, affine)


def phantom_atlas():
    """A head that is not the one of the example scan, and its labels."""
    torch.manual_seed(0)
    head = tio.Subject(labels=head_phantom(shape=(180, 236, 200), seed=0))
    scan = TissueContrast(label_table="synthseg", std=3, destination="image")(head).image
    values = STRUCTURES[head.labels.data[0].long()].short()
    affine = np.asarray(scan.affine.data)
    return nib.Nifti1Image(scan.data[0].numpy(), affine), nib.Nifti1Image(values.numpy(), affine)


def carried(atlas, atlas_labels, image, grid):
    """Labels of the atlas on a grid, by registration of the atlas to an image."""
    fixed, moving, labels, grid = (
        ants.image_read(str(path)) for path in (image, atlas, atlas_labels, grid)
    )
    found = ants.registration(fixed, moving, type_of_transform="SyN", random_seed=1)
    return ants.apply_transforms(
        grid, labels, found["fwdtransforms"], interpolator="nearestNeighbor"
    )


def overlap(found, truth):
    """Mean Dice coefficient of the structures of each group."""
    one, other = (torch.as_tensor(np.asarray(volume)).short() for volume in (found, truth))
    for values in GROUPS.values():
        masks = (torch.stack([volume == value for value in values]) for volume in (one, other))
        coefficients, known = dice(*(mask[None] for mask in masks))
        yield float(coefficients[known].mean())


folder = Path(sys.argv[1] if len(sys.argv) > 1 else "registered")
folder.mkdir(parents=True, exist_ok=True)
predictor = Predictor.from_file(device="cpu")
images = {}
if len(sys.argv) > 2:
    images["scan"], labels = read(*sys.argv[2:4])
    atlas, atlas_labels = read(*sys.argv[4:6])
    slices = thick_slices(images["scan"])
else:
    slices = nib.load(EXAMPLE_SCAN)
    labels = Segmenter.from_file(device="cpu")(slices)
    atlas, atlas_labels = phantom_atlas()
images["prediction"] = predictor(slices)
images["interpolation"] = resample_from_to(slices, images["prediction"], order=3, mode="nearest")

written = images | {"slices": slices, "labels": labels}
written |= {"atlas": atlas, "atlas_labels": atlas_labels}
paths = {name: folder / f"{name}.nii.gz" for name in written}
for name, image in written.items():
    nib.save(image, paths[name])

print("image", *GROUPS, sep="\t")
for name in images:
    found = carried(paths["atlas"], paths["atlas_labels"], paths[name], paths["labels"])
    ants.image_write(found, str(folder / f"labels_by_{name}.nii.gz"))
    row = overlap(found.numpy(), labels.dataobj)
    print(name, *(f"{value:.3f}" for value in row), sep="\t", flush=True)
