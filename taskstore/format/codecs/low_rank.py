"""`low_rank`: a merged adapter, bit for bit: small factors, and what rounding made of the weights.

An adapter that was merged changed a matrix by a product of two thin ones, and rounded the sum. Its
factors are found again from the weights, as whole numbers (kernels/factored/update.py). They say,
but for a float, what each weight became; `deltas` codes the rest, given that. Bits per weight of
lm6's base with a rank-8 update of its matrices, by the update's share of the norm:

    share     low_rank   deltas   steps
    2 %           1.34     4.88    5.05
    10 %          1.44     7.19    7.50

A section has four streams before those of the chunks: a head; scales of rows and shifts of
components; low and high bytes of the factors' numbers. The streams of a chunk are those of
`deltas`. SPEC.md section 4 has the rules.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import FormatError
from taskstore.kernels.factored.update import (
    DTYPES,
    LARGEST,
    LARGEST_SHIFT,
    UNITS,
    Update,
)

Bytes = NDArray[np.uint8]
Streams = list[Bytes]
LEAD = struct.Struct("<IhHB7s")  # columns, unit, rank, mantissa; 16 bytes


def lead_sizes(n: int) -> tuple[int, ...]:
    """Upper bounds; `lead_sizer` has what a stream must have."""
    return LEAD.size, n, n, n


def lead_sizer(n: int) -> Callable[[Streams], int]:
    """Sizes of the streams before the chunks of a tensor of `n` elements."""

    def size(before: Streams) -> int:
        """Raises FormatError where factors do not multiply to such a tensor."""
        if not before:
            return LEAD.size
        columns, unit, rank, _, none = LEAD.unpack(before[0].tobytes())
        if any(none) or (not columns and before[0].any()) or unit not in UNITS:
            raise FormatError("the head of factors makes no sense")
        if not columns:
            return 0
        rows = n // columns
        if n % columns or not rank or rank * (rows + columns) > n:
            raise FormatError(
                f"factors of rank {rank} and {columns} columns do not make {n} elements"
            )
        return int(rows + rank if len(before) == 1 else rank * (rows + columns))

    return size


def update(streams: Streams, n: int, itemsize: int) -> Update | None:
    """The update of a tensor from the streams before its chunks; raises FormatError."""
    columns, unit, rank, mantissa, _ = LEAD.unpack(streams[0].tobytes())
    if not columns:
        return None
    if mantissa not in DTYPES or (mantissa == 23) != (itemsize == 4):
        raise FormatError(f"factors for a mantissa of {mantissa} bits, of {itemsize} bytes")
    rows = n // columns
    z = streams[2].astype(np.uint16) | streams[3].astype(np.uint16) << np.uint16(8)
    numbers = ((z >> np.uint16(1)) ^ (np.uint16(0) - (z & np.uint16(1)))).view(np.int16)
    left_RM = numbers[: rank * rows].reshape(rank, rows)
    right_RN = numbers[rank * rows :].reshape(rank, columns)
    codes_M, shifts_R = streams[1][:rows], streams[1][rows:]
    found = Update(columns, unit, mantissa, codes_M, shifts_R, left_RM, right_RN)
    if int(shifts_R.max()) > LARGEST_SHIFT or found.largest() >= LARGEST:
        raise FormatError("factors have numbers that are too large")
    return found


def lead(found: Update) -> Streams:
    """The streams before the chunks."""
    if not found.rank:
        return [np.zeros(LEAD.size, np.uint8), *(np.zeros(0, np.uint8),) * 3]
    head = LEAD.pack(found.columns, found.unit, found.rank, found.mantissa, bytes(7))
    q = np.concatenate([found.left_RM.ravel(), found.right_RN.ravel()]).astype(np.int16)
    z = ((q << np.int16(1)) ^ (q >> np.int16(15))).view(np.uint16)
    low, high = z.astype(np.uint8), (z >> np.uint16(8)).astype(np.uint8)
    rows = np.concatenate([found.codes_M, found.shifts_R])
    return [np.frombuffer(head, np.uint8), rows, low, high]
