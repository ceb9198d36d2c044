"""`rounded`: an fp32 family's multi-task vector in bf16; W1 is defined as fp32(W0 + that).

An fp32 checkpoint has 16 mantissa bits more than a step between fine-tunes deserves; their ulp
difference is large and nearly random. The bf16 vector costs about 10 bits and changes W1 by at
most one part in 512 of the step. The packer takes W1 from `values`, so masks, D and
reconstruction all speak of the same bits. Where W0 + vector is not finite, W1 is W0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.format.codecs.fixed import Fixed
from taskstore.format.codecs.rotated import Rotated
from taskstore.native import planes as loops

Bytes = NDArray[np.uint8]


class Rounded(Fixed):
    """Its chunk is the vector's bf16 bits, uint16 (N,), when encoding, and W1 when decoding."""

    def sizes(self, n: int, itemsize: int) -> tuple[int, ...]:
        return (n, n)

    def encode(self, chunk_N: NDArray[Any], given_N: NDArray[Any] | None) -> list[Bytes]:
        return Rotated().encode(chunk_N, None)

    def decode(
        self, streams: list[Bytes], n: int, itemsize: int, given_N: NDArray[Any] | None
    ) -> NDArray[Any]:
        assert given_N is not None
        return values(Rotated().decode(streams, n, 2, None), given_N)


def values(vector_N: NDArray[np.uint16], w0_N: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """bf16 bits (N,) and fp32 bits of the base (N,) -> fp32 bits of W1 (N,)."""
    w1_N = np.empty(w0_N.size, np.uint32)
    loops.add_bf16(w0_N, vector_N, w1_N)
    return w1_N
