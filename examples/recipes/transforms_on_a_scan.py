"""Apply every transform, one at a time, to a scan in a NIfTI file.

Usage: python examples/recipes/transforms_on_a_scan.py [OUTPUT_FOLDER] [SCAN LABEL_MAP]

Without a scan, the built-in head phantom serves. Its labels are those of SynthSeg and FreeSurfer.
"""

import sys
from pathlib import Path

import torch
import torchio as tio

import synthsr_transforms as synth
from synthsr_transforms.phantom import head_phantom

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "transformed")
folder.mkdir(parents=True, exist_ok=True)
torch.manual_seed(0)

if len(sys.argv) > 3:
    scan_file, label_file = map(Path, sys.argv[2:4])
else:
    scan_file, label_file = folder / "scan.nii.gz", folder / "labels.nii.gz"
    head = tio.Subject(labels=head_phantom(spacing_mm=2))
    paint = synth.TissueContrast(label_table="synthseg", std=4, destination="image")
    head.labels.save(label_file)
    paint(head).image.save(scan_file)

subject = tio.Subject(image=tio.ScalarImage(scan_file), labels=tio.LabelMap(label_file))
two_scans = tio.Subject(
    image=tio.ScalarImage(subject.image.data.repeat(2, 1, 1, 1), affine=subject.image.affine)
)
lesion = torch.zeros(1, 9, 9, 9, dtype=torch.uint8)  # the shape of one, in voxels of 1 mm
lesion[0, 2:7, 1:8, 3:6] = 1
tio.LabelMap(lesion).save(folder / "lesion.nii.gz")

table = {"label_table": "synthseg"}
image = {"include": ["image"]}
thick = {"spacing_mm": (2, 2, 6)}
one_scan = [
    synth.AcquisitionResolution(max_isotropic_mm=6),
    synth.BiasCorruption(std=0.4),
    synth.CopyImage(destination="copy"),
    tio.Compose([synth.MinMaxRescale(), synth.GammaContrast(log_gamma=(-0.5, 0.5))]),
    synth.GaussianSmoothing(sigma_mm=(1, 3)),
    synth.GroupLabels(**table),
    synth.HemisphereFlip(**table),
    synth.LesionInsertion(masks=folder / "lesion.nii.gz", intensity=200, **table, **image),
    synth.LesionSimulation(intensity=200, size_mm=6, height=1, **table, **image),
    synth.MinMaxRescale(),
    synth.PartialFieldOfView(fraction=(0.4, 0.7)),
    synth.PatchCrop(shape=64),
    tio.Compose([synth.SliceAcquisition(**thick), synth.ReliabilityMap()]),
    synth.ScannerNoise(std=(2, 8), rician_probability=0.5),
    synth.SharedTexture(std=(0.1, 0.2), size_mm=(4, 8), target="image"),
    synth.SkullStripping(margin_mm=(0, 3), **table),
    synth.SliceAcquisition(noise_std=(0, 4), **thick),
    synth.SpatialDeformation(rotation_degrees=(-15, 15), velocity_std_mm=(0, 3)),
    synth.TargetResolution(spacing_mm=4),
    synth.TissueContrast(std=3, destination="t1", **table),
    synth.TissueMixture(**table),
]
two = [
    synth.SelectChannels(channels=[1]),
    synth.RegistrationError(rotation_degrees=(-5, 5), translation_mm=(-4, 4)),
    tio.Compose([synth.RegistrationError(), synth.RegistrationCorrection(rotation_degrees=1)]),
]

for before, steps in ((subject, one_scan), (two_scans, two)):
    for transform in steps:
        after = transform(before)
        name = after.applied_transforms[-1].name
        changed = [
            key
            for key, new in after.images.items()
            if key not in before.images or not torch.equal(new.data, before.images[key].data)
        ]
        for key in changed:
            after.images[key].save(folder / f"{name}_{key}.nii.gz")
        print(f"{name}: {', '.join(changed) or 'nothing but metadata'}")
