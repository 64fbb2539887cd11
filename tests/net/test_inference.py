"""Promises of the forward strategies: every way to compute gives what the network gives."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import python
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from synthsr_net.inference.forward import predict_volume
from synthsr_net.inference.memory import (
    LARGE_SLAB_BYTES,
    Plan,
    estimate_bytes,
    plan_memory,
)
from synthsr_net.inference.precision import resolve_precision
from synthsr_net.inference.slabs import (
    Box,
    Convolution,
    added,
    channels_first,
    convolved,
    cut,
    fill,
    packed,
    pooled,
)
from synthsr_net.inference.sliding_window import sliding_window, window_starts, window_weight
from synthsr_net.inference.streamed_unet import prepare, prepared_once
from synthsr_net.networks.normalisation import InstanceNorm
from synthsr_net.networks.phase_convolution import interleave, phase_weight
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_transforms.support import memory
from synthsr_transforms.support.memory import available_bytes, left_within, parse_size
from synthsr_transforms.support.messages import SynthSRError

ARCHITECTURES: list[dict[str, Any]] = [
    {},
    {"num_levels": 1},
    {"convs_per_level": 1, "out_channels": 2, "softmax": True, "activation": "gelu"},
    {"convs_per_level": 3, "normalisation": "none", "in_channels": 2, "activation": "relu"},
    {"kernel_size": 5, "num_levels": 2, "activation": "leaky_relu"},
    {"kernel_size": 1, "feature_multiplier": 1.5, "activation": "silu"},
    {"normalisation": "instance"},
    {"normalisation": "group", "num_groups": 3},
    {"normalisation": "instance", "num_levels": 1, "out_channels": 2},
    {"normalisation": "group", "convs_per_level": 1, "num_levels": 2, "in_channels": 2},
    {"normalisation": "instance", "kernel_size": 1, "activation": "relu", "softmax": True},
]
OWN_STATISTICS = ("instance", "group")


def network_of(device: torch.device | str = "cpu", seed: int = 0, **settings: Any) -> UNet3d:
    """A small network with weights and statistics as varied as those of a trained one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = UNet3d(UNetConfig(**{"num_levels": 3, "num_features": 6, **settings}))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            for tensor in (module.weight, module.bias, module.running_mean):
                tensor.data.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
        if isinstance(module, InstanceNorm):
            for tensor in (module.weight, module.bias):
                tensor.data.normal_(generator=generator)
    for parameter in network.parameters():
        if parameter.ndim == 5:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return network.eval().requires_grad_(False).to(device)


def volume_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def assert_close(result: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(result, expected, rtol=0, atol=tolerance * scale)


# Slabs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("keep_first_skip", [True, False])
@pytest.mark.parametrize(
    ("slab_elements", "multiple"), [(1, 1), (3000, 1), (10**9, 1), (3000, 16), (10**9, 4)]
)
def test_slabs_give_what_the_network_gives(
    architecture: dict[str, Any],
    keep_first_skip: bool,
    slab_elements: int,
    multiple: int,
    device: torch.device,
) -> None:
    network = network_of(device, **architecture)
    x = volume_of(network.config.in_channels, 12, 8, 20).to(device)
    streamed = prepare(network, torch.float32, multiple=multiple)
    result = streamed(x, slab_elements=slab_elements, keep_first_skip=keep_first_skip)
    assert result.dtype == torch.float32
    assert_close(result, network(x[None])[0])


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("keep_first_skip", [True, False])
@pytest.mark.parametrize(
    "box",
    [
        (slice(5, 12), slice(0, 16), slice(17, 31)),
        (slice(0, 3), slice(9, 10), slice(0, 40)),
        (slice(0, 16), slice(0, 16), slice(0, 40)),
    ],
)
def test_a_box_of_the_output_is_that_of_the_whole(
    architecture: dict[str, Any], keep_first_skip: bool, box: Box, device: torch.device
) -> None:
    network = network_of(device, **architecture)
    x = volume_of(network.config.in_channels, 16, 16, 40).to(device)
    streamed = prepare(network, torch.float32)
    result = streamed(x, slab_elements=3000, keep_first_skip=keep_first_skip, box=box)
    assert_close(result, network(x[None])[0][(slice(None), *box)])


@pytest.mark.parametrize("shape", [(16, 16, 40), (15, 16, 38)])
@pytest.mark.parametrize("window", [None, 16])
def test_a_box_is_mirrored_with_the_volume(shape: tuple[int, int, int], window: int | None) -> None:
    network = network_of()
    x, box = volume_of(1, *shape), (slice(1, 9), slice(2, 15), slice(20, 31))
    plan = plan_memory(network.config, shape, window=window)
    whole = predict_volume(network, x, flip=True, plan=plan)
    part = replace(plan, box=box)
    assert_close(predict_volume(network, x, flip=True, plan=part), whole[(slice(None), *box)])
    with pytest.raises(ValueError, match="box must be None"):
        predict_volume(network, x, plan=part, second=lambda volume, result: (volume, None))


def test_the_published_architecture_in_slabs(device: torch.device) -> None:
    network = network_of(device, num_levels=5, num_features=24)
    x = volume_of(1, 32, 48, 16).to(device)
    result = prepare(network, torch.float32)(x, slab_elements=50_000)
    assert_close(result, network(x[None])[0], 2e-5)


@pytest.mark.parametrize("normalisation", ["instance", "none"])
def test_features_are_multiples_of_what_devices_multiply_soonest(normalisation: str) -> None:
    network = network_of(
        num_features=5, normalisation=normalisation, scale_features=3, out_channels=2
    )
    streamed = prepare(network, torch.bfloat16, multiple=16)
    stages = [*streamed.encoder, *streamed.decoder, streamed.scales[0]]
    weights = [conv.weight for stage in stages for conv in stage.convs]
    weights += [stage.low.weight for stage in stages if stage.low is not None]
    assert weights[0].shape[1] == 8
    assert all(weight.shape[0] % 16 == 0 for weight in weights)
    assert all(weight.shape[1] % 16 == 0 for weight in weights[1:])


def test_what_is_prepared_of_weights_is_kept_until_they_change() -> None:
    network = network_of()
    first = prepared_once(network, torch.float32)
    assert prepared_once(network, torch.float32) is first
    assert prepared_once(network, torch.bfloat16) is not first
    x = volume_of(1, 8, 8, 8)
    before = first(x, slab_elements=10**9)
    network.load_state_dict(network_of(seed=1).state_dict())
    changed = prepared_once(network, torch.float32)
    assert_close(changed(x, slab_elements=10**9), network(x[None])[0])
    assert not torch.allclose(before, changed(x, slab_elements=10**9))
    network.requires_grad_(True)
    assert prepared_once(network, torch.float32) is not prepared_once(network, torch.float32)


@pytest.mark.parametrize("scale", [1.0, -1.0])
def test_maxima_follow_the_normalisation_whatever_its_sign(scale: float) -> None:
    network = network_of()
    for level in network.encoder:
        level.norm.weight.data = scale * level.norm.weight.abs()
    x = volume_of(1, 8, 8, 8)
    assert_close(prepare(network, torch.float32)(x, slab_elements=500), network(x[None])[0])


@given(
    size=st.integers(1, 9),
    thickness=st.integers(1, 9),
    radius=st.integers(0, 2),
    seed=st.integers(0, 9),
)
@settings(max_examples=30)
def test_convolution_of_slabs_is_that_of_the_volume(
    size: int, thickness: int, radius: int, seed: int
) -> None:
    x, weight = (
        volume_of(size, 4, 5, 3, seed=seed),
        volume_of(2, 3, *[2 * radius + 1] * 3, seed=seed),
    )
    bias = volume_of(2, seed=seed + 1)
    slabs = convolved(cut(x, thickness), Convolution(packed(weight), bias))
    expected = F.conv3d(channels_first(x), weight, bias, padding=radius)[0].permute(1, 2, 3, 0)
    assert_close(fill(torch.empty(size, 4, 5, 2), slabs), expected)


@given(half=st.integers(1, 6), thickness=st.integers(1, 7))
@settings(max_examples=30)
def test_maxima_of_slabs_are_those_of_the_volume(half: int, thickness: int) -> None:
    x = volume_of(2 * half, 4, 6, 3, seed=half)
    result = fill(torch.empty(half, 2, 3, 3), pooled(cut(x, thickness)))
    assert torch.equal(channels_first(result), F.max_pool3d(channels_first(x), 2))


@given(size=st.integers(1, 12), first=st.integers(1, 12), second=st.integers(1, 12))
@settings(max_examples=40)
def test_slabs_of_any_thickness_add_up(size: int, first: int, second: int) -> None:
    x, y = volume_of(size, 2, 3, 1), volume_of(size, 2, 3, 1, seed=1)
    slabs = list(added(cut(x.clone(), first), cut(y, second)))
    assert torch.equal(torch.cat(slabs), x + y)


def test_phases_make_the_convolution_of_the_upsampled_volume() -> None:
    x, weight = volume_of(1, 4, 5, 3, 6), volume_of(2, 4, 3, 3, 3, seed=1)
    expected = F.conv3d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, padding=1)
    phases = F.conv3d(x, phase_weight(weight), padding=1)[0].permute(1, 2, 3, 0)
    result = interleave(phases, channels=2)[1:-1]
    assert_close(result.permute(3, 0, 1, 2)[None], expected)


@pytest.mark.parametrize("normalisation", OWN_STATISTICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_last_level_computed_twice_is_the_last_level_kept(
    normalisation: str, dtype: torch.dtype
) -> None:
    """The result takes the place of the skip connection while that is still being read."""
    network = network_of(normalisation=normalisation)
    streamed, x = prepare(network, dtype), volume_of(1, 16, 12, 8)
    kept = streamed(x, slab_elements=500)
    twice = streamed(x, slab_elements=500, keep_first_skip=False)
    # in bf16, what is kept has 11 binary digits
    assert_close(kept, twice, 1e-6 if dtype == torch.float32 else 4e-3)


def test_odd_sizes_are_left_to_the_whole_network() -> None:
    for normalisation in ("batch", *OWN_STATISTICS):
        network, x = network_of(normalisation=normalisation), volume_of(1, 9, 8, 7)
        assert network.config.halves((8, 8, 4))
        assert not network.config.halves((9, 8, 7))
        assert_close(predict_volume(network, x), network(x[None])[0])
        rounded = predict_volume(network, x, precision="bf16")
        assert (rounded - network(x[None])[0]).abs().mean() < 0.05 * rounded.std()


# Volumes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["store", "recompute", "whole"])
def test_exact_strategies_agree(strategy: Any, device: torch.device) -> None:
    network, x = network_of(device), volume_of(1, 16, 12, 8).to(device)
    result = predict_volume(network, x, plan=Plan(strategy, 0))
    assert_close(result, network(x[None])[0])


def test_flip_averages_with_the_mirrored_volume() -> None:
    network, x = network_of(), volume_of(1, 12, 8, 16)
    mirrored = network(x.flip(1)[None])[0].flip(1)
    assert_close(predict_volume(network, x, flip=True), (network(x[None])[0] + mirrored) / 2)


@pytest.mark.parametrize("share", [None, torch.rand(12, 8, 16)])
def test_the_mirrored_pass_may_see_and_count_what_the_first_says(share: Tensor | None) -> None:
    network, x = network_of(), volume_of(1, 12, 8, 16)
    first = network(x[None])[0].clamp(min=0)

    def second(volume: Tensor, output: Tensor) -> tuple[Tensor, Tensor | None]:
        assert torch.equal(volume, x)
        assert_close(output, first)
        return 1 - volume, share

    mirrored = network(1 - x.flip(1)[None])[0].clamp(min=0).flip(1)
    result = predict_volume(network, x, flip=True, second=second, finish=lambda y: y.clamp(min=0))
    weight = 0.5 if share is None else share
    assert_close(result, first + weight * (mirrored - first))


def test_flip_makes_the_prediction_equivariant() -> None:
    network, x = network_of(), volume_of(1, 12, 8, 16)
    result = predict_volume(network, x, flip=True)
    assert_close(predict_volume(network, x.flip(1), flip=True), result.flip(1))


def test_finish_is_applied_to_each_pass() -> None:
    network, x = network_of(), volume_of(1, 8, 8, 8)
    passes = [network(x[None])[0], network(x.flip(1)[None])[0].flip(1)]
    middle = passes[0].median().item()
    result = predict_volume(network, x, flip=True, finish=lambda y: y.clamp(max=middle))
    expected = (passes[0].clamp(max=middle) + passes[1].clamp(max=middle)) / 2
    assert_close(result, expected)
    assert not torch.allclose(result, ((passes[0] + passes[1]) / 2).clamp(max=middle), atol=1e-3)


def test_the_input_stays_as_it_is() -> None:
    network, x = network_of(), volume_of(1, 8, 8, 8)
    before = x.clone()
    predict_volume(network, x, flip=True)
    assert torch.equal(x, before)


@pytest.mark.parametrize("normalisation", ["batch", *OWN_STATISTICS])
def test_bf16_is_close_to_fp32(normalisation: str) -> None:
    network, x = network_of(normalisation=normalisation), volume_of(1, 16, 16, 16)
    exact = predict_volume(network, x)
    rounded = predict_volume(network, x, precision="bf16")
    assert rounded.dtype == torch.float32
    difference = (rounded - exact).abs().mean() / exact.std()
    assert 0 < difference < 0.02


@pytest.mark.parametrize("native", [True, False])
def test_auto_precision_is_bf16_where_it_is_native(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: native)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    expected = "bf16" if native else "fp32"
    assert resolve_precision("auto", "cpu") == expected
    assert resolve_precision("auto", "cuda:0") == expected
    assert resolve_precision("auto", "cuda:0", training=True) == expected
    assert resolve_precision("auto", "cpu", training=True) == "fp32"
    assert resolve_precision("auto", "mps") == "fp32"


def test_unknown_precision() -> None:
    with pytest.raises(ValueError, match=r"precision must be one of .*, auto, got 'fp64'"):
        resolve_precision("fp64")


def test_wrong_number_of_channels() -> None:
    with pytest.raises(ValueError, match=r"input must be \(1, X, Y, Z\), got \(2, 8, 8, 8\)\."):
        predict_volume(network_of(), torch.zeros(2, 8, 8, 8))


# Windows -----------------------------------------------------------------------------------------


@given(size=st.integers(1, 400), window=st.integers(48, 200), overlap=st.integers(0, 40))
@settings(max_examples=40)
def test_windows_cover_an_axis_and_overlap(size: int, window: int, overlap: int) -> None:
    starts = window_starts(size, window, overlap)
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    assert all(b - a <= window - overlap for a, b in itertools.pairwise(starts))
    assert starts[-1] + window == max(size, window)


def test_tile_weights_are_positive_and_whole_inside() -> None:
    weight = window_weight((20, 24, 30), 6, "cpu")
    assert weight.min() > 0
    assert (weight[6:-6, 6:-6, 6:-6] == 1).all()
    assert torch.equal(weight, weight.flip(0, 1, 2))


@pytest.mark.parametrize("shape", [(40, 33, 20), (10, 50, 16)])
def test_windows_of_a_pointwise_network_leave_no_trace(shape: tuple[int, ...]) -> None:
    x = volume_of(2, *shape)
    result = sliding_window(lambda v: v.square(), x, (16, 16, 16), 6)
    assert_close(result, x.square())


def test_windows_agree_with_the_whole_away_from_their_faces(device: torch.device) -> None:
    network = network_of(device, num_levels=2)  # sees 9 voxels around
    x = volume_of(1, 96, 32, 32).to(device)
    plan = plan_memory(network.config, x.shape[1:], window=64)
    assert plan.strategy == "sliding_window"
    assert plan.strategy == "sliding_window"
    assert plan.window == (64, 32, 32)
    result, whole = predict_volume(network, x, plan=plan), network(x[None])[0]
    assert_close(result[:, :20], whole[:, :20])
    assert_close(result[:, 76:], whole[:, 76:])
    assert (result - whole).abs().mean() < 0.05 * whole.std()


@pytest.mark.parametrize("normalisation", ["batch", "none", *OWN_STATISTICS])
def test_plans_tell_where_statistics_are_those_of_tiles(normalisation: str) -> None:
    config = UNetConfig(normalisation=normalisation)
    local = normalisation in OWN_STATISTICS
    assert plan_memory(config, HEAD, window=128).local_statistics == local
    for budget, strategy in ((10**10, "store"), (1_100_000_000, "recompute")):
        plan = plan_memory(config, HEAD, max_bytes=budget)
        assert (plan.strategy, plan.local_statistics) == (strategy, False)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process from /proc")
def test_the_estimate_bounds_the_memory_taken() -> None:
    program = """
import os, re, torch
from pathlib import Path
from synthsr_net.inference.forward import predict_volume
from synthsr_net.inference.memory import Plan, estimate_bytes
from synthsr_net.networks.unet import UNet3d, UNetConfig
status = Path("/proc/self/status")
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1])
torch.set_num_threads(1)
for strategy, name in (("store", "batch"), ("recompute", "batch"), ("store", "instance")):
    if os.fork():
        os.wait()
        continue
    network = UNet3d(UNetConfig(normalisation=name)).eval()
    predict_volume(network, torch.zeros(1, 16, 16, 16))
    before, shape = peak(), (48, 96, 96)
    predict_volume(network, torch.zeros(1, *shape), plan=Plan(strategy, 0))
    print((peak() - before) / estimate_bytes(network.config, shape, strategy), flush=True)
    os._exit(0)
"""
    done = python(program, check=True)
    shares = [float(line) for line in done.stdout.splitlines()]
    assert len(shares) == 3
    assert all(0.3 < share < 1 for share in shares)


# Memory ------------------------------------------------------------------------------------------

HEAD = (192, 256, 160)


def test_exact_strategies_come_before_tiles() -> None:
    config = UNetConfig()
    kinds, sizes = [], []
    for budget in (10**10, 1_100_000_000, 600_000_000):
        plan = plan_memory(config, HEAD, max_bytes=budget)
        kinds.append(plan.strategy)
        sizes.append(plan.num_bytes)
        assert plan.num_bytes <= budget
    assert kinds == ["store", "recompute", "sliding_window"]
    assert sizes == sorted(sizes, reverse=True)


def test_gpus_with_much_memory_get_large_slabs() -> None:
    config = UNetConfig(normalisation="instance")
    much, little = (
        plan_memory(config, HEAD, device="cuda", precision="bf16", max_bytes=budget)
        for budget in (10**11, 4 * 10**9)
    )
    assert (much.strategy, little.strategy) == ("store", "store")
    assert much.slab_bytes == LARGE_SLAB_BYTES
    assert little.slab_bytes is None
    assert little.num_bytes < much.num_bytes < 10**10


def test_half_precision_takes_less_memory() -> None:
    config = UNetConfig()
    half = estimate_bytes(config, HEAD, "store", precision="bf16")
    assert half < 0.7 * estimate_bytes(config, HEAD, "store")


def test_too_little_memory_is_said_with_figures() -> None:
    with pytest.raises(SynthSRError, match=r"192 x 256 x 160 voxels needs \d+\.\d MB .* 100\.0 MB"):
        plan_memory(UNetConfig(), HEAD, max_bytes=10**8)


def test_windows_are_multiples_of_the_divisor_and_no_larger_than_the_volume() -> None:
    plan = plan_memory(UNetConfig(), (100, 256, 300), window=130)
    assert plan.window == (112, 144, 144)
    with pytest.raises(ValueError, match=r"window must be at least 1 voxel, got 0\."):
        plan_memory(UNetConfig(), HEAD, window=0)


def test_available_memory_heeds_the_limit_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    free = available_bytes()
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("7\n")
    assert available_bytes() > free // 2
    (tmp_path / "memory.max").write_text("1007\n")
    assert available_bytes() == 1000


def test_what_the_process_holds_counts_towards_its_limit() -> None:
    held = torch.ones(10**7)
    left = left_within(10**10)
    more = torch.ones(10**8)
    assert 0 < left < 10**10 - held.nbytes
    assert left - left_within(10**10) > 0.9 * more.nbytes


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "4 apples", "1e9"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="memory must be a number and a unit"):
        parse_size(text)


@given(st.floats(0.1, 900), st.sampled_from(["k", "m", "g"]))
def test_sizes_scale_with_their_unit(number: float, unit: str) -> None:
    text = f"{number:.3f}"
    factor = {"k": 1e3, "m": 1e6, "g": 1e9}[unit]
    assert parse_size(f"{text}{unit.upper()}B") == pytest.approx(float(text) * factor, abs=1)
