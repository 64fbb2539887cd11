"""Bias, upsampled part, activation and statistics of a layer in one pass, see `fused`."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows", "height", "width"])
def activate(
    x,
    bias,
    phases,
    parts,
    rows,
    channels,
    height,
    width,
    block_rows: tl.constexpr,
    block_channels: tl.constexpr,
    joins: tl.constexpr,
    measures: tl.constexpr,
):
    """In place, `elu(x + bias)` of voxels `(rows, channels)`; `joins` adds the phases first.

    A program takes every so many blocks of rows of some channels, and writes count, mean and sum of
    squared differences of what it made to `parts`, `(programs, 3, channels)`.
    """
    c = tl.program_id(1) * block_channels + tl.arange(0, block_channels)
    known = c < channels
    added = tl.load(bias + c, mask=known, other=0.0).to(tl.float32)
    count = 0.0
    mean = tl.zeros((block_channels,), tl.float32)
    squares = tl.zeros((block_channels,), tl.float32)
    step = tl.num_programs(0) * block_rows
    for begin in range(tl.program_id(0) * block_rows, rows, step):
        row = begin + tl.arange(0, block_rows)
        inside = (row < rows)[:, None] & known[None, :]
        place = row[:, None] * channels + c[None, :]
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) + added[None, :]
        if joins:
            # output voxel 2p - 1 of an axis is the first phase at place p, voxel 2p the second
            i, j, k = row // (width * height) + 1, row // width % height + 1, row % width + 1
            small = (i // 2 * (height // 2 + 1) + j // 2) * (width // 2 + 1) + k // 2
            phase = (i % 2 * 2 + j % 2) * 2 + k % 2
            where = (small * 8 + phase) * channels
            value += tl.load(phases + where[:, None] + c[None, :], mask=inside, other=0.0).to(
                tl.float32
            )
        value = tl.where(value > 0, value, tl.exp(value) - 1)
        stored = value.to(x.dtype.element_ty)
        tl.store(x + place, stored, mask=inside)
        if measures:
            seen = tl.where(inside, stored.to(tl.float32), 0.0)
            number = tl.minimum(rows - begin, block_rows).to(tl.float32)
            middle = tl.sum(seen, 0) / number
            away = tl.where(inside, seen - middle[None, :], 0.0)
            change = middle - mean
            total = count + number
            mean += change * (number / total)
            squares += tl.sum(away * away, 0) + change * change * (count * number / total)
            count = total
    if measures:
        part = parts + tl.program_id(0) * 3 * channels + c
        tl.store(part, tl.zeros((block_channels,), tl.float32) + count, mask=known)
        tl.store(part + channels, mean, mask=known)
        tl.store(part + 2 * channels, squares, mask=known)


@triton.jit(do_not_specialize=["number"])
def join(parts, made, number, channels, block: tl.constexpr, block_channels: tl.constexpr):
    """Mean and sum of squared differences `(2, channels)` of all parts `(number, 3, channels)`."""
    c = tl.program_id(0) * block_channels + tl.arange(0, block_channels)
    count = tl.zeros((block_channels,), tl.float32)
    mean = tl.zeros((block_channels,), tl.float32)
    squares = tl.zeros((block_channels,), tl.float32)
    for begin in range(0, number, block):
        p = begin + tl.arange(0, block)
        inside = (p < number)[:, None] & (c < channels)[None, :]
        where = parts + p[:, None] * 3 * channels + c[None, :]
        counts = tl.load(where, mask=inside, other=0.0)
        means = tl.load(where + channels, mask=inside, other=0.0)
        spreads = tl.load(where + 2 * channels, mask=inside, other=0.0)
        number_here = tl.maximum(tl.sum(counts, 0), 1.0)
        middle = tl.sum(counts * means, 0) / number_here
        away = means - middle[None, :]
        within = tl.sum(spreads + counts * away * away, 0)
        change = middle - mean
        total = count + number_here
        mean += change * (number_here / total)
        squares += within + change * change * (count * number_here / total)
        count = total
    tl.store(made + c, mean, mask=c < channels)
    tl.store(made + channels + c, squares, mask=c < channels)
