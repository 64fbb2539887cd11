"""Feed a network with pairs that are generated on the device, batch by batch.

Usage: python examples/train_loop.py [LABEL_MAP ...]
"""

import sys

import torch
import torchio as tio
from torchio.data.batch import SubjectsBatch

from synthsr_transforms import Generator
from synthsr_transforms.phantom import head_phantom


def main() -> None:
    """Train a single convolution for a few steps."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = Generator.from_preset("all_purpose", ["crop.shape=64"])
    maps = [tio.LabelMap(path) for path in sys.argv[1:]] or [head_phantom(spacing_mm=2)]
    subjects = [tio.Subject(labels=labels) for labels in maps]
    network = torch.nn.Conv3d(1, 1, 3, padding=1).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for step in range(5):
        chosen = [subjects[step % len(subjects)]] * 2
        batch = SubjectsBatch.from_subjects(chosen).to(device)
        pair = generator.pair(batch, seed=step)
        loss = (network(pair.image) - pair.target).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        print(f"step {step}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
