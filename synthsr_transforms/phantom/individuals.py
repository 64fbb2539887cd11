"""Individuals: random changes of the average head, from one seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from .shapes import Points, Triple, euclidean_norm

_NOISE_MM, _NOISE_SHAPE, _NOISE_START_MM = 2.5, (72, 96, 80), (-90.0, -115.0, -110.0)
_WARP_MM, _WARP_SHAPE, _WARP_START_MM = 35.0, (9, 11, 10), (-140.0, -175.0, -190.0)
_WARP_LIMIT = 1.2  # bound of the warp fields, which have a standard deviation of about 0.4
WARP_RATIO, WARP_SHIFT_MM = 0.05, 2.5
"""Effect of a unit of warp: on `u`, and on y and z."""
WARP_MARGIN_MM = 5.5
"""More than the warp moves any point of the head."""


class Noises(NamedTuple):
    """Random fields of unit variance over head space, with signed `x`, as one tensor."""

    fold: Tensor
    depth: Tensor
    ripple: Tensor
    grain: Tensor


@dataclass(frozen=True)
class Person:
    """Anatomical differences of an individual from the average head."""

    scale: Triple
    """Size along R, A, S relative to the average head."""
    warp: Tensor
    """Spline coefficients `(4, *_WARP_SHAPE)`: shape along u, y, z, and thickness of the skull."""
    noises: Tensor
    """`Noises`, stacked."""
    ventricle_mm: float
    """Growth of the ventricles."""
    sulcus_mm: float
    """Half width of a sulcus in its depth."""
    cortex_mm: float
    skull_mm: float


def _band_noise(wavelength_mm: float, bandwidth: float, generator: torch.Generator) -> Tensor:
    """White noise through a ring in frequency: bumps of one size, unit variance."""
    axes = [torch.fft.fftfreq(n, _NOISE_MM) for n in _NOISE_SHAPE[:2]]
    axes.append(torch.fft.rfftfreq(_NOISE_SHAPE[2], _NOISE_MM))
    cycles = wavelength_mm * euclidean_norm([axes[0][:, None, None], axes[1][:, None], axes[2]])
    gain = torch.exp(-0.5 * ((cycles - 1) / bandwidth) ** 2)
    white = torch.randn(_NOISE_SHAPE, generator=generator)
    noise = torch.fft.irfftn(torch.fft.rfftn(white) * gain, s=_NOISE_SHAPE)
    return noise / noise.std()


def sample_person(seed: int) -> Person:
    """The individual of a seed."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    noises = Noises(
        fold=_band_noise(22, 0.28, generator),
        depth=_band_noise(36, 0.5, generator),
        ripple=_band_noise(28, 0.5, generator),
        grain=_band_noise(8, 0.4, generator),
    )
    return Person(
        scale=(uniform(0.95, 1.05), uniform(0.95, 1.05), uniform(0.95, 1.05)),
        warp=torch.randn((4, *_WARP_SHAPE), generator=generator),
        noises=torch.stack(noises),
        ventricle_mm=uniform(-0.5, 3),
        sulcus_mm=uniform(0.2, 0.8),
        cortex_mm=uniform(2.4, 2.9),
        skull_mm=uniform(5, 6.8),
    )


def sample_noises(noises: Tensor, p: Points, side: int) -> Noises:
    """Noises at positions of shape `(X, Y, Z)`, linearly interpolated."""
    signed = (p.u * (2 * side - 1), p.y, p.z)
    grid = [
        (a - start) * (2 / (_NOISE_MM * (n - 1))) - 1
        for a, start, n in zip(signed, _NOISE_START_MM, _NOISE_SHAPE, strict=True)
    ]
    flow = torch.stack(grid[::-1], -1)[None]
    return Noises(*grid_sample(noises[None], flow, padding_mode="border", align_corners=True)[0])


def sample_warp(person: Person, axes: Sequence[Tensor], side: int) -> Tensor:
    """Bounded cubic spline `(4, X, Y, Z)` at the positions of three axes."""
    axes = (axes[0] * (2 * side - 1), *axes[1:])
    weights = []
    for a, start, n in zip(axes, _WARP_START_MM, _WARP_SHAPE, strict=True):
        d = ((a[:, None] - start) / _WARP_MM - torch.arange(n)).abs()
        weights.append(torch.where(d < 1, 2 / 3 - d**2 + d**3 / 2, (2 - d).clamp_min(0) ** 3 / 6))
    field = expand(person.warp, weights)
    return _WARP_LIMIT * torch.tanh(field / _WARP_LIMIT)


def expand(field: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Interpolate `(C, I, J, K)` to `(C, X, Y, Z)` with weights `(X, I)`, `(Y, J)` and `(Z, K)`."""
    field = weights[1] @ (field @ weights[2].T)
    return (weights[0] @ field.flatten(2)).unflatten(2, field.shape[2:])
