"""Compare predictions of several methods with reference scans.

Usage: python examples/recipes/evaluate_predictions.py [OUTPUT_FOLDER] [REFERENCES LABEL_MAPS
           PREDICTIONS_OF_ONE_METHOD PREDICTIONS_OF_ANOTHER ...]

Arguments are folders, whose files are paired by name. Without them, scans of two head phantoms in
slices of 4 and of 9 mm, interpolated, are compared with scans in 3 mm.
"""

import sys
from pathlib import Path

import torch
import torchio as tio

from synthsr_net.evaluation import evaluate
from synthsr_transforms import SliceAcquisition, TissueContrast
from synthsr_transforms.phantom import head_phantom

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "evaluated")
if len(sys.argv) > 4:
    references, labels, *methods = map(Path, sys.argv[2:])
else:
    names = ("T1w", "labels", "slices_4mm", "slices_9mm")
    references, labels, *methods = (folder / name for name in names)
    torch.manual_seed(0)
    for person in range(2):
        head = tio.Subject(labels=head_phantom(spacing_mm=3, seed=person))
        t1 = TissueContrast(label_table="synthseg", std=3, destination="image")(head)
        made = {labels: t1.labels, references: t1.image}
        for method, slice_mm in zip(methods, (4, 9), strict=True):
            made[method] = SliceAcquisition(spacing_mm=(3, 3, slice_mm), noise_std=2)(t1).image
        for path, volume in made.items():
            path.mkdir(parents=True, exist_ok=True)
            volume.save(path / f"sub-{person}_{'dseg' if path == labels else 'T1w'}.nii.gz")

columns = ("brain/ssim", "brain/psnr", "brain/dice_wm")
print("method", *columns, sep="\t")
for method in methods:
    scores = evaluate(method, references, labels=labels, folder=folder / f"report_{method.name}")
    means = [sum(score.metrics[name] for score in scores) / len(scores) for name in columns]
    print(method.name, *(f"{mean:.3f}" for mean in means), sep="\t")
