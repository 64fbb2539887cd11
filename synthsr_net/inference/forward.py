"""Forward strategies: test-time augmentation, slabs, sliding window."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock

import torch
from torch import Tensor

from synthsr_net.networks.unet import UNet3d
from synthsr_transforms.support.memory import return_freed

from .memory import HALO, Plan, feature_multiple, plan_memory, slab_bytes
from .precision import DTYPES, resolve_precision
from .slabs import Box
from .sliding_window import sliding_window
from .streamed_unet import prepare, prepared_once

LEFT_RIGHT = -3
"""Axis of `(..., X, Y, Z)` that is mirrored for test-time augmentation."""

Pass = Callable[[Tensor, Box | None, bool], Tensor]
"""Network applied to a volume, or its mirror image, or the part of the output in a box of it."""


def predict_volume(
    network: UNet3d,
    x: Tensor,
    *,
    flip: bool = False,
    swap: Sequence[int] | None = None,
    second: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]] | None = None,
    plan: Plan | None = None,
    precision: str = "fp32",
    finish: Callable[[Tensor], Tensor] = lambda output: output,
) -> Tensor:
    """Apply a network to one volume.

    Args:
        network: On the device of `x`, in inference.
        x: `(C, X, Y, Z)` float32, axes right, anterior, superior.
        flip: Whether to average with the prediction of the volume mirrored left to right.
        swap: For each output channel, that of the other side of the head, which it takes the place
            of when a prediction is mirrored back; None: channels have no side.
        second: Function of `x` and of the output of the first pass, finished, that gives the volume
            to mirror and its share of the mean, `(X, Y, Z)`, None for a half everywhere; None: `x`
            and a half.
        plan: How to compute, see `plan_memory`; None lets it choose.
        precision: One of `PRECISIONS`.
        finish: Function of the output of each pass, applied before they are averaged.

    Returns:
        `(O, X, Y, Z)` float32 on the device of `x`; of the box of the plan, if it has one.

    Raises:
        ValueError: If the precision is unknown, the number of channels is not the network's, or a
            box comes with `second`, which needs the whole.
    """
    config = network.config
    if x.ndim != 4 or x.shape[0] != config.in_channels:
        raise ValueError(f"input must be ({config.in_channels}, X, Y, Z), got {tuple(x.shape)}.")
    box = None if plan is None else plan.box
    if box is not None and second is not None:
        raise ValueError("box must be None with second. Leave one of them out.")
    precision = resolve_precision(precision, x.device)
    dtype = DTYPES[precision]
    if plan is None:
        plan = plan_memory(config, x.shape[-3:], device=x.device, precision=precision)
    if x.device.type == "cpu":
        return_freed()
    with torch.no_grad(), _products(x.device, tf32=precision != "fp32"):
        forward = _forward(network, x, plan, dtype)
        result = finish(forward(x, box, False))
        if flip:
            volume, share = (x, None) if second is None else second(x, result)
            other = None if box is None else (_mirrored(box[0], x.shape[LEFT_RIGHT]), *box[1:])
            mirrored = finish(forward(volume, other, True)).flip(LEFT_RIGHT)
            mirrored = mirrored if swap is None else mirrored[list(swap)]
            if share is None:
                result = result.add_(mirrored).mul_(0.5)
            else:
                result = result.add_(mirrored.sub_(result).mul_(share))
    return result


def _mirrored(part: slice, size: int) -> slice:
    return slice(size - part.stop, size - part.start)


def _part(output: Tensor, box: Box | None) -> Tensor:
    return output if box is None else output[(slice(None), *box)]


def _forward(network: UNet3d, x: Tensor, plan: Plan, dtype: torch.dtype) -> Pass:
    window = plan.window
    if window is not None:
        exact = _exact(network, window, x.device, dtype, plan)

        def tile(volume: Tensor) -> Tensor:
            return exact(volume, None, False)

        def windowed(volume: Tensor, box: Box | None, mirror: bool) -> Tensor:
            volume = volume.flip(LEFT_RIGHT) if mirror else volume
            return _part(sliding_window(tile, volume, window, HALO), box)

        return windowed
    shape = (x.shape[-3], x.shape[-2], x.shape[-1])
    return _exact(network, shape, x.device, dtype, plan)


def _exact(
    network: UNet3d,
    shape: tuple[int, int, int],
    device: torch.device,
    dtype: torch.dtype,
    plan: Plan,
) -> Pass:
    if not network.config.halves(shape):
        same = copy.deepcopy(network).eval().to(dtype=dtype)

        def whole(volume: Tensor, box: Box | None, mirror: bool) -> Tensor:
            volume = volume.flip(LEFT_RIGHT) if mirror else volume
            return _part(same(volume[None].to(dtype))[0].float(), box)

        return whole
    if device.type == "cpu":
        streamed = prepare(network, dtype)
    else:
        streamed = prepared_once(network, dtype, multiple=feature_multiple(device))
    elements = (plan.slab_bytes or slab_bytes(device)) // dtype.itemsize
    keep = plan.strategy != "recompute"
    return lambda volume, box, mirror: streamed(
        volume, slab_elements=elements, keep_first_skip=keep, box=box, mirror=mirror
    )


@contextmanager
def _products(device: torch.device, *, tf32: bool) -> Iterator[None]:
    """Set whether NVIDIA GPUs may round the factors of float32 convolutions.

    PyTorch has one such switch for all threads, so one pass at a time is started.
    """
    if device.type != "cuda":
        yield
        return
    with _SWITCH:
        before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = tf32
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32 = before


_SWITCH = Lock()
