"""Changes of single voxels, see `voxelwise`."""

import triton
import triton.language as tl


@triton.jit
def rescale(
    x,
    low,
    high,
    out,
    voxels,
    clip_low,
    clip_high,
    epsilon,
    clipped: tl.constexpr,
    block: tl.constexpr,
):
    """Clip, then bring what lies between the extremes of a channel to 0..1."""
    channel = tl.program_id(1)
    begin = channel.to(tl.int64) * voxels
    voxel = tl.program_id(0) * block + tl.arange(0, block)
    inside = voxel < voxels
    made = tl.load(x + begin + voxel, mask=inside, other=0.0)
    first, last = tl.load(low + channel), tl.load(high + channel)
    if clipped:
        made = _clamp(made, clip_low, clip_high)
        first = _clamp(first, clip_low, clip_high)
        last = _clamp(last, clip_low, clip_high)
    made = tl.div_rn(made - first, last - first + epsilon)
    tl.store(out + begin + voxel, made, mask=inside)


@triton.jit
def _clamp(x, low, high):
    """Like `torch.clamp`, which keeps what is not a number."""
    x = tl.maximum(x, low, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(x, high, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def power(x, exponent, out, voxels, block: tl.constexpr):
    """Magnitudes to the power of a channel; a power of 1 changes no bit."""
    channel = tl.program_id(1)
    begin = channel.to(tl.int64) * voxels
    voxel = tl.program_id(0) * block + tl.arange(0, block)
    inside = voxel < voxels
    before = tl.load(x + begin + voxel, mask=inside, other=0.0)
    e = tl.load(exponent + channel)
    made = tl.exp2(e * tl.log2(tl.abs(before)))
    made = tl.where(e == 1.0, before, tl.where(before < 0, -made, made))
    tl.store(out + begin + voxel, made, mask=inside)


@triton.jit
def relabel(labels, table, out, voxels, values, t_batch, block: tl.constexpr):
    """Labels from a table; those beyond it stay."""
    b = tl.program_id(1)
    begin = b.to(tl.int64) * voxels
    voxel = tl.program_id(0) * block + tl.arange(0, block)
    inside = voxel < voxels
    label = tl.load(labels + begin + voxel, mask=inside, other=0)
    known = inside & (label >= 0) & (label < values)
    new = tl.load(table + b * t_batch + tl.where(known, label, 0).to(tl.int32), mask=known, other=0)
    tl.store(out + begin + voxel, tl.where(known, new.to(label.dtype), label), mask=inside)


@triton.jit
def noisy(x, noise, std, rician, out, voxels, parts, both: tl.constexpr, block: tl.constexpr):
    """Gaussian noise, or, if there are real and imaginary parts, Rician noise in some channels."""
    channel = tl.program_id(1)
    begin = channel.to(tl.int64) * voxels
    voxel = tl.program_id(0) * block + tl.arange(0, block)
    inside = voxel < voxels
    width = tl.load(std + channel)
    noise += begin * parts + voxel
    made = tl.load(x + begin + voxel, mask=inside, other=0.0)
    made += width * tl.load(noise, mask=inside, other=0.0)
    if both:  # known when the program is compiled, unlike what follows
        if tl.load(rician + channel) != 0:
            imaginary = width * tl.load(noise + voxels, mask=inside, other=0.0)
            made = tl.sqrt_rn(made * made + imaginary * imaginary)
    tl.store(out + begin + voxel, made, mask=inside)


@triton.jit
def lesion_share(
    field,
    near,
    labels,
    table,
    height,
    lift,
    out,
    voxels,
    values,
    softness,
    lifted: tl.constexpr,
    block: tl.constexpr,
):
    """Share of lesion: a field above a height, which is lower where `near` is not 0."""
    b = tl.program_id(1)
    begin = b.to(tl.int64) * voxels
    voxel = tl.program_id(0) * block + tl.arange(0, block)
    inside = voxel < voxels
    label = tl.load(labels + begin + voxel, mask=inside, other=0).to(tl.int32)
    weight = tl.load(table + tl.minimum(tl.maximum(label, 0), values - 1))
    level = tl.load(field + begin + voxel, mask=inside, other=0.0) - tl.load(height + b)
    if lifted:
        share = tl.minimum(4 * tl.load(near + begin + voxel, mask=inside, other=0.0), 1.0)
        level += tl.load(lift + b) * share
    made = weight / (1 + tl.exp(-level / softness))
    tl.store(out + begin + voxel, made, mask=inside)


@triton.jit
def blend(
    x, noise, share, value, std, out, voxels, channels, varies: tl.constexpr, block: tl.constexpr
):
    """Blend towards one value of each channel, with noise, by shares within 0 and 1."""
    channel = tl.program_id(1)
    begin = channel.to(tl.int64) * voxels
    voxel = tl.program_id(0) * block + tl.arange(0, block)
    inside = voxel < voxels
    before = tl.load(x + begin + voxel, mask=inside, other=0.0)
    weight = tl.load(
        share + (channel // channels).to(tl.int64) * voxels + voxel, mask=inside, other=0.0
    )
    other = tl.load(value + channel)
    if varies:
        other += tl.load(std + channel) * tl.load(noise + begin + voxel, mask=inside, other=0.0)
    made = before + weight * (other - before)
    tl.store(out + begin + voxel, made, mask=inside)
