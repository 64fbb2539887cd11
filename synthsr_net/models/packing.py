"""Model files written again: in another precision, with another description."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

import torch
from safetensors import safe_open
from torch import Tensor

from synthsr_transforms.support.messages import SynthSRError

from .checkpoint import Model, ModelConfig, read_model, save_model

PRECISIONS: Mapping[str, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
"""Precisions that weights are stored in. Networks always compute with float32 weights, so the
precision of a file changes its size and, by the rounding of the weights, its predictions."""

_STORED: Mapping[str, str] = {"F32": "fp32", "F16": "fp16", "BF16": "bf16", "F64": "fp64"}


def stored_precision(path: str | os.PathLike[str]) -> str:
    """Precision of the weights in a model file, from their types.

    Returns:
        A name of `PRECISIONS`, `fp64`, or `mixed`.
    """
    with safe_open(os.fspath(path), framework="pt") as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    found = {_STORED[kind] for kind in kinds if kind in _STORED}
    return found.pop() if len(found) == 1 else "mixed"


def in_precision(state: Mapping[str, Tensor], precision: str) -> dict[str, Tensor]:
    """Weights in another precision; whole numbers stay as they are.

    Args:
        state: State dict.
        precision: A name of `PRECISIONS`.

    Raises:
        SynthSRError: If a weight is too large for it.

    Examples:
        >>> in_precision({"weight": torch.ones(2)}, "fp16")["weight"].dtype
        torch.float16
    """
    dtype = PRECISIONS[precision]
    packed = {}
    for name, tensor in state.items():
        packed[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        if not bool(torch.isfinite(packed[name]).all()):
            raise SynthSRError(
                f"weights must be at most {torch.finfo(dtype).max:.0f} to be stored in {precision},"
                f" but {name} reaches {tensor.abs().max():.3g}. Take fp32."
            )
    return packed


def pack_model(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    precision: str | None = None,
    **about: str,
) -> Model:
    """Write a model file again.

    In fp16 it has half the size of fp32. In a trained network of five levels this changed an
    intensity of a prediction, on a scale that ends at 255, by 0.03 on average and by less than 2
    everywhere.

    Args:
        source: Model file.
        target: File to write, ending in `.safetensors`; it may be the source.
        precision: A name of `PRECISIONS`; None keeps that of the source.
        about: Fields of `ModelConfig` to change, such as `name`, `licence` and `citation`.

    Returns:
        The model, with its new config.

    Raises:
        SynthSRError: If the source cannot be used, or a weight is too large for the precision.
        OSError: If the target cannot be written.
    """
    model = read_model(source)
    stored = stored_precision(source)
    chosen = precision or (stored if stored in PRECISIONS else "fp32")
    config: ModelConfig = replace(model.config, **about)  # type: ignore[arg-type]
    save_model(target, config, in_precision(model.network.state_dict(), chosen))
    return Model(config, model.network)
