"""One module per group of families; importing them registers what they compare."""

from . import (
    acquisition,
    blur,
    generator,
    intensity,
    labels,
    layout,
    networks,
    prediction,
    priors,
    spatial,
)

__all__ = [
    "acquisition",
    "blur",
    "generator",
    "intensity",
    "labels",
    "layout",
    "networks",
    "prediction",
    "priors",
    "spatial",
]
