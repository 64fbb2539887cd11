"""Augmentation for nnU-Net, of whole batches and on the device where they are."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from synthsr_transforms import Generator, GeneratorConfig, StepConfig
from synthsr_transforms.transforms.containers import wrap_dict

# nnU-Net has resampled to one spacing and gives no affine: a millimetre is a voxel here.
GEOMETRY = {"rotation_degrees": [-30, 30], "scaling": [0.8, 1.25], "velocity_std_mm": [0, 3]}
RESOLUTION = {"max_isotropic_mm": 2, "max_anisotropic_mm": 6, "probability_minimum": 0.75}
INTENSITY = {
    "range": StepConfig(name="MinMaxRescale"),
    "smoothing": StepConfig(name="GaussianSmoothing", params={"sigma_mm": [0.5, 1], "p": 0.2}),
    "gamma": StepConfig(name="GammaContrast", params={"log_gamma": [-0.4, 0.4], "p": 0.4}),
    "bias": StepConfig(name="BiasCorruption", params={"std": [0, 0.4], "p": 0.4}),
    "resolution": StepConfig(name="AcquisitionResolution", params=RESOLUTION),
    "slices": StepConfig(name="SliceAcquisition", params={"noise_std": [0, 0.02]}),
    "noise": StepConfig(name="ScannerNoise", params={"std": [0, 0.06], "p": 0.2}),
}


@cache
def generator_for(patch: tuple[int, ...]) -> Generator:
    """Steps from what nnU-Net loads, larger than the patch, to the patch in its middle."""
    crop = {"shape": list(patch), "focus": "middle"}
    steps = {
        "deformation": StepConfig(name="SpatialDeformation", params=GEOMETRY),
        "crop": StepConfig(name="PatchCrop", params=crop),
        **INTENSITY,
    }
    return Generator(GeneratorConfig(steps=steps))


def augment(image: Tensor, labels: Tensor, patch: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Augment a batch, each element with random choices of its own.

    Args:
        image: `(B, C, X, Y, Z)`. Each channel keeps its mean and standard deviation, nearly.
        labels: `(B, 1, X, Y, Z)`, whole numbers.
        patch: Sizes of the patch, at most those of the image.
    """
    first = [(n - size) // 2 for n, size in zip(image.shape[2:], patch, strict=True)]
    last = [start + size for start, size in zip(first, patch, strict=True)]
    data = {"image": image, "labels": labels, "middle": [[first, last]] * len(image)}
    seed = int(torch.randint(2**31, ()))
    batch, _ = generator_for(tuple(patch)).run(wrap_dict(data)[0], seed)
    changed = like(batch.images["image"].data, image)
    labels = batch.images["labels"].data
    for axis in (2, 3, 4):
        mirrored = (torch.rand(len(image), 1, 1, 1, 1) < 0.5).to(image.device)
        changed = torch.where(mirrored, changed.flip(axis), changed)
        labels = torch.where(mirrored, labels.flip(axis), labels)
    return changed, labels


def like(changed: Tensor, image: Tensor) -> Tensor:
    """Give each channel the mean and standard deviation of another image."""
    volume = (2, 3, 4)
    centred = changed - changed.mean(volume, keepdim=True)
    scale = image.std(volume, keepdim=True) / changed.std(volume, keepdim=True).clamp(min=1e-6)
    return centred * scale + image.mean(volume, keepdim=True)


if __name__ == "__main__":
    image = torch.randn(2, 1, 60, 60, 60)
    labels = (image > 1).short()
    image, labels = augment(image, labels, patch=(48, 48, 48))
    print(f"image {tuple(image.shape)}, mean {image.mean():.2f}, std {image.std():.2f}")
    print(f"labels {tuple(labels.shape)} {labels.dtype}, values {labels.unique().tolist()}")
