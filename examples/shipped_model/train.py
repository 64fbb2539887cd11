"""Train the models that ship with the package, as docs/model_card.md describes.

Usage: python examples/shipped_model/train.py t1|fast|exam LABEL_MAPS OUTPUT [--pairs PAIRS]
       python examples/shipped_model/train.py uncertainty LABEL_MAPS OUTPUT --start MODEL

LABEL_MAPS is a folder with the 20 heads of SynthSeg (training_seg_01.nii.gz, ...) and the 5 brains
of SynthSR (brain1_labels.nii.gz, ...). PAIRS is a folder with real T1-weighted scans in images/ and
their label maps in labels/, to validate on. OUTPUT gets a folder for each stage of the training and
the model file. `exam` takes --lesions MASKS, a folder of lesion masks: those of strokes of LESYMAP
and of multiple sclerosis of open_ms_data (CC BY). `uncertainty` gives a trained MODEL a second
head, the scale of its errors, which `calibrate_uncertainty.py` then measures. Needs a CUDA GPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SYNTHSR = (sys.executable, "-c", "from synthsr_cli.main import main; main()")
TABLE = Path(__file__).with_name("labels.tsv")
COMMON = {
    "label_table": TABLE,
    "validation.held_out": "[training_seg_01.nii.gz,training_seg_02.nii.gz]",
    "validation.samples": 16,
    "loss.name": "l1_ssim3d",
    "optimiser.ema_decay": 0.999,
}


@dataclass(frozen=True)
class Recipe:
    """Recipe of one model: settings of all stages, and of each."""

    name: str
    settings: Mapping[str, object]
    stages: Sequence[Mapping[str, object]]
    preset: str = "all_purpose"


def stage(size: int, epochs: int, steps: int, rate: float, **more: object) -> dict[str, object]:
    """Settings of a stage: patch size in voxels, length in epochs of steps, learning rate."""
    return {
        "crop.shape": size,
        "run.epochs": epochs,
        "run.steps_per_epoch": steps,
        "optimiser.learning_rate": rate,
        **{key.replace("__", "."): value for key, value in more.items()},
    }


DEEP = {"lesions.beside": "[]"}
"""Lesions anywhere in the white matter, as in the preset of then."""
WIDER = {"loss__padding_voxels": 24, "run__seed": 1}
FIRST = {
    "loss.params": "{weight: 0.1}",
    "soft_borders.sigma_mm": "[0.4, 0.9]",
    "mixture.prior_stds": "[3, 25]",
    "t1_contrast.p": 0.1,
    "t1_contrast.std": "[2, 12]",
    "t2_contrast.std": "[2, 12]",
    "flair_contrast.std": "[2, 12]",
    "ct_contrast.std": "[3, 18]",
    "same_contrast.p": 0.1,
    "texture.p": 1,
    "texture.std": "[0, 0.12]",
    "texture.size_mm": "[1, 6]",
    "fine_texture.p": 0,
    "lesions.p": 0.5,
    "acquisition.noise_std": "{log_normal: [-4, 0.8]}",
    **DEEP,
}
"""Settings of the first stages, where they differ from the preset: noisier scans, less texture."""
PRESET = {"loss.params": "{weight: 0.2}", "run.feature_multiple": 32}
"""Settings of the last stages of the larger network, which take the preset as it is."""
LAST = PRESET | DEEP
"""Settings of the stages before them."""
THEN = LAST | {
    "same_contrast.p": 0.14,
    "texture.std": "[0, 0.07]",
    "texture.size_mm": "[3, 16]",
    "soft_borders.sigma_mm": "[0.4, 0.9]",
}
"""Settings of the stages between: fewer scans of the target's contrast, softer borders."""
MORE = {"network.num_features": 16, "run.feature_multiple": 16}
"""The fast network gets more features halfway: 1.8 times the weights, a fifth slower. They need no
padding to 32."""
WIDE = {
    "network.num_features": 32,
    "network.feature_multiplier": 1.861,
    "deformation.velocity_std_mm": "[0, 4]",
}
"""The other one gets as many as a file of 30 MB holds, more of them at full resolution, and heads
of more varied shape."""
RECIPES = {
    "t1": Recipe(
        "synthsr-t1-v1",
        {"network.num_features": 24},
        [
            stage(128, 4, 8000, 5e-4) | FIRST,
            stage(192, 1, 200, 2e-4, optimiser__warmup_steps=200, **WIDER) | FIRST,
            stage(128, 2, 4000, 8e-4, optimiser__warmup_steps=300, run__batch_size=8) | THEN,
            stage(192, 1, 2493, 3e-4, optimiser__warmup_steps=100, run__batch_size=2, **WIDER)
            | THEN,
            stage(128, 2, 7000, 8e-4, optimiser__warmup_steps=300, run__batch_size=8)
            | LAST
            | {"run.seed": 2},
            stage(192, 1, 4383, 3e-4, optimiser__warmup_steps=100, run__batch_size=2, **WIDER)
            | LAST
            | {"run.seed": 3},
            stage(128, 1, 12800, 8e-4, optimiser__warmup_steps=300, run__batch_size=8)
            | LAST
            | WIDE
            | {"optimiser.final_learning_rate_ratio": 0.4, "run.seed": 6},
            stage(192, 1, 5626, 4e-4, optimiser__warmup_steps=50, run__batch_size=2, **WIDER)
            | LAST
            | WIDE
            | {"run.seed": 7},
            stage(128, 1, 4300, 7e-4, optimiser__warmup_steps=300, run__batch_size=8)
            | PRESET
            | WIDE
            | {"optimiser.final_learning_rate_ratio": 0.5, "run.seed": 8},
            stage(192, 1, 4055, 4e-4, optimiser__warmup_steps=50, run__batch_size=2, **WIDER)
            | PRESET
            | WIDE
            | {"run.seed": 9},
        ],
    ),
    "fast": Recipe(
        "synthsr-t1-fast-v1",
        {"network.num_features": 12, "model.scan.flip": "false"},
        [
            stage(128, 4, 6500, 8e-4, run__batch_size=2) | FIRST,
            stage(192, 1, 200, 3.2e-4, optimiser__warmup_steps=200, **WIDER) | FIRST,
            stage(128, 1, 6000, 8e-4, optimiser__warmup_steps=300, run__batch_size=8)
            | LAST
            | MORE
            | {"optimiser.final_learning_rate_ratio": 0.4, "run.seed": 4},
            stage(192, 1, 2347, 4e-4, optimiser__warmup_steps=50, run__batch_size=2, **WIDER)
            | LAST
            | MORE
            | {"run.seed": 5},
        ],
    ),
    "exam": Recipe(
        "synthsr-t1-v2",
        {
            "initial_weights": "synthsr-t1-v1",
            "deformation.velocity_std_mm": "[0, 4]",
            "validation.samples": 12,
        },
        [
            stage(160, 5, 1312, 2e-4, optimiser__warmup_steps=100, run__batch_size=2)
            | PRESET
            | {"optimiser.final_learning_rate_ratio": 0.0, "run.seed": 10},
        ],
        "exam",
    ),
    "uncertainty": Recipe(
        "uncertainty",
        {
            "uncertainty": "true",
            "loss.name": "laplace",
            "validation.metric": "calibration/l1",
            "deformation.velocity_std_mm": "[0, 4]",
            "scans.probabilities": "[1.0, 0.0, 0.0, 0.0]",
            "optimiser.ema_decay": 0.99,
        },
        [
            stage(160, 1, 2600, 2e-3, optimiser__warmup_steps=50, run__batch_size=1, **WIDER)
            | {"optimiser.final_learning_rate_ratio": 0.0, "run.seed": 12},
        ],
        "exam",
    ),
}


def train(
    recipe: Recipe,
    labels: Path,
    out: Path,
    *,
    pairs: Path | None = None,
    lesions: Path | None = None,
    start: str | None = None,
) -> Path:
    """Run all stages, each from the weights of the one before; the first from `start`, if given.

    Returns:
        The model file.
    """
    settings = {**COMMON, **recipe.settings}
    if not recipe.settings.get("uncertainty"):  # which leaves a model its name
        settings["model.name"] = recipe.name
    if start is not None:
        settings["initial_weights"] = start
    if pairs is not None:
        settings |= {"validation.images": pairs / "images", "validation.labels": pairs / "labels"}
    if lesions is not None:
        settings |= {"patient_lesions.masks": lesions}
    for number, own in enumerate(recipe.stages, start=1):
        folder = out / f"stage_{number}"
        command = [*SYNTHSR, "train", recipe.preset, "--labels", labels, "--out", folder]
        for key, value in {**settings, **own}.items():
            command += ["--set", f"{key}={value}"]
        subprocess.run([str(part) for part in (*command, "--compile")], check=True)
        settings["initial_weights"] = folder / "models" / "last.safetensors"
    model = out / f"{recipe.name}.safetensors"
    pack = [*SYNTHSR, "convert-weights", settings["initial_weights"], model, "--precision", "fp16"]
    subprocess.run([str(part) for part in pack], check=True)
    return model


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", choices=sorted(RECIPES), help="which of the models")
    parser.add_argument("labels", type=Path, metavar="LABEL_MAPS", help="folder of label maps")
    parser.add_argument("out", type=Path, metavar="OUTPUT", help="folder to make")
    parser.add_argument("--pairs", type=Path, help="folder of real scans to validate on")
    parser.add_argument("--lesions", type=Path, help="folder of lesion masks, for exam")
    parser.add_argument("--start", help="name or file of the model to start from")
    given = parser.parse_args(arguments)
    recipe = RECIPES[given.model]
    try:
        print(
            train(
                recipe,
                given.labels,
                given.out,
                pairs=given.pairs,
                lesions=given.lesions,
                start=given.start,
            )
        )
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    return 0


if __name__ == "__main__":
    sys.exit(main())
