"""Training of the scale of the error: everything but the second head stays as it is."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import save_tiny_model

from synthsr_net.models.checkpoint import ModelConfig, ScanConfig, read_model, save_model
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_net.training.folder import RunFolder
from synthsr_net.training.run import start
from synthsr_net.training.setup.experiment import SCALE_FEATURES

SETTINGS = """
label_table: freesurfer_aseg
steps:
  crop: {name: PatchCrop, params: {shape: 12}}
  target: {name: TissueContrast, params: {by_tissue: {white_matter: 1, grey_matter: 0.5}}}
  mixture: {name: TissueMixture}
  rescale: {name: MinMaxRescale, params: {include: [image]}}
training:
  uncertainty: true
  optimiser: {learning_rate: 1.0e-2, ema_decay: 0.9}
  run: {epochs: 2, steps_per_epoch: 6, batch_size: 2}
  validation: {previews: 1, held_out: 1, samples: 2}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, save_label_maps) -> Path:
    place: Path = tmp_path_factory.mktemp("uncertainty")
    save_label_maps(place / "maps", 3)
    (place / "own.yaml").write_text(SETTINGS)
    return place


@pytest.fixture(scope="module", params=["batch", "instance"])
def weights(request, tmp_path_factory) -> Path:
    """A trained T1 model, as far as anybody can tell."""
    path: Path = tmp_path_factory.mktemp("weights") / "t1.safetensors"
    config = UNetConfig(num_levels=2, num_features=4, dropout=0.1, normalisation=request.param)
    torch.manual_seed(0)
    network = UNet3d(config)
    model = ModelConfig(
        name="mine",
        licence="CC0-1.0",
        network=config,
        scan=ScanConfig(spacing_mm=4.0, sharpen=True),
    )
    save_model(path, model, network.state_dict())
    return path


@pytest.fixture(scope="module")
def trained(folder: Path, weights: Path, tmp_path_factory) -> RunFolder:
    """Folder of a run that gave it a second head."""
    place, sets = tmp_path_factory.mktemp("trained") / "run", [f"initial_weights={weights}"]
    run = start(folder / "own.yaml", sets, folder=place, labels=folder / "maps")
    run.fit()
    return run.folder


def test_all_weights_but_those_of_the_second_head_stay(trained, weights):
    before, after = read_model(weights), read_model(trained.model_path("last"))
    state = after.network.state_dict()
    for name, tensor in before.network.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    own = [tensor for name, tensor in state.items() if name.startswith("scales.")]
    assert len(own) == 6  # of two convolutions and the last layer
    assert all(tensor.any() for tensor in own)
    x = torch.rand(1, 1, 8, 8, 8)
    assert torch.equal(after.network(x)[:, :1], before.network(x))
    assert after.config.spread
    kept = replace(before.config, network=after.config.network, spread=True)
    assert replace(after.config, training={}) == kept
    assert after.config.network.scale_features == SCALE_FEATURES
    assert after.config.training["uncertainty"]["loss"] == "laplace"


def test_validation_reports_errors_against_scales_per_tenth(trained):
    with trained.metrics_path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    ratios = [float(rows[-1][f"validation/calibration/{n}"]) for n in range(1, 11)]
    worst = float(rows[-1]["validation/calibration/l1"])
    known = [ratio for ratio in ratios if math.isfinite(ratio)]
    assert known
    assert worst == pytest.approx(max(abs(ratio - 1) for ratio in known))
    assert rows[0]["validation/brain/l1"] == rows[-1]["validation/brain/l1"]


def test_a_second_head_is_trained_on(begin, trained):
    last = trained.model_path("last")
    again = begin(f"initial_weights={last}", "run.epochs=1")
    assert not any("is new" in note for note in again.prepared.notes)
    again.fit()
    assert read_model(again.folder.model_path("last")).config.name == "mine"


def test_a_run_goes_on_where_it_ended(begin, weights):
    begin(f"initial_weights={weights}", "run.epochs=1").fit()
    resumed = begin("run.epochs=2", resume=True)
    resumed.fit()
    before, after = read_model(weights), read_model(resumed.folder.model_path("last"))
    x = torch.rand(1, 1, 8, 8, 8)
    assert torch.equal(after.network(x)[:, :1], before.network(x))


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        ([], "initial_weights must be a model"),
        (["loss.name=l1"], "loss.name must be laplace"),
        (["adversarial.weight=0.01"], "adversarial.weight must be 0"),
    ],
)
def test_what_would_change_the_network_is_refused(begin, tmp_path, assignments, message):
    if assignments:
        model = save_tiny_model(tmp_path / "t1.safetensors")
        assignments = [f"initial_weights={model}", *assignments]
    with pytest.raises(ValueError, match=message):
        begin(*assignments)


def test_a_network_of_other_inputs_is_refused(begin, tmp_path):
    model = save_tiny_model(tmp_path / "t1.safetensors", 2)
    with pytest.raises(ValueError, match="uncertainty needs pairs of what"):
        begin(f"initial_weights={model}")
