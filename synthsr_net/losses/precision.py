"""Losses are computed in float32 at least, whatever the precision of the network."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Same numbers as float32, or as float64 where they are already.

    Examples:
        >>> at_least_float32(torch.ones(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def without_autocast(x: Tensor) -> torch.autocast:
    """Context in which operations on the device of a tensor keep their precision."""
    return torch.autocast(x.device.type, enabled=False)
