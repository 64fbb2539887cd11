"""Intensities on the way into a network and out of it, as functions of tensors on any device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from synthsr_net.models.checkpoint import ScanConfig
from synthsr_transforms.functional.blur import mirrored_blur
from synthsr_transforms.support.devices import is_on_host, on_host

CT_WINDOW_HU = (0.0, 80.0)
"""Values of CT are clipped to this, in Hounsfield units."""
SHARPENING_SIGMA = 1.5
"""Width of the Gaussian of the unsharp mask, in voxels."""


@dataclass(frozen=True)
class Rescaling:
    """Map from intensities to input of a network: `(intensity - lowest) / unit`."""

    lowest: float
    unit: float
    """Intensities per unit of the input; 0 where the scan is constant."""


# Into the network --------------------------------------------------------------------------------


def network_input_(
    image: Tensor,
    settings: ScanConfig,
    maximum: float = 1.0,
    *,
    ct: bool = False,
    keep_zero: bool = False,
) -> tuple[Tensor, Rescaling]:
    """Normalise and pad an image, in the order that the model asks for.

    Args:
        image: `(X, Y, Z)` float32 on the grid of the network; changed in place.
        settings: Of the model.
        maximum: Highest intensity of the input, see `InputConfig.maximum`.
        ct: Whether the image is CT that is still to be clipped.
        keep_zero: See `normalise_`.

    Returns:
        Input `(X, Y, Z)` whose sizes are multiples of `settings.divisor`, and how it was rescaled.
    """
    if settings.normalise_after_padding:
        image = padded(image, settings.divisor)
    if ct:
        image.clamp_(*CT_WINDOW_HU)
    percentiles = settings.percentiles if settings.normalisation == "percentile" else None
    rescaling = normalise_(image, maximum, percentiles=percentiles, keep_zero=keep_zero)
    if not settings.normalise_after_padding:
        image = padded(image, settings.divisor)
    return image, rescaling


def normalise_(
    image: Tensor,
    maximum: float = 1.0,
    *,
    percentiles: tuple[float, float] | None = None,
    keep_zero: bool = False,
) -> Rescaling:
    """Bring intensities to [0, maximum], in place.

    Args:
        image: float32, any shape.
        maximum: What the highest intensity becomes.
        percentiles: Percentiles, in percent, to clip to and to use instead of minimum and maximum.
        keep_zero: Divide without subtracting the minimum, as FreeSurfer does for its two-input
            model.

    Examples:
        >>> image = torch.tensor([2.0, 4.0, 6.0])
        >>> normalise_(image)
        Rescaling(lowest=2.0, unit=4.0)
        >>> image.tolist()
        [0.0, 0.5, 1.0]
    """
    if percentiles is None:
        low, high = torch.from_numpy(on_host(torch.stack(in_memory_order(image).aminmax())))
    else:
        low, high = torch.tensor(percentiles_of(image, percentiles), dtype=image.dtype)
        image.clamp_(float(low), float(high))
    span = high - low
    if not keep_zero:
        image -= float(low)
    if float(span) == 0:
        image.zero_()
        return Rescaling(float(low), 0.0)
    unit = span / maximum
    image /= image.new_full((), float(unit))  # devices would multiply by the inverse of a number
    return Rescaling(float(low), float(unit))


def padding(shape: Sequence[int], divisor: int) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Place of a volume that is padded on both sides to multiples of a number.

    Returns:
        First voxel, and padded shape.

    Examples:
        >>> padding((31, 32, 34), 32)
        ((0, 0, 15), (32, 32, 64))
    """
    whole = tuple(divisor * -(-n // divisor) for n in shape)
    x, y, z = ((large - n) // 2 for large, n in zip(whole, shape, strict=True))
    return (x, y, z), whole


def padded(image: Tensor, divisor: int) -> Tensor:
    """A copy of `(X, Y, Z)` with zeros on both sides, its sizes multiples of a number."""
    begin, shape = padding(image.shape, divisor)
    margins: list[int] = []
    for size, first, whole in reversed(list(zip(image.shape, begin, shape, strict=True))):
        margins += [first, whole - first - size]
    return F.pad(image, margins)


# Out of the network ------------------------------------------------------------------------------


def scaled(output: Tensor, settings: ScanConfig) -> Tensor:
    """Intensities of the output of a network that predicts an image of its own."""
    return clip_(settings.output_scale * output, settings)


def clip_(image: Tensor, settings: ScanConfig) -> Tensor:
    """Clip to the range of the model, in place; a sum with an input has a lower bound alone, 0."""
    if settings.output_range is not None:
        return image.clamp_(*settings.output_range)
    return image.clamp_(min=0) if settings.residual_input is not None else image


def sharpened(image: Tensor) -> Tensor:
    """Unsharp mask: `x + (x - blurred x)`, with a Gaussian of 1.5 voxels, cut at 4 sigma.

    Args:
        image: `(X, Y, Z)` float32.
    """
    return mirrored_blur(image, SHARPENING_SIGMA).neg_().add_(image, alpha=2)


def replace_nonfinite(image: Tensor, value: float) -> tuple[Tensor, Tensor]:
    """Replace NaN and infinity, and count them.

    Returns:
        The image, and the number, which is where the image is: nobody waits for it.
    """
    if is_on_host(image) and math.isfinite(float(in_memory_order(image).sum())):
        return image, torch.zeros((), dtype=torch.int64)  # far quicker than to look at each voxel
    wrong = ~torch.isfinite(image)
    return image.masked_fill(wrong, value), wrong.sum()


# Measures ----------------------------------------------------------------------------------------


def percentile(values: Tensor, percent: float) -> float:
    """Percentile of all values, with linear interpolation as in NumPy.

    Examples:
        >>> percentile(torch.tensor([3.0, 1.0, 2.0]), 75)
        2.5
    """
    return percentiles_of(values, [percent])[0]


def percentiles_of(values: Tensor, percents: Sequence[float]) -> list[float]:
    """Several percentiles of all values, see `percentile`, read in one go."""
    flat = in_memory_order(values).flatten()
    places = [(flat.numel() - 1) * percent / 100 for percent in percents]
    around = [each for place in places for each in (math.floor(place), math.ceil(place))]
    if is_on_host(flat):
        found = np.partition(flat.numpy(), around)[around].tolist()
    else:
        ordered = flat.sort().values
        found = on_host(torch.stack([ordered[place] for place in around])).tolist()
    return [
        float(low + (high - low) * (place - math.floor(place)))
        for low, high, place in zip(found[::2], found[1::2], places, strict=True)
    ]


def in_memory_order(volume: Tensor) -> Tensor:
    """A volume with its axes permuted so that its voxels are read one after the other."""
    return volume.permute(sorted(range(volume.ndim), key=volume.stride, reverse=True))


def correlation(first: Tensor, second: Tensor, mask: Tensor) -> float:
    """Pearson correlation of two volumes inside a mask, NaN if one is constant.

    Examples:
        >>> x = torch.arange(8.0).view(2, 2, 2)
        >>> round(correlation(x, 3 - 2 * x, x >= 0), 6)
        -1.0
    """
    return correlation_of(on_host(torch.stack([first[mask], second[mask]])))


def correlation_of(pair: npt.NDArray[np.floating[Any]]) -> float:
    """Pearson correlation of two rows `(2, N)`, NaN if one is constant."""
    if not pair.size:
        return math.nan
    pair = pair.astype(np.float64)
    centred = pair - pair.mean(axis=1, keepdims=True)
    length = float(np.sqrt(np.square(centred).sum(axis=1)).prod())
    return float((centred[0] * centred[1]).sum()) / length if length > 0 else math.nan
