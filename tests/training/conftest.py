"""Label maps, configurations and runs that the tests of training share."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from synthsr_net.training.run import TrainingRun, start


@pytest.fixture(autouse=True)
def no_curves(without_curves: None) -> None:
    """No training curves, unless a test asks for `curves`."""


@pytest.fixture(scope="session")
def save_label_maps(make_labels: Callable[..., Tensor]) -> Callable[[Path, int], None]:
    """Write label maps of 20 x 18 x 22 voxels of 4 mm into a new folder, `sub-00.nii` and so on."""

    def save(place: Path, number: int) -> None:
        place.mkdir()
        for k in range(number):
            labels = make_labels((20, 18, 22), k)[0].numpy()
            image = nib.Nifti1Image(labels, np.diag([4.0, 4, 4, 1]))
            nib.save(image, place / f"sub-0{k}.nii")

    return save


@pytest.fixture(scope="session")
def hard() -> list[str]:
    """Settings of which each has a state of its own; an epoch of 5 batches ends in half a step."""
    return [
        "run.epochs=3",
        "optimiser.accumulate_batches=2",
        "optimiser.ema_decay=0.9",
        "optimiser.schedule=cosine",
        "optimiser.warmup_steps=2",
    ]


@pytest.fixture(scope="module")
def run_sources(
    tmp_path_factory: pytest.TempPathFactory, save_label_maps: Callable[[Path, int], None]
) -> Path:
    """Three label maps, `maps`, and a configuration, `own.yaml`, of runs that repeat exactly."""
    place: Path = tmp_path_factory.mktemp("run")
    save_label_maps(place / "maps", 3)
    (place / "own.yaml").write_text(REPEATABLE)
    return place


@pytest.fixture(scope="module")
def folder(run_sources: Path) -> Path:
    """Folder with `maps` and `own.yaml`; modules with other sources have their own."""
    return run_sources


@pytest.fixture
def begin(folder: Path, tmp_path: Path) -> Callable[..., TrainingRun]:
    """Starter of runs in `tmp_path`; a resumed one takes its recorded settings.

    `source` is a preset, or a file in `folder`; real targets have images in `folder / "images"`.
    """

    def go(*assignments: str, name: str = "run", **kwargs: Any) -> TrainingRun:
        source = kwargs.pop("source", None if kwargs.get("resume") else "own.yaml")
        if source is not None and (folder / source).exists():
            source = folder / source
        labels = {} if kwargs.get("resume") else {"labels": folder / "maps"}
        return start(source, assignments, folder=tmp_path / name, **{**labels, **kwargs})

    return go


@pytest.fixture(scope="session")
def metrics_of() -> Callable[[Path], list[dict[str, str]]]:
    """Reads the metrics of a run's folder, without those that no two runs share."""

    def read(folder: Path) -> list[dict[str, str]]:
        with (folder / "metrics.csv").open() as file:
            return [
                {k: v for k, v in row.items() if k not in ("seconds", "samples_per_second")}
                for row in csv.DictReader(file)
            ]

    return read


@pytest.fixture(scope="session")
def assert_same_run(metrics_of: Callable[[Path], Any]) -> Callable[[Any, Any], None]:
    """Compare runs, folders or `RunFolder`s: weights bit for bit, and metrics."""

    def check(first: Any, second: Any) -> None:
        places = [Path(getattr(run, "path", run)) for run in (first, second)]
        one, other = (load_file(place / "models" / "last.safetensors") for place in places)
        assert set(one) == set(other)
        different = [name for name, tensor in one.items() if not torch.equal(tensor, other[name])]
        assert not different
        assert metrics_of(places[0]) == metrics_of(places[1])

    return check


REPEATABLE = """
label_table: freesurfer_aseg
steps:
  crop: {name: PatchCrop, params: {shape: 12}}
  mixture: {name: TissueMixture}
  rescale: {name: MinMaxRescale, params: {include: [image]}}
  target: {name: CopyImage}
  acquisition: {name: SliceAcquisition, params: {spacing_mm: [4, 4, 9], noise_std: [0, 0.1]}}
training:
  network: {num_levels: 2, num_features: 4, dropout: 0.2}
  optimiser: {learning_rate: 1.0e-2}
  run: {epochs: 2, steps_per_epoch: 5, deterministic: true}
  validation: {every_epochs: 0, previews: 0, held_out: 1, samples: 2}
"""
