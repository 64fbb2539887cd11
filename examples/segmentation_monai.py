"""Train another project's network, MONAI's U-Net, to segment scans that the generator makes.

Usage: python examples/segmentation_monai.py [LABEL_MAP ...]

Needs MONAI (pip install monai). Without label maps, the built-in head phantom serves.
"""

from __future__ import annotations

import sys

import torch
import torchio as tio
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from torchio.data.batch import SubjectsBatch

from synthsr_transforms import Generator
from synthsr_transforms.labels.structures import StructureTable
from synthsr_transforms.phantom import head_phantom

STEPS, PATCH, BATCH = 5, 64, 2


def main() -> None:
    """Train for a few steps."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    maps = [tio.LabelMap(path) for path in sys.argv[1:]] or [head_phantom(spacing_mm=2)]
    subjects = [tio.Subject(labels=labels) for labels in maps]
    generator = Generator.from_preset("segmentation", {"crop.shape": PATCH})
    structures = StructureTable.resolve("auto", generator.label_table)
    values = torch.tensor(structures.values, device=device)
    network = UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=len(structures),
        channels=(16, 32, 64, 128),
        strides=(2, 2, 2),
        norm="instance",
    ).to(device)
    loss_of = DiceCELoss(softmax=True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for step in range(STEPS):
        chosen = [subjects[(step + k) % len(subjects)] for k in range(BATCH)]
        pair = generator.pair(SubjectsBatch.from_subjects(chosen).to(device), seed=step)
        one_hot = (pair.target == values.view(1, -1, 1, 1, 1)).float()
        loss = loss_of(network(pair.image), one_hot)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        print(f"step {step}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
