"""Promises of the calibration of predicted errors, at toy size."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import calibrate_uncertainty
import numpy as np
import pytest
import torch
from calibrate_uncertainty import Correction, corrected, fit, fitted_to_others, tenths_of
from evaluation.heads import Head
from helpers import save, save_tiny_model

from synthsr_net.metrics.calibration import TenthsOfScales
from synthsr_net.models.checkpoint import Model, ModelConfig, ScanConfig, read_model, save_model
from synthsr_net.models.packing import in_precision
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_net.prediction.space.postprocess import laplace_scales
from synthsr_transforms.phantom import head_phantom

SPACING = 4.0


TRUTHS = [Correction(1.0, 1.0, 1e-4), Correction(0.5, 1.0, 0.01), Correction(9, 1.6, 0.004)]


def counts_of(scales: torch.Tensor, errors: torch.Tensor) -> np.ndarray:
    return torch.stack([torch.ones_like(scales), errors, scales]).double().numpy()


@pytest.mark.parametrize("truth", TRUTHS)
def test_the_correction_of_laplace_errors_is_found(truth):
    generator = torch.Generator().manual_seed(0)
    scales = 0.02 * torch.randn(100_000, generator=generator).exp()
    counts = counts_of(scales, -torch.rand(scales.shape, generator=generator).log())
    counts[1] *= truth.of(counts)[2]
    found = fit([counts])
    usual = counts_of(torch.tensor([0.005, 0.02, 0.1]), torch.ones(3))
    np.testing.assert_allclose(found.of(usual)[2], truth.of(usual)[2], rtol=0.05)
    errors, scales = tenths_of(found.of(counts))
    np.testing.assert_allclose(errors / scales, 1, atol=0.05)


def test_groups_count_the_same_however_large_they_are():
    generator = torch.Generator().manual_seed(1)
    groups = [torch.rand(n, generator=generator) + 0.1 for n in (50_000, 500)]
    counts = [counts_of(b, k * b) for b, k in zip(groups, (1.0, 4.0), strict=True)]
    found = fit(counts)
    ratios = [np.log(np.divide(*tenths_of(found.of(each)))).mean() for each in counts]
    assert ratios == pytest.approx([-np.log(2), np.log(2)], abs=0.05)


def test_tenths_are_those_of_the_voxels_that_were_counted():
    torch.manual_seed(0)
    scales, errors = torch.rand(2, 5000)
    metric = TenthsOfScales()
    metric.update(scales.log(), errors)
    together = torch.stack([metric.counts, metric.errors, metric.scales]).numpy()
    together = together[:, together[0] > 0]
    expected = [each.numpy() for each in metric.means()]
    np.testing.assert_allclose(tenths_of(together), expected)
    np.testing.assert_allclose(tenths_of(together[:, ::-1]), expected)


def test_a_head_is_not_measured_with_what_was_fitted_to_it():
    def row(name: str, factor: float) -> dict[str, Any]:
        scales = torch.rand(500) + 0.01
        return {"use": "fit", "map": name, "counts": counts_of(scales, factor * scales)}

    torch.manual_seed(0)
    rows = [row("a", 1.0), row("b", 3.0), row("b", 3.0)]
    ratios = [counts[1].sum() / counts[2].sum() for counts in fitted_to_others(rows)]
    np.testing.assert_allclose(ratios, [1 / 3, 3, 3], rtol=0.02)


def test_heads_that_several_processes_measured_are_fitted_together(tmp_path):
    torch.manual_seed(0)
    network = UNetConfig(num_levels=2, num_features=3, out_channels=2, scale_features=2)
    scan = ScanConfig(spacing_mm=SPACING, divisor=8)
    config = ModelConfig(name="toy", network=network, spread=True, scan=scan)
    model, out = tmp_path / "toy.safetensors", tmp_path / "out"
    save_model(model, config, UNet3d(network).state_dict())
    assert calibrate_uncertainty.main([str(model), str(out), "--device", "cpu"]) == 2

    def put(number: int, use: str, name: str, factor: float) -> None:
        scales = torch.rand(2000) + 0.01
        about = {"map": name, "contrast": "T1", "slice_mm": 5.0, "axis": "axial"}
        counts = counts_of(scales, factor * scales).tolist()
        row = json.dumps({"use": use, **about, "counts": counts})
        (out / f"scans_{number}.jsonl").write_text(row + "\n")

    for number, (use, factor) in enumerate([("fit", 1.0), ("fit", 1.1), ("real", 2.0)], start=1):
        put(number, use, f"head {number}", factor)

    def factor_of(*more: str) -> float:
        assert calibrate_uncertainty.main([str(model), str(out), "--device", "cpu", *more]) < 2
        return float(json.loads((out / "results.json").read_text())["correction"]["factor"])

    assert factor_of() < 1.15
    assert factor_of("--fit-real") > 1.2
    results = json.loads((out / "results.json").read_text())
    assert list(results) == ["correction", "fit", "real", "all"]
    (real,) = results["real"]["heads"]
    assert real[0] == "head 3"
    np.testing.assert_allclose(real[1:], 2.0 / 1.05, rtol=0.05)  # fitted to the other two
    assert len(results["all"]["heads"]) == 3


def test_the_correction_goes_into_the_model():
    network = UNetConfig(num_levels=2, num_features=3, out_channels=2, scale_features=2)
    torch.manual_seed(0)
    config = ModelConfig(network=network, spread=True, smallest_scale=1e-3)
    model, correction = Model(config, UNet3d(network).eval()), Correction(4.2, 1.4, 0.003)
    torch.nn.init.normal_(model.network.scales[1].weight)
    x = torch.rand(1, 1, 8, 8, 8)

    def scales(model: Model) -> torch.Tensor:
        with torch.no_grad():
            output = model.network(x)[:, 1:]
        return laplace_scales(output, 1.0, model.config.smallest_scale).flatten()

    new = corrected(model, correction)
    above = scales(model) - config.smallest_scale
    expected = correction.of(counts_of(above, above))[2]
    torch.testing.assert_close(scales(new).double(), torch.from_numpy(expected), rtol=1e-3, atol=0)
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
    labels = head_phantom(spacing_mm=SPACING, seed=2)
    head = Head("head", labels.data[0], np.asarray(labels.affine.data), "cpu")
    image = save(tmp_path / "2_T1.nii.gz", head.image("T1", 0), head.affine)
    real = ["--images", str(image), "--image-labels", str(tmp_path / "2.nii.gz")]
    model, out = str(tmp_path / "toy.safetensors"), tmp_path / "out"
    arguments = [model, str(out), *maps, *real, *options]
    assert calibrate_uncertainty.main(arguments) in (0, 1)
    results = json.loads((out / "results.json").read_text())
    (kind,) = results["held out"]["kinds"]
    assert kind[:2] == ["T1", "12"]
    assert kind[3] == pytest.approx(kind[2], rel=0.15)
    assert [len(results[use]["ratios"]) for use in ("held out", "real")] == [10, 10]
    assert (out / "table.md").read_text().count("### ") == 2
    written = (out / "scans.jsonl").read_text()
    assert written.count("\n") == 3
    calibrate_uncertainty.main(arguments)
    assert (out / "scans.jsonl").read_text() == written
    assert json.loads((out / "results.json").read_text()) == results
    before, after = read_model(model), read_model(out / "model.safetensors")
    assert replace(after.config, smallest_scale=before.config.smallest_scale) == before.config
    assert after.config.smallest_scale == results["correction"]["smallest"]
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
