"""Train a small network on two phantoms, in ten minutes on one CPU core, and use it.

It learns to turn T2 scans with thick slices into T1 scans.

Usage: python train_small.py [OUTPUT_FOLDER] [--epochs 20] [--steps-per-epoch 50]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from synthsr_net.prediction.predictor import Predictor
from synthsr_net.training.callbacks.log import EpochResults
from synthsr_net.training.run import start
from synthsr_transforms import Generator
from synthsr_transforms.phantom import head_phantom

PRESET = "tutorial_4_synthesis_synthetic"
SETTINGS = [
    "label_table=synthseg_synthsr",
    "crop.shape=64",
    "crop.focus=brain_box",
    "gamma.log_gamma=0",
    "network.num_levels=4",
    "network.num_features=8",
    "network.normalisation=instance",
    "network.normalise_last=false",
    "optimiser.learning_rate=3e-3",
    "optimiser.warmup_steps=20",
    "optimiser.ema_decay=0.98",
    "validation.held_out=1",
    "validation.samples=4",
    "validation.previews=1",
    "run.keep_models=0",
]
"""A fraction of the usual size, on voxels of 2 mm."""


def report(results: EpochResults) -> None:
    """Print the results of an epoch."""
    row = results.row
    print(
        f"epoch {results.epoch}: loss {row['train/loss']:.3f},"
        f" PSNR in the brain {row['validation/brain/psnr']:.1f} dB{' (best)' * results.best}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("output", type=Path, nargs="?", default=Path("small"))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--steps-per-epoch", type=int, default=50)
    parser.add_argument("--spacing-mm", type=float, default=2, help="voxel spacing of the phantoms")
    options = parser.parse_args(arguments)

    labels = options.output / "label_maps"
    labels.mkdir(parents=True, exist_ok=True)
    for person in range(3):
        head_phantom(spacing_mm=options.spacing_mm, seed=person).save(
            labels / f"head_{person}.nii.gz"
        )

    length = [f"run.epochs={options.epochs}", f"run.steps_per_epoch={options.steps_per_epoch}"]
    folder = options.output / "run"
    run = start(PRESET, [*SETTINGS, *length], folder=folder, labels=labels, overwrite=True)
    print(f"{len(run.prepared.entries)} label maps for training, patches of {run.prepared.patch}")
    run.fit(on_epoch=report)

    generator = Generator.from_preset(run.folder.config_path)
    pair = generator.pair(labels / "head_0.nii.gz", seed=1)  # channels: the image, its map
    scan = nib.Nifti1Image(pair.image[0, 0].numpy(), np.diag([*[options.spacing_mm] * 3, 1.0]))
    predictor = Predictor.from_file(run.folder.model_path("best"))
    nib.save(predictor(scan), options.output / "prediction.nii.gz")
    print(f"Wrote {options.output / 'prediction.nii.gz'}")


if __name__ == "__main__":
    main()
