"""Promises of the network and of its architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from synthsr_net.networks import unet
from synthsr_net.networks.phase_convolution import convolve_joined, phase_weight, transposed_weight
from synthsr_net.networks.unet import (
    ACTIVATIONS,
    MAX_LEVELS,
    NORMALISATIONS,
    UNet3d,
    UNetConfig,
    upsample,
)

SMALL = {"num_levels": 3, "num_features": 4}


@pytest.fixture
def make(device: torch.device) -> Callable[..., UNet3d]:
    """Maker of small networks with statistics of their own; arguments are those of the config."""

    def network(seed: int = 0, **changes: Any) -> UNet3d:
        torch.manual_seed(seed)
        model = UNet3d(UNetConfig(**{**SMALL, **changes}))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm3d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
        return model.to(device)

    return network


@pytest.fixture
def volume(device: torch.device) -> Callable[..., Tensor]:
    """Maker of random input."""

    def make_volume(*shape: int, seed: int = 0) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)

    return make_volume


@pytest.fixture(autouse=True)
def shared_state() -> Iterator[None]:
    """A generator of their own for all tests, and products in full precision on GPUs."""
    with torch.random.fork_rng(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def numbers(config: UNetConfig) -> tuple[int, int]:
    """Numbers of a network, and how many of them are trained."""
    with torch.device("meta"):
        model = UNet3d(config)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trained + sum(b.numel() for b in model.buffers() if b.is_floating_point()), trained


class TestArchitecture:
    @pytest.mark.parametrize(("channels", "count"), [(1, 13_242_049), (2, 13_242_697)])
    def test_the_default_is_as_large_as_the_published_networks(self, channels, count):
        assert numbers(UNetConfig(in_channels=channels))[0] == count

    def test_the_default_trains_as_many_numbers_as_the_original(self):
        assert numbers(UNetConfig())[1] == 13_239_841

    @pytest.mark.parametrize("channels", [(1, 1), (2, 1), (3, 4)])
    def test_channels_are_those_asked_for(self, make, volume, channels):
        model = make(in_channels=channels[0], out_channels=channels[1])
        assert model(volume(2, channels[0], 8, 4, 12)).shape == (2, channels[1], 8, 4, 12)

    @pytest.mark.parametrize("size", [1, 3, 5])
    def test_kernels_have_the_size_asked_for(self, make, volume, size):
        model = make(kernel_size=size)
        kernels = {conv.kernel_size for level in model.encoder for conv in level.convs}
        assert kernels == {(size,) * 3}
        assert model(volume(1, 1, 6, 8, 7)).shape == (1, 1, 6, 8, 7)

    def test_numbers_of_features_are_rounded(self):
        assert UNetConfig(num_features=3, feature_multiplier=1.5).features == (3, 4, 7, 10, 15)

    def test_a_network_of_one_level_has_no_decoder(self, make, volume):
        model = make(num_levels=1)
        assert not model.decoder
        assert model(volume(1, 1, 3, 4, 5)).shape == (1, 1, 3, 4, 5)

    def test_weights_start_as_in_keras(self):
        torch.manual_seed(0)
        conv = UNet3d(UNetConfig(num_levels=2)).encoder[1].convs[1]
        limit = (6 / (2 * 48 * 27)) ** 0.5  # Glorot and Bengio (2010), uniform
        assert 0.99 * limit < conv.weight.abs().max() <= limit
        assert conv.weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.02)
        assert not conv.bias.any()

    def test_names_of_weights_are_those_of_model_files(self):
        names = set(UNet3d(UNetConfig(**{**SMALL, "num_levels": 2})).state_dict())
        norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        levels = ("encoder.0", "encoder.1", "decoder.0")
        expected = {f"{level}.norm.{name}" for level, name in product(levels, norm)}
        convs = product(levels, "01", ("weight", "bias"))
        expected |= {f"{level}.convs.{i}.{name}" for level, i, name in convs}
        assert names == expected | {"head.weight", "head.bias"}


class TestForward:
    @settings(max_examples=25)
    @given(
        shape=st.tuples(*[st.integers(1, 13)] * 3),
        levels=st.integers(1, 4),
        convs=st.integers(1, 3),
        normalisation=st.sampled_from(NORMALISATIONS),
    )
    def test_any_size_goes_in_and_comes_out(self, shape, levels, convs, normalisation):
        config = UNetConfig(
            num_levels=levels, num_features=2, convs_per_level=convs, normalisation=normalisation
        )
        output = UNet3d(config).eval()(torch.ones(1, 1, *shape))
        assert output.shape == (1, 1, *shape)
        assert output.isfinite().all()

    @pytest.mark.parametrize("shape", [(1, 2, 8, 8, 8), (1, 8, 8, 8), (8, 8, 8)])
    def test_wrong_channels_or_axes_are_named(self, make, volume, shape):
        with pytest.raises(ValueError, match=r"must be \(B, 1, X, Y, Z\), got"):
            make()(volume(*shape))

    @pytest.mark.parametrize("normalisation", NORMALISATIONS)
    def test_a_batch_is_its_elements_one_by_one(self, make, volume, normalisation):
        model = make(dropout=0.5, in_channels=2, normalisation=normalisation).eval()
        x = volume(3, 2, 8, 12, 5)
        alone = torch.cat([model(element[None]) for element in x])
        torch.testing.assert_close(model(x), alone, rtol=0, atol=1e-5)

    def test_the_field_of_view_is_that_of_the_levels(self, make, volume):
        """Far from a change, nothing changes: no step looks at the whole volume in inference."""
        model, x = make(num_levels=2).eval(), volume(1, 1, 40, 8, 8)
        changed = x.clone()
        changed[:, :, :4] += 1
        difference = (model(x) - model(changed)).abs().amax((0, 1, 3, 4))
        assert difference[:4].min() > 0
        assert difference[20:].max() < 1e-6

    def test_batch_statistics_count_in_training_alone(self, make, volume):
        model = make()
        x = volume(2, 1, 8, 8, 8)
        first, mean = model.eval()(x), model.encoder[0].norm.running_mean.clone()
        assert torch.equal(first, model(x))
        assert torch.equal(mean, model.encoder[0].norm.running_mean)
        assert not torch.allclose(first, model.train()(x), atol=1e-3)
        assert not torch.allclose(mean, model.encoder[0].norm.running_mean, atol=1e-4)

    @pytest.mark.parametrize("name", ACTIVATIONS)
    def test_each_convolution_is_followed_by_the_activation(self, volume, name, device):
        torch.manual_seed(0)
        config = UNetConfig(num_levels=1, num_features=3, convs_per_level=1, normalisation="none")
        model = UNet3d(UNetConfig(**{**vars(config), "activation": name})).to(device).eval()
        x = volume(1, 1, 5, 5, 5)
        expected = model.head(ACTIVATIONS[name](model.encoder[0].convs[0](x)))
        torch.testing.assert_close(model(x), expected)

    @pytest.mark.parametrize("normalisation", NORMALISATIONS)
    def test_gradients_reach_every_weight(self, make, volume, normalisation):
        model = make(normalisation=normalisation).train()
        model(volume(2, 1, 16, 16, 16)).square().mean().backward()
        lacking = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert lacking == []

    def test_a_softmax_gives_probabilities(self, make, volume):
        x = volume(2, 1, 8, 8, 8)
        output = make(out_channels=5, softmax=True).eval()(x)
        torch.testing.assert_close(output.sum(1), torch.ones_like(output[:, 0]))
        assert output.min() >= 0
        scores = make(out_channels=5).eval()(x)
        torch.testing.assert_close(output, scores.softmax(1))


def set_way(monkeypatch: pytest.MonkeyPatch, transposed: bool) -> None:
    """Let networks read skip connection and small volume in one way on every device."""
    monkeypatch.setattr(unet, "convolve_joined", partial(convolve_joined, transposed=transposed))


class TestPhased:
    """Decoder levels that build neither the upsampled nor the concatenated volume."""

    @staticmethod
    def results(model: UNet3d, x: Tensor) -> list[Tensor]:
        """Output of a network and gradients of a loss with respect to input and weights."""
        x = x.clone().requires_grad_()
        output = model(x)
        loss = (output * torch.linspace(-1, 1, output.numel()).to(output).view_as(output)).sum()
        return [output.detach(), *torch.autograd.grad(loss, [x, *model.parameters()])]

    @pytest.mark.parametrize("transposed", [False, True])
    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
    @pytest.mark.parametrize(
        ("changes", "shape"),
        [
            ({}, (8, 12, 20)),
            ({"in_channels": 2, "convs_per_level": 1, "normalisation": "none"}, (4, 8, 4)),
            ({"feature_multiplier": 1.5, "convs_per_level": 3, "activation": "gelu"}, (8, 4, 4)),
            ({"normalisation": "instance"}, (8, 8, 4)),
            ({"kernel_size": 5}, (8, 8, 4)),  # what follows is computed the plain way
            ({}, (9, 6, 7)),
        ],
        ids=str,
    )
    def test_values_and_gradients_are_those_of_the_plain_way(
        self, make, volume, changes, shape, layout, transposed, monkeypatch
    ):
        model = make(**changes).double().to(memory_format=layout).train()
        x = volume(2, model.config.in_channels, *shape).double().contiguous(memory_format=layout)
        plain = self.results(model, x)
        set_way(monkeypatch, transposed)
        model.phased = True
        for ours, theirs in zip(self.results(model, x), plain, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10 * (1 + theirs.abs().max()))

    @pytest.mark.parametrize("transposed", [False, True])
    def test_no_level_concatenates(self, make, volume, monkeypatch, transposed):
        model = make()
        set_way(monkeypatch, transposed)
        model.phased = True
        monkeypatch.setattr(torch, "cat", None)
        monkeypatch.setattr(torch.nn.functional, "interpolate", None)
        assert model(volume(1, 1, 8, 8, 8)).shape == (1, 1, 8, 8, 8)
        with pytest.raises(TypeError):
            model(volume(1, 1, 8, 8, 6))

    @pytest.mark.parametrize("transposed", [False, True])
    def test_channels_stay_last(self, volume, transposed, device):
        layout = torch.channels_last_3d
        skip = volume(2, 8, 8, 12, 4).contiguous(memory_format=layout).requires_grad_()
        small = volume(2, 16, 4, 6, 2).contiguous(memory_format=layout).requires_grad_()
        weight = volume(8, 24, 3, 3, 3).requires_grad_()
        output = convolve_joined(skip, small, weight, None, transposed=transposed)
        output.backward(torch.ones_like(output))
        for tensor in (output, skip.grad, small.grad):
            assert tensor.is_contiguous(memory_format=layout)

    @pytest.mark.parametrize("transposed", [False, True])
    def test_kernels_keep_float32_in_half_precision(self, volume, transposed, device):
        """Taps are summed before they are rounded, so that rounding happens once."""
        prepare = transposed_weight if transposed else phase_weight
        weight = volume(3, 4, 3, 3, 3)
        with torch.autocast(device.type, torch.bfloat16):
            kernel = prepare(weight)
        assert torch.equal(kernel, prepare(weight))
        assert kernel.dtype == torch.float32

    @pytest.mark.parametrize("normalisation", ["instance", "none", "batch", "group"])
    @pytest.mark.parametrize("multiple", [4, 7])
    def test_padded_features_change_nothing(self, make, volume, normalisation, multiple):
        layout = torch.channels_last_3d
        model = make(normalisation=normalisation, num_features=3, normalise_last=False)
        model = model.double().to(memory_format=layout).train()
        x = volume(2, model.config.in_channels, 8, 8, 4).double().contiguous(memory_format=layout)
        model.phased = True
        plain = self.results(model, x)
        model.multiple = multiple
        for ours, theirs in zip(self.results(model, x), plain, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10 * (1 + theirs.abs().max()))

    def test_features_are_padded_to_the_multiple(self, make, volume):
        model = make(normalisation="instance", num_features=3, normalise_last=False)
        model.phased, model.multiple = True, 8
        seen = []
        for level in (*model.encoder, *model.decoder):
            level.register_forward_hook(lambda *call: seen.append(call[-1][0].shape[1]))
        model(volume(1, 1, 8, 8, 8))
        assert len(seen) > 2
        assert all(channels % 8 == 0 for channels in seen)
        seen.clear()
        model(volume(1, 1, 9, 8, 8))  # not halved without a remainder: the plain way
        assert seen[0] == 3

    @pytest.mark.parametrize(
        ("transposed", "normalisation", "multiple"), [(False, "batch", 1), (True, "instance", 4)]
    )
    def test_it_compiles_to_one_graph(
        self, make, volume, monkeypatch, transposed, normalisation, multiple
    ):
        model, x = make(normalisation=normalisation), volume(1, 1, 8, 8, 8)
        set_way(monkeypatch, transposed)
        model.phased, model.multiple = True, multiple
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=1e-5)


class TestDropout:
    def test_it_acts_in_training_alone(self, make, volume):
        model, x = make(dropout=0.5), volume(1, 1, 8, 8, 8)
        model.eval()
        assert torch.equal(model(x), model(x))
        assert torch.equal(model(x), make(dropout=0.0).eval()(x))
        for module in model.modules():  # so that statistics are the same in both
            if isinstance(module, nn.BatchNorm3d):
                module.momentum = 0.0
        model.train()
        assert not torch.equal(model(x), model(x))

    def test_it_leaves_out_whole_feature_maps(self, make, volume):
        model = make(dropout=0.5, num_levels=1, num_features=64).train()
        seen: list[Tensor] = []
        model.encoder[0].dropout.register_forward_hook(lambda m, x, y: seen.append(y))
        model(volume(1, 1, 4, 4, 4))
        empty = (seen[0] == 0).flatten(2).all(2)
        assert 10 < empty.sum() < 54
        assert torch.equal(empty, (seen[0] == 0).flatten(2).any(2))

    def test_skip_connections_carry_what_is_before_it(self, make, volume):
        level = make(dropout=0.9999, num_features=8, convs_per_level=1).train().encoder[0]
        x, skip = level(volume(1, 1, 4, 4, 4))
        assert skip.flatten(2).any(2).all()
        assert torch.equal(x, level.norm(torch.zeros_like(skip)))


class TestConfig:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"in_channels": 0}, "in_channels must be 1 to 10000, got 0"),
            ({"out_channels": 0}, "out_channels must be 1 to 10000"),
            ({"num_features": 0}, "num_features must be 1 to 10000"),
            ({"convs_per_level": 0}, "convs_per_level must be 1 to 100"),
            ({"convs_per_level": 10**8}, "convs_per_level must be 1 to 100, got 100000000"),
            ({"num_features": 10**9}, "num_features must be 1 to 10000, got 1000000000"),
            ({"num_features": 1000}, "at most 250,000,000 weights, got 1000 for"),
            ({"feature_multiplier": 50.0}, "at most 250,000,000 weights"),
            ({"num_levels": 0}, "num_levels must be 1 to"),
            ({"num_levels": MAX_LEVELS + 1}, "num_levels must be 1 to"),
            ({"num_levels": 10**9}, "num_levels must be 1 to"),
            ({"feature_multiplier": 0.0}, "feature_multiplier must be above 0"),
            ({"feature_multiplier": float("nan")}, "feature_multiplier must be above 0"),
            ({"feature_multiplier": float("inf")}, "feature_multiplier must be above 0"),
            ({"feature_multiplier": 0.2}, "such that no level is empty, got 0.2"),
            ({"num_groups": 0}, "num_groups must be 1 to 10000, got 0"),
            ({"kernel_size": 2}, "kernel_size must be odd, 1 to 31, got 2"),
            ({"kernel_size": -1}, "kernel_size must be odd"),
            ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
            ({"dropout": -0.1}, "dropout must be in"),
            ({"activation": "tanh"}, "activation must be one of elu, .*, got 'tanh'"),
            ({"normalisation": "layer"}, "normalisation must be one of batch, .*, got 'layer'"),
        ],
    )
    def test_what_cannot_be_is_refused(self, changes, message):
        with pytest.raises(ValueError, match=message):
            UNetConfig(**changes)

    def test_its_weights_are_counted(self):
        for config in (UNetConfig(), UNetConfig(in_channels=3, num_levels=1, kernel_size=5)):
            kernels = [m.weight.numel() for m in UNet3d(config).modules() if hasattr(m, "stride")]
            assert sum(kernels) == config.num_weights

    @pytest.mark.parametrize(("levels", "divisor"), [(1, 1), (3, 4), (5, 16)])
    def test_multiples_of_the_divisor_are_halved_without_rest(self, levels, divisor):
        assert UNetConfig(num_levels=levels).divisor == divisor


def test_upsampling_repeats_voxels_and_crops():
    x = torch.arange(4.0).reshape(1, 1, 2, 1, 2)
    expected = torch.tensor([[0.0, 0, 1], [0, 0, 1], [2, 2, 3], [2, 2, 3]])
    assert torch.equal(upsample(x, (4, 1, 3))[0, 0, :, 0], expected)
