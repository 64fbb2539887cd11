"""Networks: weight files of the original, what its layers compute, and a step of training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from synthsr_net.keras_weights import read_keras, write_keras
from synthsr_net.unet import ACTIVATIONS, UNet3d

from ..vectors import Agreement, Vector, family, near

OUTPUT = 1e-5
"""Largest difference of what networks compute."""


def weights_of(vector: Vector) -> Path:
    """The weight file that a vector was recorded with.

    Input and output of `NAME.h5` are in `NAME_io.npz`, steps of training in `NAME_train_steps.npz`;
    those of the network with one channel leave out its name.
    """
    stem = vector.name.removesuffix("_io").removesuffix("_train_steps")
    names = (f"{stem}.h5", f"{stem}_1ch.h5")
    return next((p for p in map(vector.beside, names) if p.is_file()), vector.beside(names[0]))


def network_of(vector: Vector) -> UNet3d:
    """The network with those weights, on the device of the vector.

    Weight files do not tell what has no weights: their names do, where it is not the usual.
    """
    config, state = read_keras(weights_of(vector))
    words = vector.name.split("_")
    activation = next((word for word in words if word in ACTIVATIONS), config.activation)
    config = replace(config, activation=activation, softmax="softmax" in words)
    network = UNet3d(config)
    network.load_state_dict(state)
    return network.to(vector.device)


def _cases(vector: Vector) -> list[str]:
    activations = any(key.startswith("act_") for key in vector.arrays)
    found = {
        "inference": "output" in vector,
        "activations": activations,
        "training": "output_training_mode_step0" in vector,
        "weights": not vector.arrays,
    }
    return [name for name, there in found.items() if there]


@family("unet", _cases)
@family("checkpoint", _cases)
def network(vector: Vector, case: str) -> Iterator[Agreement]:
    """What a network computes in inference or training, or that its file alone can be used."""
    compare = {
        "inference": _inference,
        "activations": _activations,
        "training": _training,
        "weights": _weights,
    }
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # products in full precision
        agreements = list(compare[case](vector))
    yield from agreements


@torch.no_grad()
def _inference(vector: Vector) -> Iterator[Agreement]:
    output = network_of(vector).eval()(vector.volume("input"))
    yield near("output", _channels_last(output), vector["output"], OUTPUT)
    yield from _weights(vector)


def _weights(vector: Vector) -> Iterator[Agreement]:
    """Weights go back to the layout of Keras without a change, and to finite numbers."""
    config, state = read_keras(weights_of(vector))
    with TemporaryDirectory() as folder:
        write_keras(Path(folder) / "again.h5", config, state)
        again_config, again = read_keras(Path(folder) / "again.h5")
    told = replace(config, activation="elu", dropout=0.0, softmax=False)  # what weights can tell
    yield near("architecture", again_config == told, True, 0)
    for name, tensor in state.items():
        yield near(name, again[name], tensor, 0)


@torch.no_grad()
def _activations(vector: Vector) -> Iterator[Agreement]:
    """Every layer that was recorded, for a small input."""
    model = network_of(vector).eval()
    seen = _watched(model)
    model(vector.volume("small_input"))
    for key in [key for key in vector.arrays if key.startswith("act_")]:
        layer = key.removeprefix("act_")
        yield near(layer, _channels_last(seen[layer]), vector[key], OUTPUT)


def _watched(model: UNet3d) -> dict[str, Tensor]:
    """What the layers of the original compute, filled in when the network runs."""
    seen: dict[str, Tensor] = {}
    activation = ACTIVATIONS[model.config.activation]

    def keep(name: str, module: nn.Module, inputs: object, output: Tensor) -> None:
        seen[name] = activation(output) if "_conv_" in name else output

    def keep_input(name: str, channels: int, module: nn.Module, inputs: tuple[Tensor]) -> None:
        seen[name] = inputs[0][:, -channels:]

    depth, features = model.config.num_levels, model.config.features
    arms = [("down", level, level, module) for level, module in enumerate(model.encoder)]
    arms += [("up", depth + step, step, module) for step, module in enumerate(model.decoder)]
    for arm, number, step, level in arms:
        for i, conv in enumerate(level.convs):
            conv.register_forward_hook(partial(keep, f"unet_conv_{arm}arm_{number}_{i}"))
        level.norm.register_forward_hook(partial(keep, f"unet_bn_{arm}_{step}"))
        if number and arm == "down":
            pool = partial(keep_input, f"unet_maxpool_{number - 1}", features[number - 1])
            level.register_forward_pre_hook(pool)
        if arm == "up":
            up = partial(keep_input, f"unet_up_{number}", features[depth - 1 - step])
            level.register_forward_pre_hook(up)
    model.head.register_forward_hook(partial(keep, "unet_likelihood"))
    return seen


def _training(vector: Vector) -> Iterator[Agreement]:
    """Output, loss and moving statistics of the first step.

    Later steps are not compared: the original's Adam reads its counter too late (B39). PyTorch
    divides the variance by N - 1, Keras by N - 1.001.
    """
    model = network_of(vector).train()
    x, y = (torch.from_numpy(np.moveaxis(vector[k][0], -1, 1).copy()) for k in ("x", "y"))
    output = model(x.to(vector.device))
    expected = vector["output_training_mode_step0"]
    yield near("output in training", _channels_last(output), expected, OUTPUT)
    loss = (output.detach().cpu() - y).abs().mean()
    yield near("loss", loss, vector["loss"][0], OUTPUT)
    entries = {"moving_mean": "running_mean", "moving_variance": "running_var"}
    state = model.state_dict()
    for key in [k for k in vector.arrays if k.startswith("after1:") and "moving" in k]:
        _, layer, role = key.split(":")
        _, _, arm, step = layer.split("_")
        module = "encoder" if arm == "down" else "decoder"
        yield near(key, state[f"{module}.{step}.norm.{entries[role]}"], vector[key], OUTPUT)


def _channels_last(tensor: Tensor) -> np.ndarray:
    return np.moveaxis(tensor.detach().cpu().numpy(), 1, -1)
