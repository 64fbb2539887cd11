"""Voxel-wise changes of intensity."""

from __future__ import annotations

import torch
from torch import Tensor

from .kernels import voxelwise


def min_max(
    volume: Tensor, *, clip: tuple[float, float] | None = None, epsilon: float = 1e-7
) -> Tensor:
    r"""Rescale each element and channel to \((x - \min) / (\max - \min + \epsilon)\).

    Args:
        volume: `(B, C, X, Y, Z)`.
        clip: Bounds to clip to first; None does not clip.
        epsilon: Keeps constant volumes finite (they become 0).

    Returns:
        Same shape, within 0 and 1.

    Examples:
        >>> min_max(torch.tensor([2.0, 4.0]).reshape(1, 1, 2, 1, 1)).flatten().tolist()
        [0.0, 1.0]
    """
    if voxelwise.takes(volume):
        return voxelwise.rescale(volume, clip, epsilon)
    if clip is not None:
        volume = volume.clamp(*clip)
    low = volume.amin(dim=(-3, -2, -1), keepdim=True)
    high = volume.amax(dim=(-3, -2, -1), keepdim=True)
    return (volume - low) / (high - low + epsilon)


def gamma_contrast(volume: Tensor, log_gamma: Tensor) -> Tensor:
    r"""Power law \(x^{\exp(g)}\) for intensities of at least 0.

    Args:
        volume: `(B, C, X, Y, Z)`, non-negative (negative values keep their sign).
        log_gamma: `(B, C)` exponents g.

    Returns:
        Same shape.

    Examples:
        >>> gamma_contrast(torch.full((1, 1, 1, 1, 1), 0.5), torch.zeros(1, 1)).item()
        0.5
    """
    exponent = log_gamma.to(volume.device, volume.dtype, non_blocking=True).exp()
    if voxelwise.takes(volume, numbers=(exponent,)):
        return voxelwise.power(volume, exponent)
    return volume.sign() * volume.abs().pow(exponent[:, :, None, None, None])


def add_noise(
    volume: Tensor, noise: Tensor, std: Tensor | float, *, rician: bool = False
) -> Tensor:
    r"""Add Gaussian noise, or Rician noise \(\sqrt{(x + n_1)^2 + n_2^2}\).

    Gudbjartsson and Patz, "The Rician distribution of noisy MRI data", 1995.

    Args:
        volume: `(B, C, X, Y, Z)`.
        noise: Standard normal numbers, `(B, C, X, Y, Z)`, or `(B, 2C, X, Y, Z)` for Rician noise
            (real parts of all channels, then imaginary parts).
        std: `(B, C)` standard deviation in the unit of the image, or one number for all; 0 leaves a
            channel unchanged.
        rician: Which of the two.

    Returns:
        Same shape as `volume`.
    """
    if isinstance(std, Tensor):
        std = std.to(volume.device, volume.dtype, non_blocking=True)[:, :, None, None, None]
    if not rician:
        return volume + std * noise
    real, imaginary = noise.chunk(2, dim=1)
    noisy = torch.hypot(volume + std * real, std * imaginary)
    if isinstance(std, Tensor):
        return torch.where(std > 0, noisy, volume)
    return noisy if std > 0 else volume


def add_noise_by_channel(
    volume: Tensor, noise: Tensor, std: Tensor, rician: Tensor | None = None
) -> Tensor:
    """Like `add_noise`, of a kind for each channel.

    Args:
        volume: `(B, C, X, Y, Z)`.
        noise: Standard normal numbers, `(B, C, 1, X, Y, Z)`, or `(B, C, 2, X, Y, Z)`: real and
            imaginary parts.
        std: `(B, C)` on the same device, in the unit of the image.
        rician: `(B, C)` booleans on the same device, with imaginary parts; None: no channel.

    Returns:
        Same shape as `volume`.
    """
    kinds = (std,) if rician is None else (std, rician)
    parts = noise.unbind(2)
    fits = parts[0].shape == volume.shape and len(parts) > len(kinds) - 1
    if fits and voxelwise.takes(volume, numbers=kinds) and voxelwise.takes(noise.flatten(1, 2)):
        return voxelwise.noisy(volume, noise, std, rician)
    std = std[..., None, None, None]
    noisy = torch.addcmul(volume, std, parts[0])
    if rician is None:
        return noisy
    magnitude = torch.hypot(noisy, std * parts[1])
    return torch.where(rician[..., None, None, None], magnitude, noisy)


def total(x: Tensor) -> Tensor:
    """Sum over voxels, `(B, C, 1, 1, 1)`, axis by axis: in one order with any number of threads."""
    for axis in (4, 3, 2):
        x = x.sum(axis, keepdim=True)
    return x
