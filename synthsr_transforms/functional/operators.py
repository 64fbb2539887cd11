"""Separable linear operators: one small matrix per axis, made here and nowhere else.

Blurring, resizing, slice sampling and their compositions are linear and separable, so each is a
dense matrix per axis. Applying three of them is three matrix products, which run near the peak
speed of a CPU whatever the width of the kernel, and composing steps is free. On an NVIDIA GPU,
where a product would take longer than to read the volume, only the bands of the matrices are
multiplied (`functional.kernels`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .cache import cached, voxel_indices
from .kernels import gaussians
from .kernels.banded import along_bands, has_bands

BLUR_BOUNDARIES = ("zero", "renormalise")
"""Edge rules of a blur: read zeros outside, or divide by the weight inside."""


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


def check_volume(volume: Tensor) -> None:
    """Refuse what is not `(B, C, X, Y, Z)`.

    Raises:
        ValueError: If the tensor does not have five dimensions.
    """
    if volume.ndim != 5:
        raise ValueError(
            f"volume must have shape (B, C, X, Y, Z), got {tuple(volume.shape)}."
            " Add the batch and channel dimensions with tensor[None, None]."
        )


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


def blur_operators(
    shape: Sequence[int],
    sigma: Tensor,
    device: torch.device,
    *,
    window_sigma: Tensor | None = None,
    truncate: float = 3.0,
    boundary: str = "renormalise",
) -> list[Tensor]:
    """Axis operators that read a Gaussian-blurred volume at its own voxels.

    Args:
        shape: Three sizes of the volume.
        sigma: Standard deviations in voxels, `(B or 1, C or 1, 3)`, best on the CPU; 0 leaves an
            axis alone.
        device: Where to compute.
        window_sigma: Standard deviations that set the window size instead of `sigma`.
        truncate: Half width of the window in standard deviations.
        boundary: One of `BLUR_BOUNDARIES`.

    Returns:
        Three matrices `(B, C, N, N)`, not to be written into.
    """
    window = sigma if window_sigma is None else window_sigma
    if boundary == "renormalise" and gaussians.can_make(shape, sigma, window):
        window = window.expand_as(sigma)
        made = gaussians.gaussian_rows(shape, sigma, window, factor=2 * truncate)
        return per_axis(made, shape, shape)
    radius = gaussian_radius(window, truncate)
    widths, radius = sigma.float(), radius.to(sigma.device, torch.float32)
    both = torch.stack([widths, radius.expand_as(widths)])
    if both.device.type != "cpu" or both.requires_grad:
        return _blur_operators(tuple(shape), both, boundary, device)
    return _cached_blur_operators(tuple(shape), _Numbers(both), boundary, device)


class _Numbers:
    """Widths and windows `(2, B, C, 3)`, to be found again in a cache by what they are."""

    def __init__(self, both: Tensor) -> None:
        self.both = both
        self._key = both.shape, both.numpy().tobytes()

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Numbers) and self._key == other._key


@cached(8)
def _cached_blur_operators(
    shape: tuple[int, ...], numbers: _Numbers, boundary: str, device: torch.device
) -> list[Tensor]:
    return _blur_operators(shape, numbers.both, boundary, device)


def _blur_operators(
    shape: tuple[int, ...], both: Tensor, boundary: str, device: torch.device
) -> list[Tensor]:
    """See `blur_operators`: every row has the weights of the distances to its own voxel."""
    reach, size = kernel_reach(both[1], boundary), max(shape)
    sigma, radius = (x[..., None] for x in bounded(*both))
    by_distance = _truncated_gaussian(voxel_indices(size, both.device), sigma, radius)
    if boundary == "zero":
        offsets = torch.arange(-reach, reach + 1.0, device=both.device).abs_()
        by_distance = by_distance / _truncated_gaussian(offsets, sigma, radius).sum(-1, True)
    by_distance = by_distance.to(device, non_blocking=True)
    weights = by_distance.index_select(-1, _distances(size, device).flatten())
    weights = weights.view(*by_distance.shape, size)
    if boundary == "renormalise":
        weights = _of_unit_sum(weights, shape)
    return per_axis(weights, shape, shape)


@cached(16)
def _distances(size: int, device: torch.device) -> Tensor:
    """Distances of the voxels of an axis from each other, `(N, N)` int32."""
    index = torch.arange(size, dtype=torch.int32)
    return (index - index[:, None]).abs_().to(device, non_blocking=True)


@cached(16)
def _within(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Mask of the samples that each of three axes has, `(3, 1, N)` for the longest."""
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
) -> Tensor:
    r"""Rows that read a Gaussian-blurred signal at positions `(..., 3, M)` of three axes.

    Row m holds \(w_{mn} \propto \exp(-(n - p_m)^2 / 2\sigma^2)\) for \(|n - p_m| \le r\).

    Args:
        positions: Where to read, in voxels.
        sizes: Number of samples of each axis.
        sigma: Standard deviations in voxels `(..., 3)`, from `bounded`.
        radius: Half widths of the window in voxels, likewise.
        boundary: `"zero"` reads zeros outside the volume, so that borders darken (the original);
            `"renormalise"` divides by the weight inside the volume.
        reach: See `kernel_reach`.

    Returns:
        Weights `(..., 3, M, largest size)`.
    """
    fits = sigma.shape == radius.shape == positions.shape[:3] and boundary == "renormalise"
    if fits and gaussians.can_make(sizes, sigma, radius, positions):
        return gaussians.gaussian_rows(sizes, sigma, radius, positions=positions)
    device, size = positions.device, max(sizes)
    sigma, radius = sigma[..., None, None], radius[..., None, None]
    distance = (voxel_indices(size, device) - positions[..., None]).abs_()
    weights = _truncated_gaussian(distance, sigma, radius)
    if boundary == "zero":
        offsets = torch.arange(-reach, reach + 1, device=device, dtype=positions.dtype)
        fraction = positions[..., None] - torch.round(positions[..., None])
        return weights / _truncated_gaussian((offsets - fraction).abs_(), sigma, radius).sum(
            -1, True
        )
    return _of_unit_sum(weights, tuple(sizes))


def _of_unit_sum(weights: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Rows `(..., 3, M, N)` divided by their sums over the samples that each of three axes has."""
    if len(set(sizes)) > 1:
        weights = weights * _within(sizes, weights.device)
    return weights / weights.sum(-1, True).clamp_(min=1e-30)


def interpolation_weights(inside: Tensor, size: int) -> Tensor:
    """Rows `(..., M, N)` that interpolate an axis of N samples at coordinates `(..., M)` in it."""
    distance = (inside[..., None] - voxel_indices(size, inside.device)).abs_()
    return distance.neg_().add_(1).clamp_(min=0)


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
    return interpolation_weights(coordinates.clamp(0, size - 1), size)


def axis_operator(size: int, coordinates: Tensor, sigma: float = 0.0) -> Tensor:
    """Matrix that blurs the samples of an axis and interpolates them linearly.

    The Gaussian is taken at whole samples and cut at 4 sigma; samples are mirrored at the borders,
    the border sample repeated, as SciPy does by default.

    Args:
        size: Number N of samples.
        coordinates: Where to read, `(M,)`, in samples; the border samples are repeated outside.
        sigma: Standard deviation of the Gaussian in samples; 0 does not blur.

    Returns:
        `(M, N)` float32.

    Examples:
        >>> axis_operator(3, torch.tensor([0.5, 9.0])).tolist()
        [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    """
    where = coordinates.double().clamp(0, size - 1)
    low = where.long().clamp(max=max(size - 2, 0))
    share = where - low
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets.double() / max(sigma, 1e-9)) ** 2)
    weights = weights / weights.sum()
    columns = _mirrored(low[:, None, None] + offsets[:, None] + torch.arange(2), size)
    values = weights[:, None] * torch.stack([1 - share, share], -1)[:, None]
    places = torch.arange(len(where))[:, None, None] * size + columns
    matrix = torch.zeros(len(where) * size, dtype=torch.float64)
    matrix.index_add_(0, places.flatten(), values.flatten())
    return matrix.view(-1, size).float()


def _mirrored(index: Tensor, size: int) -> Tensor:
    index = index % (2 * size)
    return torch.minimum(index, 2 * size - 1 - index)


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
    if has_bands(volume, operators):
        return along_bands(volume, operators)
    return _by_whole_matrices(volume, operators)


def _by_whole_matrices(volume: Tensor, operators: Sequence[Tensor | None]) -> Tensor:
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


def along_axes(volume: Tensor, operators: Sequence[Tensor | None]) -> Tensor:
    """Apply one matrix per axis of one volume, the one that makes it smallest first.

    The matrices are applied as a whole: to compile kernels for one volume takes longer than that.

    Args:
        volume: `(X, Y, Z)` float32.
        operators: Three matrices `(M, N)` on its device; None leaves an axis alone.

    Returns:
        `(Mx, My, Mz)`.
    """
    if volume.stride(0) < volume.stride(-1):  # the first axis runs fastest, as in NIfTI files
        return along_axes(volume.permute(2, 1, 0), operators[::-1]).permute(2, 1, 0)
    growth = {a: m.shape[0] / m.shape[1] for a, m in enumerate(operators) if m is not None}
    for axis in sorted(growth, key=lambda a: growth[a]):
        matrix = operators[axis]
        assert matrix is not None
        alone = [matrix[None, None] if a == axis else None for a in range(3)]
        volume = _by_whole_matrices(volume[None, None], alone)[0, 0]
    return volume
