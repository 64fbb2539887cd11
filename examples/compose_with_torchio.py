"""Mix steps of this library with TorchIO's own: motion, ghosting and spikes.

Usage: python examples/compose_with_torchio.py [OUTPUT_FOLDER]
"""

import dataclasses
import sys
from pathlib import Path

import torch
import torchio as tio

from synthsr_transforms import (
    BiasCorruption,
    Generator,
    MinMaxRescale,
    SliceAcquisition,
    SpatialDeformation,
    StepConfig,
    TissueMixture,
    load_config,
)
from synthsr_transforms.phantom import head_phantom


def compose() -> tio.Compose:
    """A pipeline of single steps, ours and TorchIO's."""
    artefacts = tio.OneOf(
        {
            tio.Motion(degrees=(2.0, 6.0), translation=(1.0, 4.0), include=["image"]): 2,
            tio.Ghosting(num_ghosts=(3, 6), intensity=(0.3, 0.7), include=["image"]): 1,
            tio.Spike(num_spikes=(1, 2), intensity=(0.3, 0.8), include=["image"]): 1,
        },
        p=0.8,
    )
    return tio.Compose(
        [
            SpatialDeformation(rotation_degrees=(-10, 10), velocity_std_mm=(0, 3)),
            TissueMixture(label_table="synthseg"),
            BiasCorruption(std=(0, 0.3), include=["image"]),
            MinMaxRescale(include=["image"]),
            artefacts,
            SliceAcquisition(spacing_mm=(1, 1, 4), noise_std=(0, 0.03)),
        ]
    )


def preset_with_motion() -> Generator:
    """The same idea as data: a TorchIO transform as one more step of a preset."""
    config = load_config("all_purpose", ["crop.shape=128"])
    motion = StepConfig(name="Motion", params={"degrees": [2.0, 6.0], "include": ["image"]})
    steps = {}
    for name, step in config.steps.items():
        if name == "resolution":
            steps["motion"] = motion
        steps[name] = step
    return Generator(dataclasses.replace(config, steps=steps))


def main() -> None:
    """Write one scan of each."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "composed")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    subject = tio.Subject(labels=head_phantom(spacing_mm=1.5))
    scan = compose()(subject)
    scan.image.save(folder / "composed.nii.gz")
    print("history:", [step.name for step in scan.applied_transforms])
    batch, _ = preset_with_motion().run(subject, seed=0)
    batch.unbatch()[0].image.save(folder / "preset_with_motion.nii.gz")


if __name__ == "__main__":
    main()
