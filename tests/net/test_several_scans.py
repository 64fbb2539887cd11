"""Promises of networks that take several scans of one head."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synthsr_net.inference.forward import predict_volume
from synthsr_net.inference.memory import Plan, estimate_bytes, plan_memory
from synthsr_net.inference.streamed_unet import prepare
from synthsr_net.models import checkpoint
from synthsr_net.models.checkpoint import (
    HEADER,
    InputConfig,
    Model,
    ModelConfig,
    ScanConfig,
    config_of_header,
    header_text,
    read_model,
    save_model,
)
from synthsr_net.models.keras.file import KerasWeightsError
from synthsr_net.models.keras.weights import write_keras
from synthsr_net.models.onnx.export import config_of_metadata, export_onnx
from synthsr_net.models.transfer import start_from
from synthsr_net.networks.unet import NORMALISATIONS, UNet3d, UNetConfig, upsample, weighted_mean

SMALL = {"num_levels": 3, "num_features": 4, "pool_scans": True}
ARCHITECTURES: list[dict[str, Any]] = [
    {},
    {"num_levels": 2, "normalisation": "instance"},
    {"normalisation": "instance", "normalise_last": False, "activation": "gelu"},
    {"normalisation": "group", "in_channels": 2, "convs_per_level": 1},
    {"normalisation": "none", "kernel_size": 1, "out_channels": 3, "softmax": True},
]


def network_of(seed: int = 0, *, gates: float = 1.0, **settings: Any) -> UNet3d:
    """A small network in inference, with statistics and confidences as varied as trained ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = UNet3d(UNetConfig(**{**SMALL, **settings}))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                for tensor in (module.weight, module.bias, module.running_mean):
                    tensor.data.normal_()
                module.running_var.uniform_(0.5, 2)
        for gate in network.gates:
            gate.data.normal_(0, gates)
    return network.eval().requires_grad_(False)


def plain(network: UNet3d) -> UNet3d:
    """The network of one scan with the same weights."""
    single = UNet3d(replace(network.config, pool_scans=False))
    state = network.state_dict()
    single.load_state_dict({k: v for k, v in state.items() if not k.startswith("gates.")})
    return single.eval().requires_grad_(False)


def volume_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def assert_close(result: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(result, expected, rtol=0, atol=tolerance * scale)


def by_definition(network: UNet3d, scans: Tensor) -> Tensor:
    """Output for scans `(N, C, X, Y, Z)`, each encoded alone."""
    levels: list[list[Tensor]] = [[] for _ in network.encoder]
    for x in scans.split(1):
        for depth, level in enumerate(network.encoder):
            x, skip = level(F.max_pool3d(x, 2, ceil_mode=True) if depth else x)
            levels[depth].append(skip if level is not network.encoder[-1] else x)
    means = []
    for features, gate in zip(levels, network.gates, strict=True):
        weights = [F.conv3d(each, gate).exp() for each in features]
        total = sum(w * f for w, f in zip(weights, features, strict=True))
        means.append(total / sum(weights))
    *skips, x = means
    for level in network.decoder:
        skip = skips.pop()
        x, _ = level(torch.cat([skip, upsample(x, skip.shape[2:])], 1))
    x = network.head(x)
    return x.softmax(1) if network.config.softmax else x


class TestNetwork:
    @pytest.mark.parametrize("normalisation", NORMALISATIONS)
    @pytest.mark.parametrize("fast", [False, True])
    def test_one_scan_is_the_network_of_one_scan_bit_by_bit(self, normalisation, fast):
        network = network_of(normalisation=normalisation)
        single, x = plain(network), volume_of(2, 1, 8, 12, 4)
        for each in (network, single):
            each.phased, each.multiple = fast, 8 if fast else 1
        expected = single(x)
        assert torch.equal(network(x), expected)
        assert torch.equal(network(x[:, None]), expected)
        two, first = x[:, None].expand(2, 2, 1, 8, 12, 4), torch.tensor([[True, False]] * 2)
        assert torch.equal(network(two, first), expected)

    def test_the_weights_of_one_scan_start_as_without_the_others(self):
        states = []
        for pool_scans in (False, True):
            with torch.random.fork_rng():
                torch.manual_seed(0)
                config = UNetConfig(num_levels=2, num_features=3, pool_scans=pool_scans)
                states.append(UNet3d(config).state_dict())
        new = set(states[1]) - set(states[0])
        assert new == {"gates.0", "gates.1"}
        assert not any(states[1][name].any() for name in new)
        assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())

    @pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
    @pytest.mark.parametrize("gates", [0.0, 1.0])
    def test_features_are_averaged_by_confidence_at_each_level(self, architecture, gates):
        network = network_of(gates=gates, **architecture)
        x = volume_of(2, 3, network.config.in_channels, 8, 5, 6)
        expected = torch.cat([by_definition(network, scans) for scans in x])
        assert_close(network(x), expected)

    def test_without_confidences_it_is_the_mean(self):
        features = volume_of(3, 4, 2, 3, 5)
        result = weighted_mean(features, torch.zeros(3, 1, 2, 3, 5))
        assert_close(result, features.mean(0, keepdim=True))

    def test_the_surest_scan_prevails_and_nothing_overflows(self):
        features, logits = volume_of(3, 4, 2, 3, 5), torch.zeros(3, 1, 2, 3, 5)
        logits[1] = 1e4
        assert torch.equal(weighted_mean(features, logits), features[1:2])
        assert_close(weighted_mean(features, logits - 2e4), features[1:2])

    @pytest.mark.parametrize("normalisation", NORMALISATIONS)
    def test_the_order_of_scans_does_not_matter(self, normalisation):
        network, x = network_of(normalisation=normalisation), volume_of(2, 3, 1, 8, 4, 12)
        assert_close(network(x[:, [2, 0, 1]]), network(x))

    def test_the_same_scan_again_changes_nothing(self):
        network, x = network_of(), volume_of(1, 1, 1, 8, 4, 12)
        assert_close(network(x.expand(1, 3, 1, 8, 4, 12)), network(x))

    @pytest.mark.parametrize("normalisation", NORMALISATIONS)
    @pytest.mark.parametrize("shape", [(8, 4, 12), (7, 4, 5)])
    @pytest.mark.parametrize("fast", [False, True])
    def test_absent_scans_are_left_out(self, normalisation, shape, fast):
        network = network_of(normalisation=normalisation)
        network.phased, network.multiple = fast, 8 if fast else 1
        x = volume_of(3, 4, 1, *shape)
        present = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 1]]).bool()
        alone = torch.cat([network(e[p][None]) for e, p in zip(x, present, strict=True)])
        x[~present] = torch.nan
        assert_close(network(x, present), alone)

    def test_absent_scans_leave_no_trace_in_training(self):
        """Neither in batch statistics nor in gradients."""
        x, present = volume_of(1, 3, 1, 8, 8, 8), torch.tensor([[True, False, True]])
        results = []
        for scans, mask in ((x, present), (x[:, [0, 2]], None)):
            network = network_of().requires_grad_().train()
            network(scans, mask).square().mean().backward()
            results.append([p.grad for p in network.parameters()] + list(network.buffers()))
        assert all(torch.equal(*pair) for pair in zip(*results, strict=True))

    @pytest.mark.parametrize("gates", [0.0, 1.0])
    @pytest.mark.parametrize("normalisation", NORMALISATIONS)
    def test_gradients_reach_every_weight_and_scan(self, normalisation, gates):
        network = network_of(gates=gates, normalisation=normalisation, normalise_last=False)
        x = volume_of(1, 3, 1, 16, 16, 16).requires_grad_()
        network.requires_grad_().train()(x).square().mean().backward()
        lacking = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
        assert lacking == []
        assert x.grad.flatten(2).any(2).all()

    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
    def test_the_fast_way_gives_the_same(self, layout):
        network = network_of(normalisation="instance", num_features=3).double()
        network.to(memory_format=layout).requires_grad_()
        results = []
        for fast in (False, True):
            network.phased, network.multiple = fast, 8 if fast else 1
            output = network(volume_of(2, 3, 1, 8, 4, 4).double())
            gradients = torch.autograd.grad(output.square().sum(), list(network.parameters()))
            results.append([output.detach(), *gradients])
        for ours, theirs in zip(*results, strict=True):
            assert_close(ours, theirs, 1e-10)

    def test_several_scans_compile_to_one_graph(self):
        network = network_of(num_levels=2, convs_per_level=1, normalisation="none")
        network.phased, x = True, volume_of(1, 2, 1, 4, 4, 4)
        compiled = torch.compile(network.forward, backend="eager", fullgraph=True)
        assert_close(compiled(x), network(x))

    def test_what_does_not_fit_is_named(self):
        network, x = network_of(), volume_of(2, 3, 1, 4, 4, 4)
        with pytest.raises(ValueError, match=r"must be \(B, 1, X, Y, Z\), got \(2, 3, 1"):
            plain(network)(x)
        with pytest.raises(ValueError, match=r"\(B, 1, X, Y, Z\) or \(B, N, 1, X, Y, Z\), got"):
            network(volume_of(2, 3, 2, 4, 4, 4))
        for scans, present in ((x, torch.ones(3, 2)), (x[:, 0], torch.ones(2, 1))):
            with pytest.raises(ValueError, match=r"present must be \(B, N\)"):
                network(scans, present)
        with pytest.raises(ValueError, match=r"at least one scan, got \[1, 0\]"):
            network(x, torch.tensor([[0, 1, 0], [0, 0, 0]]))
        with pytest.raises(ValueError, match="num_levels must be above 1 with pool_scans, got 1"):
            UNetConfig(num_levels=1, pool_scans=True)


class TestInference:
    @pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
    @pytest.mark.parametrize("keep_first_skip", [True, False])
    @pytest.mark.parametrize("slab_elements", [1, 2000, 10**9])
    def test_scan_by_scan_is_all_at_once(self, architecture, keep_first_skip, slab_elements):
        network = network_of(**architecture)
        x = volume_of(3, network.config.in_channels, 12, 8, 20)
        streamed = prepare(network, torch.float32)
        result = streamed(x, slab_elements=slab_elements, keep_first_skip=keep_first_skip)
        assert_close(result, network(x[None])[0], 2e-5)

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_one_scan_is_predicted_as_without_the_others(self, precision):
        network, x = network_of(), volume_of(1, 16, 8, 8)
        expected = predict_volume(plain(network), x, precision=precision)
        assert torch.equal(predict_volume(network, x, precision=precision), expected)
        assert torch.equal(predict_volume(network, x[None], precision=precision), expected)

    @pytest.mark.parametrize("strategy", ["store", "recompute"])
    @pytest.mark.parametrize("normalisation", ["batch", "instance"])
    def test_bf16_is_close_to_fp32(self, normalisation, strategy):
        network, x = network_of(normalisation=normalisation), volume_of(3, 1, 16, 16, 16)
        exact, plan = network(x[None])[0], Plan(strategy, 0)
        rounded = predict_volume(network, x, precision="bf16", plan=plan)
        assert 0 < (rounded - exact).abs().mean() / exact.std() < 0.02

    @pytest.mark.parametrize("keep_first_skip", [True, False])
    def test_large_logits_do_not_overflow(self, keep_first_skip):
        network, x = network_of(gates=1e4), volume_of(3, 1, 8, 8, 8)
        streamed = prepare(network, torch.float32)
        result = streamed(x, slab_elements=500, keep_first_skip=keep_first_skip)
        assert_close(result, network(x[None])[0], 2e-5)

    def test_the_order_of_scans_does_not_matter(self):
        network, x = network_of(), volume_of(3, 1, 8, 8, 8)
        assert_close(predict_volume(network, x.flip(0)), predict_volume(network, x))

    def test_flip_windows_and_odd_sizes_take_several_scans(self):
        network, x = network_of(num_levels=2), volume_of(2, 1, 96, 16, 16)
        whole, mirrored = network(x[None])[0], network(x.flip(-3)[None])[0].flip(-3)
        assert_close(predict_volume(network, x, flip=True), (whole + mirrored) / 2)
        plan = plan_memory(network.config, x.shape[-3:], window=64, num_scans=2)
        assert plan.window == (64, 16, 16)
        result = predict_volume(network, x, plan=plan)
        assert_close(result[:, :20], whole[:, :20])
        assert (result - whole).abs().mean() < 0.05 * whole.std()
        odd = x[..., :31, :15, :7]
        assert_close(predict_volume(network, odd), network(odd[None])[0])

    def test_what_does_not_fit_is_named(self):
        network = network_of()
        with pytest.raises(ValueError, match=r"input must be \(1, X, Y, Z\), got \(2, 1, 8"):
            predict_volume(plain(network), volume_of(2, 1, 8, 8, 8))
        with pytest.raises(ValueError, match=r"\(1, X, Y, Z\) or \(N, 1, X, Y, Z\), got \(2, 8"):
            predict_volume(network, volume_of(2, 8, 8, 8))


HEAD = (192, 256, 160)


class TestMemory:
    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    @pytest.mark.parametrize("strategy", ["store", "recompute"])
    def test_three_scans_take_little_more_than_one(self, strategy, device):
        one, three = (
            estimate_bytes(UNetConfig(pool_scans=True), HEAD, strategy, device=device, num_scans=n)
            for n in (1, 3)
        )
        assert one < three < (1.2 if strategy == "store" else 1.7) * one

    def test_plans_know_the_number_of_scans(self):
        config = UNetConfig(pool_scans=True)
        budget = estimate_bytes(config, HEAD, "store", num_scans=2)
        plans = [plan_memory(config, HEAD, max_bytes=budget, num_scans=n) for n in (1, 2, 3)]
        assert [plan.strategy for plan in plans] == ["store", "store", "recompute"]
        windows = [plan_memory(config, HEAD, window=96, num_scans=n).num_bytes for n in (1, 2)]
        assert windows[0] < windows[1]

    @pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process from /proc")
    def test_the_estimate_bounds_the_memory_taken(self):
        program = """
import os, re, torch
from pathlib import Path
from synthsr_net.inference.forward import predict_volume
from synthsr_net.inference.memory import Plan, estimate_bytes
from synthsr_net.networks.unet import UNet3d, UNetConfig
status = Path("/proc/self/status")
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1])
torch.set_num_threads(1)
for strategy, name in (("store", "batch"), ("recompute", "instance")):
    if os.fork():
        os.wait()
        continue
    network = UNet3d(UNetConfig(normalisation=name, pool_scans=True)).eval()
    predict_volume(network, torch.zeros(3, 1, 16, 16, 16))
    before, shape = peak(), (48, 96, 64)
    predict_volume(network, torch.zeros(3, 1, *shape), plan=Plan(strategy, 0))
    estimate = estimate_bytes(network.config, shape, strategy, num_scans=3, flip=False)
    print((peak() - before) / estimate, flush=True)
    os._exit(0)
"""
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        shares = [float(line) for line in done.stdout.splitlines()]
        assert len(shares) == 2
        assert all(0.3 < share < 1 for share in shares)


@pytest.fixture(scope="module")
def network() -> UNet3d:
    return network_of()


@pytest.fixture
def path(tmp_path: Path, network: UNet3d) -> Path:
    save_model(
        tmp_path / "m.safetensors", ModelConfig(network=network.config), network.state_dict()
    )
    return tmp_path / "m.safetensors"


class TestModelFile:
    def test_it_says_that_it_takes_several_scans(self, path, network):
        model, x = read_model(path), volume_of(1, 2, 1, 8, 8, 8)
        assert model.config.network.pool_scans
        assert torch.equal(model.network(x), network(x))

    def test_readers_of_the_first_format_refuse_it(self, path, monkeypatch):
        monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 1)
        with pytest.raises(ValueError, match=r"has format 2, this version .* Update synthsr"):
            read_model(path)

    def test_the_file_of_a_network_of_one_scan_stays_as_it_was(self):
        settings = json.loads(header_text(ModelConfig()))
        assert settings["format"] == 1
        assert "pool_scans" not in settings["network"]
        assert not config_of_header(json.dumps(settings), "old").network.pool_scans

    def test_confidences_belong_to_the_weights(self, tmp_path, network):
        save_model(
            tmp_path / "m.safetensors",
            ModelConfig(network=network.config),
            plain(network).state_dict(),
        )
        with pytest.raises(ValueError, match=r"first gates\.0"):
            read_model(tmp_path / "m.safetensors")

    @pytest.mark.parametrize(
        "settings",
        [
            {"inputs": [InputConfig(name="a"), InputConfig(name="b")]},
            {"scan": ScanConfig(residual_input=0)},
        ],
        ids=["two images", "residual"],
    )
    def test_scans_are_of_one_kind_and_nothing_is_added_to_them(self, network, settings):
        config = replace(network.config, in_channels=len(settings.get("inputs", "1")))
        with pytest.raises(ValueError, match="with pool_scans must have one input"):
            ModelConfig(network=config, **settings)

    @pytest.mark.parametrize("wider", [{}, {"num_features": 6}], ids=["equal", "wider"])
    def test_the_weights_of_one_scan_are_a_start(self, tmp_path, network, wider):
        single = plain(network)
        save_model(
            tmp_path / "m.safetensors", ModelConfig(network=single.config), single.state_dict()
        )
        ours = network_of(seed=1, gates=0, **wider)
        notes = start_from(ours, tmp_path / "m.safetensors")
        assert notes[-3:] == [f"gates.{depth} is new" for depth in range(3)]
        x = volume_of(1, 3, 1, 8, 8, 8)
        assert_close(ours(x[:, 0]), single(x[:, 0]))
        mean = network_of(gates=0)
        assert_close(ours(x), mean(x))

    @pytest.mark.parametrize("wider", [{}, {"num_features": 6}], ids=["equal", "wider"])
    def test_the_weights_of_several_scans_are_a_start(self, path, network, wider):
        ours, x = network_of(seed=1, **wider), volume_of(1, 3, 1, 8, 8, 8)
        start_from(ours, path)
        assert_close(ours(x), network(x))
        single = plain(network_of(seed=1, **wider))
        start_from(single, path)
        assert_close(single(x[:, 0]), network(x[:, 0]))

    def test_onnx_takes_one_scan(self, tmp_path, network):
        pytest.importorskip("onnx")
        onnxruntime = pytest.importorskip("onnxruntime")
        config = ModelConfig(network=network.config)
        several, one = tmp_path / "several.onnx", tmp_path / "one.onnx"
        export_onnx(Model(config, network), several)
        single = Model(replace(config, network=replace(config.network, pool_scans=False)), network)
        export_onnx(replace(single, network=plain(network)), one)
        assert several.read_bytes() == one.read_bytes()
        session = onnxruntime.InferenceSession(several)
        text = session.get_modelmeta().custom_metadata_map[HEADER]
        assert config_of_metadata(text) == single.config

    def test_keras_files_take_one_scan(self, tmp_path, network):
        with pytest.raises(KerasWeightsError, match=re.escape("pool_scans must be false")):
            write_keras(tmp_path / "m.h5", network.config, network.state_dict())
