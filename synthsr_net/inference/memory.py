"""Memory of a prediction, and the way to compute it within the memory available."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from synthsr_net.networks.unet import WIDENED, UNetConfig
from synthsr_transforms.support.memory import available_bytes
from synthsr_transforms.support.messages import SynthSRError, bytes_in_words

from .slabs import Box

Strategy = Literal["store", "recompute", "whole", "sliding_window"]

HALO = 32
"""Least overlap of neighbouring windows in voxels, blended linearly."""
MIN_WINDOW = 96
"""Smallest window in voxels that is chosen without being asked for."""
RESERVE = 0.9
"""Share of the available memory that is used at most."""

_SLAB_BYTES = {"cpu": 8 * 2**20, "cuda": 2**26}
_WORKSPACE_SLABS = {"cpu": 10, "cuda": 16}
_LARGE_WORKSPACE_SLABS = 8  # of whole levels; 3 to 5 were measured
LARGE_SLAB_BYTES = 2**31
"""Size of slabs on GPUs that have much memory, which is that of a whole level as a rule: so a host
has less to launch, and nothing is padded or joined."""
LARGE_SHARE = 0.5
"""Share of the memory that may be used which such slabs may need."""
FEATURE_MULTIPLE = 16
"""Multiple to which numbers of features are padded on NVIDIA GPUs."""


@dataclass(frozen=True)
class Plan:
    """Way to compute a prediction.

    Attributes:
        strategy: `store`: in slabs, all skip connections in memory; `recompute`: in slabs, the
            largest skip connection computed twice; `whole`: layer by layer; `sliding_window`: in
            overlapping windows, which changes the result where they meet.
        num_bytes: Estimate of the memory it takes at most, inputs and outputs included.
        window: Shape of a window in voxels, for `sliding_window`.
        local_statistics: Whether each window is normalised by statistics of its own, not of the
            whole volume, which changes the result everywhere: for `sliding_window` where the
            network has `instance` or `group` normalisation.
        box: Part of the output that is wanted, which takes less time and memory; None: all of it.
        slab_bytes: Size of slabs; None: as `slab_bytes` says.
    """

    strategy: Strategy
    num_bytes: int
    window: tuple[int, int, int] | None = None
    local_statistics: bool = False
    box: Box | None = None
    slab_bytes: int | None = None


def plan_memory(
    config: UNetConfig,
    shape: Sequence[int],
    *,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    flip: bool = True,
    max_bytes: int | None = None,
    window: int | None = None,
) -> Plan:
    """Choose how to compute a prediction: exactly if it fits, else with a sliding window.

    Args:
        config: Architecture.
        shape: `(X, Y, Z)` of the padded volume in voxels.
        device: Where to compute.
        precision: `fp32`, `tf32` or `bf16`.
        flip: Whether there is a pass of the mirrored volume, whose outputs are averaged.
        max_bytes: Memory that may be used; None means 90 % of what is available now.
        window: Edge of the sliding window in voxels, if one is asked for.

    Raises:
        SynthSRError: If not even small windows fit; the message gives the figures.

    Examples:
        >>> plan_memory(UNetConfig(), (192, 256, 160), max_bytes=4 * 10**9).strategy
        'store'
    """
    kind = torch.device(device).type
    budget = int(RESERVE * available_bytes(device)) if max_bytes is None else max_bytes
    if window is not None:
        return _windowed(config, shape, window, kind, precision, flip)
    estimate = partial(estimate_bytes, config, shape, device=kind, precision=precision, flip=flip)
    strategies = _exact_strategies(config, shape)
    if kind == "cuda" and "store" in strategies:
        large = estimate("store", slab=LARGE_SLAB_BYTES)
        if large <= LARGE_SHARE * budget:
            return Plan("store", large, slab_bytes=LARGE_SLAB_BYTES)
    for strategy in strategies:
        plan = Plan(strategy, estimate(strategy))
        if plan.num_bytes <= budget:
            return plan
    step = _window_step(config)
    largest = math.ceil(max(shape) / step) * step
    smallest = min(math.ceil(MIN_WINDOW / step) * step, largest)
    for edge in range(largest, smallest - 1, -step):
        plan = _windowed(config, shape, edge, kind, precision, flip)
        if plan.num_bytes <= budget:
            return plan
    needed = _windowed(config, shape, smallest, kind, precision, flip).num_bytes
    allowed = bytes_in_words(max(0, budget))
    raise SynthSRError(
        f"a volume of {' x '.join(map(str, shape))} voxels needs {bytes_in_words(needed)} of memory"
        f" even in a sliding window, but only {allowed} may be used on {kind}. Close other"
        " programs, raise --max-memory, use --precision bf16, or crop the scan."
    )


def estimate_bytes(
    config: UNetConfig,
    shape: Sequence[int],
    strategy: Strategy,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    flip: bool = True,
    slab: int | None = None,
) -> int:
    """Estimate of the memory that a pass takes at most, with inputs, outputs and weights.

    Args:
        config: Architecture.
        shape: `(X, Y, Z)` in voxels.
        strategy: `store`, `recompute` or `whole`.
        device: `cpu` or `cuda`.
        precision: `fp32`, `tf32` or `bf16`.
        flip: Whether the output is averaged with that of the mirrored volume.
        slab: Size of slabs in bytes; None: as `slab_bytes` says.
    """
    size = 2 if precision == "bf16" else 4
    voxels = [math.prod(-(-n // 2**level) for n in shape) for level in range(config.num_levels)]
    multiple = feature_multiple(device) if config.normalisation in WIDENED else 1
    features = [-(-number // multiple) * multiple for number in config.features]
    tensors = [size * v * f for v, f in zip(voxels, features, strict=True)]
    skips = [0 if strategy == "recompute" and not level else n for level, n in enumerate(tensors)]
    peak = 0
    for level in range(len(tensors)):  # what lives while a level is computed
        above = sum(skips[:level])
        below = tensors[level + 1] if level + 1 < len(tensors) else 0
        peak = max(peak, above + skips[level] + below)  # the result takes the place of the skip
    if strategy == "whole":  # nothing is streamed: upsampled, concatenated and convolved volumes
        peak = sum(tensors) + 4 * tensors[0] + (2 * tensors[1] if len(tensors) > 1 else 0)
    number = _WORKSPACE_SLABS.get(device, 8) if slab is None else _LARGE_WORKSPACE_SLABS
    workspace = 0 if strategy == "whole" else number * min(slab or slab_bytes(device), tensors[0])
    ends = 4 * voxels[0] * (3 * config.in_channels + _outputs(flip) * config.out_channels)
    return peak + workspace + ends + 3 * 4 * config.num_weights


def slab_bytes(device: str | torch.device) -> int:
    """Size of slabs that suits a device: what its caches hold, or what keeps it busy."""
    return _SLAB_BYTES.get(torch.device(device).type, 2**28)


def feature_multiple(device: str | torch.device) -> int:
    """Multiple to which numbers of features are padded on a device."""
    return FEATURE_MULTIPLE if torch.device(device).type == "cuda" else 1


def _exact_strategies(config: UNetConfig, shape: Sequence[int]) -> tuple[Strategy, ...]:
    return ("store", "recompute") if config.halves(shape) else ("whole",)


def _windowed(
    config: UNetConfig,
    shape: Sequence[int],
    edge: int,
    device: str,
    precision: str,
    flip: bool,
) -> Plan:
    step = _window_step(config)
    if edge < 1:
        raise ValueError(f"window must be at least 1 voxel, got {edge}.")
    edge = max(math.ceil(edge / step) * step, 2 * math.ceil(HALO / step) * step)
    x, y, z = (min(edge, math.ceil(n / config.divisor) * config.divisor) for n in shape)
    strategy = _exact_strategies(config, (x, y, z))[0]
    pass_bytes = estimate_bytes(
        config,
        (x, y, z),
        strategy,
        device=device,
        precision=precision,
        flip=False,
    )
    channels = 2 * config.in_channels + _outputs(flip) * config.out_channels + 1
    whole = 4 * math.prod(shape) * channels
    local = config.normalisation in ("instance", "group")
    return Plan("sliding_window", pass_bytes + whole, (x, y, z), local)


def _outputs(flip: bool) -> int:
    """Number of outputs in memory at a time."""
    return 3 if flip else 2


def _window_step(config: UNetConfig) -> int:
    return max(config.divisor, 16)
