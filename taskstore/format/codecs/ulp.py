"""`ulp`: the multi-task weights as a difference from the base's, counted in floats.

Floats of one sign are ordered like their bit patterns. Mapping both to that order and
subtracting gives the step from W0 to W1 in units in the last place; fine-tuning moves most
weights by few, so the high bytes are nearly empty: 10.25 bits per bf16 parameter on `lm6`, where
XOR needs 10.6. Lossless for every pair of bit patterns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.format.codecs import loops
from taskstore.format.codecs.fixed import Fixed

Bytes = NDArray[np.uint8]


class Ulp(Fixed):
    def sizes(self, n: int, itemsize: int) -> tuple[int, ...]:
        return (n,) * itemsize

    def encode(self, chunk_N: NDArray[Any], given_N: NDArray[Any] | None) -> list[Bytes]:
        assert given_N is not None
        planes = [np.empty(chunk_N.size, np.uint8) for _ in range(chunk_N.itemsize)]
        loops.ULP_SPLIT[chunk_N.itemsize](given_N, chunk_N, *planes)
        return planes

    def decode(
        self, streams: list[Bytes], n: int, itemsize: int, given_N: NDArray[Any] | None
    ) -> NDArray[Any]:
        assert given_N is not None
        chunk_N = np.empty(n, f"<u{itemsize}")
        loops.ULP_JOIN[itemsize](given_N, *streams, chunk_N)
        return chunk_N
