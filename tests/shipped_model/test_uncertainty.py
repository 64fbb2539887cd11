"""Promises of the calibration of predicted errors, at toy size."""

from __future__ import annotations

import json
from dataclasses import replace

import calibrate_uncertainty
import pytest
import torch
from calibrate_uncertainty import Correction, corrected, fit
from helpers import save_tiny_model

from synthsr_net.metrics.calibration import TenthsOfScales
from synthsr_net.models.checkpoint import Model, ModelConfig, ScanConfig, read_model, save_model
from synthsr_net.models.packing import in_precision
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_net.prediction.space.postprocess import laplace_scales
from synthsr_transforms.phantom import head_phantom

SPACING = 4.0


@pytest.mark.parametrize(
    "truth", [Correction(1.0, 1e-4), Correction(0.5, 0.01), Correction(3, 0.002)]
)
def test_the_correction_of_laplace_errors_is_found(truth):
    generator = torch.Generator().manual_seed(0)
    scales = 0.02 * torch.randn(400_000, generator=generator).exp()
    errors = truth.of(scales) * -torch.rand(scales.shape, generator=generator).log()
    tenths = TenthsOfScales()
    tenths.update(scales.log(), errors)
    found = fit(tenths)
    usual = torch.tensor([0.002, 0.02, 0.1])
    torch.testing.assert_close(found.of(usual), truth.of(usual), rtol=0.03, atol=0)


def test_the_correction_goes_into_the_model():
    network = UNetConfig(num_levels=2, num_features=3, out_channels=2, scale_features=2)
    torch.manual_seed(0)
    config = ModelConfig(network=network, spread=True, smallest_scale=1e-3)
    model, correction = Model(config, UNet3d(network).eval()), Correction(1.7, 0.003)
    torch.nn.init.normal_(model.network.scales[1].weight)
    x = torch.rand(1, 1, 8, 8, 8)

    def scales(model: Model) -> torch.Tensor:
        with torch.no_grad():
            output = model.network(x)[:, 1:]
        return laplace_scales(output, 1.0, model.config.smallest_scale)

    new = corrected(model, correction)
    torch.testing.assert_close(scales(new), correction.of(scales(model)))
    assert torch.equal(new.network(x)[:, :1], model.network(x)[:, :1])


def test_a_corrected_model_predicts_the_same_images_with_better_scales(tmp_path):
    network = UNetConfig(num_levels=2, num_features=3, out_channels=2, scale_features=2)
    torch.manual_seed(0)
    unet = UNet3d(network)
    torch.nn.init.normal_(unet.scales[1].weight)
    scan = ScanConfig(spacing_mm=SPACING, divisor=8)
    config = ModelConfig(name="toy", network=network, spread=True, scan=scan)
    save_model(tmp_path / "toy.safetensors", config, in_precision(unet.state_dict(), "fp16"))
    for number in (1, 2):
        head_phantom(spacing_mm=SPACING, seed=number).save(tmp_path / f"{number}.nii.gz")
    options = ["--contrasts", "T1", "--spacings", "12", "--axes", "2", "--device", "cpu"]
    maps = ["--fit", str(tmp_path / "1.nii.gz"), "--held-out", str(tmp_path / "2.nii.gz")]
    model, out = str(tmp_path / "toy.safetensors"), tmp_path / "out"
    assert calibrate_uncertainty.main([model, str(out), *maps, *options]) in (0, 1)
    results = json.loads((out / "results.json").read_text())
    scan = results["scans"][0]
    assert scan["error"] == pytest.approx(scan["scale"], rel=0.15)
    assert len(results["ratios"]) == 10
    assert (out / "table.md").read_text().count("\n") == 16
    before, after = read_model(model), read_model(out / "model.safetensors")
    assert replace(after.config, smallest_scale=before.config.smallest_scale) == before.config
    assert after.config.smallest_scale == pytest.approx(
        results["correction"]["factor"] * 1e-5 + results["correction"]["smallest"]
    )
    x = torch.rand(1, 1, 8, 8, 8)
    assert torch.equal(before.network(x)[:, :1], after.network(x)[:, :1])
    assert not torch.equal(before.network(x)[:, 1:], after.network(x)[:, 1:])


def test_a_model_without_a_second_head_is_refused(tmp_path, capsys):
    file = save_tiny_model(tmp_path / "m.safetensors")
    labels = tmp_path / "labels.nii.gz"
    head_phantom(spacing_mm=SPACING, seed=1).save(labels)
    maps = ["--fit", str(labels), "--held-out", str(labels), "--device", "cpu"]
    assert calibrate_uncertainty.main([str(file), str(tmp_path / "out"), *maps]) == 2
    assert "must have a second head" in capsys.readouterr().err
