"""A trained network gets more features and computes the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from synthsr_net.models.checkpoint import ModelConfig, save_model
from synthsr_net.models.transfer import BY_CHANNEL, can_widen, start_from, widened
from synthsr_net.networks.unet import UNet3d, UNetConfig

NARROW = UNetConfig(num_levels=3, num_features=3, normalisation="instance")


def trained(config: UNetConfig) -> UNet3d:
    """A network with all parameters and statistics away from their first values."""
    torch.manual_seed(1)
    network = UNet3d(config)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) * 0.3 + 0.05)
    return network.eval()


def wide_of(narrow: UNet3d, features: int, multiplier: float = 2.0, seed: int = 0) -> UNet3d:
    config, state = widened(narrow.config, narrow.state_dict(), features, multiplier, seed)
    network = UNet3d(config)
    network.load_state_dict(state)
    return network.eval()


@pytest.mark.parametrize("kind", BY_CHANNEL)
@pytest.mark.parametrize("features", [3, 4, 7])
@pytest.mark.parametrize("last", [True, False])
def test_the_wide_network_computes_the_same(kind, features, last):
    config = replace(NARROW, normalisation=kind, normalise_last=last, feature_multiplier=1.5)
    narrow = trained(config)
    wide = wide_of(narrow, features, 1.5)
    assert wide.config == replace(config, num_features=features)
    x = torch.rand(2, 1, 8, 10, 12)
    with torch.no_grad():
        expected, got = narrow(x), wide(x)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 1e-3


def test_levels_may_get_more_features_than_others():
    narrow = trained(NARROW)
    wide = wide_of(narrow, 5, 1.6)
    assert (narrow.config.features, wide.config.features) == ((3, 6, 12), (5, 8, 13))
    x = torch.rand(1, 1, 8, 10, 12)
    with torch.no_grad():
        torch.testing.assert_close(wide(x), narrow(x), rtol=1e-4, atol=1e-5)


def test_new_features_learn():
    wide = wide_of(trained(NARROW), 5).train()
    (wide(torch.rand(1, 1, 8, 8, 8)) ** 2).mean().backward()
    assert (wide.head.weight.grad[:, 3:] != 0).all()
    read = wide.encoder[0].convs[1].weight.grad[:3, 3:]
    assert (read != 0).any((0, 2, 3, 4)).all()


def test_new_kernels_are_random_and_follow_the_seed():
    narrow = trained(NARROW)
    first, again, other = (
        wide_of(narrow, 5, seed=seed).encoder[0].convs[1].weight for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first[3:], other[3:])
    assert first[3:].std() > 0


def test_narrower_networks_and_groups_are_refused():
    assert can_widen(NARROW, replace(NARROW, num_features=4))
    assert not can_widen(NARROW, replace(NARROW, num_features=2))
    groups = replace(NARROW, normalisation="group")
    assert not can_widen(groups, replace(groups, num_features=4))


class TestInitialWeights:
    @pytest.fixture
    def narrow(self, tmp_path):
        network = trained(NARROW)
        path = tmp_path / "narrow.safetensors"
        save_model(path, ModelConfig(network=NARROW), network.state_dict())
        return path, network

    def test_training_starts_from_the_same_predictions(self, narrow):
        path, network = narrow
        wide = UNet3d(replace(NARROW, num_features=6))
        assert start_from(wide, path) == [
            "features beyond 3, 6, 12 of the levels are new, and not read yet"
        ]
        x = torch.rand(1, 1, 8, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(wide.eval()(x), network(x), rtol=1e-4, atol=1e-5)

    def test_new_kernels_follow_the_seed(self, narrow):
        path, _ = narrow
        new = []
        for seed in (0, 0, 1):
            wide = UNet3d(replace(NARROW, num_features=6))
            start_from(wide, path, seed)
            new.append(wide.encoder[0].convs[1].weight[3:].clone())
        assert torch.equal(new[0], new[1])
        assert not torch.equal(new[0], new[2])

    def test_more_input_channels_at_once(self, narrow):
        path, network = narrow
        wide = UNet3d(replace(NARROW, num_features=6, in_channels=2))
        notes = start_from(wide, path)
        assert notes[1:] == ["encoder.0.convs.0.weight is new from input channel 1 on"]
        x = torch.cat([torch.rand(1, 1, 8, 8, 8), torch.zeros(1, 1, 8, 8, 8)], 1)
        with torch.no_grad():
            torch.testing.assert_close(wide.eval()(x), network(x[:, :1]), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        "change", [{"num_features": 2}, {"num_features": 6, "normalisation": "group"}]
    )
    def test_what_cannot_be_widened_is_refused(self, narrow, change):
        path, _ = narrow
        with pytest.raises(ValueError, match=r"--set network\.num_features=3"):
            start_from(UNet3d(replace(NARROW, **change)), path)
