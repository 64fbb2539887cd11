"""Promises of the critic of adversarial training."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from synthsr_net.losses import critic_loss
from synthsr_net.networks.critic import Critic, CriticConfig, mask_of

SHAPE = (7, 8, 5)


@pytest.fixture
def make(device: torch.device) -> Callable[..., Critic]:
    """Maker of small critics with biases; arguments are those of the config."""

    def critic(**changes: Any) -> Critic:
        settings = {"shape": SHAPE, "num_features": 2, "num_levels": 2, **changes}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Critic(CriticConfig(**settings))
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    torch.nn.init.normal_(parameter, 0, 0.2)
        return model.to(device)

    return critic


@pytest.fixture
def volume(device: torch.device) -> Callable[..., Tensor]:
    """Maker of random volumes."""

    def make_volume(*shape: int, seed: int = 0) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)

    return make_volume


def same_convolution(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, stride: int):
    """TensorFlow's "same" 3x3x3 convolution of `(X, Y, Z, C)`, voxel by voxel."""
    out_shape = [-(-n // stride) for n in x.shape[:3]]
    before = [
        max((m - 1) * stride + 3 - n, 0) // 2 for m, n in zip(out_shape, x.shape[:3], strict=True)
    ]
    result = np.zeros((*out_shape, len(bias)))
    for place in product(*map(range, out_shape)):
        total = bias.astype(float).copy()
        for offset in product(range(3), repeat=3):
            at = [p * stride - b + o for p, b, o in zip(place, before, offset, strict=True)]
            if all(0 <= a < n for a, n in zip(at, x.shape[:3], strict=True)):
                total += x[tuple(at)] @ kernel[offset]
        result[place] = total
    return np.where(result > 0, result, 0.2 * result)


def literal_scores(critic: Critic, images: Tensor) -> np.ndarray:
    """Scores by loops over voxels, in the layout of the original."""
    state = {k: v.double().cpu().numpy() for k, v in critic.state_dict().items()}
    scores = []
    for image in images.double().cpu().numpy():
        x = np.moveaxis(image, 0, -1)
        for level in range(critic.config.num_levels):
            for kind, stride in (("conv", 1), ("halve", 2)):
                name = f"levels.{level}.{kind}"
                kernel = state[f"{name}.weight"].transpose(2, 3, 4, 1, 0)
                x = same_convolution(x, kernel, state[f"{name}.bias"], stride)
        x = state["dense.weight"] @ x.ravel() + state["dense.bias"]
        x = np.where(x > 0, x, 0.2 * x)
        scores.append(state["score.weight"] @ x + state["score.bias"])
    return np.stack(scores)


class TestScores:
    @pytest.mark.parametrize("shape", [SHAPE, (8, 4, 4), (5, 1, 6), (9, 3, 2)])
    def test_equal_a_literal_computation(self, shape, make, volume):
        critic, images = make(shape=shape, in_channels=2), volume(2, 2, *shape)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            found = critic(images).detach().cpu().numpy()
        np.testing.assert_allclose(found, literal_scores(critic, images), rtol=1e-4, atol=1e-5)

    def test_elements_do_not_depend_on_each_other(self, make, volume):
        critic, images = make(), volume(3, 1, *SHAPE)
        alone = torch.cat([critic(image[None]) for image in images])
        torch.testing.assert_close(critic(images), alone)

    def test_the_mask_multiplies_the_image(self, make, volume):
        critic, images = make(in_channels=2), volume(2, 2, *SHAPE)
        mask = (volume(2, 1, *SHAPE, seed=1) > 0).float()
        torch.testing.assert_close(critic(images, mask), critic(images * mask))
        changed = images + 5 * (1 - mask)
        torch.testing.assert_close(critic(changed, mask), critic(images, mask))

    def test_memory_layout_does_not_matter(self, make, volume):
        critic, images = make(in_channels=2), volume(2, 2, *SHAPE)
        expected = critic(images)
        critic = critic.to(memory_format=torch.channels_last_3d)
        other = images.contiguous(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(critic(other), expected)

    def test_the_loss_teaches_every_weight(self, make, volume):
        critic = make(shape=(8, 8, 8))
        real, fake = volume(4, 1, 8, 8, 8), 5 * volume(4, 1, 8, 8, 8, seed=1)
        critic_loss(critic, real, fake).total.backward()
        for name, parameter in critic.named_parameters():
            if name != "score.bias":  # it cancels out
                assert parameter.grad.abs().max() > 0, name

    def test_training_tells_real_from_fake(self, make, volume):
        critic = make(shape=(8, 8, 8), num_features=4)
        optimiser = torch.optim.Adam(critic.parameters(), 2e-3)
        real, fake = volume(4, 1, 8, 8, 8), volume(4, 1, 8, 8, 8, seed=1) * 0.5
        before = (critic(real).mean() - critic(fake).mean()).item()
        for step in range(40):
            chance = torch.Generator().manual_seed(step)
            loss = critic_loss(critic, real, fake, generator=chance)
            optimiser.zero_grad()
            loss.total.backward()
            optimiser.step()
        assert (critic(real).mean() - critic(fake).mean()).item() > before + 1
        assert loss.penalty < 2

    @pytest.mark.parametrize("shape", [(2, 2, *SHAPE), (2, 1, 8, 8, 8), (1, *SHAPE)])
    def test_other_images_are_refused(self, shape, make, volume):
        with pytest.raises(ValueError, match="the critic takes images"):
            make()(volume(*shape))

    def test_other_masks_are_refused(self, make, volume):
        with pytest.raises(ValueError, match="mask must be"):
            make()(volume(2, 1, *SHAPE), volume(1, 1, *SHAPE))


class TestArchitecture:
    def test_the_default_is_as_large_as_that_of_the_original(self):
        """Counted by hand: kernels and biases of four levels, then of two dense layers."""
        with torch.device("meta"):
            critic = Critic(CriticConfig(shape=(160, 160, 160)))
        ins, outs = (1, 32, 64, 128), (32, 64, 128, 256)
        convs = sum(27 * i * o + o + 27 * o * o + o for i, o in zip(ins, outs, strict=True))
        dense = 10**3 * 256 * 512 + 512 + 512 + 1
        assert sum(p.numel() for p in critic.parameters()) == convs + dense

    def test_biases_start_from_0_and_kernels_within_the_bound(self):
        critic = Critic(CriticConfig(shape=SHAPE, num_features=8))
        kernel = critic.levels[1].conv.weight
        bound = (6 / (27 * (8 + 16))) ** 0.5
        assert kernel.abs().max() <= bound
        assert kernel.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert all(not p.any() for n, p in critic.named_parameters() if n.endswith("bias"))

    @pytest.mark.parametrize(
        "change",
        [{"shape": (8, 8)}, {"shape": (8, 0, 8)}, {"in_channels": 0}, {"num_features": 0}],
    )
    def test_impossible_settings_are_refused(self, change):
        with pytest.raises(ValueError, match=f"critic.{next(iter(change))} must be"):
            CriticConfig(**{"shape": SHAPE, **change})


class TestMask:
    def test_keeps_all_but_the_values(self, make_labels):
        labels = make_labels()[None]
        mask = mask_of(labels, [0, 2, 24])
        assert mask.shape == labels.shape
        assert mask.dtype == torch.float32
        np.testing.assert_array_equal(mask == 0, np.isin(labels, [0, 2, 24]))
        assert set(mask.unique().tolist()) == {0.0, 1.0}

    def test_nothing_is_removed_by_default(self, make_labels):
        assert mask_of(make_labels()[None], []).all()
