"""A texture that two images share, see `texture`."""

import triton
import triton.language as tl


@triton.jit
def _weighted(t, labels, table, values, voxel, inside, masked: tl.constexpr):
    """Target, times the weights of its labels."""
    made = tl.load(t + voxel, mask=inside, other=0.0)
    if masked:
        label = tl.load(labels + voxel, mask=inside, other=0).to(tl.int32)
        made *= tl.load(table + tl.minimum(tl.maximum(label, 0), values - 1))
    return made


@triton.jit
def part_sums(
    x,
    t,
    labels,
    table,
    parts,
    voxels,
    values,
    channels,
    t_batch,
    masked: tl.constexpr,
    block: tl.constexpr,
):
    """Sums over a block where the target u is above 0: of 1, u, u u, and x, x u of each channel."""
    b = tl.program_id(1).to(tl.int64)
    voxel = tl.program_id(0) * block + tl.arange(0, block)
    inside = voxel < voxels
    u = _weighted(t + b * t_batch, labels + b * voxels, table, values, voxel, inside, masked)
    counts = u > 0
    u = tl.where(counts, u, 0.0).to(tl.float64)
    parts += (b * tl.num_programs(0) + tl.program_id(0)) * (3 + 2 * channels)
    tl.store(parts, tl.sum(counts.to(tl.float64), 0))
    tl.store(parts + 1, tl.sum(u, 0))
    tl.store(parts + 2, tl.sum(u * u, 0))
    x += b * channels * voxels
    for c in range(channels):
        image = tl.load(x + voxel, mask=inside & counts, other=0.0).to(tl.float64)
        tl.store(parts + 3 + 2 * c, tl.sum(image, 0))
        tl.store(parts + 4 + 2 * c, tl.sum(image * u, 0))
        x += voxels


@triton.jit
def slopes(parts, made, number, channels, block: tl.constexpr):
    """Slope of each channel from the sums of all blocks, in one order."""
    b, c = tl.program_id(0), tl.program_id(1)
    width = 3 + 2 * channels
    parts += b.to(tl.int64) * number * width
    count = tl.zeros((block,), tl.float64)
    u, uu, x, xu = count, count, count, count
    for begin in range(0, number, block):
        part = begin + tl.arange(0, block)
        inside = part < number
        at = parts + part * width
        count += tl.load(at, mask=inside, other=0.0)
        u += tl.load(at + 1, mask=inside, other=0.0)
        uu += tl.load(at + 2, mask=inside, other=0.0)
        x += tl.load(at + 3 + 2 * c, mask=inside, other=0.0)
        xu += tl.load(at + 4 + 2 * c, mask=inside, other=0.0)
    total, sum_u, sum_uu = tl.sum(count, 0), tl.sum(u, 0), tl.sum(uu, 0)
    mean = sum_u / tl.maximum(total, 1.0)
    variance = sum_uu - mean * sum_u
    varies = variance > 1e-12 * sum_uu
    slope = (tl.sum(xu, 0) - mean * tl.sum(x, 0)) / tl.where(varies, variance, 1.0)
    tl.store(made + b * channels + c, tl.where(varies, slope, 0.0).to(tl.float32))


@triton.jit
def vary(
    x,
    t,
    field,
    labels,
    table,
    strength,
    slope,
    new_x,
    new_t,
    voxels,
    values,
    channels,
    t_channels,
    masked: tl.constexpr,
    block: tl.constexpr,
):
    """Add the texture to both images."""
    b = tl.program_id(1)
    begin = b.to(tl.int64) * voxels
    voxel = tl.program_id(0) * block + tl.arange(0, block)
    inside = voxel < voxels
    grain = tl.load(field + begin + voxel, mask=inside, other=0.0) * tl.load(strength + b)
    labels += begin
    t += begin * t_channels
    new_t += begin * t_channels
    first = _weighted(t, labels, table, values, voxel, inside, masked) * grain
    for _ in range(t_channels):
        change = _weighted(t, labels, table, values, voxel, inside, masked) * grain
        before = tl.load(t + voxel, mask=inside, other=0.0)
        tl.store(new_t + voxel, before + change, mask=inside)
        t += voxels
        new_t += voxels
    x += begin * channels
    new_x += begin * channels
    for c in range(channels):
        before = tl.load(x + voxel, mask=inside, other=0.0)
        made = before + tl.load(slope + b * channels + c) * first
        tl.store(new_x + voxel, made, mask=inside)
        x += voxels
        new_x += voxels
