"""One module per group of families; importing them registers what they compare."""

from . import (
    acquisition,
    adversarial,
    blur,
    generator,
    intensity,
    labels,
    layout,
    losses,
    networks,
    prediction,
    priors,
    spatial,
)

__all__ = [
    "acquisition",
    "adversarial",
    "blur",
    "generator",
    "intensity",
    "labels",
    "layout",
    "losses",
    "networks",
    "prediction",
    "priors",
    "spatial",
]
