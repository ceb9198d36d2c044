"""`sparse`: a fine-tune of which most weights did not move, bit for bit: RL, DPO, frozen layers.

Which weights moved is coded as `guided` codes masks, given the size of the base's weights: a step
of a small weight is smaller, so more of those move. The steps of what moved are coded by `strides`.
Bits per weight of lm6's base where a share of the weights moved by one step, and their entropy:

    moved     sparse   steps   strides   entropy
    0.1 %      0.015   0.028     0.026     0.012
    1 %        0.098   0.184     0.184     0.091
    5 %        0.346   0.702     0.695     0.336
    20 %       0.935   1.528     1.520     0.922

Streams 0 and 1 are those of `guided`, the others those of `strides` for the elements that moved.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.format.codecs.guided import Guided
from taskstore.format.codecs.strides import Strides
from taskstore.kernels.bits import pack

Bytes = NDArray[np.uint8]
U = NDArray[Any]  # weights, uint16 or uint32
FLAGS = 2  # streams that say what moved
_local = threading.local()  # what moved, from when sizes are told to when weights are decoded


class Sparse:
    def sizes(self, n: int, itemsize: int) -> tuple[int, ...]:
        """Upper bounds; `sizer` has what a stream must have."""
        return (*Guided().sizes(n, 1), *Strides().sizes(n, itemsize))

    def sizer(self, n: int, itemsize: int, given_N: U | None) -> Callable[[list[Bytes]], int]:
        assert given_N is not None
        flags, steps = Guided().sizer(n, 1, None), list[Callable[[list[Bytes]], int]]()

        def size(before: list[Bytes]) -> int:
            if len(before) < FLAGS:
                return flags(before)
            if not steps:
                w0_M = given_N[_moved(before, given_N)]
                steps.append(Strides().sizer(w0_M.size, itemsize, w0_M))
            return steps[0](before[FLAGS:])

        return size

    def encode(self, chunk_N: U, given_N: U | None) -> list[Bytes]:
        assert given_N is not None
        moved_N = chunk_N != given_N
        flags = Guided().encode(pack(moved_N), _sizes_of(given_N))
        return [*flags, *Strides().encode(chunk_N[moved_N], given_N[moved_N])]

    def decode(self, streams: list[Bytes], n: int, itemsize: int, given_N: U | None) -> U:
        """Raises FormatError as `guided` and `strides` do."""
        assert given_N is not None
        moved_N, chunk_N = _moved(streams, given_N), given_N.copy()
        w0_M = given_N[moved_N]
        chunk_N[moved_N] = Strides().decode(streams[FLAGS:], w0_M.size, itemsize, w0_M)
        return chunk_N


def _moved(streams: list[Bytes], w0_N: U) -> NDArray[np.bool_]:
    """Return which weights moved: first for the sizes of what follows, then for the weights."""
    given, known = (streams[1], w0_N), getattr(_local, "known", None)
    if known is not None and all(a is b for a, b in zip(given, known[0], strict=True)):
        del _local.known
        return known[1]  # type: ignore[no-any-return]
    bits_P = Guided().decode(streams[:FLAGS], w0_N.size, 1, _sizes_of(w0_N))
    moved_N = np.unpackbits(bits_P, count=w0_N.size, bitorder="little").view(np.bool_)
    _local.known = given, moved_N
    return moved_N


def _sizes_of(w0_N: U) -> NDArray[np.uint32]:
    """Return the weights without their signs, at the upper end of 32 bits."""
    left = np.uint32(32 - 8 * w0_N.itemsize)
    return (w0_N.astype(np.uint32) << left) & np.uint32(0x7FFFFFFF)
