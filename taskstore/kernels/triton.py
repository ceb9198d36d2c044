"""Swap by packed masks on GPUs, in Triton.

Memory traffic bounds it. A swap in plain torch unpacks a mask to bytes, spreads it, and passes over
the weights three times: some 20 bytes per 16-bit weight. Here one program takes ROWS bytes of both
masks, keeps their XOR in registers, and touches W and D once: 6 bytes read and written per weight
that moves, and two bits of mask for every weight. A mask byte governs eight weights in a row, which
is one 16-byte access for 16-bit dtypes. Loads and stores are predicated by whole mask bytes, so
they stay that wide, and eight weights on which both masks agree are not read. (A predicate per
weight would split every access into eight.)

Elements past the last whole mask byte get a second launch of one row, with bounds. The kernel is
written for Hopper-class cards and not tuned on one yet. `TRITON_INTERPRET=1`, set before this is
imported, runs the same code on the CPU: so the suite runs it where there is no card.

Legend: N = elements, P = ceil(N / 8) packed bytes (LSB first); W and D are int16 or int32 views,
contiguous, of one device.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 256  # mask bytes per program: 2,048 weights


@triton.jit
def _swap(a, b, d, w, first, rows, n, BOUNDS: tl.constexpr, ROWS: tl.constexpr):
    row_R = first + tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside_R = row_R < rows
    x_R = tl.load(a + row_R, mask=inside_R, other=0) ^ tl.load(b + row_R, mask=inside_R, other=0)
    lane_8 = tl.arange(0, 8)
    at_R8 = row_R[:, None] * 8 + lane_8[None, :]
    bit_R8 = (x_R[:, None].to(tl.int32) >> lane_8[None, :]) & 1
    touched_R8 = tl.broadcast_to((x_R != 0)[:, None], (ROWS, 8))
    if BOUNDS:
        touched_R8 = touched_R8 & (at_R8 < n)
    w_R8 = tl.load(w + at_R8, mask=touched_R8, other=0)
    d_R8 = tl.load(d + at_R8, mask=touched_R8, other=0)
    tl.store(w + at_R8, tl.where(bit_R8 != 0, w_R8 ^ d_R8, w_R8), mask=touched_R8)


def swap(a_P: Tensor, b_P: Tensor, d_N: Tensor, w_N: Tensor) -> None:
    """W ^= D & (m_a ^ m_b) in place on the current stream of W's device."""
    n = w_N.numel()
    whole = n // 8
    device = torch.cuda.device(w_N.device if w_N.is_cuda else -1)  # -1: leave it as it is
    with device:
        if whole:
            grid = (triton.cdiv(whole, ROWS),)
            _swap[grid](a_P, b_P, d_N, w_N, 0, whole, n, BOUNDS=False, ROWS=ROWS)
        if n % 8:
            _swap[1,](a_P, b_P, d_N, w_N, whole, whole + 1, n, BOUNDS=True, ROWS=1)
