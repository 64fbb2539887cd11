"""One pass after a convolution gives what passes of their own give.

With `--device cuda` kernels run on the GPU. On a CPU, `TRITON_INTERPRET=1 pytest
tests/net/test_fused.py` runs them by Triton's interpreter, if Triton is installed.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from synthsr_net.inference import fused
from synthsr_net.inference.fused import activate_, can_fuse, fits
from synthsr_net.inference.streamed_unet import prepare
from synthsr_net.networks.normalisation import Statistics
from synthsr_net.networks.phase_convolution import interleave
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_transforms.functional.kernels.choice import kernels_on

SHAPE = (6, 10, 14)


def normal(*shape: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    return values.to(device, dtype)


def assert_near(made: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(
        made.float(), expected.float(), rtol=0, atol=tolerance * expected.abs().max().item()
    )


def check(channels: int, joins: bool, dtype: torch.dtype, device: torch.device) -> None:
    x, y, z = SHAPE
    volume = 3 * normal(*SHAPE, channels, device=device, dtype=dtype) + 1
    bias = normal(channels, device=device, dtype=dtype)
    small = (x // 2 + 1, y // 2 + 1, z // 2 + 1, 8 * channels)
    phases = normal(*small, device=device, dtype=dtype) if joins else None
    expected = volume.float() + bias.float()
    if phases is not None:
        expected += interleave(phases.float(), channels)[1:-1]
    expected = F.elu(expected)
    statistics = Statistics()
    made = activate_(volume, bias, phases=phases, statistics=statistics)
    assert made is volume
    tolerance = 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
    assert_near(made, expected, tolerance)
    measured = Statistics()
    measured.add(made)
    assert_near(statistics.mean, measured.mean, 1e-5)
    assert_near(statistics.variance, measured.variance, 1e-5)


CASES = [(channels, joins) for channels in (5, 16, 48) for joins in (False, True)]


@pytest.mark.parametrize(("channels", "joins"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_kernel_gives_what_passes_give(kernels, channels, joins, dtype, device, monkeypatch):
    monkeypatch.setattr(fused, "PROGRAMS", 3)
    monkeypatch.setattr(fused, "BLOCK_ROWS", 64)
    check(channels, joins, dtype, device)


@pytest.mark.parametrize(("channels", "joins"), CASES)
def test_volumes_that_do_not_fit_take_several_passes(channels, joins, monkeypatch):
    monkeypatch.setattr(fused, "fits", lambda *volumes: False)
    check(channels, joins, torch.float32, torch.device("cpu"))


def test_only_elu_on_devices_with_kernels_is_fused():
    weight = torch.ones(2, 2, 3, 3, 3)
    assert not can_fuse(F.elu_, weight)
    with kernels_on():
        assert not can_fuse(F.elu_, weight)
    assert not can_fuse(F.relu_, weight)
    assert fits(torch.ones(2, 3, 4, 5))
    assert not fits(torch.ones(2, 3, 4, 5).transpose(1, 2))
    assert not fits(torch.ones(0, 3, 4, 5))


def test_where_no_kernel_is_compiled_passes_do_the_same(kernels, device, monkeypatch):
    fused._runs.cache_clear()
    monkeypatch.setattr(fused, "activate_", lambda *args, **kwargs: 1 / 0)
    assert not can_fuse(F.elu_, torch.ones(2, 2, 3, 3, 3, device=device))
    fused._runs.cache_clear()
    monkeypatch.undo()
    assert can_fuse(F.elu_, torch.ones(2, 2, 3, 3, 3, device=device))


ARCHITECTURES: list[dict[str, Any]] = [
    {"normalisation": "instance", "normalise_last": False, "out_channels": 2, "scale_features": 3},
    {"normalisation": "instance", "convs_per_level": 1},
    {"normalisation": "batch"},
    {"kernel_size": 5, "num_levels": 2},
]


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("slab_elements", [2000, 10**9])
def test_a_network_with_kernels_is_the_network(kernels, architecture, slab_elements, device):
    network = fresh(architecture).to(device)
    x = normal(1, 8, 8, 12, device=device)
    streamed = prepare(network, torch.float32, multiple=8)
    made = streamed(x, slab_elements=slab_elements)
    assert_near(made, network(x[None])[0], 1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("slab_elements", [2000, 10**9])
def test_steps_that_kernels_take_are_those_of_the_network(architecture, slab_elements, monkeypatch):
    from synthsr_net.inference import stage

    monkeypatch.setattr(stage, "can_fuse", lambda activation, weight: True)
    monkeypatch.setattr(fused, "fits", lambda *volumes: False)
    network, x = fresh(architecture), normal(1, 8, 8, 12, device=torch.device("cpu"))
    made = prepare(network, torch.float32, multiple=8)(x, slab_elements=slab_elements)
    assert_near(made, network(x[None])[0], 1e-5)


def fresh(architecture: dict[str, Any]) -> UNet3d:
    """A network whose weights differ from those that it starts with."""
    config = UNetConfig(**{"num_levels": 3, "num_features": 5, **architecture})
    network = UNet3d(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return network
