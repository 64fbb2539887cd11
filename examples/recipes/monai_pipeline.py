"""Use transforms among MONAI's, on dictionaries of MetaTensors.

Usage: python examples/recipes/monai_pipeline.py [SCAN LABEL_MAP]

Needs MONAI (pip install monai). Without a scan, the built-in head phantom serves.
"""

import sys
import tempfile
from pathlib import Path

import torch
import torchio as tio
from monai.data import DataLoader, Dataset
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    RandSpatialCropd,
    ScaleIntensityd,
)

from synthsr_transforms import BiasCorruption, ScannerNoise, SliceAcquisition, SpatialDeformation
from synthsr_transforms import TissueContrast as Contrast
from synthsr_transforms.phantom import head_phantom

torch.manual_seed(0)
folder = tempfile.TemporaryDirectory()
scan, label = (Path(folder.name, f"{name}.nii.gz") for name in ("scan", "labels"))
if len(sys.argv) > 2:
    scan, label = sys.argv[1:3]
else:
    head = tio.Subject(labels=head_phantom(spacing_mm=3))
    head.labels.save(label)
    Contrast(label_table="synthseg", std=4, destination="image")(head).image.save(scan)

keys = ["image", "label"]
pipeline = Compose(
    [
        LoadImaged(keys),
        EnsureChannelFirstd(keys),
        SpatialDeformation(rotation_degrees=(-10, 10), velocity_std_mm=(0, 3)),  # both alike
        BiasCorruption(std=(0, 0.3)),  # images alone
        SliceAcquisition(spacing_mm={"uniform": [[3, 3, 3], [3, 3, 9]]}),  # mm by the affine
        ScaleIntensityd(["image"]),
        ScannerNoise(std=(0, 0.05)),
        RandSpatialCropd(keys, roi_size=(32, 32, 32), random_size=False),
    ]
)
files = [{"image": str(scan), "label": str(label)}] * 4
for batch in DataLoader(Dataset(files, pipeline), batch_size=2):
    image, labels = batch["image"], batch["label"]
    spacing = [round(float(mm), 2) for mm in image.pixdim[0]]
    print(f"{type(image).__name__} {tuple(image.shape)}, voxels of {spacing} mm")
    print(f"{len(labels.unique())} labels, all whole: {bool((labels == labels.round()).all())}")

# A batch that is on a GPU goes through the same transforms there.
device = "cuda" if torch.cuda.is_available() else "cpu"
shaded = BiasCorruption(std=0.3)({"image": image.to(device), "label": labels.to(device)})
print(f"{type(shaded['image']).__name__} on {shaded['image'].device.type}")
folder.cleanup()
