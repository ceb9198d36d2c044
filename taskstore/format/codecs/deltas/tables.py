"""The tables of `deltas`: which context an element has, and the shares of its symbols there.

A share is written as a weight, a half octave apart from the next: that costs 0.005 bits per
element, and tables take half the room. Legend: C = contexts, S = 256 symbols, E = 256 scales, which
are what contexts are made of.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taskstore.native import delta_tables as loops

Bytes = NDArray[np.uint8]
U16 = NDArray[np.uint16]
Counts = NDArray[np.int64]
MOST = 16  # contexts
HEAVIEST = 56  # code of the largest weight
SIZE = 1 + MOST + MOST * (2 + 256)  # bytes of the largest tables
WEIGHTS = np.array([0, *((2 + c % 2) << (c // 2) for c in range(HEAVIEST))], np.int64)


def edges_of(counts_E: Counts) -> Bytes:
    """Choose the least scale of each context: contexts of enough elements, large scales first."""
    least = max(1024, int(counts_E.sum()) // 32)
    below_E = counts_E.cumsum() - counts_E
    edges, held = list[int](), 0
    for scale in np.flatnonzero(counts_E)[::-1].tolist():
        held += int(counts_E[scale])
        if held >= least and below_E[scale] >= least and len(edges) < MOST - 1:
            edges.append(scale)
            held = 0
    return np.array([*edges, 0], np.uint8)


def contexts_of(edges: Bytes) -> Bytes:
    """Return the context of each scale, (E,): the first whose edge is not above it."""
    scales_E = np.arange(256)
    contexts_E: Bytes = (scales_E < edges[:, None].astype(np.int64)).sum(0).astype(np.uint8)
    return contexts_E


def codes_of(counts_CS: Counts) -> Bytes:
    """Return the code of the weight nearest to each count, (C, S); a context needs a symbol."""
    between = WEIGHTS[1:-1] * WEIGHTS[2:]  # squares of the geometric means
    nearest_CS = np.searchsorted(between, (4 * counts_CS) ** 2, "right") + 1
    codes_CS: Bytes = np.where(counts_CS > 0, nearest_CS, 0).astype(np.uint8)
    codes_CS[~codes_CS.any(1), 0] = 1
    return codes_CS


def write(edges: Bytes, codes_CS: Bytes) -> Bytes:
    """Edges and weights' codes as bytes, as SPEC.md says."""
    parts = [np.array([edges.size], np.uint8), edges]
    for codes_S in codes_CS:
        there = np.flatnonzero(codes_S)
        first, last = int(there[0]), int(there[-1])
        some = codes_S[first : last + 1]
        before = np.concatenate([np.zeros(2, np.uint8), some[:-2]])[: some.size]
        parts += [np.array([first, last], np.uint8), some - before]
    return np.concatenate(parts)


def read(tables: Bytes, last: int, small: int) -> tuple[Bytes, U16] | None:
    """Return the context of each scale (E,) and the shares (C, S), None where they make no sense.

    Symbols above `last` and below `small` MUST NOT have a share.
    """
    count = int(tables[0]) if tables.size else 0
    edges = tables[1 : 1 + count]
    if not 1 <= count <= MOST or edges.size < count or int(edges[-1]):
        return None
    if (edges[1:] >= edges[:-1]).any():
        return None
    shares_CS = np.zeros((count, 256), np.uint16)
    if (
        not loops.shares_of(tables, 1 + count, WEIGHTS, shares_CS)
        or shares_CS[:, last + 1 : small].any()
    ):
        return None
    return contexts_of(edges), shares_CS


def shares_of(codes_CS: Bytes) -> U16:
    """Return the shares, (C, S), that a reader makes of weights."""
    shares_CS = np.zeros(codes_CS.shape, np.uint16)
    loops.share(codes_CS, WEIGHTS, shares_CS)
    return shares_CS
