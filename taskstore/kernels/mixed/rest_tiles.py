"""Rests in Triton, a tile at a time in registers, as their swap makes them: round(below + v).

A rest lies in chunks, each with a radix, a table, steps of its rows and escapes. FIELDS numbers say
where a chunk's parts are. The table has NaN where a symbol is an escape. Which of the escapes that
is, is found from the number of escapes before each SPAN of elements, and few steps from there.

The products of symbols and steps, and of low-rank factors and scales, are exact in float32: so it
does not matter what a device fuses. Addresses are int64, of any device memory; 0 is none.
"""

from __future__ import annotations

import triton
import triton.language as tl

FIELDS = 7  # symbols, table, symbols in a byte, steps, where, points, escapes before spans
FACTORS = 4  # left, right, scales, rank
SPAN = 64  # elements

_FIELDS, _SPAN = tl.constexpr(FIELDS), tl.constexpr(SPAN)
_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)  # there, bfloat16 has no product


@triton.jit
def at(address, dtype: tl.constexpr):
    """A pointer, or a tile of them, from addresses."""
    return address.to(tl.pointer_type(dtype))


@triton.jit
def dot(a, b):
    """A product with sums in float32, without a faster mode of float32."""
    if _INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def quantised(chunks, e, inside, length, columns):
    """v without its low-rank part, float32, of elements `e` (int64) of a tensor.

    chunks   FIELDS numbers for each `length` elements;  columns   those of the tensor's rows
    """
    number = e // length
    i = (e - number * length).to(tl.int32)
    here = chunks + number * _FIELDS
    symbols = at(tl.load(here, mask=inside, other=0), tl.uint8)
    table = at(tl.load(here + 1, mask=inside, other=0), tl.float32)
    packed = tl.load(here + 2, mask=inside, other=1).to(tl.int32)
    steps = at(tl.load(here + 3, mask=inside, other=0), tl.float32)
    byte = tl.load(symbols + i // packed, mask=inside, other=0).to(tl.int32)
    v = tl.load(table + byte * packed + i % packed, mask=inside, other=0.0)
    escaped = v != v
    where = at(tl.load(here + 4, mask=escaped, other=0), tl.int64)
    points = at(tl.load(here + 5, mask=escaped, other=0), tl.float32)
    before = at(tl.load(here + 6, mask=escaped, other=0), tl.int32)
    k = tl.load(before + i // _SPAN, mask=escaped, other=0)
    behind = escaped & (tl.load(where + k, mask=escaped, other=0) < i)
    while tl.max(behind.to(tl.int32), axis=None) > 0:
        k += behind.to(tl.int32)
        behind = behind & (tl.load(where + k, mask=behind, other=0) < i)
    v = tl.where(escaped, tl.load(points + k, mask=escaped, other=0.0), v)
    row = e // columns - number * length // columns
    return v * tl.load(steps + row, mask=inside, other=0.0)


@triton.jit
def low_rank_tile(factors, row_R, col_C, rows, columns, RANK: tl.constexpr):
    """The low-rank part of a tile of a matrix, float32, by a product of bfloat16 factors.

    All sums are whole numbers that float32 holds, so any order gives the same bits.
    """
    rank = tl.load(factors + 3)
    k = tl.arange(0, RANK)
    inside_R, inside_C = row_R < rows, col_C < columns
    left = at(tl.load(factors), tl.bfloat16) + k[None, :] * rows + row_R[:, None]
    right = at(tl.load(factors + 1), tl.bfloat16) + k[:, None] * columns + col_C[None, :]
    left_RK = tl.load(left, mask=inside_R[:, None] & (k < rank)[None, :], other=0.0)
    right_KC = tl.load(right, mask=inside_C[None, :] & (k < rank)[:, None], other=0.0)
    scale_R = tl.load(at(tl.load(factors + 2), tl.float32) + row_R, mask=inside_R, other=0.0)
    return (dot(left_RK, right_KC) + 0.0) * scale_R[:, None]


@triton.jit
def low_rank_at(factors, e, inside, rows, columns):
    """The same of single elements."""
    row, col = e // columns, e % columns
    left, right = at(tl.load(factors), tl.bfloat16), at(tl.load(factors + 1), tl.bfloat16)
    total = tl.zeros(e.shape, tl.float32)
    for k in range(tl.load(factors + 3)):
        one = tl.load(left + k * rows + row, mask=inside, other=0.0).to(tl.float32)
        total += one * tl.load(right + k * columns + col, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(at(tl.load(factors + 2), tl.float32) + row, mask=inside, other=0.0)
    return (total + 0.0) * scale


@triton.jit
def narrow(wide, FLOAT: tl.constexpr):
    """float32 -> bits of the dtype, to the nearest, ties to even; NaN stays one."""
    u = wide.to(tl.uint32, bitcast=True)
    if tl.float32 == FLOAT:
        found = u.to(tl.int32, bitcast=True)
    elif tl.float16 == FLOAT:
        found = wide.to(tl.float16).to(tl.int16, bitcast=True)
    else:
        u = tl.where(wide != wide, 0x7FC00000, u + 0x7FFF + ((u >> 16) & 1))
        found = (u >> 16).to(tl.uint16).to(tl.int16, bitcast=True)
    return found


@triton.jit
def widened(bits, FLOAT: tl.constexpr):
    """Bits of the dtype -> float32."""
    if tl.bfloat16 == FLOAT:
        wide = (bits.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        wide = bits.to(FLOAT, bitcast=True).to(tl.float32)
    return wide


@triton.jit
def rounded(bits, v, FLOAT: tl.constexpr):
    """round(below + v) to the dtype, below where that is not finite; both as bits."""
    found = narrow(widened(bits, FLOAT) + v, FLOAT)
    half: tl.constexpr = 0x7C00 if tl.float16 == FLOAT else 0x7F80
    exponent: tl.constexpr = 0x7F800000 if tl.float32 == FLOAT else half
    return tl.where((found & exponent) != exponent, found, bits)
