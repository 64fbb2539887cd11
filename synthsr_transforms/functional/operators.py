"""Separable linear operators: one small matrix per axis.

Blurring, resizing, slice sampling and their compositions are linear and separable, so each is a
dense matrix per axis. Applying three of them is three matrix products, which run near the peak
speed of a CPU or GPU whatever the width of the kernel, and composing steps is free.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional

from .cache import cached, voxel_indices
from .checks import check_volume

BLUR_BOUNDARIES = ("zero", "renormalise")
"""What a blur does at the edge: read zeros outside, or divide by the weight inside."""


@contextmanager
def full_precision(device_type: str) -> Iterator[None]:
    """Compute in true float32: no autocast, no TF32 or bfloat16 inside matrix products.

    Resampling coordinates and intensities need more than ten bits of mantissa, and a sample must
    not depend on a precision flag that a training script sets for its network.

    Args:
        device_type: `"cpu"`, `"cuda"` or `"mps"`.
    """
    before = torch.get_float32_matmul_precision()
    if before == "highest" and not torch.is_autocast_enabled(device_type):
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def gaussian_radius(sigma: Tensor, truncate: float) -> Tensor:
    """Half width in voxels of the kernel window, `trunc(ceil(2 * truncate * sigma) / 2)`.

    Args:
        sigma: Standard deviations in voxels, any shape.
        truncate: Half width of the window in standard deviations; 1.25 is what SynthSR uses.

    Returns:
        Whole numbers (as floating point), same shape.

    Examples:
        >>> gaussian_radius(torch.tensor([0.5, 1.0, 1.26, 6.75]), truncate=1.25).tolist()
        [1.0, 1.0, 2.0, 8.0]
    """
    return torch.floor(torch.ceil(2 * truncate * sigma) / 2)


def gaussian_operator(
    positions: Tensor,
    size: int,
    sigma: Tensor,
    radius: Tensor,
    *,
    boundary: str = "zero",
) -> Tensor:
    r"""Axis operator that reads a Gaussian-blurred signal at given positions.

    Row m holds \(w_{mn} \propto \exp(-(n - p_m)^2 / 2\sigma^2)\) for \(|n - p_m| \le r\).

    Args:
        positions: Where to read, in voxels of the input axis, `(..., M)`.
        size: Number N of input samples.
        sigma: Standard deviations in voxels, `(...)`; 0 reads the nearest sample.
        radius: Half widths of the window in voxels, `(...)`, see `gaussian_radius`.
        boundary: `"zero"` reads zeros outside the volume, so that borders darken (the original);
            `"renormalise"` divides by the weight inside the volume.

    Returns:
        Matrices `(..., M, N)`.

    Raises:
        ValueError: If `boundary` is another word.

    Examples:
        >>> where = torch.arange(4.0)
        >>> k = gaussian_operator(where, 4, torch.tensor(0.5), torch.tensor(1.0))
        >>> [round(w, 3) for w in k[1].tolist()]
        [0.107, 0.787, 0.107, 0.0]
    """
    reach = kernel_reach(radius, boundary)
    return gaussian_rows(positions, (size,), *bounded(sigma, radius), boundary, reach)


def gaussian_operators(
    positions: Sequence[Tensor],
    shape: Sequence[int],
    sigma: Tensor,
    radius: Tensor,
    *,
    boundary: str = "zero",
) -> list[Tensor]:
    """The `gaussian_operator` of each of the three axes, computed together.

    Args:
        positions: Three tensors `(B or 1, C or 1, M)`, one per axis, on any device.
        shape: Three sizes N of the input.
        sigma: Standard deviations in voxels, `(B, C, 3)`, on the device to compute on.
        radius: Half widths of the window in voxels, `(B, C, 3)`, on the CPU, or the host waits.
        boundary: See `gaussian_operator`.

    Returns:
        Three matrices `(B, C, M, N)`.
    """
    together = _stacked(positions, sigma.device)
    reach = kernel_reach(radius, boundary)
    sigma, radius = bounded(sigma, radius.to(sigma, non_blocking=True))
    weights = gaussian_rows(together, shape, sigma, radius, boundary, reach)
    return per_axis(weights, [row.shape[-1] for row in positions], shape)


def blur_operators(
    shape: Sequence[int],
    sigma: Tensor,
    radius: Tensor,
    device: torch.device,
    *,
    boundary: str = "renormalise",
) -> list[Tensor]:
    """The `gaussian_operators` that read a blurred volume at its own voxels.

    Args:
        shape: Three sizes of the volume.
        sigma: Standard deviations in voxels, `(B, C, 3)`, best on the CPU.
        radius: Half widths of the window in voxels, likewise.
        device: Where to compute.
        boundary: See `gaussian_operator`.

    Returns:
        Three matrices `(B, C, N, N)`.
    """
    reach = kernel_reach(radius, boundary)
    both = torch.stack(bounded(sigma.float(), radius.to(sigma.device, torch.float32)))
    sigma, radius = both.to(device, non_blocking=True)
    where = voxel_indices(max(shape), device).expand(1, 1, 3, -1)
    weights = gaussian_rows(where, shape, sigma, radius, boundary, reach, _apart(shape, device))
    return per_axis(weights, shape, shape)


@cached(16)
def _apart(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Distances between the voxels of an axis, `(N, N)` for the longest of three."""
    index = torch.arange(max(shape), device=device, dtype=torch.float32)
    return (index - index[:, None]).abs_()


@cached(16)
def _within(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Which samples of the longest axis each of three axes has, `(3, 1, N)`."""
    index = torch.arange(max(shape), device=device)
    sizes = torch.tensor(list(shape)).to(device, non_blocking=True)
    return (index < sizes[:, None])[:, None]


def kernel_reach(radius: Tensor, boundary: str) -> int:
    """Voxels on either side that the whole of every kernel covers, if that is needed."""
    return int(radius.max()) + 1 if boundary == "zero" else 0


def gaussian_rows(
    positions: Tensor,
    sizes: Sequence[int],
    sigma: Tensor,
    radius: Tensor,
    boundary: str,
    reach: int,
    apart: Tensor | None = None,
) -> Tensor:
    """Rows for positions `(..., M)`; with three sizes the last batch dimension is the axis.

    Widths and radii are those that `bounded` returns; `apart` holds the distances from positions to
    samples, where they are known.
    """
    if boundary not in ("zero", "renormalise"):
        raise ValueError(f"boundary must be 'zero' or 'renormalise', got {boundary!r}.")
    device, size = positions.device, max(sizes)
    sigma, radius = sigma[..., None, None], radius[..., None, None]
    if apart is None:
        samples = torch.arange(size, device=device, dtype=positions.dtype)
        apart = (samples - positions[..., None]).abs_()
    weights = _truncated_gaussian(apart, sigma, radius)
    if boundary == "zero":
        offsets = torch.arange(-reach, reach + 1, device=device, dtype=positions.dtype)
        fraction = positions[..., None] - torch.round(positions[..., None])
        return weights / _truncated_gaussian((offsets - fraction).abs_(), sigma, radius).sum(
            -1, True
        )
    if len(set(sizes)) > 1:
        weights = weights * _within(tuple(sizes), device)
    return weights / weights.sum(-1, True).clamp(min=1e-30)


def interpolation_operators(coordinates: Sequence[Tensor], shape: Sequence[int]) -> list[Tensor]:
    """The `interpolation_operator` of each of the three axes, computed together.

    Args:
        coordinates: Three tensors `(B or 1, C or 1, M)`, one per axis, all on one device.
        shape: Three sizes N of the input.

    Returns:
        Three matrices `(B or 1, C or 1, M, N)`.
    """
    device = coordinates[0].device
    together = _stacked(coordinates, device)
    last = torch.tensor([[n - 1.0] for n in shape]).to(device, non_blocking=True)
    weights = interpolation_weights(together.clamp(min=0).minimum(last), max(shape))
    return per_axis(weights, [row.shape[-1] for row in coordinates], shape)


def interpolation_weights(inside: Tensor, size: int) -> Tensor:
    """Rows `(..., M, N)` that interpolate an axis of N samples at coordinates `(..., M)` in it."""
    distance = (inside[..., None] - voxel_indices(size, inside.device)).abs_()
    return distance.neg_().add_(1).clamp_(min=0)


def _stacked(rows: Sequence[Tensor], device: torch.device) -> Tensor:
    """Three tensors `(..., M)` of different M as one `(..., 3, max M)` tensor."""
    longest = max(row.shape[-1] for row in rows)
    padded = [
        row if row.shape[-1] == longest else functional.pad(row, (0, longest - row.shape[-1]))
        for row in rows
    ]
    return torch.stack(padded, dim=-2).to(device, torch.float32, non_blocking=True)


def per_axis(weights: Tensor, lengths: Sequence[int], shape: Sequence[int]) -> list[Tensor]:
    """Matrices `(..., 3, M, N)` of three axes as three, cut to `(..., length, size)` of each."""
    return [
        weights[..., axis, :length, :n]
        for axis, (length, n) in enumerate(zip(lengths, shape, strict=True))
    ]


def bounded(sigma: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Widths above 0 and windows of at least half a voxel, so that 0 reads the nearest sample."""
    return sigma.clamp(min=0.05), radius.clamp(min=0.5)


def _truncated_gaussian(distance: Tensor, sigma: Tensor, radius: Tensor) -> Tensor:
    """Unnormalised Gaussian of a distance of at least 0, cut at the radius."""
    exponent = distance / sigma
    return torch.exp((exponent * exponent).mul_(-0.5)) * (distance <= radius)


def interpolation_operator(coordinates: Tensor, size: int) -> Tensor:
    """Axis operator that interpolates linearly, repeating the samples at the ends.

    Args:
        coordinates: Where to read, in voxels of the input axis, `(..., M)`.
        size: Number N of input samples.

    Returns:
        Matrices `(..., M, N)`.

    Examples:
        >>> interpolation_operator(torch.tensor([-1.0, 0.25, 9.0]), 3).tolist()
        [[1.0, 0.0, 0.0], [0.75, 0.25, 0.0], [0.0, 0.0, 1.0]]
    """
    samples = torch.arange(size, device=coordinates.device, dtype=coordinates.dtype)
    inside = coordinates.clamp(0, size - 1)
    return (1 - (inside[..., None] - samples).abs()).clamp(min=0)


def apply_separable(volume: Tensor, operators: Sequence[Tensor | None]) -> Tensor:
    """Apply one operator per axis.

    Args:
        volume: `(B, C, X, Y, Z)` floating point.
        operators: Three matrices `(B or 1, C or 1, M, N)`, or None where an axis stays.

    Returns:
        `(B, C, Mx, My, Mz)`.

    Examples:
        >>> volume = torch.arange(8.0).reshape(1, 1, 2, 2, 2)
        >>> mean = torch.full((1, 1, 1, 2), 0.5)
        >>> apply_separable(volume, [mean, None, None]).flatten().tolist()
        [2.0, 3.0, 4.0, 5.0]
    """
    check_volume(volume)
    along_x, along_y, along_z = operators
    with full_precision(volume.device.type):
        if along_z is not None:
            volume = _along_last(volume, along_z)
        if along_x is not None:
            b, c, x, y, z = volume.shape
            volume = (along_x @ volume.reshape(b, c, x, y * z)).view(b, c, -1, y, z)
        if along_y is not None:
            volume = along_y[:, :, None] @ volume
    return volume


def _along_last(volume: Tensor, operator: Tensor) -> Tensor:
    b, c, x, y, z = volume.shape
    return (volume.reshape(b, c, x * y, z) @ operator.transpose(-1, -2)).view(b, c, x, y, -1)
