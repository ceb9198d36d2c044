"""The inner loops of `deltas`: integers of 32 bits alone, each loop vectorised.

Legend: N = elements of a chunk, U = the chunk's unsigned integer type. `m` mantissa bits are used,
`unused` ones lie below; `g` is the exponent of a usual step. What SPEC.md calls v, F, G, k has
these names here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.kernels.jit import jit

Bytes = NDArray[np.uint8]
U = NDArray[Any]
Counts = NDArray[np.int64]
FINER = 3  # octaves from an ulp of the base's weight down to the unit of a delta
SMALL = 240  # symbols from here on tell of a weight without its base
NEAR = 6  # octaves below the unit's exponent that have a symbol
ZERO, WHOLE = SMALL + 2 * NEAR, SMALL + 2 * NEAR + 2
LAST = 231  # symbol of the largest delta; those up to SMALL do not exist
TOP = 29  # no magnitude in units has more bits
ONE = np.int32(1)
NONE = np.int32(0)


# numba computes in 64 bits what has 32; cut off at once, and with shifts that are known to be
# small, the compiler finds its way back, and works on twice as many elements at a time.


@jit
def add(x: Any, y: Any) -> Any:
    return np.int32(x + y)


@jit
def sub(x: Any, y: Any) -> Any:
    return np.int32(x - y)


@jit
def shl(x: Any, n: Any) -> Any:
    return np.int32(x << (n & 31))


@jit
def shr(x: Any, n: Any) -> Any:
    return np.int32(x >> (n & 31))


@jit
def larger(x: Any, y: Any) -> Any:
    return x if x > y else y


@jit
def smaller(x: Any, y: Any) -> Any:
    return x if x < y else y


@jit
def log2(x: Any) -> Any:
    """floor(log2(x)) of an int32 above 0; negative for 0. No rounding reaches the next power."""
    top = np.int32(x & ~(x >> 1))
    return sub(shr(np.float32(top).view(np.int32), np.int32(23)), np.int32(127))


@jit
def magnitude(w: Any, unused: Any, U: Any) -> Any:
    """A weight's bits without the sign, shifted."""
    return shr(np.int32(U(w & U(np.iinfo(U).max >> 1))), unused)


@jit
def unit(t: Any, m: Any, g: Any) -> Any:
    """The exponent of the unit in which a weight's delta is counted."""
    return larger(sub(larger(shr(t, m), g), np.int32(FINER)), ONE)


@jit
def fixed(t: Any, m: Any, v: Any) -> Any:
    """A magnitude in units; what is finer is cut off, what is too large stays some number."""
    e = larger(shr(t, m), ONE)
    a = sub(t, shl(sub(e, ONE), m))
    up = smaller(larger(sub(e, v), NONE), sub(np.int32(TOP), m))
    return shr(shl(a, up), smaller(larger(sub(v, e), NONE), np.int32(31)))


@jit
def bucket(symbol: Any, f: Any, base: Any, m: Any) -> tuple[Any, Any, Any, Any]:
    """Least place, the least magnitude on one side of zero (else below 0), r and k.

    The places of a symbol are 2^r numbers M from the least on; on one side of zero they are those
    whose magnitude is a multiple of 2^k.
    """
    h, negative = np.int32(symbol >> 1), np.int32(symbol & 1)
    r = sub(larger(shr(h, f), ONE), ONE)
    a = shl(sub(h, shl(r, f)), r)
    width = shl(ONE, r)
    low = sub(base, add(a, width)) if negative else add(base, a)
    least = low if low >= 0 else sub(NONE, add(low, width))
    k = smaller(larger(sub(log2(larger(least, NONE)), m), NONE), r)
    return low, least, r, k


@jit
def scales(
    w0_N: U, unused: int, m: int, g: int, rows: Bytes, columns: Bytes, first: int, scales_N: Bytes
) -> None:
    """Twice the octaves above `g`, plus the codes of row and column, where there are some."""
    U = w0_N.dtype.type
    low, m32, g32 = np.int32(unused), np.int32(m), np.int32(g)
    for i in range(w0_N.size):
        e = sub(larger(shr(magnitude(w0_N[i], low, U), m32), g32), g32)
        scales_N[i] = np.uint8(smaller(shl(e, ONE), np.int32(255)))
    begin, at = 0, first
    for row in range(rows.size):
        code, columns_K = np.int32(rows[row]), columns[at:]
        scales_K = scales_N[begin : begin + columns_K.size]  # fewer in the last row
        for i in range(scales_K.size):
            scale = add(add(np.int32(scales_K[i]), code), np.int32(columns_K[i]))
            scales_K[i] = np.uint8(smaller(scale, np.int32(255)))
        begin, at = begin + columns_K.size, 0


@jit
def sums(octaves_N: NDArray[np.int16], first: int, rows_2R: Counts, columns_2K: Counts) -> None:
    """Add up octaves by row and by column, and count those that moved."""
    begin, at = 0, first
    for row in range(rows_2R.shape[1]):
        total_K, moved_K = columns_2K[0, at:], columns_2K[1, at:]
        octaves_K = octaves_N[begin : begin + total_K.size]  # fewer in the last row
        total, moved = np.int64(0), np.int64(0)
        for i in range(octaves_K.size):
            octave = np.int64(octaves_K[i])
            one = np.int64(octave > 0)
            total += octave
            moved += one
            total_K[i] += octave
            moved_K[i] += one
        rows_2R[0, row], rows_2R[1, row] = total, moved
        begin, at = begin + total_K.size, 0


@jit
def used(w0_N: U, w_N: U) -> int:
    """Bits that some weight has set."""
    found = np.uint32(0)
    for i in range(w0_N.size):
        found |= np.uint32(w0_N[i] | w_N[i])
    return int(found)


@jit
def octaves(w0_N: U, w_N: U, unused: int, m: int, octaves_N: NDArray[np.int16]) -> None:
    """The exponent of each delta, 0 where there is none; for a writer's choices."""
    U = w0_N.dtype.type
    below, low, m32 = U(np.iinfo(U).max >> 1), np.int32(unused), np.int32(m)
    for i in range(w0_N.size):
        t0, t = magnitude(w0_N[i], low, U), magnitude(w_N[i], low, U)
        x, y = larger(t0, t), smaller(t0, t)
        e, v = larger(shr(x, m32), ONE), larger(shr(y, m32), ONE)
        other = U(w0_N[i] ^ w_N[i]) > below
        far = other | (sub(e, v) > FINER)
        near = log2(sub(fixed(x, m32, v), fixed(y, m32, v)))
        octave = e if far else larger(sub(add(v, near), m32), ONE)
        octaves_N[i] = np.int16(octave if (t != t0) | other else NONE)


@jit
def symbols(w0_N: U, w_N: U, unused: int, m: int, g: int, f: int, symbols_N: Bytes) -> None:
    """The symbol of each element."""
    U = w0_N.dtype.type
    below, low = U(np.iinfo(U).max >> 1), np.int32(unused)
    m32, g32, f32 = np.int32(m), np.int32(g), np.int32(f)
    for i in range(w0_N.size):
        t0, t = magnitude(w0_N[i], low, U), magnitude(w_N[i], low, U)
        other = np.int32(U(w0_N[i] ^ w_N[i]) > below)
        v, e = unit(t0, m32, g32), larger(shr(t, m32), ONE)
        size, base = fixed(t, m32, v), fixed(t0, m32, v)
        d = sub(np.int32(size ^ sub(NONE, other)), base)
        negative = np.int32(d < 0)
        h = np.int32(d ^ sub(NONE, negative))
        r = larger(sub(log2(h), f32), NONE)
        symbol = add(shl(add(shl(r, f32), shr(h, r)), ONE), negative)
        octaves = sub(v, e)
        near = add(add(np.int32(SMALL - 2), shl(octaves, ONE)), other)
        far = (add(octaves, np.int32(TOP)) < m32) | (symbol > LAST) | (octaves > NEAR)
        far |= (octaves > 0) & (shr(t, m32) == 0)
        symbol = near if octaves > 0 else symbol
        symbol = np.int32(WHOLE) if far else symbol
        nothing = (t == 0) & (octaves > 0)
        symbols_N[i] = np.uint8(add(np.int32(ZERO), other) if nothing else symbol)


@jit
def widths(w0_N: U, symbols_N: Bytes, unused: int, m: int, g: int, f: int, widths_N: Bytes) -> int:
    """Plain bits of each element; returns their sum."""
    U = w0_N.dtype.type
    low, m32, g32, f32 = np.int32(unused), np.int32(m), np.int32(g), np.int32(f)
    whole, total = np.int32(np.iinfo(U).bits), np.int64(0)
    for i in range(w0_N.size):
        s = np.int32(symbols_N[i])
        t0 = magnitude(w0_N[i], low, U)
        _, _, r, k = bucket(s, f32, fixed(t0, m32, unit(t0, m32, g32)), m32)
        alone = m32 if s < ZERO else NONE
        alone = whole if s >= WHOLE else alone
        widths_N[i] = np.uint8(alone if s >= SMALL else sub(r, k))
    for i in range(w0_N.size):
        total += np.int64(widths_N[i])
    return int(total)


@jit
def plain(w0_N: U, symbols_N: Bytes, unused: int, m: int, g: int, f: int, plain_N: U) -> None:
    """From weights to what the plain bits of each say, in place."""
    U = w0_N.dtype.type
    below, low = U(np.iinfo(U).max >> 1), np.int32(unused)
    m32, g32, f32 = np.int32(m), np.int32(g), np.int32(f)
    for i in range(w0_N.size):
        s = np.int32(symbols_N[i])
        t0, t = magnitude(w0_N[i], low, U), magnitude(plain_N[i], low, U)
        v = unit(t0, m32, g32)
        size = fixed(t, m32, v)
        first, least, _, k = bucket(s, f32, fixed(t0, m32, v), m32)
        other = np.int32(U(w0_N[i] ^ plain_N[i]) > below)
        both = sub(np.int32(size ^ sub(NONE, other)), first)
        one_side = shr(sub(size, rounded_up(least, k)), k)
        alone = np.int32(t & sub(shl(ONE, m32), ONE))
        found = U(alone if s >= SMALL else (both if least < 0 else one_side))
        plain_N[i] = plain_N[i] if s >= WHOLE else found


@jit
def rounded_up(least: Any, k: Any) -> Any:
    """The next multiple of 2^k."""
    up = sub(shl(ONE, k), ONE)
    return np.int32(add(least, up) & ~up)


@jit
def apply(w0_N: U, symbols_N: Bytes, unused: int, m: int, g: int, f: int, plain_N: U) -> None:
    """From plain bits to weights, in place."""
    U = w0_N.dtype.type
    below, low = U(np.iinfo(U).max >> 1), np.int32(unused)
    m32, g32, f32 = np.int32(m), np.int32(g), np.int32(f)
    for i in range(w0_N.size):
        s, p = np.int32(symbols_N[i]), np.int32(plain_N[i])
        t0 = magnitude(w0_N[i], low, U)
        v = unit(t0, m32, g32)
        first, least, _, k = bucket(s, f32, fixed(t0, m32, v), m32)
        both = add(first, p)
        size = (
            add(rounded_up(least, k), shl(p, k))
            if least >= 0
            else np.int32(both ^ shr(both, np.int32(31)))
        )
        other = (first if least >= 0 else both) < 0
        # a float's exponent and mantissa are the weight's: no more bits are set
        bits = shr(np.float32(size).view(np.int32), sub(np.int32(23), m32))
        t = add(bits, shl(sub(sub(v, m32), np.int32(127)), m32))
        t = size if shr(size, m32) == 0 else t
        octaves = add(shr(sub(s, np.int32(SMALL)), ONE), ONE)
        near = add(shl(sub(v, octaves), m32), p)
        t = (near if s < ZERO else NONE) if s >= SMALL else t
        other = (s & 1) == 1 if s >= SMALL else other
        sign = U(U(w0_N[i] & U(~below)) ^ (U(~below) if other else U(0)))
        w = U(U(U(shl(t, low)) & below) | sign)
        plain_N[i] = U(p) if s >= WHOLE else w
