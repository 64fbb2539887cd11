"""Promises of networks with a second head: scales of errors beside images that stay as they are."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from synthsr_net.inference.forward import predict_volume
from synthsr_net.inference.memory import plan_memory
from synthsr_net.inference.streamed_unet import prepare
from synthsr_net.metrics.calibration import TenthsOfScales
from synthsr_net.models import checkpoint
from synthsr_net.models.checkpoint import (
    Model,
    ModelConfig,
    header_text,
    read_model,
    save_model,
)
from synthsr_net.models.keras.weights import KerasWeightsError, write_keras
from synthsr_net.models.onnx.export import export_onnx
from synthsr_net.models.transfer import start_from
from synthsr_net.networks.unet import UNet3d, UNetConfig

KINDS = ["batch", "instance", "none"]


def network_of(normalisation: str = "instance", seed: int = 0, **settings: object) -> UNet3d:
    """A small network with a second head, no weight of which is zero."""
    defaults = {"num_levels": 3, "num_features": 4, "out_channels": 2, "scale_features": 3}
    config = UNetConfig(**{**defaults, "normalisation": normalisation, **settings})  # type: ignore[arg-type]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = UNet3d(config)
        for tensor in network.parameters():
            tensor.data += 0.1 * torch.randn(tensor.shape)
    return network.eval().requires_grad_(False)


def single(network: UNet3d) -> UNet3d:
    """The same network without its second head."""
    alone = UNet3d(replace(network.config, scale_features=0, out_channels=1)).eval()
    state = {n: t for n, t in network.state_dict().items() if not n.startswith("scales.")}
    alone.load_state_dict(state)
    return alone.requires_grad_(False)


def volume_of(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


class TestNetwork:
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_image_is_that_without_a_second_head_bit_for_bit(self, kind):
        network, x = network_of(kind), volume_of(2, 1, 8, 12, 8)
        output = network(x)
        assert output.shape == (2, 2, 8, 12, 8)
        assert torch.equal(output[:, :1], single(network)(x))
        assert output[:, 1].std() > 0

    def test_scales_begin_with_zero(self):
        network = UNet3d(network_of().config)
        assert not network(volume_of(1, 1, 8, 8, 8))[:, 1].any()

    @pytest.mark.parametrize("kind", ["instance", "none"])
    def test_padded_features_change_nothing(self, kind):
        network, x = network_of(kind), volume_of(1, 1, 8, 12, 8)
        expected = network(x)
        network.phased, network.multiple = True, 8
        torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"out_channels": 3}, "out_channels must be even with scale_features, got 3"),
            ({"softmax": True}, "softmax must be false with scale_features"),
            ({"scale_features": -1}, "scale_features must be 0 to"),
        ],
    )
    def test_other_outputs_are_refused(self, settings, message):
        with pytest.raises(ValueError, match=message):
            UNetConfig(**{"out_channels": 2, "scale_features": 3, **settings})

    def test_the_number_of_weights_is_known(self):
        network = network_of("none")
        kernels = (t.numel() for t in network.parameters() if t.ndim == 5)
        assert network.config.num_weights == sum(kernels)


class TestInference:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("normalise_last", [True, False])
    @pytest.mark.parametrize("keep", [True, False])
    @pytest.mark.parametrize("elements", [1, 3000, 10**9])
    def test_slabs_give_what_the_network_gives(self, kind, normalise_last, keep, elements):
        network, x = network_of(kind, normalise_last=normalise_last), volume_of(1, 12, 8, 20)
        result = prepare(network, torch.float32)(x, slab_elements=elements, keep_first_skip=keep)
        torch.testing.assert_close(result, network(x[None])[0], rtol=0, atol=2e-5)
        alone = prepare(single(network), torch.float32)
        image = alone(x, slab_elements=elements, keep_first_skip=keep)
        assert torch.equal(result[:1], image)

    @pytest.mark.parametrize("box", [(slice(5, 9), slice(0, 3), slice(11, 24))])
    def test_a_box_of_it_is_that_of_the_whole(self, box):
        network, x = network_of(normalise_last=False), volume_of(1, 16, 16, 24)
        streamed = prepare(network, torch.float32)
        whole = streamed(x, slab_elements=3000)
        part = streamed(x, slab_elements=3000, box=box)
        torch.testing.assert_close(part, whole[(slice(None), *box)], rtol=0, atol=1e-5)

    @pytest.mark.parametrize("window", [None, 16])
    def test_log_scales_of_the_mirrored_pass_are_averaged(self, window):
        network, x = network_of("none"), volume_of(1, 32, 16, 16)
        plan = plan_memory(network.config, x.shape[1:], window=window)
        both = predict_volume(network, x, flip=True, plan=plan)
        one = predict_volume(network, x, plan=plan)
        other = predict_volume(network, x.flip(1), plan=plan).flip(1)
        torch.testing.assert_close(both, (one + other) / 2, rtol=0, atol=1e-5)
        alone = predict_volume(single(network), x, flip=True, plan=plan)
        assert torch.equal(both[:1], alone)


class TestFiles:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        network = network_of()
        config = ModelConfig(network=network.config, spread=True)
        save_model(tmp_path / "m.safetensors", config, network.state_dict())
        return tmp_path / "m.safetensors"

    def test_a_model_file_brings_it_along(self, path):
        model, x = read_model(path), volume_of(1, 1, 8, 8, 8)
        assert model.config.network.scale_features == 3
        assert torch.equal(model.network(x), network_of()(x))

    def test_it_can_be_left_out(self, path):
        model, x = read_model(path), volume_of(1, 1, 8, 8, 8)
        alone = model.without_scales()
        assert not alone.config.spread
        assert not any(name.startswith("scales.") for name in alone.network.state_dict())
        assert torch.equal(alone.network(x), model.network(x)[:, :1])
        assert alone.without_scales() is alone

    def test_the_smallest_scale_is_kept(self, path, tmp_path):
        model = read_model(path)
        config = replace(model.config, smallest_scale=0.003)
        save_model(tmp_path / "n.safetensors", config, model.network.state_dict())
        assert read_model(tmp_path / "n.safetensors").config.smallest_scale == 0.003
        with pytest.raises(ValueError, match="smallest_scale must be in"):
            replace(model.config, smallest_scale=0)

    def test_readers_of_the_first_format_refuse_it(self, path, monkeypatch):
        monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 1)
        with pytest.raises(ValueError, match=r"has format 2, this version .* Update synthsr"):
            read_model(path)

    def test_the_file_of_a_network_with_one_head_stays_as_it_was(self):
        settings = json.loads(header_text(ModelConfig()))
        assert settings["format"] == 1
        assert "scale_features" not in settings["network"]

    def test_a_description_without_spread_is_refused(self):
        with pytest.raises(ValueError, match="scale_features predicts spreads"):
            ModelConfig(network=network_of().config)

    def test_the_weights_of_one_head_are_a_start(self, tmp_path):
        network = network_of(seed=1)
        alone = single(network_of())
        config = ModelConfig(network=alone.config)
        save_model(tmp_path / "m.safetensors", config, alone.state_dict())
        notes = start_from(network, tmp_path / "m.safetensors")
        assert {note.partition(".")[0] for note in notes} == {"scales"}
        x = volume_of(1, 1, 8, 8, 8)
        assert torch.equal(network(x)[:, :1], alone(x))

    def test_onnx_has_both_in_one_output(self, tmp_path, path):
        pytest.importorskip("onnx")
        onnxruntime = pytest.importorskip("onnxruntime")
        assert export_onnx(read_model(path), tmp_path / "m.onnx") < 1e-4
        session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
        x = volume_of(1, 1, 9, 8, 7)
        (output,) = session.run(None, {"image": x.numpy()})
        expected = network_of()(x)
        torch.testing.assert_close(torch.from_numpy(output), expected, rtol=0, atol=1e-4)

    def test_keras_files_have_one_head(self, tmp_path):
        network = network_of("batch")
        with pytest.raises(KerasWeightsError, match=re.escape("scale_features must be 0")):
            write_keras(tmp_path / "m.h5", network.config, network.state_dict())

    def test_a_model_without_weights_for_it_is_refused(self, tmp_path):
        network = network_of()
        config = ModelConfig(network=network.config, spread=True)
        save_model(tmp_path / "m.safetensors", config, single(network).state_dict())
        with pytest.raises(ValueError, match=r"first scales\.0"):
            Model(config, read_model(tmp_path / "m.safetensors").network)


class TestCalibration:
    @pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
    def test_ratios_of_laplace_errors_are_those_of_their_scales(self, factor):
        generator = torch.Generator().manual_seed(0)
        scale = 0.02 * torch.randn(400_000, generator=generator).exp()
        uniform = torch.rand(scale.shape, generator=generator)
        tenths = TenthsOfScales()
        for part in range(4):
            chosen = slice(part * 100_000, (part + 1) * 100_000)
            tenths.update(scale[chosen].log(), factor * -scale[chosen] * uniform[chosen].log())
        ratios = tenths.compute()
        assert ratios.shape == (10,)
        torch.testing.assert_close(ratios, torch.full_like(ratios, factor), rtol=0.03, atol=0)

    def test_each_tenth_has_a_tenth_of_the_voxels(self):
        tenths = TenthsOfScales()
        scale = torch.linspace(0.01, 0.1, 5001)
        tenths.update(scale.log(), scale)
        _, means = tenths.means()
        expected = torch.tensor([0.0145 + 0.009 * n for n in range(10)]).double()
        torch.testing.assert_close(means, expected, rtol=0.02, atol=0)

    def test_nothing_is_nothing(self):
        tenths = TenthsOfScales()
        tenths.update(torch.zeros(0), torch.zeros(0))
        assert torch.isnan(tenths.compute()).all()
