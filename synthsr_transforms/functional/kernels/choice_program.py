"""A small kernel that asks of Triton what the others do, see `choice`."""

import triton
import triton.language as tl


@triton.jit
def product(matrix, number, made):
    """Product of a matrix `(16, 16)` with itself, or 0, in three products of TF32."""
    row, column = tl.arange(0, 16)[:, None], tl.arange(0, 16)[None, :]
    total = tl.zeros((16, 16), tl.float32)
    for begin in range(0, tl.load(number), 16):
        part = tl.load(matrix + row * 16 + column + begin)
        total = tl.dot(part, part, total, input_precision="tf32x3")
    tl.store(made + row * 16 + column, total)
