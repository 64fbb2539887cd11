"""Products with matrices whose rows are 0 but for a band, see `banded`.

Numbers that do not decide how memory is read are not specialised: fewer programs to compile.
"""

import triton
import triton.language as tl


@triton.jit
def _magnitudes(matrix, row, column, rows, size, m_row, m_column):
    """Magnitudes of the weights of some rows and columns, 0 beyond the matrix."""
    inside = (row[:, None] < rows) & (column[None, :] < size)
    where = matrix + row[:, None] * m_row + column[None, :] * m_column
    return tl.abs(tl.load(where, mask=inside, other=0.0).to(tl.float32))


@triton.jit
def _find(
    matrix, band, tile, rows, size, m_row, m_column, tile_rows: tl.constexpr, block: tl.constexpr
):
    """First column and the one after the last of the band of a tile of rows."""
    row = tile * tile_rows + tl.arange(0, tile_rows)
    column = tl.arange(0, block)
    weight = _magnitudes(matrix, row, column, rows, size, m_row, m_column)
    largest = tl.max(weight, 1)
    for begin in range(block, size, block):
        more = _magnitudes(matrix, row, begin + column, rows, size, m_row, m_column)
        largest = tl.maximum(largest, tl.max(more, 1))
    least = 1e-9 * largest[:, None]
    counts = tl.max((weight > least).to(tl.int32), 0) > 0
    first = tl.where(counts, column, size)
    last = tl.where(counts, column + 1, 0)
    for begin in range(block, size, block):
        more = _magnitudes(matrix, row, begin + column, rows, size, m_row, m_column)
        counts = tl.max((more > least).to(tl.int32), 0) > 0
        first = tl.minimum(first, tl.where(counts, begin + column, size))
        last = tl.maximum(last, tl.where(counts, begin + column + 1, 0))
    tl.store(band, tl.min(first, 0) // 4 * 4)
    tl.store(band + 1, tl.max(last, 0))


_FREE = [f"{a}_{b}" for a in "xyz" for b in ("rows", "size", "batch", "channel", "row", "column")]


@triton.jit(do_not_specialize=["channels", "tiles", *_FREE])
def find_bands(
    x,
    y,
    z,
    bands,
    channels,
    tiles,
    x_rows,
    x_size,
    x_batch,
    x_channel,
    x_row,
    x_column,
    y_rows,
    y_size,
    y_batch,
    y_channel,
    y_row,
    y_column,
    z_rows,
    z_size,
    z_batch,
    z_channel,
    z_row,
    z_column,
    tile_rows: tl.constexpr,
    block: tl.constexpr,
):
    """Bands `(3, B, C, tiles, 2)` of the tiles of rows of three matrices `(B, C, M, N)`."""
    tile, element, axis = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    b, c = element // channels, element % channels
    band = bands + ((axis * tl.num_programs(1) + element) * tiles + tile) * 2
    if axis == 0:
        x += b * x_batch + c * x_channel
        _find(x, band, tile, x_rows, x_size, x_row, x_column, tile_rows, block)
    elif axis == 1:
        y += b * y_batch + c * y_channel
        _find(y, band, tile, y_rows, y_size, y_row, y_column, tile_rows, block)
    else:
        z += b * z_batch + c * z_channel
        _find(z, band, tile, z_rows, z_size, z_row, z_column, tile_rows, block)


@triton.jit(do_not_specialize=["channels", "b_batch", "b_channel"])
def apply_bands(
    volume,
    matrix,
    bands,
    out,
    channels,
    lines,
    inner,
    rows,
    size,
    v_batch,
    v_channel,
    v_sample,
    v_outer,
    v_inner,
    m_batch,
    m_channel,
    m_row,
    m_column,
    b_batch,
    b_channel,
    o_element,
    o_sample,
    o_outer,
    o_inner,
    tile_rows: tl.constexpr,
    tile_lines: tl.constexpr,
    depth: tl.constexpr,
    precision: tl.constexpr,
):
    """Product of a matrix and the lines of a volume along one axis.

    Lines are numbered along the two other axes, `inner` along the second of them. A program makes
    a tile of rows of the result from the samples within the band of these rows.
    """
    line_tiles = tl.cdiv(lines, tile_lines)
    tile = tl.program_id(0) // line_tiles
    element = tl.program_id(1)
    b, c = element // channels, element % channels
    line = (tl.program_id(0) % line_tiles) * tile_lines + tl.arange(0, tile_lines)
    row = tile * tile_rows + tl.arange(0, tile_rows)
    a, r = line // inner, line % inner
    band = bands + b * b_batch + c * b_channel + tile * 2
    first = tl.multiple_of(tl.load(band), 4)
    end = tl.load(band + 1)
    volume += b.to(tl.int64) * v_batch + c.to(tl.int64) * v_channel
    matrix += b * m_batch + c * m_channel
    made = tl.zeros((tile_rows, tile_lines), tl.float32)
    for begin in range(first, end, depth):
        k = tl.multiple_of(begin, 4) + tl.arange(0, depth)
        weights = tl.load(
            matrix + row[:, None] * m_row + k[None, :] * m_column,
            mask=(row[:, None] < rows) & (k[None, :] < size),
            other=0.0,
        )
        samples = tl.load(
            volume + k[:, None] * v_sample + (a * v_outer + r * v_inner)[None, :],
            mask=(k[:, None] < size) & (line[None, :] < lines),
            other=0.0,
        )
        made = tl.dot(
            weights.to(tl.float32), samples.to(tl.float32), made, input_precision=precision
        )
    tl.store(
        out
        + element.to(tl.int64) * o_element
        + row[:, None] * o_sample
        + (a * o_outer + r * o_inner)[None, :],
        made.to(out.dtype.element_ty),
        mask=(row[:, None] < rows) & (line[None, :] < lines),
    )
