"""Augment plain tensors in a training loop of your own, on a GPU if there is one.

Usage: python examples/recipes/plain_tensors.py
"""

import torch

from synthsr_transforms import (
    BiasCorruption,
    GammaContrast,
    MinMaxRescale,
    ScannerNoise,
    SliceAcquisition,
    SpatialDeformation,
)
from synthsr_transforms.functional.blur import gaussian_blur

device = "cuda" if torch.cuda.is_available() else "cpu"
images = torch.rand(4, 1, 48, 48, 48, device=device)  # (B, C, X, Y, Z)
masks = (images > 0.9).short()

# Transforms: every element of a batch has random choices of its own, and images and label maps of a
# dictionary go through the same geometry. Labels are told by their key.
deform = SpatialDeformation(rotation_degrees=(-15, 15), scaling=(0.9, 1.1), velocity_std_mm=(0, 3))
intensity = [
    SliceAcquisition(spacing_mm={"uniform": [[1, 1, 2], [1, 1, 6]]}, p=0.5),
    MinMaxRescale(),
    GammaContrast(log_gamma=(-0.3, 0.3)),
    BiasCorruption(std=(0, 0.3)),
    ScannerNoise(std=(0, 0.05)),
]
torch.manual_seed(0)
batch = deform({"image": images, "mask": masks})
image, mask = batch["image"], batch["mask"]
for transform in intensity:
    image = transform(image)
print(f"image {tuple(image.shape)} {image.dtype}, mask {mask.dtype} {mask.unique().tolist()}")

# A generator of your own makes the same again, whatever else draws random numbers.
first, second = (deform(images, generator=torch.Generator().manual_seed(7)) for _ in range(2))
print(f"the same again: {torch.equal(first, second)}")

# Functions: batched mathematics without random choices, through which gradients flow.
images.requires_grad_()
sigma_voxels = torch.full((4, 1, 3), 1.5)
gaussian_blur(images, sigma_voxels).square().mean().backward()
print(f"gradient {tuple(images.grad.shape)}")
