"""Adversarial training: the critic, its loss, and that of the network it judges."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

from synthsr_net.losses import build_loss, central_crop, critic_loss, generator_total
from synthsr_net.networks.critic import Critic, CriticConfig

from ..vectors import Agreement, Vector, family, near, same_image
from .losses import crop_of, dice_of, same_loss

SCORE = 1e-4
"""Largest difference of scores."""
TOTAL = re.compile(r"gen_loss(_noseg)?(_full|_crop[\dx]*)?")


def _total_cases(vector: Vector) -> list[str]:
    return [key for key in vector.arrays if TOTAL.fullmatch(key)]


@family("generator_loss", _total_cases)
def generator_loss(vector: Vector, case: str) -> Iterator[Agreement]:
    """The weighted sum of image loss, score and Dice; the score is that of the whole volume."""
    match = TOTAL.fullmatch(case)
    assert match is not None
    alone, crop = match.groups()
    size = crop_of((crop or "_crop")[1:], vector["loss_cropping"])
    weight = vector[f"discr_weight{alone}" if f"discr_weight{alone}" in vector else "discr_weight"]
    pair = (central_crop(vector.volume(k), size) for k in ("predicted_image", "target"))
    total = generator_total(
        build_loss("l1")(*pair),
        vector.tensor("discriminator_out").to(vector.device),
        None if alone else dice_of(vector, size),
        critic_weight=float(weight),
        dice_weight=float(vector["dice_weight"]),
    )
    yield same_loss(case, total, vector[case])


def _critic_cases(vector: Vector) -> list[str]:
    kinds = {"plain": "discriminator_loss", "mask": "mask_discriminator_loss"}
    return [name for name, key in kinds.items() if key in vector]


@family("wgan", _critic_cases)
def wgan(vector: Vector, case: str) -> Iterator[Agreement]:
    """Scores, their gradient, and the loss of a critic with and without a mask."""
    prefix = "mask_" if case == "mask" else ""
    critic = _critic(vector, prefix)
    mask = (vector.volume("mask"),) if case == "mask" else ()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for name in ("real", "fake", "averaged"):
            score = critic(vector.volume(prefix + name), *mask)
            yield near(f"score, {name}", score, vector[f"{prefix}D_{name}"], SCORE)
        averaged = vector.volume(f"{prefix}averaged").requires_grad_()
        (gradient,) = torch.autograd.grad(critic(averaged, *mask).sum(), averaged)
        yield same_image("gradient", gradient, vector[f"{prefix}gradient"])
        loss = critic_loss(
            critic,
            vector.volume(f"{prefix}real"),
            vector.volume(f"{prefix}fake"),
            mask=mask[0] if mask else None,
            weights=vector.tensor(f"{prefix}weights"),
            penalty_weight=float(vector["gradient_penalty_weight"]),
        )
    theirs = vector[f"{prefix}discriminator_loss"]
    yield same_loss("loss", loss.total, theirs)


def _critic(vector: Vector, prefix: str) -> Critic:
    """A critic with recorded weights, in the order of its layers."""
    real = vector[f"{prefix}real"]
    critic = Critic(
        CriticConfig(
            shape=tuple(real.shape[1:4]),
            in_channels=real.shape[-1],
            num_features=int(vector["n_filters"]),
            num_levels=int(vector["n_levels"]),
        )
    )
    convs = vector.numbered(rf"{prefix}w:conv3d_(\d+):kernel")
    dense = vector.numbered(rf"{prefix}w:dense_(\d+):kernel")
    theirs = [f"conv3d_{number}" for number in convs] + [f"dense_{number}" for number in dense]
    ours = [f"levels.{i}.{kind}" for i in range(len(convs) // 2) for kind in ("conv", "halve")]
    state = {}
    for name, layer in zip([*ours, "dense", "score"], theirs, strict=True):
        kernel = vector.tensor(f"{prefix}w:{layer}:kernel")
        state[f"{name}.weight"] = kernel.permute(-1, -2, *range(kernel.ndim - 2))
        state[f"{name}.bias"] = vector.tensor(f"{prefix}w:{layer}:bias")
    critic.load_state_dict(state)
    return critic.to(vector.device)
