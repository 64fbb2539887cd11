"""A slow, literal transcription of what the original computes, in NumPy.

The numbers in the docstrings are the sections of the project's specification of the original
(`design/reference.md`). Nothing here is shared with the library: it is the second opinion that
the library is compared with where no recorded vector exists. Volumes are `(X, Y, Z)`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Shape = Sequence[int]


def sample(volume: npt.NDArray, where: npt.NDArray, method: str = "linear") -> npt.NDArray:
    """3.1: values of a volume `(X, Y, Z, ...)` at coordinates `(..., 3)`, edges repeated."""
    top = np.array(volume.shape[:3]) - 1
    if method == "nearest":
        return volume[tuple(np.moveaxis(np.clip(np.rint(where), 0, top).astype(int), -1, 0))]
    inside = np.clip(where, 0, top)
    low = np.clip(np.floor(where), 0, top).astype(int)
    high = np.clip(low + 1, 0, top)
    weight_low = high - inside
    result = np.zeros((*where.shape[:-1], *volume.shape[3:]))
    for corner in itertools.product((0, 1), repeat=3):
        take = np.where(np.array(corner) == 0, low, high)
        weight = np.where(np.array(corner) == 0, weight_low, 1 - weight_low).prod(-1)
        weight = weight.reshape(*weight.shape, *[1] * (volume.ndim - 3))
        result += weight * volume[tuple(np.moveaxis(take, -1, 0))]
    return result


def grid(axes: Sequence[npt.ArrayLike]) -> Array:
    """Coordinates `(X, Y, Z, 3)` of all combinations of three lists."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).astype(float)


def resize(volume: npt.NDArray, shape: Shape, method: str = "linear") -> npt.NDArray:
    """3.2: output index i reads input coordinate i / float32(m / n)."""
    axes = [
        np.arange(m, dtype=np.float32) / np.float32(m / n)
        for n, m in zip(volume.shape[:3], shape, strict=True)
    ]
    return sample(volume, grid(axes), method)


def affine(
    rotation: npt.ArrayLike = (0, 0, 0),
    shearing: npt.ArrayLike = (0, 0, 0, 0, 0, 0),
    scaling: npt.ArrayLike = (1, 1, 1),
    translation: npt.ArrayLike = (0, 0, 0),
) -> Array:
    """4.1: pull-back `diag(s) . Sh . (Rx . Ry . Rz)` and t, angles in degrees."""
    (c0, c1, c2), (s0, s1, s2) = (f(np.deg2rad(np.asarray(rotation, float))) for f in _COS_SIN)
    rx = np.array([[1, 0, 0], [0, c0, -s0], [0, s0, c0]])
    ry = np.array([[c1, 0, s1], [0, 1, 0], [-s1, 0, c1]])
    rz = np.array([[c2, -s2, 0], [s2, c2, 0], [0, 0, 1]])
    h = np.asarray(shearing, float)
    shear = np.array([[1, h[0], h[1]], [h[2], 1, h[3]], [h[4], h[5], 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = np.diag(np.asarray(scaling, float)) @ shear @ (rx @ ry @ rz)
    matrix[:3, 3] = translation
    return matrix


_COS_SIN = (np.cos, np.sin)


def displacement(small: npt.NDArray, shape: Shape) -> Array:
    """4.2: field `(X, Y, Z, 3)` of a coarse velocity `(a, b, c, 3)`, not rescaled."""
    half = [max(n // 2, g) for n, g in zip(shape, small.shape[:3], strict=True)]
    flow = resize(small, half) / 2**7
    here = grid([np.arange(n) for n in half])
    for _ in range(7):
        flow = flow + sample(flow, here + flow)
    return resize(flow, shape)


def warp(
    volume: npt.NDArray,
    matrix: Array | None = None,
    field: npt.NDArray | None = None,
    method: str = "linear",
) -> npt.NDArray:
    """4.3: `p(x) = A (x - c + u(x)) + t + c` about the centre c of the grid."""
    matrix = np.eye(4) if matrix is None else matrix
    centre = (np.array(volume.shape[:3]) - 1) / 2
    where = grid([np.arange(n) for n in volume.shape[:3]]) - centre
    where = where if field is None else where + field
    return sample(volume, where @ matrix[:3, :3].T + matrix[:3, 3] + centre, method)


def window(sigma: float) -> int:
    """8.3: number of taps of a kernel."""
    return 2 * math.trunc(math.ceil(2.5 * sigma) / 2) + 1


def kernel(sigma: float, taps: int) -> Array:
    """8.3: normalised weights of one axis; a width of 0 does not blur."""
    distance = np.arange(taps) - (taps - 1) / 2
    if sigma == 0:
        return (distance == 0).astype(float)
    weights = np.exp(-(distance**2) / (2 * sigma**2))
    return weights / weights.sum()


def blur(
    volume: npt.NDArray, sigma: npt.ArrayLike, window_sigma: npt.ArrayLike | None = None
) -> Array:
    """8.3: convolution with zeros outside; `window_sigma` sets the number of taps."""
    result = np.asarray(volume, float)
    widths = np.asarray(sigma if window_sigma is None else window_sigma, float)
    for axis, (width, own) in enumerate(zip(widths, np.asarray(sigma, float), strict=True)):
        taps = window(width)
        padded = np.pad(result, [(taps // 2,) * 2 if a == axis else (0, 0) for a in range(3)])
        result = sum(
            weight * np.take(padded, np.arange(k, k + result.shape[axis]), axis)
            for k, weight in enumerate(kernel(own, taps))
        )
    return result


def acquisition_sigma(
    current: npt.ArrayLike,
    resolution: npt.ArrayLike,
    coefficient: float | None,
    thickness: npt.ArrayLike | None = None,
) -> Array:
    """10.1: width of the blur in voxels."""
    current, width = np.asarray(current, float), np.asarray(resolution, float)
    if thickness is not None:
        width = np.minimum(width, thickness)
    if coefficient is not None:
        return coefficient * width / current
    sigma = np.where(width == current, 0.5, 0.75 * width / current)
    return np.where(width == 0, 0, sigma)


def low_shape(shape: Shape, atlas: npt.ArrayLike, resolution: npt.ArrayLike) -> list[int]:
    """10.2: number of slices, in float64; all voxels where the resolution is that of the atlas."""
    if np.array_equal(atlas, resolution):
        return list(shape)
    triples = zip(shape, np.asarray(atlas, float), np.asarray(resolution, float), strict=True)
    return [math.trunc(s * a / r) for s, a, r in triples]


def acquire_fixed(
    volume: npt.NDArray, low: Shape, output: Shape, method: str = "linear"
) -> npt.NDArray:
    """10.2, without the blur: nearest to the slices, linear to the output."""
    if tuple(low) != volume.shape:
        volume = resize(volume, low, "nearest")
    return resize(volume, output, method) if tuple(output) != volume.shape else volume


def reliability(shape: Shape, low: Shape, output: Shape) -> Array:
    """10.3: product of profiles: assignments first, then additions to what they left."""
    if tuple(shape) == tuple(low):
        return np.ones(output)
    profiles = []
    for d, size in zip(low, output, strict=True):
        profile = np.zeros(size)
        positions = np.arange(d) * (size / d)
        below = np.floor(positions).astype(int)
        after = np.minimum(below + 1, size - 1)
        profile[below] = 1 - (positions - below)
        profile[after] = profile[after] + (positions - below)
        profiles.append(profile)
    return np.einsum("i,j,k->ijk", *profiles)


def acquire_random(
    volume: npt.NDArray, atlas: npt.ArrayLike, resolution: npt.ArrayLike, output: Shape
) -> tuple[Array, Array]:
    """10.5, without the blur: image and distance map in mm."""
    down, up, squares = [], [], []
    triples = zip(volume.shape, np.asarray(atlas, float), resolution, output, strict=True)
    for size, a, res, out in triples:
        low = np.float32(int(np.float32(size * a) / np.float32(res)))
        zoom_down, zoom_up = np.float32(low / np.float32(size)), np.float32(np.float32(out) / low)
        down.append(np.clip(np.arange(size, dtype=np.float32) / zoom_down, 0, size))
        up.append(np.arange(out, dtype=np.float32) / zoom_up)
        squares.append(((up[-1] - np.rint(up[-1])) * np.float32(res)) ** 2)
    low_resolution = sample(volume, grid(down), "nearest")
    distance = np.sqrt(grid(squares).sum(-1))
    return sample(low_resolution, grid(up), "linear"), distance


def ras_axes(affine: Array) -> list[int]:
    """16.3: voxel axis of each world axis, from the inverse."""
    found = np.abs(np.linalg.inv(affine)[:3, :3]).argmax(0).tolist()
    for missing in [axis for axis in range(3) if axis not in found]:
        often = max(range(3), key=found.count)
        found[2 - found[::-1].index(often)] = missing
    return found


def align(volume: npt.NDArray, affine: Array, reference: Array) -> tuple[npt.NDArray, Array]:
    """16.3: permute, then reverse axes whose columns point away from those of the reference."""
    order = [0, 0, 0]
    for own, other in zip(ras_axes(affine), ras_axes(reference), strict=True):
        order[other] = own
    volume, affine = volume.transpose(order), affine[:, [*order, 3]].copy()
    for axis in range(3):
        if np.dot(affine[:3, axis], reference[:3, axis]) < 0:
            affine[:3, 3] += (volume.shape[axis] - 1) * affine[:3, axis]
            affine[:3, axis] *= -1
            volume = np.flip(volume, axis)
    return volume, affine


def rescaled(image: npt.NDArray) -> npt.NDArray:
    """12.1: percentiles 2 and 98 become 0 and 255."""
    low, high = np.percentile(image, [2, 98])
    return 255 * (np.clip(image, low, high) - low) / (high - low)


def intensity_stats(
    images: Sequence[npt.NDArray], labels: Sequence[npt.NDArray], classes: dict[int, int]
) -> tuple[Array, Array]:
    """12.2 and 12.3: priors of means and deviations of one channel, `(2, K)` each, not rescaled."""
    count = max(classes.values()) + 1
    medians, deviations = np.zeros((2, len(images), count))
    for row, (image, values) in enumerate(zip(images, labels, strict=True)):
        for k in range(count):
            x = image[np.isin(values, [v for v, c in classes.items() if c == k])]
            x = x[x > 0] if k else x
            if len(x):
                medians[row, k] = np.median(x)
                deviations[row, k] = 1.4826 * np.median(np.abs(x - np.median(x)))
    means, stds = (np.stack([a.mean(0), a.std(0)]) for a in (medians, deviations))
    return means, stds


def pool_gradient(volume: Array, gradient: Array) -> Array:
    """Gradient of TensorFlow's 2x2x2 pooling: all voxels within 1e-5 of a maximum get it."""
    result = np.zeros_like(volume)
    for place in np.ndindex(gradient.shape):
        box = tuple(slice(2 * i, 2 * i + 2) for i in place)
        near = volume[box].max() - volume[box] < 1e-5
        result[box][near] = gradient[place]
    return result
