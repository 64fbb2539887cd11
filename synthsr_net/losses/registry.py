"""Losses by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from synthsr_transforms.support.messages import check_choice
from synthsr_transforms.support.plugins import find_class

from .base import ImageLoss
from .intensity import L1Loss, L2Loss, LaplaceLoss
from .segmentation import DiceCrossEntropyLoss
from .ssim import L1SSIM3dLoss, SSIM3dLoss, SSIMLoss

LOSSES: dict[str, type[ImageLoss]] = {
    "l1": L1Loss,
    "l2": L2Loss,
    "ssim": SSIMLoss,
    "ssim3d": SSIM3dLoss,
    "l1_ssim3d": L1SSIM3dLoss,
    "laplace": LaplaceLoss,
}
"""Image losses by the names that configurations use."""
SEGMENTATION_LOSSES: dict[str, type[ImageLoss]] = {"dice_cross_entropy": DiceCrossEntropyLoss}
"""Losses of segmentations, which take the values of the structures, by name."""


def build_loss(name: str, params: Mapping[str, Any] | None = None) -> ImageLoss:
    """Make a loss from its name and the arguments of its constructor.

    Args:
        name: One of `LOSSES` or `SEGMENTATION_LOSSES`, class name of an `ImageLoss` of a
            module that was imported, or see `find_class`.
        params: Arguments by name; those left out have their defaults.

    Raises:
        ValueError: If the name or an argument is unknown (the nearest spelling is offered), or the
            constructor refuses a value.

    Examples:
        >>> build_loss("ssim3d", {"window_size": 7}).outputs_per_target
        1
    """
    loss = find_class("loss", name, ImageLoss, _imported() | LOSSES | SEGMENTATION_LOSSES)
    params = dict(params or {})
    known = [p for p in inspect.signature(loss).parameters if p not in ("args", "kwargs")]
    for param in params:
        check_choice(f"arguments of the loss {name}", param, known or ["none"])
    try:
        return loss(**params)
    except (TypeError, ValueError) as error:
        raise ValueError(f"loss {name}: {error}") from error


def _imported() -> dict[str, type[ImageLoss]]:
    """Losses of other modules, by class name."""
    ours = __name__.rpartition(".")[0]
    found, rest = {}, ImageLoss.__subclasses__()
    while rest:
        loss = rest.pop()
        rest += loss.__subclasses__()
        if not loss.__module__.startswith(ours):
            found[loss.__name__] = loss
    return found
