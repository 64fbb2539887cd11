"""Promises of the normalisations: they are those of PyTorch, but leave channels where they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from synthsr_net.inference.forward import predict_volume
from synthsr_net.models.checkpoint import FORMAT_VERSION, HEADER, ModelConfig, read_model
from synthsr_net.networks.normalisation import (
    EPSILON,
    GroupNorm,
    InstanceNorm,
    Statistics,
    of_groups,
)
from synthsr_net.networks.unet import UNet3d, UNetConfig

FEATURES = 12
LAYERS: dict[str, tuple[Callable[[], InstanceNorm], Callable[[], nn.Module]]] = {
    "instance": (
        lambda: InstanceNorm(FEATURES),
        lambda: nn.InstanceNorm3d(FEATURES, eps=EPSILON, affine=True),
    ),
    "6 groups": (
        lambda: GroupNorm(FEATURES, 8),
        lambda: nn.GroupNorm(6, FEATURES, eps=EPSILON),
    ),
    "1 group": (
        lambda: GroupNorm(FEATURES, 1),
        lambda: nn.GroupNorm(1, FEATURES, eps=EPSILON),
    ),
    "as many groups as channels": (
        lambda: GroupNorm(FEATURES, 99),
        lambda: nn.InstanceNorm3d(FEATURES, eps=EPSILON, affine=True),
    ),
}
LAYOUTS = (torch.contiguous_format, torch.channels_last_3d)


@pytest.fixture(params=LAYERS)
def layers(request: pytest.FixtureRequest, device: torch.device) -> tuple[InstanceNorm, nn.Module]:
    """One of ours and that of PyTorch, with the same weights."""
    ours, theirs = (make().to(device) for make in LAYERS[request.param])
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(FEATURES, generator=generator) for name in ("weight", "bias")}
    ours.load_state_dict(state)
    theirs.load_state_dict(state)
    return ours, theirs


def volume_of(*shape: int, seed: int = 0) -> Tensor:
    """Channels of many means and spreads."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    channels = torch.arange(1.0, shape[1] + 1).view(-1, 1, 1, 1)
    return noise * channels + 3 * channels


def results(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Output and gradients of a loss with respect to input and weights."""
    x = x.detach().requires_grad_()
    output = layer(x)
    slopes = torch.cos(torch.arange(output.numel(), device=x.device)).view_as(output)
    loss = (output.to(slopes) * slopes).sum()
    return [output, *torch.autograd.grad(loss, [x, *layer.parameters()])]


def assert_close(first: Tensor, second: Tensor, tolerance: float) -> None:
    scale = max(1.0, second.abs().max().item())
    torch.testing.assert_close(
        first, second, rtol=0, atol=tolerance * scale, check_dtype=False, check_stride=False
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 3])
def test_values_and_gradients_are_those_of_pytorch(layers, layout, batch, device):
    x = volume_of(batch, FEATURES, 6, 8, 5).to(device)
    ours, theirs = layers
    for first, second in zip(
        results(ours, x.contiguous(memory_format=layout)), results(theirs, x), strict=True
    ):
        assert_close(first, second, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 2])
def test_channels_and_precision_stay_as_they_are(layers, layout, batch, dtype, device):
    x = volume_of(batch, FEATURES, 4, 6, 5).to(device, dtype).contiguous(memory_format=layout)
    with torch.autocast(device.type, torch.bfloat16):
        output, gradient, *of_weights = results(layers[0], x)
    for tensor in (output, gradient):
        assert tensor.dtype == dtype
        assert tensor.is_contiguous(memory_format=layout)
    assert {tensor.dtype for tensor in of_weights} == {torch.float32}


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_statistics_keep_float32_in_half_precision(layers, weights, device):
    """Only what goes in and what comes out is rounded, not the means in between."""
    ours, theirs = layers
    nn.init.ones_(ours.weight)
    nn.init.ones_(theirs.weight)
    ours.to(weights)
    theirs.bias.data = ours.bias.float()
    x = volume_of(1, FEATURES, 8, 8, 8).to(device, torch.bfloat16)
    exact = theirs(x.float())
    half_a_step = exact.abs().clamp(min=2**-7) * 2**-8
    assert ((ours(x).float() - exact).abs() <= 1.1 * half_a_step).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_statistics_of_many_voxels_are_no_worse(layers, layout, device):
    """Sums of a million numbers, one by one in float32, would be off by a thousandth."""
    if device.type == "mps":
        pytest.skip("no float64 there")
    x = volume_of(1, FEATURES, 96, 96, 64).to(device)
    ours, theirs = layers
    exact = theirs.double()(x.double())
    assert_close(ours(x.contiguous(memory_format=layout)), exact, 1e-5)


def test_gradients_of_groups_are_those_of_differences(device):
    if device.type == "mps":
        pytest.skip("no float64 there")
    layer = GroupNorm(4, 2).double().to(device)
    layer.weight.data = torch.linspace(-1, 2, 4, dtype=torch.float64, device=device)
    x = volume_of(2, 4, 2, 3, 2).double().to(device).requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,))


@pytest.mark.parametrize("shape", [(1, FEATURES, 1, 1, 1), (2, FEATURES, 1, 1, 1)])
def test_a_single_voxel_of_a_channel_becomes_the_bias(shape, device):
    layer = InstanceNorm(FEATURES).to(device)
    layer.bias.data = torch.linspace(-2, 2, FEATURES, device=device)
    expected = layer.bias.view(1, -1, 1, 1, 1).expand(shape)
    assert_close(layer(volume_of(*shape).to(device)), expected, 1e-3)  # differs by x / sqrt(eps)


def test_layers_compile_to_one_graph(layers, device):
    ours, x = layers[0], volume_of(2, FEATURES, 4, 4, 4).to(device)
    torch._dynamo.reset()
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    for first, second in zip(results(compiled, x), results(ours, x), strict=True):
        assert_close(first, second, 1e-5)


@given(features=st.integers(1, 100), most=st.integers(1, 100))
@settings(max_examples=50)
def test_groups_are_as_many_as_divide_the_channels(features: int, most: int) -> None:
    number = GroupNorm(features, most).num_groups
    assert features % number == 0
    assert number <= most
    assert all(features % n for n in range(number + 1, min(most, features) + 1))


def test_groups_of_a_network_are_those_of_its_config():
    config = UNetConfig(num_levels=3, num_features=6, normalisation="group", num_groups=4)
    network = UNet3d(config)
    assert [level.norm.num_groups for level in network.encoder] == [3, 4, 4]
    assert [level.norm.num_groups for level in network.decoder] == [4, 3]


def test_model_files_from_before_group_normalisation_load(tmp_path: Path) -> None:
    config = UNetConfig(num_levels=2, num_features=4, normalisation="instance")
    network = UNet3d(config)
    for level in (*network.encoder, *network.decoder):  # as networks were then
        level.norm = nn.InstanceNorm3d(level.norm.weight.numel(), eps=EPSILON, affine=True)
        level.norm.weight.data = torch.linspace(-1, 2, level.norm.weight.numel())
    settings = {"format": FORMAT_VERSION, **asdict(ModelConfig(network=config))}
    del settings["network"]["num_groups"]
    path = tmp_path / "old.safetensors"
    save_file(network.state_dict(), path, {HEADER: json.dumps(settings)})
    x = volume_of(1, 1, 8, 8, 8)
    assert_close(read_model(path).network(x), network(x), 1e-5)


# Statistics --------------------------------------------------------------------------------------


@given(
    thickness=st.integers(1, 12),
    mean=st.sampled_from([0.0, 1e3]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
@settings(max_examples=30)
def test_statistics_of_parts_are_those_of_the_whole(
    thickness: int, mean: float, dtype: torch.dtype
) -> None:
    x = volume_of(1, 3, 12, 5, 6, seed=thickness)[0].permute(1, 2, 3, 0).add(mean).to(dtype)
    statistics = Statistics()
    for part in x.split(thickness):
        statistics.add(part)
    expected = torch.var_mean(x.double(), (0, 1, 2), correction=0)
    for result, right in zip((statistics.variance, statistics.mean), expected, strict=True):
        assert result.dtype == torch.float32
        torch.testing.assert_close(result.double(), right, rtol=1e-5, atol=0)


@pytest.mark.parametrize("num_groups", [1, 2, 4])
def test_statistics_of_groups_are_those_of_all_their_voxels(num_groups: int) -> None:
    x = volume_of(1, 4, 3, 4, 5)[0].double()
    variance, mean = torch.var_mean(x, (1, 2, 3), correction=0)
    expected = torch.var_mean(x.view(num_groups, -1), 1, correction=0)
    result = of_groups(mean, variance, num_groups)
    for ours, right in zip(result, reversed(expected), strict=True):
        torch.testing.assert_close(
            ours.view(num_groups, -1), right[:, None].expand(-1, 4 // num_groups)
        )


@pytest.mark.parametrize("kind", ["batch", "instance", "group", "none"])
@pytest.mark.parametrize("levels", [1, 3])
def test_the_last_level_can_go_without(kind: str, levels: int) -> None:
    """Its weights are gone then, and streams still agree."""
    config = UNetConfig(normalisation=kind, normalise_last=False, num_levels=levels, num_features=4)
    network = UNet3d(config).eval()
    last = (*network.encoder, *network.decoder)[-1]
    names = [name for name in network.state_dict() if ".norm." in name]
    assert isinstance(last.norm, nn.Identity)
    assert len({name.rpartition(".norm.")[0] for name in names}) == (
        0 if kind == "none" else 2 * levels - 2
    )
    x = torch.rand(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = network(x[None])[0]
    torch.testing.assert_close(predict_volume(network, x), plain, rtol=0, atol=1e-5)
