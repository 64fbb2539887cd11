"""The section `training` of the presets: it loads, and a run of one step works with it."""

from __future__ import annotations

import runpy
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import (
    ROOT,
)

from synthsr_net.models.checkpoint import read_model
from synthsr_net.training.config import Experiment, TrainingConfig
from synthsr_net.training.run import TrainingRun, start
from synthsr_net.training.setup.experiment import load_experiment
from synthsr_transforms.generator.config import preset_names, read_settings
from synthsr_transforms.phantom import head_phantom

PRESETS = preset_names()
SMALL = [
    "network.num_levels=2",
    "network.num_features=2",
    "run.epochs=1",
    "run.steps_per_epoch=1",
    "validation.every_epochs=0",
]


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with two label maps, and one with an image for each of them."""
    folder = tmp_path_factory.mktemp("maps")
    for kind in ("labels", "images"):
        (folder / kind).mkdir()
    for seed in (0, 1):
        head = head_phantom(spacing_mm=5, seed=seed)
        labels = head.data[0].numpy()
        noise = np.random.default_rng(seed).random(labels.shape)
        affine = np.asarray(head.affine.data)
        image = (labels % 7 + noise).astype(np.float32)
        nib.save(nib.Nifti1Image(labels, affine), folder / "labels" / f"head{seed}_labels.nii.gz")
        nib.save(nib.Nifti1Image(image, affine), folder / "images" / f"head{seed}_T1w.nii.gz")
    return folder


def begin(name: str, maps: Path, folder: Path) -> TrainingRun:
    """Start a run of a preset, with patches and a network that are small."""
    generator = load_experiment(name).generator
    changes = [*SMALL]
    if "crop" in generator.steps:
        changes.append("crop.shape=32")
    if generator.label_table == "synthsr":
        changes.append("label_table=synthseg_synthsr")
    images = maps / "images" if generator.real_target else None
    return start(name, changes, folder=folder, labels=maps / "labels", images=images)


def without(defaults: TrainingConfig, experiment: Experiment, *sections: str) -> list[str]:
    """Sections of the training that differ from the defaults, but for some."""
    return [
        name
        for name in vars(defaults)
        if getattr(defaults, name) != getattr(experiment.training, name) and name not in sections
    ]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_how_to_train(name: str) -> None:
    experiment = load_experiment(name)
    written = read_settings(name)["training"]
    for section, settings in written.items():
        for field, value in settings.items():
            found = getattr(getattr(experiment.training, section), field)
            default = getattr(getattr(TrainingConfig(), section), field)
            if isinstance(value, dict):
                found = {name: getattr(found, name) for name in value}
                default = {name: getattr(default, name) for name in value}
            assert found == value
            said_anyway = (section, field) == ("run", "steps_per_epoch")  # beside the epochs
            assert found != default or said_anyway, f"{section}.{field} is the default"


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"all_purpose", "exam", "segmentation"}))
def test_presets_of_the_original_keep_its_optimiser_and_network(name: str) -> None:
    assert without(TrainingConfig(), load_experiment(name), "loss", "model") == []


@pytest.mark.parametrize("name", PRESETS)
def test_a_run_of_one_step_ends_with_a_model_file(name: str, maps: Path, tmp_path: Path) -> None:
    run = begin(name, maps, tmp_path / "run")
    run.fit()
    model = read_model(run.folder.model_path("last"))
    settings = load_experiment(name).training
    contrasts = settings.model.contrasts or ["any"]
    assert [image.contrast for image in model.config.inputs] == contrasts
    with_maps = run.prepared.fitted.generator.config.reliability is not None
    assert model.config.num_channels == len(contrasts) * (2 if with_maps else 1)
    residual = settings.loss.residual_channels
    assert model.config.scan.residual_input == (None if residual is None else residual[0])


@pytest.mark.parametrize("name", ["hyperfine", "tutorial_6_multimodal_synthetic"])
def test_residuals_are_added_to_the_t1_scan(name: str, maps: Path, tmp_path: Path) -> None:
    prepared = begin(name, maps, tmp_path / "run").prepared
    data = prepared.data()
    data.connect(torch.device("cpu"))
    image = data.stream.pair(0).image  # T1, its map, T2, its map
    output = torch.zeros_like(image[:, :1])
    assert prepared.objective.prediction(output, image).equal(image[:, :1])
    assert not image[:, :1].equal(image[:, 2:3])
    assert prepared.model.inputs[0].name == "T1"


def test_the_example_trains_and_predicts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = runpy.run_path(str(ROOT / "examples" / "train_small.py"))
    example["SETTINGS"] += ["crop.shape=32", "validation.samples=1", "validation.previews=0"]
    example["main"]([str(tmp_path), "--epochs", "2", "--steps-per-epoch", "1", "--spacing-mm", "5"])
    assert "epoch 2: loss" in capsys.readouterr().out
    prediction = np.asarray(nib.load(tmp_path / "prediction.nii.gz").dataobj)
    assert np.isfinite(prediction).all()
    assert prediction.shape == (32, 32, 32)
