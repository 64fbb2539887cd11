"""Volumes read where a deformation leads, see `warp`."""

import triton
import triton.language as tl


@triton.jit
def sample(
    volume,
    out,
    x,
    y,
    z,
    coarse_y,
    field,
    ny,
    nz,
    size_x,
    size_y,
    size_z,
    coarse_size,
    channels,
    v_batch,
    v_channel,
    v_x,
    v_y,
    v_z,
    r_batch,
    r_axis,
    displaced: tl.constexpr,
    nearest: tl.constexpr,
    block: tl.constexpr,
):
    """Volume `(B, C, X, Y, Z)` at coordinates that are made and forgotten here.

    They are the sums of rows `(B, 3, n)` of each axis and, if `displaced`, of a field
    `(B, 3, nx, coarse size, nz)` that is interpolated along y.
    """
    b, ix, nx = tl.program_id(2), tl.program_id(1), tl.num_programs(1)
    voxel = tl.program_id(0) * block + tl.arange(0, block)
    inside = voxel < ny * nz
    iy, iz = voxel // nz, voxel % nz
    rows = b * r_batch
    if displaced:
        where = tl.load(coarse_y + rows + iy, mask=inside, other=0.0)
        low = tl.minimum(where.to(tl.int32), coarse_size - 1)
        high = tl.minimum(low + 1, coarse_size - 1)
        low_share = 1 - (where - low.to(tl.float32))
        high_share = 1 - (low + 1 - where)
        field += (b.to(tl.int64) * 3 * nx + ix) * coarse_size * nz
        field_step = nx.to(tl.int64) * coarse_size * nz
        low, high = low * nz + iz, high * nz + iz
    else:
        low, high, low_share, high_share, field_step = iz, iz, 0.0, 0.0, 0
    x, y, z = x + rows + ix, y + rows + iy, z + rows + iz
    px = _sum(x, y, z, field, low, high, low_share, high_share, inside, displaced)
    x, y, z, field = x + r_axis, y + r_axis, z + r_axis, field + field_step
    py = _sum(x, y, z, field, low, high, low_share, high_share, inside, displaced)
    x, y, z, field = x + r_axis, y + r_axis, z + r_axis, field + field_step
    pz = _sum(x, y, z, field, low, high, low_share, high_share, inside, displaced)
    px = tl.minimum(tl.maximum(px, 0.0), size_x - 1.0)
    py = tl.minimum(tl.maximum(py, 0.0), size_y - 1.0)
    pz = tl.minimum(tl.maximum(pz, 0.0), size_z - 1.0)
    volume += b.to(tl.int64) * v_batch
    out += b.to(tl.int64) * channels * nx * ny * nz + ix * ny * nz
    if nearest:
        place = _whole(px) * v_x + _whole(py) * v_y + _whole(pz) * v_z
        for _ in range(channels):
            tl.store(out + voxel, tl.load(volume + place, mask=inside), mask=inside)
            volume += v_channel
            out += nx.to(tl.int64) * ny * nz
    else:
        x0, y0, z0 = px.to(tl.int32), py.to(tl.int32), pz.to(tl.int32)
        fx, fy, fz = px - x0, py - y0, pz - z0
        x1 = tl.minimum(x0 + 1, size_x - 1) * v_x
        y1 = tl.minimum(y0 + 1, size_y - 1) * v_y
        z1 = tl.minimum(z0 + 1, size_z - 1) * v_z
        x0, y0, z0 = x0 * v_x, y0 * v_y, z0 * v_z
        for _ in range(channels):
            made = (1 - fx) * _bilinear(volume + x0, y0, y1, z0, z1, fy, fz, inside)
            made += fx * _bilinear(volume + x1, y0, y1, z0, z1, fy, fz, inside)
            tl.store(out + voxel, made.to(out.dtype.element_ty), mask=inside)
            volume += v_channel
            out += nx.to(tl.int64) * ny * nz


@triton.jit
def compose(flow, out, size_x, size_y, size_z, block: tl.constexpr):
    """Displacement `(B, 3, X, Y, Z)` in voxels after itself."""
    voxels = size_x * size_y * size_z
    voxel = tl.program_id(0) * block + tl.arange(0, block)
    inside = voxel < voxels
    begin = tl.program_id(1).to(tl.int64) * 3 * voxels
    flow += begin
    out += begin
    px = (voxel // (size_y * size_z)).to(tl.float32)
    py = (voxel // size_z % size_y).to(tl.float32)
    pz = (voxel % size_z).to(tl.float32)
    px += tl.load(flow + voxel, mask=inside, other=0.0)
    py += tl.load(flow + voxels + voxel, mask=inside, other=0.0)
    pz += tl.load(flow + 2 * voxels + voxel, mask=inside, other=0.0)
    px = tl.minimum(tl.maximum(px, 0.0), size_x - 1.0)
    py = tl.minimum(tl.maximum(py, 0.0), size_y - 1.0)
    pz = tl.minimum(tl.maximum(pz, 0.0), size_z - 1.0)
    x0, y0, z0 = px.to(tl.int32), py.to(tl.int32), pz.to(tl.int32)
    fx, fy, fz = px - x0, py - y0, pz - z0
    x1 = tl.minimum(x0 + 1, size_x - 1) * (size_y * size_z)
    y1 = tl.minimum(y0 + 1, size_y - 1) * size_z
    z1 = tl.minimum(z0 + 1, size_z - 1)
    x0, y0 = x0 * (size_y * size_z), y0 * size_z
    for _ in range(3):
        made = (1 - fx) * _bilinear(flow + x0, y0, y1, z0, z1, fy, fz, inside)
        made += fx * _bilinear(flow + x1, y0, y1, z0, z1, fy, fz, inside)
        before = tl.load(flow + voxel, mask=inside, other=0.0)
        tl.store(out + voxel, before + made, mask=inside)
        flow += voxels
        out += voxels


@triton.jit
def _sum(x, y, z, field, low, high, low_share, high_share, inside, displaced: tl.constexpr):
    """One coordinate, in the order in which `coordinates_of` adds it up."""
    made = tl.load(x) + tl.load(y, mask=inside, other=0.0)
    if displaced:
        made += low_share * tl.load(field + low, mask=inside, other=0.0) + high_share * tl.load(
            field + high, mask=inside, other=0.0
        )
    return made + tl.load(z, mask=inside, other=0.0)


@triton.jit
def _bilinear(plane, y0, y1, z0, z1, fy, fz, inside):
    """A plane at shares `fy` and `fz` between two rows and two columns."""
    first = (1 - fz) * tl.load(plane + y0 + z0, mask=inside, other=0.0).to(tl.float32)
    first += fz * tl.load(plane + y0 + z1, mask=inside, other=0.0).to(tl.float32)
    second = (1 - fz) * tl.load(plane + y1 + z0, mask=inside, other=0.0).to(tl.float32)
    second += fz * tl.load(plane + y1 + z1, mask=inside, other=0.0).to(tl.float32)
    return (1 - fy) * first + fy * second


@triton.jit
def _whole(x):
    """Nearest whole number of one within 0 and 2^22, ties to even, as float32 rounds it."""
    return ((x + 12582912.0) - 12582912.0).to(tl.int32)
