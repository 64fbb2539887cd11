"""Tables read by label, see `painting`."""

import triton
import triton.language as tl


@triton.jit
def paint(
    labels,
    means,
    stds,
    noise,
    out,
    voxels,
    values,
    channels,
    m_batch,
    m_channel,
    s_batch,
    s_channel,
    noisy: tl.constexpr,
    block: tl.constexpr,
):
    """Entry of each label in a table, and, if `noisy`, noise times that in another."""
    b = tl.program_id(1)
    voxel = tl.program_id(0) * block + tl.arange(0, block)
    inside = voxel < voxels
    label = tl.load(labels + b.to(tl.int64) * voxels + voxel, mask=inside, other=0).to(tl.int32)
    label = tl.minimum(tl.maximum(label, 0), values - 1)
    for c in range(channels):
        made = tl.load(means + b * m_batch + c * m_channel + label)
        place = (b.to(tl.int64) * channels + c) * voxels + voxel
        if noisy:
            std = tl.load(stds + b * s_batch + c * s_channel + label)
            made = made + std * tl.load(noise + place, mask=inside, other=0.0)
        tl.store(out + place, made, mask=inside)
