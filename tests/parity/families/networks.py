"""Networks: weight files of the original, what its layers compute, and a step of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool3d

from synthsr_net.losses import build_loss
from synthsr_net.models.keras.layout import keras_arrays
from synthsr_net.models.keras.weights import read_keras, write_keras
from synthsr_net.networks.unet import ACTIVATIONS, UNet3d

from ..vectors import Agreement, Vector, channels_first, family, near

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
    config, state, *_ = read_keras(weights_of(vector))
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
    config, state, *_ = read_keras(weights_of(vector))
    with TemporaryDirectory() as folder:
        write_keras(Path(folder) / "again.h5", config, state)
        again_config, again, *_ = read_keras(Path(folder) / "again.h5")
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
    """Output, losses, gradients, moving statistics and weights over the steps of training.

    The steps are those of the original's Adam, which reads its counter too late (B39): that is how
    the recorded weights tell the gradients. PyTorch divides the variance by N - 1, Keras by
    N - 1.001. Pooling hands gradients back as TensorFlow does.
    """
    with tensorflow_pooling():
        yield from _training_steps(vector)


def _training_steps(vector: Vector) -> Iterator[Agreement]:
    model = network_of(vector).train()
    adam = _OddAdam(model, float(vector["lr"]), float(vector["decay"]))
    for step, expected in enumerate(vector["loss"], start=1):
        x, y = (channels_first(vector[k][step - 1]).to(vector.device) for k in ("x", "y"))
        output = model(x)
        if step == 1:
            theirs = vector["output_training_mode_step0"]
            yield near("output in training", _channels_last(output), theirs, OUTPUT)
        loss = build_loss("l1")(output, y)
        yield near(f"loss of step {step}", loss, expected, OUTPUT)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        adam.step(loss)
        yield from _after(vector, step, model, adam, before)


class _Pooling(torch.autograd.Function):
    """Maxima of 2x2x2 voxels; all voxels within 1e-5 of one get its whole gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        found = max_pool3d(x, 2)
        ctx.save_for_backward(x, found)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x, found = ctx.saved_tensors
        maxima, gradients = (interpolate(t, scale_factor=2) for t in (found, gradient))
        return torch.where((x - maxima).abs() < 1e-5, gradients, 0)


@contextmanager
def tensorflow_pooling() -> Iterator[None]:
    """Let `max_pool3d` hand gradients back as TensorFlow does on a CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.nn.functional.max_pool3d", lambda x, *_, **__: _Pooling.apply(x))
        yield


def _after(
    vector: Vector, step: int, model: UNet3d, adam: _OddAdam, before: dict[str, Tensor]
) -> Iterator[Agreement]:
    """What was recorded after a step: statistics, and weights up to a hundredth of the step."""
    entries = {f"{array.layer}:{array.role}": array.entry for array in keras_arrays(model.config)}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for key in [key for key in vector.arrays if key.startswith(f"after{step}:")]:
        entry = entries[key.partition(":")[2]]
        theirs = vector.tensor(key)
        theirs = theirs.permute(4, 3, 0, 1, 2) if theirs.ndim == 5 else theirs
        if entry not in adam.gradients:
            yield near(key, state[entry], theirs, OUTPUT)
            continue
        clear = adam.clear[entry].cpu()  # elsewhere Adam scales rounding errors up to whole steps
        assert clear.float().mean() > 0.95, f"{key}: gradients cannot be told from rounding"
        ours = state[entry].cpu()
        yield near(key, ours[clear], theirs[clear], max(OUTPUT, 0.01 * adam.lr))
        yield near(f"{key}, all", ours, theirs, 2 * step * adam.lr)
        if step == 1:
            moved = (theirs - before[entry].cpu())[clear]
            direction = -adam.gradients[entry].cpu()[clear].sign()
            yield near(f"{key}, direction", moved.sign(), direction, 0)


class _OddAdam:
    """Adam as the original runs it, from the loss of each step.

    Keras adds epsilon to the root of the uncorrected second moment. At the first step the counter
    is 2 instead of 1, so that weights move by 0.744 of the learning rate.
    """

    def __init__(self, model: UNet3d, lr: float, decay: float) -> None:
        self.weights = dict(model.named_parameters())
        self.lr, self.decay, self.counter = lr, decay, 1
        self.gradients: dict[str, Tensor] = {}
        self.first = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        self.second = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        self.clear = {name: torch.ones_like(w).bool() for name, w in self.weights.items()}
        """Weights whose gradients have been well above rounding errors in all steps."""

    def step(self, loss: Tensor) -> None:
        found = torch.autograd.grad(loss, list(self.weights.values()))
        self.gradients = dict(zip(self.weights, found, strict=True))
        self.counter += 1
        lr = self.lr / (1 + self.decay * (self.counter - 1))
        lr *= (1 - 0.999**self.counter) ** 0.5 / (1 - 0.9**self.counter)
        for name, g in self.gradients.items():
            self.clear[name] &= g.abs() > 1e-4 * g.abs().max()
            self.first[name] = 0.9 * self.first[name] + 0.1 * g
            self.second[name] = 0.999 * self.second[name] + 0.001 * g * g
            move = lr * self.first[name] / (self.second[name].sqrt() + 1e-7)
            self.weights[name].data -= move


def _channels_last(tensor: Tensor) -> np.ndarray:
    return np.moveaxis(tensor.detach().cpu().numpy(), 1, -1)
