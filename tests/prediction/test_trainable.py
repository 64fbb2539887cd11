"""Promises to those who train a model in a loop of their own."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import SCAN_MM, SCAN_SHAPE, run, save, save_tiny_model

from synthsr_net import Predictor, Segmenter, load_model
from synthsr_transforms.io.scans import read_scan
from synthsr_transforms.support.messages import SynthSRError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "tiny.safetensors")


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).random(SCAN_SHAPE, np.float32)
    return save(tmp_path / "scan.nii.gz", values, np.diag([SCAN_MM, SCAN_MM, SCAN_MM, 1]))


def test_weights_take_gradients_only_if_that_is_asked_for(model):
    for trainable in (False, True):
        network = Predictor.from_file(model, trainable=trainable, device="cpu").network
        assert not network.training
        assert {weight.requires_grad for weight in network.parameters()} == {trainable}


def test_the_network_computes_what_predictions_show(model, scan):
    predictor = Predictor.from_file(model, trainable=True, device="cpu", flip=False)
    prepared = predictor.prepare([read_scan(scan)])
    output = predictor.network(prepared.tensor[None])
    assert output.requires_grad
    expected = predictor.infer(prepared)
    assert not expected.requires_grad
    assert torch.allclose(output[0].detach(), expected, atol=1e-5)


def test_training_changes_predictions_and_predicting_leaves_the_mode_alone(model, scan, tmp_path):
    predictor = Predictor.from_file(model, trainable=True, device="cpu")
    prepared = predictor.prepare([read_scan(scan)])
    x, target = prepared.tensor[None], torch.rand(1, 1, *prepared.tensor.shape[-3:])
    network, before = predictor.network, predictor.infer(prepared)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    network.train()
    for _ in range(2):
        optimiser.zero_grad()
        torch.nn.functional.l1_loss(network(x), target).backward()
        optimiser.step()
    after = predictor.infer(prepared)
    assert network.training
    assert not torch.allclose(before, after, atol=1e-3)

    tuned = tmp_path / "tuned.safetensors"
    predictor.save(tuned)
    saved = load_model(tuned)
    assert saved.config.name == "tuned"
    assert all(
        torch.equal(weight, network.state_dict()[name])
        for name, weight in saved.network.state_dict().items()
    )
    output = tmp_path / "out.nii.gz"
    result = run("predict", scan, output, "--model", tuned, "--device", "cpu", "--force")
    assert result.exit_code == 0, result.output
    shown = predictor(nib.load(scan))
    assert np.allclose(nib.load(output).get_fdata(), shown.get_fdata(), atol=1e-4)


def test_a_model_file_has_one_ending(model, tmp_path):
    predictor = Predictor.from_file(model, device="cpu")
    with pytest.raises(SynthSRError, match=r"must end in .safetensors"):
        predictor.save(tmp_path / "tuned.pt")


def test_a_segmentation_network_learns_in_a_loop_of_ones_own(scan, tmp_path):
    segmenter = Segmenter.from_file(trainable=True, device="cpu", flip=False, force=True)
    prepared = segmenter.prepare([read_scan(scan)])
    network, x = segmenter.network, prepared.tensor[None, :, :16, :16, :16]
    target = torch.zeros(1, 16, 16, 16, dtype=torch.long)
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        optimiser.zero_grad()
        probabilities = network(x)
        loss = torch.nn.functional.nll_loss(probabilities.clamp_min(1e-6).log(), target)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert torch.allclose(probabilities.sum(1), torch.ones(()), atol=1e-4)
    assert losses[-1] < losses[0]
    segmenter.save(tmp_path / "tuned.safetensors")
    again = Segmenter.from_file(tmp_path / "tuned.safetensors", device="cpu", flip=False)
    assert not any(weight.requires_grad for weight in again.network.parameters())
    with torch.no_grad():
        assert torch.equal(again.network(x), network(x))
