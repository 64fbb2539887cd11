"""Matrices of Gaussian weights, see `gaussians`."""

import triton
import triton.language as tl


@triton.jit
def gaussian_rows(
    sigma,
    width,
    positions,
    out,
    channels,
    size,
    size_x,
    size_y,
    size_z,
    factor,
    s_batch,
    s_channel,
    s_axis,
    w_batch,
    w_channel,
    w_axis,
    p_batch,
    p_channel,
    p_axis,
    p_row,
    rounded: tl.constexpr,
    own: tl.constexpr,
    block: tl.constexpr,
):
    """A row of unit sum: the Gaussian about a position, or about the sample of its own number.

    The window is as wide as `width` says, or, if `rounded`, what is a factor of it in half voxels.
    """
    row, group = tl.program_id(0), tl.program_id(1)
    axis, element = group % 3, group // 3
    b, c = element // channels, element % channels
    deviation = tl.load(sigma + b * s_batch + c * s_channel + axis * s_axis)
    radius = tl.load(width + b * w_batch + c * w_channel + axis * w_axis)
    if rounded:
        radius = tl.floor(tl.ceil(factor * radius) / 2)
    deviation, radius = tl.maximum(deviation, 0.05), tl.maximum(radius, 0.5)
    column = tl.arange(0, block)
    if own:
        distance = tl.abs(column - row).to(tl.float32)
    else:
        where = tl.load(positions + b * p_batch + c * p_channel + axis * p_axis + row * p_row)
        distance = tl.abs(column.to(tl.float32) - where)
    last = tl.where(axis == 0, size_x, tl.where(axis == 1, size_y, size_z))
    scaled = tl.div_rn(distance, deviation)
    weight = tl.exp(-0.5 * (scaled * scaled))
    weight = tl.where((distance <= radius) & (column < last), weight, 0.0)
    weight = tl.div_rn(weight, tl.maximum(tl.sum(weight, 0), 1e-30))
    place = (group.to(tl.int64) * tl.num_programs(0) + row) * size
    tl.store(out + place + column, weight, mask=column < size)
