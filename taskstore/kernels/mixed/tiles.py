"""One matrix of several tasks on GPUs, in Triton: each row by its own task's weights.

A program has BLOCK_R rows of the matrix, BLOCK_M rows of activations and a part of the columns. It
reads each tile of W0 and D once. For every task among its rows it selects by that task's mask, in
registers, multiplies on the tensor cores, and lets the rows of that task, and no others, take the
product: so a NaN of one row or task spoils no other. Which tasks there are the program finds by
itself from the rows' slots; sorted rows only make them few. Nothing is known to the host, so a
captured graph computes whatever the slots and tables say when it is replayed.

With few rows, columns are split among programs; sums of the parts are added in a fixed order by a
second kernel, without atomics. W and D are read in 16 bytes, a byte of a mask for each.

Written for Hopper-class cards, and not run on one yet. `TRITON_INTERPRET=1`, set before this is
imported, runs the same code on the CPU.

Legend: M = rows of activations, R = rows and C = columns of a segment of the matrix, S = slots of
tasks, 0 for the base; N = elements of a segment.
"""

from __future__ import annotations

import triton
import triton.language as tl

from taskstore.kernels.mixed.rest_tiles import (
    FACTORS,
    FIELDS,
    at,
    dot,
    low_rank_at,
    low_rank_tile,
    narrow,
    quantised,
    rounded,
)

_NONE = tl.constexpr(1 << 30)  # the slot of no task
_FIELDS, _FACTORS = tl.constexpr(FIELDS), tl.constexpr(FACTORS)


@triton.jit
def _select(
    mask, w0_RC, w1_RC, row_R, c, rows, columns, WHOLE: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """W1 where a task's bit is set, else W0; `mask` is an address."""
    bits, inside_R = at(mask, tl.uint8), row_R < rows
    if WHOLE:  # each row begins with a byte
        width = columns // 8
        byte_B = c // 8 + tl.arange(0, BLOCK_C // 8)
        inside_RB = inside_R[:, None] & (byte_B < width)[None, :]
        found_RB = tl.load(bits + row_R[:, None] * width + byte_B[None, :], inside_RB, other=0)
        lane_8 = tl.arange(0, 8)
        bit_RC = tl.reshape(
            (found_RB.to(tl.int32)[:, :, None] >> lane_8[None, None, :]) & 1, (BLOCK_R, BLOCK_C)
        )
    else:
        col_C = c + tl.arange(0, BLOCK_C)
        e_RC = row_R[:, None] * columns + col_C[None, :]
        inside_RC = inside_R[:, None] & (col_C < columns)[None, :]
        found_RC = tl.load(bits + e_RC // 8, inside_RC, other=0).to(tl.int32)
        bit_RC = (found_RC >> (e_RC % 8).to(tl.int32)) & 1
    return tl.where(bit_RC != 0, w1_RC, w0_RC)


@triton.jit
def _store(
    sum_RM, row_R, m_M, slot_M, order, y, bias, bias_stride, inside_RM, y_stride,
    FLOAT: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Add the bias of each row's task, round, and write where the row came from."""
    if HAS_BIAS:
        there = bias + slot_M[None, :] * bias_stride + row_R[:, None]
        sum_RM += tl.load(there, mask=inside_RM, other=0.0)
    to_M = tl.load(order + m_M, mask=slot_M < _NONE, other=0).to(tl.int64)
    there = y + to_M[None, :] * y_stride + row_R[:, None]
    tl.store(there, narrow(sum_RM, FLOAT), mask=inside_RM)


@triton.jit
def multiply(
    x, w0, d, masks, chunks, factors, slots, order, y, bias, sums, count, rows, columns, length,
    pieces, room, rest_columns, bias_stride, y_stride, share,
    FLOAT: tl.constexpr, HAS_D: tl.constexpr, WHOLE: tl.constexpr, RESTS: tl.constexpr,
    HAS_BIAS: tl.constexpr, RANK: tl.constexpr, SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sums of a tile: into `sums` (parts, M, R) where SPLIT, else rounded into y.

    x (count, columns) of FLOAT; y, w0, d (rows, columns) its integers; masks (S,), chunks
    (S, pieces, FIELDS) and factors (S, FACTORS) int64; slots int32 (count,) of the rows in `order`;
    bias float32 (S, rows), strides of rows in elements, 0 for one bias of all; share: columns
    of a part. A slot from `room` on, which the tables lack, has nothing here.
    """
    row_R = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    m_M, part = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M), tl.program_id(2)
    slot_M = tl.load(slots + m_M, mask=m_M < count, other=_NONE)
    from_M = tl.load(order + m_M, mask=m_M < count, other=0).to(tl.int64)
    sum_RM = tl.zeros((BLOCK_R, BLOCK_M), tl.float32)
    for c in range(part * share, min(columns, (part + 1) * share), BLOCK_C):
        col_C = c + tl.arange(0, BLOCK_C)
        inside_RC = (row_R < rows)[:, None] & (col_C < columns)[None, :]
        e_RC = row_R[:, None] * columns + col_C[None, :]
        w0_RC = tl.load(w0 + e_RC, mask=inside_RC, other=0)
        w1_RC = w0_RC
        if HAS_D:
            w1_RC = w0_RC ^ tl.load(d + e_RC, mask=inside_RC, other=0)
        inside_MC = (m_M < count)[:, None] & (col_C < columns)[None, :]
        x_MC = tl.load(x + from_M[:, None] * columns + col_C[None, :], mask=inside_MC, other=0.0)
        slot = tl.min(slot_M, 0)
        while slot < _NONE:
            w_RC = w0_RC
            if HAS_D:
                mask = tl.load(masks + slot, mask=slot < room, other=0)
                if mask != 0:
                    w_RC = _select(
                        mask, w0_RC, w1_RC, row_R, c, rows, columns, WHOLE, BLOCK_R, BLOCK_C
                    )
            if RESTS:
                mine = chunks + slot.to(tl.int64) * pieces * _FIELDS
                if tl.load(mine, mask=slot < room, other=0) != 0:
                    v_RC = quantised(mine, e_RC, inside_RC, length, rest_columns)
                    if RANK > 0:
                        two = factors + slot * _FACTORS
                        if tl.load(two + 3) > 0:
                            v_RC += low_rank_tile(two, row_R, col_C, rows, columns, RANK)
                    w_RC = rounded(w_RC, v_RC, FLOAT)
            weight_RC = w_RC.to(FLOAT, bitcast=True)
            product_RM = dot(weight_RC, tl.trans(x_MC))
            sum_RM = tl.where((slot_M == slot)[None, :], sum_RM + product_RM, sum_RM)
            slot = tl.min(tl.where(slot_M > slot, slot_M, _NONE), 0)
    inside_RM = (row_R < rows)[:, None] & (m_M < count)[None, :]
    if SPLIT:
        there = sums + (part * count + m_M).to(tl.int64)[None, :] * rows + row_R[:, None]
        tl.store(there, sum_RM, mask=inside_RM)
    else:
        _store(
            sum_RM, row_R, m_M, slot_M, order, y, bias, bias_stride, inside_RM, y_stride, FLOAT,
            HAS_BIAS,
        )  # fmt: skip


@triton.jit
def add_parts(
    sums, slots, order, y, bias, parts, count, rows, bias_stride, y_stride,
    FLOAT: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Add the sums of all parts, first to last, and finish as `multiply` does; a row a program."""
    row_R = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    m_M = tl.program_id(1) + tl.arange(0, 1)
    inside_RM = (row_R < rows)[:, None] & (m_M < count)[None, :]
    sum_RM = tl.zeros((BLOCK_R, 1), tl.float32)
    for part in range(parts):
        there = sums + (part * count + m_M).to(tl.int64)[None, :] * rows + row_R[:, None]
        sum_RM += tl.load(there, mask=inside_RM, other=0.0)
    slot_M = tl.load(slots + m_M)
    _store(
        sum_RM, row_R, m_M, slot_M, order, y, bias, bias_stride, inside_RM, y_stride, FLOAT,
        HAS_BIAS,
    )  # fmt: skip


@triton.jit
def take(
    which, slots, w0, d, masks, chunks, factors, out, first, rows, columns, length, pieces,
    room, rest_rows, rest_columns, size,
    FLOAT: tl.constexpr, HAS_D: tl.constexpr, RESTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rows of a matrix that are in this segment, each by its task's slot, (size / columns, C).

    which int64 and slots int32, of each row; `first` is the segment's first row in the matrix.
    """
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m, col = o // columns, o % columns
    row = tl.load(which + m, mask=o < size, other=-1) - first
    inside = (o < size) & (row >= 0) & (row < rows)
    slot_of = tl.load(slots + m, mask=inside, other=_NONE)
    e = row * columns + col
    w0_e = tl.load(w0 + e, mask=inside, other=0)
    found, w1_e = w0_e, w0_e
    if HAS_D:
        w1_e = w0_e ^ tl.load(d + e, mask=inside, other=0)
    slot = tl.min(slot_of, 0)
    while slot < _NONE:
        mine, w_e = slot_of == slot, w0_e
        if HAS_D:
            mask = tl.load(masks + slot, mask=slot < room, other=0)
            if mask != 0:
                byte = tl.load(at(mask, tl.uint8) + e // 8, mask=mine, other=0).to(tl.int32)
                w_e = tl.where((byte >> (e % 8).to(tl.int32)) & 1 != 0, w1_e, w0_e)
        if RESTS:
            here = chunks + slot.to(tl.int64) * pieces * _FIELDS
            if tl.load(here, mask=slot < room, other=0) != 0:
                v_e = quantised(here, e, mine, length, rest_columns)
                two = factors + slot * _FACTORS
                if tl.load(two + 3) > 0:
                    v_e += low_rank_at(two, e, mine, rest_rows, rest_columns)
                w_e = rounded(w_e, v_e, FLOAT)
        found = tl.where(mine, w_e, found)
        slot = tl.min(tl.where(slot_of > slot, slot_of, _NONE), 0)
    tl.store(out + o, found, mask=inside)
