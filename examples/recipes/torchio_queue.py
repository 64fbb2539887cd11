"""Use transforms in TorchIO: in a Compose, in a SubjectsLoader, and in a Queue of patches.

Usage: python examples/recipes/torchio_queue.py [SCAN LABEL_MAP]

Without a scan, the built-in head phantom serves. For motion, ghosting and spikes of TorchIO beside
our steps, see examples/compose_with_torchio.py.
"""

import sys

import torch
import torchio as tio
from torch.utils.data import Dataset

from synthsr_transforms import BiasCorruption, HemisphereFlip, SliceAcquisition, SpatialDeformation
from synthsr_transforms import TissueContrast as Contrast
from synthsr_transforms.phantom import head_phantom

torch.manual_seed(0)
if len(sys.argv) > 2:
    subject = tio.Subject(image=tio.ScalarImage(sys.argv[1]), labels=tio.LabelMap(sys.argv[2]))
else:
    head = tio.Subject(labels=head_phantom(spacing_mm=4))
    subject = Contrast(label_table="synthseg", std=4, destination="image")(head)

on_load = tio.Compose(  # on the CPU, one subject at a time
    [
        SpatialDeformation(rotation_degrees=(-10, 10), velocity_std_mm=(0, 3)),
        tio.Flip(axes=("LR",), p=0.1),
        HemisphereFlip(label_table="synthseg", p=0.5),
    ]
)
on_batch = tio.Compose(  # on the device of the batch, a choice for each of its elements
    [
        BiasCorruption(std=(0, 0.3)),
        tio.Noise(std=2.0, p=0.5),
        SliceAcquisition(spacing_mm={"uniform": [[4, 4, 4], [4, 4, 9]]}),
    ]
)


class Subjects(Dataset):
    """Subjects, transformed as they are loaded."""

    def __init__(self, subjects: list[tio.Subject]) -> None:
        self.subjects = subjects

    def __len__(self) -> int:
        return len(self.subjects)

    def __getitem__(self, index: int) -> tio.Subject:
        return on_load(self.subjects[index])


device = "cuda" if torch.cuda.is_available() else "cpu"
for batch in tio.SubjectsLoader(Subjects([subject] * 4), batch_size=2):
    batch = on_batch(batch.to(device))
    print("whole heads", tuple(batch.images["image"].data.shape))
print("history", [step.name for step in batch.unbatch()[0].applied_transforms])

patches = tio.Queue(
    [subject] * 2,
    tio.UniformSampler(subject, patch_size=24),
    max_length=8,
    patches_per_volume=4,
    num_workers=1,
    transform=on_load,
)
for batch in tio.SubjectsLoader(patches, batch_size=4):
    batch = on_batch(batch.to(device))
    print("patches", tuple(batch.images["image"].data.shape))
